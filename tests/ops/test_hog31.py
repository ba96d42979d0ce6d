"""The 31 numbers of a cell against the definition written out pixel by pixel, and against their symmetries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from visus.core.errors import UserError
from visus.ops.hog31 import glyphs, hog31, mirror


def by_hand(image: np.ndarray, cell: int) -> np.ndarray:
    """[H, W, C] -> [rows - 2, columns - 2, 31], one pixel after the other."""
    rows, columns = image.shape[0] // cell, image.shape[1] // cell
    histogram = np.zeros((rows, columns, 18))
    for y in range(1, rows * cell - 1):
        for x in range(1, columns * cell - 1):
            dx, dy = image[y, x + 1] - image[y, x - 1], image[y + 1, x] - image[y - 1, x]
            channel = int((dx**2 + dy**2).argmax())
            dx, dy = dx[channel], dy[channel]
            dots = [dx * math.cos(math.pi * k / 9) + dy * math.sin(math.pi * k / 9) for k in range(9)]
            best = int(np.abs(dots).argmax())
            orientation = best if dots[best] >= 0 else best + 9
            v, u = (y + 0.5) / cell - 0.5, (x + 0.5) / cell - 0.5
            for row in (math.floor(v), math.floor(v) + 1):
                for column in (math.floor(u), math.floor(u) + 1):
                    if 0 <= row < rows and 0 <= column < columns:
                        share = (1 - abs(v - row)) * (1 - abs(u - column))
                        histogram[row, column, orientation] += share * math.hypot(dx, dy)
    unsigned = histogram[..., :9] + histogram[..., 9:]
    energy = (unsigned**2).sum(-1)
    found = np.zeros((rows - 2, columns - 2, 31))
    for i in range(1, rows - 1):
        for j in range(1, columns - 1):
            norms = [1 / math.sqrt(energy[y:y + 2, x:x + 2].sum() + 1e-4) for y, x in
                     ((i, j), (i - 1, j), (i, j - 1), (i - 1, j - 1))]
            signed = np.stack([np.minimum(histogram[i, j] * n, 0.2) for n in norms])
            both = np.stack([np.minimum(unsigned[i, j] * n, 0.2) for n in norms])
            found[i - 1, j - 1] = np.concatenate([0.5 * signed.sum(0), 0.5 * both.sum(0), 0.2357 * signed.sum(1)])
    return found


@pytest.mark.parametrize("cell", [4, 8])
def test_features_are_those_of_the_definition(cell: int):
    image = np.random.default_rng(0).random((34, 43, 3))
    found = hog31(torch.from_numpy(image.transpose(2, 0, 1))[None], cell)[0].permute(1, 2, 0)
    np.testing.assert_allclose(found.numpy(), by_hand(image, cell), atol=1e-12)


def test_a_mirror_permutes_the_features():
    image = torch.rand(2, 3, 40, 48, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(hog31(image.flip(-1)), mirror(hog31(image)), rtol=0, atol=1e-12)
    features = hog31(image)
    assert torch.equal(mirror(mirror(features)), features)


def test_contrast_hardly_matters_and_brightness_not_at_all():
    image = torch.rand(1, 1, 40, 40, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    torch.testing.assert_close(hog31(image + 3), hog31(image), rtol=0, atol=1e-12)
    torch.testing.assert_close(hog31(5 * image), hog31(image), rtol=0, atol=1e-3)
    assert float(hog31(torch.full((1, 3, 40, 40), 0.5)).abs().max()) == 0


def test_a_vertical_edge_is_drawn_as_a_vertical_stroke():
    image = torch.zeros(1, 1, 40, 40)
    image[..., 20:] = 1
    features = hog31(image)[0]
    assert int(features[:18].sum((1, 2)).argmax()) == 0  # gradient to the right
    drawn = glyphs(features, side=15)
    assert drawn.shape == (45, 45) and float(drawn.max()) == 1
    assert float(drawn[15:30, 22].mean()) > 0.8 > 0.2 > float(drawn[22, 15:30].mean())


def test_small_images_have_no_cells_and_odd_cells_are_refused():
    assert hog31(torch.rand(2, 3, 23, 80)).shape == (2, 31, 0, 8)
    with pytest.raises(UserError, match="cell=7"):
        hog31(torch.rand(1, 1, 40, 40), 7)
