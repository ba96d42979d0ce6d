"""Hue, saturation and value, and their histograms, against the standard library, scikit-image and NumPy."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch

from visus.core.errors import UserError
from visus.ops.colour_histogram import hsv_histogram, hue_histogram, rgb_to_hsv


def random_images(*shape: int) -> np.ndarray:
    """Of float64: bytes have hues that lie on the edge of a bin, where rounding decides."""
    return np.random.default_rng(5).random(shape)


def test_hsv_is_the_standard_librarys_for_every_kind_of_colour():
    colours = np.stack(np.meshgrid(*[np.linspace(0, 1, 6)] * 3), -1).reshape(-1, 3)  # with greys and ties
    found = rgb_to_hsv(torch.from_numpy(colours.T.copy())[None, :, :, None])[0, :, :, 0].T
    expected = [colorsys.rgb_to_hsv(*colour) for colour in colours]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


def test_hsv_is_scikit_images():
    colour = pytest.importorskip("skimage.color")
    image = random_images(20, 30, 3)
    found = rgb_to_hsv(torch.from_numpy(image).permute(2, 0, 1)[None])[0].permute(1, 2, 0)
    np.testing.assert_allclose(found.numpy(), colour.rgb2hsv(image), atol=1e-12)


def test_the_hue_histogram_of_the_course_is_numpys():
    images = random_images(4, 16, 16, 3)
    images[0, :8] = 0.5  # grey: hue 0
    found = hue_histogram(torch.from_numpy(images).permute(0, 3, 1, 2))
    assert found.shape == (4, 10)
    for image, shares in zip(images, found, strict=True):
        hues = [colorsys.rgb_to_hsv(*colour)[0] for colour in image.reshape(-1, 3)]
        counts, _ = np.histogram(hues, bins=np.linspace(0, 1, 11))
        np.testing.assert_allclose(shares.numpy(), counts / 256, atol=1e-7)


def test_the_joint_histogram_is_numpys():
    images = random_images(2, 12, 12, 3)
    found = hsv_histogram(torch.from_numpy(images).permute(0, 3, 1, 2), (6, 3, 2))
    for image, shares in zip(images, found, strict=True):
        values = np.array([colorsys.rgb_to_hsv(*colour) for colour in image.reshape(-1, 3)])
        counts, _ = np.histogramdd(values, bins=(6, 3, 2), range=((0, 1),) * 3)
        np.testing.assert_allclose(shares.numpy(), counts / 144, atol=1e-7)


def test_grey_images_are_refused():
    with pytest.raises(UserError, match="RGB"):
        hue_histogram(torch.zeros(1, 1, 4, 4))
