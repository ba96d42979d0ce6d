"""Toy sets against their equations and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from visus.core.errors import UserError
from visus.data.builtin.toy import TOY_SETS, blobs, circles, moons, spiral, toy_set, xor


@pytest.mark.parametrize("name", TOY_SETS)
def test_each_set_is_a_function_of_its_seed_with_as_many_points_of_each_class(name):
    points, labels = toy_set(name, 50, seed=3)
    again, _ = toy_set(name, 50, seed=3)
    other, _ = toy_set(name, 50, seed=4)
    assert np.array_equal(points, again) and not np.array_equal(points, other)
    assert points.shape == (len(labels), 2) and points.dtype == np.float64 and labels.dtype == np.int64
    assert (np.bincount(labels) == 50).all()
    assert np.abs(toy_set(name, 50, 0.0)[0]).max() <= 2


def test_the_spiral_is_that_of_cs231n():
    points, labels = spiral(100, 3, 0.0)
    radius = np.hypot(*points.T).reshape(3, 100)
    np.testing.assert_allclose(radius, np.tile(np.linspace(0, 1, 100), (3, 1)), atol=1e-12)
    angle = np.linspace(4, 8, 100)
    np.testing.assert_allclose(points[labels == 1], radius[1][:, None] * np.stack([np.sin(angle), np.cos(angle)], 1))
    noisy, _ = spiral(4000, 3, 0.2)
    turned = np.angle(np.exp(1j * (np.arctan2(*noisy[:4000].T) - np.linspace(0, 4, 4000))))
    assert abs(turned.std() - 0.2) < 0.01


def test_moons_and_circles_are_scikit_learns():
    datasets = pytest.importorskip("sklearn.datasets")
    for ours, theirs in ((moons(40, 0.0), datasets.make_moons(80, shuffle=False)),
                         (circles(40, 0.0, 0.5), datasets.make_circles(80, shuffle=False, factor=0.5))):
        np.testing.assert_allclose(ours[0], theirs[0], rtol=0, atol=1e-12)
        assert np.array_equal(ours[1], theirs[1])


def test_xor_is_the_sign_of_the_product_and_blobs_are_apart():
    points, labels = xor(200, 0.05)
    assert np.array_equal(labels, (points.prod(1) < 0).astype(int))
    points, labels = blobs(100, 5, 0.05)
    nearest = np.array([points[labels == k].mean(0) for k in range(5)])
    assert np.array_equal(((points[:, None] - nearest) ** 2).sum(2).argmin(1), labels)


@pytest.mark.parametrize("work, words", [
    (lambda: toy_set("spirals"), "'spiral'"), (lambda: moons(0), "count=0"), (lambda: xor(noise=-1), "noise=-1"),
    (lambda: circles(ratio=1.5), "ratio=1.5"), (lambda: blobs(classes=0), "classes=0")])
def test_wrong_calls_are_refused(work, words):
    with pytest.raises(UserError, match=words):
        work()
