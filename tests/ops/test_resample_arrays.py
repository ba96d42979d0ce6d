"""Resizing without torch gives the same bytes as ops.resample, whose torch kernels are the oracle."""

from __future__ import annotations

import subprocess
import sys
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from visus.core.errors import UserError
from visus.core.preprocessing import Preprocessing
from visus.ops import resample, resample_arrays

SIDES = st.one_of(st.integers(2, 24), st.integers(2, 400))


def rules(size, channels=3, **values):
    return Preprocessing(size=size, channels=channels, mean=(0.5,) * channels, std=(0.25,) * channels, **values)


def pixels(seed: int, height: int, width: int, channels: int) -> np.ndarray:
    """Random, black and white at random, a plain white, or a ramp: rounding is worst at the ends of the range."""
    rng = np.random.default_rng(seed)
    kind = seed % 4
    if kind == 0:
        return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)
    if kind == 1:
        return (rng.integers(0, 2, (height, width, channels)) * 255).astype(np.uint8)
    if kind == 2:
        return np.full((height, width, channels), 255, np.uint8)
    return np.broadcast_to(np.linspace(0, 255, width).astype(np.uint8)[None, :, None],
                           (height, width, channels)).copy()


@settings(max_examples=120, deadline=None, derandomize=True)
@given(height=SIDES, width=SIDES, out=st.tuples(SIDES, SIDES), channels=st.sampled_from((1, 3)),
       takes=st.sampled_from((1, 3)), how=st.sampled_from(("squash", "crop", "pad")),
       interpolation=st.sampled_from(("bilinear", "bicubic", "nearest")), fraction=st.sampled_from((1.0, 0.875, 0.5)),
       seed=st.integers(0, 999))
def test_the_bytes_are_those_of_torch(height, width, out, channels, takes, how, interpolation, fraction, seed):
    image = pixels(seed, height, width, channels)
    one = rules(out, takes, resize=how, interpolation=interpolation, crop_fraction=fraction, background=(9, 200, 77))
    expected = one.resized(image).permute(1, 2, 0).numpy()
    given = one.resized_array(image)
    assert given.dtype == np.uint8 and given.flags.c_contiguous
    np.testing.assert_array_equal(given, expected)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("kind", [0, 1, 2])
def test_an_extreme_shrink_is_equal_too(interpolation, kind):
    """4000 -> 32 has 250 (500) taps, the most fixed-point bits and the largest sums; nothing overflows."""
    image = pixels(kind, 4000, 40, 3)
    for turned in (image, image.transpose(1, 0, 2).copy()):
        one = rules((32, 32), interpolation=interpolation)
        np.testing.assert_array_equal(one.resized_array(turned), one.resized(turned).permute(1, 2, 0).numpy())


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_sums_stay_below_two_to_the_31_and_floats_hold_them(interpolation):
    for side, out in product((2, 3, 7, 100, 1000, 20_000), (1, 2, 3, 31, 224)):
        _, weights, precision = resample_arrays._taps(side, out, interpolation)
        most = 255 * int(np.abs(weights.astype(np.int64)).sum(1).max()) + (1 << (precision - 1))
        assert precision <= 22 and most < 1 << 31
        kind = resample_arrays._band(side, out, interpolation, 0, out).kind
        assert most < 1 << (24 if kind is np.float32 else 53)


def test_a_window_is_that_part_of_the_whole():
    image = pixels(0, 61, 83, 3)
    for interpolation in ("bilinear", "bicubic", "nearest"):
        for size in ((40, 50), (61, 50), (40, 83), (61, 83), (150, 90)):
            whole = resample_arrays.resize(image, size, interpolation)
            assert whole.shape[:2] == size
            part = resample_arrays.resize(image, size, interpolation, (7, 11, 20, 33))
            np.testing.assert_array_equal(part, whole[7:27, 11:44])


def test_the_window_in_the_middle_is_that_of_center_crop():
    for whole, size in product(((40, 51), (41, 50), (33, 33)), ((32, 32), (33, 31), (1, 2))):
        tensor = torch.arange(whole[0] * whole[1]).reshape(1, 1, *whole)
        top, left, rows, columns = resample_arrays.centre(whole, size)
        assert torch.equal(resample.center_crop(tensor, size), tensor[..., top:top + rows, left:left + columns])


def test_grey_and_colour_are_changed_as_torch_does():
    image = pixels(0, 30, 40, 3)
    luma = resample.to_channels(torch.from_numpy(image).permute(2, 0, 1)[None], 1)[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(resample_arrays.to_channels(image, 1), luma)
    np.testing.assert_array_equal(resample_arrays.to_channels(luma, 3), np.repeat(luma, 3, 2))


def test_an_array_in_any_order_of_memory_gives_the_same():
    image = pixels(0, 50, 60, 3)
    one = rules((20, 24))
    for other in (np.asfortranarray(image), np.repeat(image, 2, 1)[:, ::2], image[::-1][::-1]):
        np.testing.assert_array_equal(one.resized_array(other), one.resized_array(image))
    locked = image.copy()
    locked.flags.writeable = False
    np.testing.assert_array_equal(one.resized_array(locked), one.resized_array(image))


def test_an_unknown_interpolation_is_refused():
    with pytest.raises(UserError, match="not an interpolation"):
        resample_arrays.resize(pixels(0, 4, 4, 1), (4, 4), "lanczos")


def test_resizing_imports_no_torch():
    code = ("import sys, numpy as np; from visus.core.preprocessing import Preprocessing; "
            "Preprocessing(size=(8, 8)).resized_array(np.zeros((9, 7, 3), np.uint8)); "
            "sys.exit('torch' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
