"""Superpixels against a drawing with known regions, a flood fill by hand, and scikit-image where it can be imported."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.models.test_pretrained_efficientnet_lite import folder_of
from visus.core.errors import UserError
from visus.ops.superpixels import rgb_to_lab, slic


def parts_by_hand(labels: np.ndarray) -> np.ndarray:
    """Connected parts by flood fill, numbered in reading order."""
    parts = np.full(labels.shape, -1)
    count = 0
    for start in np.ndindex(*labels.shape):
        if parts[start] >= 0:
            continue
        stack = [start]
        while stack:
            y, x = stack.pop()
            if not (0 <= y < labels.shape[0] and 0 <= x < labels.shape[1]):
                continue
            if parts[y, x] >= 0 or labels[y, x] != labels[start]:
                continue
            parts[y, x] = count
            stack += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
        count += 1
    return parts


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def photograph() -> Tensor:
    """[1, 3, 160, 240] in [0, 1]: china.jpg of scikit-learn."""
    picture = Image.open(folder_of("sklearn") / "datasets" / "images" / "china.jpg").resize((240, 160))
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None].float() / 255


def test_lab_of_named_colours_is_that_of_the_tables():
    colours = torch.tensor([[1.0, 1, 1], [0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0.5]])
    colours = colours.T.reshape(1, 3, 1, 6)
    expected = torch.tensor([[100.0, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20], [87.74, -86.18, 83.18],
                             [32.30, 79.19, -107.86], [53.39, 0, 0]]).T.reshape(1, 3, 1, 6)
    torch.testing.assert_close(rgb_to_lab(colours), expected, rtol=0, atol=0.02)


def test_segments_never_cross_the_edge_of_a_strong_drawing():
    images = torch.zeros(1, 3, 40, 60)
    images[:, :, :, 23:] = torch.tensor([1.0, 0.2, 0.1]).view(1, 3, 1, 1)
    images[:, :, 17:, 23:] = torch.tensor([0.1, 0.2, 1.0]).view(1, 3, 1, 1)
    region = torch.zeros(40, 60, dtype=torch.long)
    region[:, 23:], region[17:, 23:] = 1, 2
    found = slic(images, segments=24)[0]
    assert 12 <= int(found.max()) + 1 <= 36
    for label in range(int(found.max()) + 1):
        assert len(region[found == label].unique()) == 1, label


@pytest.mark.parametrize("channels", [1, 3])
def test_segments_are_connected_and_numbered_without_gaps(channels):
    images = noise(3, channels, 33, 47)
    found = slic(images, segments=30, compactness=4.0).numpy()
    for labels in found:
        np.testing.assert_array_equal(parts_by_hand(labels), labels)
        assert np.bincount(labels.ravel()).min() >= 0.25 * 33 * 47 / 30
    kept = slic(images, segments=30, compactness=4.0, min_share=0).numpy()
    for labels in kept:
        np.testing.assert_array_equal(parts_by_hand(labels), labels)
    assert kept.max() > found.max(), "without joining, noise leaves stray parts"


def test_a_flat_image_gives_the_regular_grid():
    found = slic(torch.full((1, 3, 40, 40), 0.3), segments=16)[0]
    rows, columns = torch.arange(40)[:, None] // 10, torch.arange(40) // 10
    assert float((found == rows * 4 + columns).float().mean()) > 0.8 and int(found.max()) == 15
    assert int(found.flatten().bincount().min()) >= 70 and int(found.flatten().bincount().max()) <= 130


def test_an_image_is_cut_alike_alone_and_in_a_batch():
    images = noise(3, 3, 24, 32, seed=4)
    whole = slic(images, segments=12)
    for number in range(3):
        assert torch.equal(slic(images[number:number + 1], segments=12)[0], whole[number])


def test_wrong_numbers_are_refused():
    images = torch.zeros(1, 3, 4, 4)
    for option, value in (("segments", 0), ("segments", 17), ("compactness", 0), ("min_share", 2), ("steps", 0)):
        with pytest.raises(UserError, match=option):
            slic(images, **{option: value})


def boundary(labels: np.ndarray) -> np.ndarray:
    edge = np.zeros(labels.shape, bool)
    edge[:-1] |= labels[:-1] != labels[1:]
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    return edge


def near(edge: np.ndarray, px: int) -> np.ndarray:
    grown = torch.nn.functional.max_pool2d(torch.from_numpy(edge)[None, None].float(), 2 * px + 1, 1, px)
    return grown[0, 0].numpy() > 0


def test_a_photograph_is_cut_as_scikit_image_cuts_it():
    """At as many segments, colour within them is at least as even as in theirs, and boundaries lie where theirs do."""
    images = photograph()
    ours = slic(images, segments=100, compactness=20.0)[0].numpy()
    pixels = rgb_to_lab(images)[0].permute(1, 2, 0).numpy()

    def spread(labels: np.ndarray) -> float:
        total = 0.0
        for label in np.unique(labels):
            inside = pixels[labels == label]
            total += ((inside - inside.mean(0)) ** 2).sum()
        return total / labels.size

    squares = (np.arange(160)[:, None] // 16) * 15 + np.arange(240) // 16
    assert 80 <= ours.max() + 1 <= 120 and spread(ours) < 0.65 * spread(squares), "better than 150 squares"
    try:
        theirs = importlib.import_module("skimage.segmentation").slic(
            images[0].permute(1, 2, 0).numpy(), n_segments=114, compactness=20, start_label=0)
    except ImportError as error:
        pytest.skip(f"scikit-image is not installed: {error}")
    assert abs(int(ours.max()) - int(theirs.max())) <= 10
    assert spread(ours) <= spread(theirs)
    recall = (near(boundary(ours), 2) & boundary(theirs)).sum() / boundary(theirs).sum()
    precision = (near(boundary(theirs), 2) & boundary(ours)).sum() / boundary(ours).sum()
    assert min(recall, precision) > 0.75, "squares would have about 0.55"
