"""Random erasing: the rectangle's law, and what fills it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.data.transforms.peers import draws, torchvision_functional
from visus.core.errors import RecipeError
from visus.data.transforms.erase import RandomErasing


def test_rectangles_have_torchvisions_law_of_area_and_aspect():
    stats = pytest.importorskip("scipy.stats")
    torchvision_functional()
    from torchvision.transforms import RandomErasing as Theirs

    blank = torch.zeros(1500, 1, 60, 40)
    erased = RandomErasing(1.0, (0.02, 0.33), (0.3, 3.3), fill=1.0)(blank, draws(1500)) == 1
    torch.manual_seed(0)
    boxes = [Theirs.get_params(torch.zeros(1, 60, 40), (0.02, 0.33), (0.3, 3.3), [1.0]) for _ in range(1500)]
    for ours, theirs in ((erased.sum((1, 2, 3)), [h * w for _, _, h, w, _ in boxes]),
                         (erased.any(3).sum((1, 2)), [h for _, _, h, _, _ in boxes]),
                         (erased.any(2).sum((1, 2)), [w for _, _, _, w, _ in boxes]),
                         (erased.any(3).float().argmax(2)[:, 0], [top for top, *_ in boxes])):
        assert stats.ks_2samp(ours.numpy(), np.array(theirs)).pvalue > 0.001


def test_a_rectangle_that_does_not_fit_is_drawn_again_and_at_last_cut():
    wide = RandomErasing(1.0, (0.5, 0.5), (0.4, 1.0), fill=1.0)(torch.zeros(500, 1, 40, 40), draws(500)) == 1
    areas = wide.sum((1, 2, 3)).double()
    assert (areas / 1600 - 0.5).abs().max() < 0.03  # cut ones would be smaller
    never = RandomErasing(1.0, (0.5, 0.5), (0.1, 0.1), fill=1.0)(torch.zeros(2, 1, 40, 40), draws(2)) == 1
    assert never.any(2).all()  # as wide as the image


def test_random_fill_is_uniform_noise_inside_the_rectangle_alone():
    images = torch.full((300, 3, 32, 32), 2.0)
    out = RandomErasing(0.5, fill="random")(images, draws(300))
    flat = RandomErasing(0.5, fill=1.0)(images, draws(300))
    assert torch.equal(out != 2, flat != 2)
    values = out[out != 2]
    counts = torch.histc(values, 10, 0, 1) / len(values)
    assert (counts - 0.1).abs().max() < 0.01
    assert (out[:, 0] != out[:, 1])[(out != 2)[:, 0]].double().mean() > 0.99
    assert torch.equal(RandomErasing(0.5, fill="random")(images[7:8], draws(300).of(7))[0], out[7])


def test_another_word_for_the_fill_is_refused():
    with pytest.raises(RecipeError, match="or 'random'"):
        RandomErasing(fill="noise")
