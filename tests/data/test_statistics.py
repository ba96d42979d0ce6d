"""Statistics and whitening of a training set, against NumPy in one piece, scikit-learn and analytic cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from visus.core.errors import DataError
from visus.data.statistics import contrast_normalised, image_statistics
from visus.data.whitening import Whitening, viewed


def pictures(count: int = 50) -> np.ndarray:
    generator = np.random.Generator(np.random.PCG64(1))
    return generator.integers(0, 256, (count, 3, 6, 5), dtype=np.uint8) // np.array([1, 2, 4])[:, None, None]


def mixed(count: int = 400, dim: int = 7) -> np.ndarray:
    generator = np.random.Generator(np.random.PCG64(4))
    return generator.normal(size=(count, dim)) @ generator.normal(size=(dim, dim)) + 3


def test_statistics_of_batches_are_those_of_all_images_together():
    images = pictures().astype(np.uint8)
    found = image_statistics(images[start:start + 8] for start in range(0, 50, 8))
    unit = images / 255
    pixels = unit.transpose(1, 0, 2, 3).reshape(3, -1)
    np.testing.assert_allclose(found.mean, pixels.mean(1), rtol=1e-12)
    np.testing.assert_allclose(found.std, pixels.std(1), rtol=1e-9)
    np.testing.assert_allclose(found.covariance, np.cov(pixels, bias=True), rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.mean_image, unit.mean(0), rtol=1e-12)
    values, vectors = found.principal_colors()
    np.testing.assert_allclose(vectors @ np.diag(values) @ vectors.T, found.covariance, rtol=0, atol=1e-12)
    floats = image_statistics([torch.from_numpy(images).float() / 255])
    np.testing.assert_allclose(floats.mean, found.mean, rtol=1e-6)
    assert found.count == 50


def test_statistics_of_nothing_or_of_two_sizes_are_refused():
    with pytest.raises(DataError, match="no image"):
        image_statistics([])
    with pytest.raises(DataError, match="no common mean"):
        image_statistics([np.zeros((2, 3, 4, 4)), np.zeros((2, 3, 5, 4))])


def test_contrast_normalised_images_have_mean_zero_and_deviation_one():
    images = pictures().astype(np.float64)
    out = contrast_normalised(images)
    np.testing.assert_allclose(out.mean((1, 2, 3)), 0, atol=1e-12)
    np.testing.assert_allclose(out.std((1, 2, 3)), 1, rtol=1e-12)
    flat = contrast_normalised(np.full((1, 3, 2, 2), 0.3), bias=10.0)
    np.testing.assert_allclose(flat, 0, atol=1e-12)
    half = contrast_normalised(images, scale=2.0, bias=float(images[0].var()))[0]
    np.testing.assert_allclose(half.std(), 2 / np.sqrt(2), rtol=1e-9)


@pytest.mark.parametrize("components", [None, 3])
def test_pca_whitening_is_scikit_learns(components):
    decomposition = pytest.importorskip("sklearn.decomposition")
    rows = mixed()
    ours = Whitening.fit([rows[:150], rows[150:151], rows[151:]], kind="pca", components=components, epsilon=0.0)
    theirs = decomposition.PCA(n_components=components, whiten=True, svd_solver="full").fit(rows)
    expected, got = theirs.transform(rows), ours.transform(rows)
    signs = np.sign((expected * got).sum(0))
    np.testing.assert_allclose(got * signs, expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours.variances, theirs.explained_variance_, rtol=1e-9)
    np.testing.assert_allclose(ours.inverse(got), theirs.inverse_transform(expected), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["decorrelate", "pca", "zca"])
def test_components_are_independent_and_the_inverse_gives_the_samples_back(kind):
    rows = mixed()
    whitening = Whitening.fit([rows], kind=kind, epsilon=0.0)
    white = whitening.transform(rows)
    covariance = np.cov(white.T)
    expected = np.diag(whitening.variances) if kind == "decorrelate" else np.eye(7)
    np.testing.assert_allclose(covariance, expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(whitening.inverse(white), rows, rtol=0, atol=1e-9)


def test_zca_of_two_correlated_numbers_is_the_inverse_root_of_their_covariance():
    covariance = np.array([[2.0, 1.0], [1.0, 2.0]])  # variances 3 and 1 along (1, 1) and (1, -1)
    rows = np.array([[1.0, 1], [-1, -1], [1, -1], [-1, 1]]) * np.sqrt([[4.5], [4.5], [1.5], [1.5]]) / np.sqrt(2)
    np.testing.assert_allclose(np.cov(rows.T), covariance)
    white = Whitening.fit([rows], kind="zca", epsilon=0.0).transform(rows)
    a, b = (1 / np.sqrt(3) + 1) / 2, (1 / np.sqrt(3) - 1) / 2
    np.testing.assert_allclose(white, rows @ np.array([[a, b], [b, a]]), rtol=0, atol=1e-12)


def test_zca_is_kornias():
    zca = pytest.importorskip("kornia.enhance.zca")
    rows = mixed()
    ours = Whitening.fit([rows], kind="zca", epsilon=0.01).transform(rows)
    theirs = zca.zca_whiten(torch.from_numpy(rows), eps=0.01, unbiased=True)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-8)


def test_epsilon_is_added_to_the_variance():
    rows = mixed()
    whitening = Whitening.fit([rows], kind="pca", epsilon=0.5)
    variances = whitening.transform(rows).var(0, ddof=1)
    np.testing.assert_allclose(variances, whitening.variances / (whitening.variances + 0.5), rtol=1e-9)


def test_images_keep_their_shape_and_directions_without_variance_are_left_out():
    images = pictures(20)  # 20 samples of 90 numbers: 19 directions
    whitening = Whitening.fit([images.astype(np.uint8)], kind="zca")
    assert whitening.components.shape == (19, 90)
    white = whitening.transform(torch.from_numpy(images.astype(np.uint8)))
    assert white.shape == (20, 3, 6, 5)
    np.testing.assert_allclose(whitening.inverse(white), images / 255, rtol=0, atol=1e-9)
    shown = viewed(white)
    assert shown.dtype == np.uint8 and (shown.min((1, 2, 3)) == 0).all() and (shown.max((1, 2, 3)) == 255).all()


def test_whitening_makes_neighbouring_pixels_of_pictures_independent():
    generator = np.random.Generator(np.random.PCG64(0))
    noise = generator.normal(size=(2000, 1, 8, 8))
    smooth = noise.cumsum(2).cumsum(3)
    white = Whitening.fit([smooth], epsilon=0.0).transform(smooth)
    before = np.corrcoef(smooth[:, 0, 3, 3], smooth[:, 0, 3, 4])[0, 1]
    after = np.corrcoef(white[:, 0, 3, 3], white[:, 0, 3, 4])[0, 1]
    assert before > 0.7 and abs(after) < 1e-9


@pytest.mark.parametrize("work, words", [
    (lambda: Whitening.fit([np.zeros((1, 3))]), "no covariance"), (lambda: Whitening.fit([], kind="pca"), "no covar"),
    (lambda: Whitening.fit([np.eye(3)], kind="white"), "kind='white'"),
    (lambda: Whitening.fit([np.eye(3)], epsilon=-1), "epsilon=-1"),
    (lambda: Whitening.fit([np.eye(3)], components=4), "from 1 to 3"),
    (lambda: Whitening.fit([np.eye(3), np.eye(4)]), "4 and 3 numbers"),
    (lambda: Whitening.fit([np.eye(3)]).transform(np.eye(4)), "fitted to")])
def test_wrong_calls_are_refused(work, words):
    with pytest.raises(DataError, match=words):
        work()
