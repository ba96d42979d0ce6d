from __future__ import annotations

import time

import numpy as np
import pytest

from tests.doctor.images.sets import blobs
from visus.doctor.images.hashes import bits_between, close_pairs, perceptual_hash


def all_pairs(hashes: np.ndarray, distance: int) -> np.ndarray:
    apart = np.array([[bin(int(a) ^ int(b)).count("1") for b in hashes] for a in hashes])
    return np.argwhere(np.triu(apart <= distance, 1))


@pytest.mark.parametrize("distance", [0, 3, 6, 7])
def test_close_pairs_are_those_that_comparing_all_with_all_finds(distance):
    rng = np.random.default_rng(1)
    hashes = rng.integers(0, 2**64, 160, np.uint64)
    for i in range(80):  # a copy with 0 to 9 changed bits, wherever they are
        flips = rng.permutation(64)[:i % 10].astype(np.uint64)
        hashes[80 + i] = hashes[i] ^ np.bitwise_or.reduce(np.uint64(1) << flips, initial=np.uint64(0))
    hashes[:5] = hashes[5]  # several of one hash
    found = close_pairs(hashes, distance)
    assert found.tolist() == all_pairs(hashes, distance).tolist() and len(found) > 10


def test_more_pairs_than_can_be_used_are_refused_without_listing_them():
    assert close_pairs(np.zeros(100_000, np.uint64)) is None
    assert close_pairs(np.zeros(0, np.uint64)).shape == (0, 2)


def test_a_hundred_thousand_hashes_take_seconds():
    hashes = np.random.default_rng(0).integers(0, 2**64, 100_000, np.uint64)
    hashes[-1] = hashes[0] ^ np.uint64(0b111)
    start = time.process_time()
    assert [0, 99_999] in close_pairs(hashes).tolist()
    assert time.process_time() - start < 10  # 1.7 s where this was written


def test_the_hash_stays_under_noise_and_contrast_and_changes_with_the_picture():
    grey = blobs(50)[..., 0]
    noisy = np.clip(grey + np.random.default_rng(1).normal(0, 4, grey.shape), 0, 255).astype(np.uint8)
    flat = (grey // 2 + 60).astype(np.uint8)
    hashes = perceptual_hash(grey)
    assert (bits_between(hashes, perceptual_hash(noisy)) <= 6).mean() > 0.9
    assert (bits_between(hashes, perceptual_hash(flat)) <= 6).mean() > 0.9
    assert (bits_between(hashes, np.roll(hashes, 1)) > 12).all()
    assert all(20 < bin(int(h)).count("1") <= 32 for h in hashes)  # half of the bits are above the median
