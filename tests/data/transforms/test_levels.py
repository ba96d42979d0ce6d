"""Operations on levels: bit-equal to Pillow and torchvision."""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageOps

from tests.data.transforms.peers import draws, noise, smooth, torchvision_functional
from visus.core.errors import RecipeError
from visus.data.transforms.levels import (
    AutoContrast,
    Equalize,
    Invert,
    Posterize,
    autocontrast,
    equalize,
    invert,
    posterize,
    solarize_levels,
)


def pictures() -> torch.Tensor:
    """Noise, smooth images, and channels of one, two and few values."""
    batch = torch.cat([noise(3, height=40, width=37), smooth(4)])
    odd = noise(3, height=40, width=37)
    odd[0, 0], odd[0, 1], odd[0, 2] = 7, 0, 255
    odd[1, 0] = torch.where(odd[1, 0] < 128, 3, 200)
    odd[1, 1] = torch.where(odd[1, 1] < 2, 3, 200)  # fewer than 255 pixels that are not of the brightest
    odd[2] //= 64
    return torch.cat([batch, odd])


def pillows(batch: torch.Tensor, work) -> torch.Tensor:
    done = [np.array(work(Image.fromarray(one.permute(1, 2, 0).numpy()))) for one in batch]
    return torch.from_numpy(np.stack(done)).permute(0, 3, 1, 2)


def test_equalize_is_bit_equal_to_pillow_and_torchvision():
    batch = pictures()
    assert torch.equal(equalize(batch), pillows(batch, ImageOps.equalize))
    assert torch.equal(equalize(batch), torchvision_functional().equalize(batch))
    assert torch.equal(equalize(batch[:, :1]), equalize(batch)[:, :1])


def test_autocontrast_is_bit_equal_to_torchvision_and_within_a_level_of_pillow():
    batch = pictures()
    assert torch.equal(autocontrast(batch), torchvision_functional().autocontrast(batch))
    apart = (autocontrast(batch).int() - pillows(batch, ImageOps.autocontrast).int()).abs()
    assert apart.max() <= 1


def test_posterize_solarize_and_invert_are_bit_equal_to_pillow_with_a_number_for_each_image():
    batch = noise(9)
    bits = np.arange(9)
    for bit in range(1, 9):
        assert torch.equal(posterize(batch, bits)[bit], pillows(batch, lambda p, b=bit: ImageOps.posterize(p, b))[bit])
    assert not posterize(batch, bits)[0].any()
    thresholds = np.array([0, 1, 64, 127.5, 128, 200, 254, 255, 25.5])
    for i, threshold in enumerate(thresholds):
        theirs = pillows(batch, lambda p, t=threshold: ImageOps.solarize(p, t))
        assert torch.equal(solarize_levels(batch, thresholds)[i], theirs[i])
        assert torch.equal(theirs[i], torchvision_functional().solarize(batch, float(threshold))[i])
    assert torch.equal(invert(batch), pillows(batch, ImageOps.invert))


@pytest.mark.parametrize("transform, work", [
    (Equalize(0.4), equalize), (AutoContrast(0.4), autocontrast), (Invert(0.4), invert),
    (Posterize(3, 0.4), lambda x: posterize(x, np.full(len(x), 3)))])
def test_the_drawn_share_is_changed_and_floats_come_back_as_floats(transform, work):
    batch = smooth(400, 12, 11)
    out = transform(batch, draws(400))
    done = draws(400).uniform(1)[:, 0] < 0.4
    assert torch.equal(out[done], work(batch)[done]) and torch.equal(out[~done], batch[~done])
    assert 0.33 < done.mean() < 0.47
    floats = transform(batch.float() / 255, draws(400))
    assert floats.dtype == torch.float32
    torch.testing.assert_close(floats * 255, out.float(), rtol=0, atol=1e-4)


def test_a_fraction_of_a_bit_is_refused():
    with pytest.raises(RecipeError, match="whole number"):
        Posterize(2.5)


@hypothesis.given(arrays(np.uint8, hypothesis.strategies.tuples(
    hypothesis.strategies.integers(1, 30), hypothesis.strategies.integers(1, 30), hypothesis.strategies.just(3))))
@hypothesis.settings(max_examples=60, deadline=None)
def test_any_image_is_equalized_and_stretched_as_pillow_does_it(pixels):
    batch = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
    assert torch.equal(equalize(batch), pillows(batch, ImageOps.equalize))
    assert (autocontrast(batch).int() - pillows(batch, ImageOps.autocontrast).int()).abs().max() <= 1
