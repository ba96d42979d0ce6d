"""Tests of two samples beside scipy, analytic cases and counting by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from visus.metrics import two_samples as ts


@pytest.fixture
def generator():
    return np.random.Generator(np.random.PCG64(7))


def binned(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.histogram(values, edges)[0]


def test_the_distance_is_scipys_and_the_p_value_near_its_exact_one(generator):
    stats = pytest.importorskip("scipy.stats")
    for n, m, shift in ((60, 80, 0.0), (120, 90, 0.2), (40, 40, 0.5)):
        a, b = generator.normal(size=n), generator.normal(shift, size=m)
        edges = np.concatenate([[-np.inf], np.sort(np.concatenate([a, b])) + 1e-12])  # every value in a bin of its own
        distance, p = ts.kolmogorov_smirnov(binned(a, edges), binned(b, edges))
        known = stats.ks_2samp(a, b, method="exact")
        assert distance == pytest.approx(known.statistic, abs=1e-12)
        assert p == pytest.approx(known.pvalue, rel=0.15, abs=0.02)


def test_samples_are_counted_in_the_values_of_both_and_agree_with_tables():
    a, b = ts.shared_counts(np.array([3.0, 1, 1]), np.array([2.0, 3]))
    assert a.tolist() == [2, 0, 1] and b.tolist() == [0, 1, 1]
    distance, p = ts.kolmogorov_smirnov(*ts.shared_counts(np.arange(100), np.arange(100) + 20))
    assert distance == pytest.approx(0.2) and p == pytest.approx(0.0364, abs=0.006)  # exact: 0.0364
    assert ts.kolmogorov_smirnov(*ts.shared_counts(np.arange(50), np.arange(50))) == (0.0, 1.0)
    assert ts.chi_squared(np.array([90, 60, 50]), np.array([30, 40, 30]))[1] == pytest.approx(0.0413, abs=2e-4)
    assert ts.chi_squared(np.array([5]), np.array([9]))[1] == 1.0


def test_ties_only_make_the_p_value_larger(generator):
    a, b = generator.normal(size=300), generator.normal(0.3, size=300)
    fine, coarse = (ts.kolmogorov_smirnov(*(binned(x, np.linspace(-6, 6, bins)) for x in (a, b)))
                    for bins in (2001, 13))
    assert coarse[0] <= fine[0] and coarse[1] >= fine[1]


@pytest.mark.parametrize("freedom", [1, 2, 3, 9, 40, 999])
def test_the_tail_of_chi_squared_is_scipys(freedom):
    stats = pytest.importorskip("scipy.stats")
    for statistic in (0.0, 0.3 * freedom, freedom, 1.5 * freedom + 3, 4 * freedom + 20):
        assert ts.chi_squared_tail(statistic, freedom) == pytest.approx(stats.chi2.sf(statistic, freedom), rel=1e-9,
                                                                        abs=1e-300)


def test_the_test_of_two_rows_of_counts_is_pearsons(generator):
    stats = pytest.importorskip("scipy.stats")
    a, b = generator.multinomial(900, [0.2, 0.3, 0.5]), generator.multinomial(400, [0.25, 0.3, 0.45])
    known = stats.chi2_contingency(np.stack([a, b]), correction=False)
    assert ts.chi_squared(a, b) == pytest.approx((known.statistic, known.pvalue), rel=1e-9)


def test_rare_classes_are_taken_together(generator):
    """A hundred classes of a handful each: one by one Pearson's statistic would be far from chi-squared."""
    shares = np.concatenate([[0.9], np.full(100, 0.001)])
    below = [ts.chi_squared(generator.multinomial(600, shares), generator.multinomial(600, shares))[1] < 0.05
             for _ in range(400)]
    assert 0.02 < np.mean(below) < 0.09
    together = ts.chi_squared(np.array([90, 4, 3]), np.array([70, 4, 5]))
    assert together == ts.chi_squared(np.array([90, 7]), np.array([70, 9]))
    assert ts.chi_squared(np.array([50, 0]), np.array([40, 0])) == (0.0, 1.0)


def test_the_stability_index_by_hand():
    """Two bins hold half of the first sample each; 0.5 is added to each of the counts."""
    a, b = np.array([50, 0, 50]), np.array([20, 0, 80])
    p, q = 50.5 / 101, 20.5 / 101
    assert ts.stability_index(a, b, bins=2) == pytest.approx((q - p) * math.log(q / p)
                                                             + (p - q) * math.log((1 - q) / (1 - p)))
    assert ts.stability_index(a, a, bins=2) == 0


def test_cohens_d_of_shifted_normals(generator):
    a, b = generator.normal(2, 3, 20_000), generator.normal(3.5, 3, 20_000)
    assert ts.cohens_d(a.mean(), a.std(), len(a), b.mean(), b.std(), len(b)) == pytest.approx(0.5, abs=0.03)
    assert ts.cohens_d(4.0, 0.0, 9, 4.0, 0.0, 9) == 0 and ts.cohens_d(4.0, 0.0, 9, 3.0, 0.0, 9) == -math.inf


def test_the_correction_for_many_tests_is_scipys(generator):
    stats = pytest.importorskip("scipy.stats")
    p = generator.random(30) ** 2
    assert ts.benjamini_hochberg(p) == pytest.approx(stats.false_discovery_control(p), rel=1e-12)


def test_the_visible_shift_is_found_four_times_of_five(generator):
    n, m, level = 400, 150, 0.01
    shift, edges = ts.visible_shift(n, m, level), np.linspace(-6, 6, 257)
    found = [ts.kolmogorov_smirnov(binned(generator.normal(size=n), edges),
                                   binned(generator.normal(shift, size=m), edges))[1] < level for _ in range(400)]
    assert 0.72 < np.mean(found) < 0.9


def test_the_mean_discrepancy_of_normals_is_the_analytic_one(generator):
    """E exp(-|x - y|^2 / w) of normal x, y of unit variance in D dimensions, means d apart, is
    (w / (w + 4))^(D / 2) exp(-d^2 / (w + 4))."""
    dim, apart = 4, 1.6
    a, b = generator.normal(size=(800, dim)), generator.normal(size=(800, dim))
    b[:, 0] += apart
    both = np.concatenate([a, b])
    width = np.median(((both[:, None] - both) ** 2).sum(2)[np.triu_indices(1600, 1)])
    same = (width / (width + 4)) ** (dim / 2)
    found, p = ts.mean_discrepancy(a, b, permutations=50)
    assert found == pytest.approx(2 * same * (1 - math.exp(-apart**2 / (width + 4))), rel=0.1)
    assert p == pytest.approx(1 / 51)


def test_the_mean_discrepancy_is_the_sum_over_pairs(generator):
    a, b = generator.normal(size=(7, 3)), generator.normal(0.5, size=(5, 3))
    both = np.concatenate([a, b])
    distances = ((both[:, None] - both) ** 2).sum(2)
    kernel = np.exp(-distances / np.median(distances[np.triu_indices(12, 1)]))
    inside = [(part.sum() - np.trace(part)) / (len(part) * (len(part) - 1))
              for part in (kernel[:7, :7], kernel[7:, 7:])]
    assert ts.mean_discrepancy(a, b, 1)[0] == pytest.approx(sum(inside) - 2 * kernel[:7, 7:].mean(), abs=1e-6)


def test_without_a_difference_the_permutations_raise_as_many_alarms_as_they_may(generator):
    found = [ts.mean_discrepancy(generator.normal(size=(30, 3)), generator.normal(size=(20, 3)), 99, seed)[1]
             for seed in range(300)]
    assert 0.02 < np.mean(np.array(found) <= 0.05) < 0.09 and 0.4 < np.mean(found) < 0.6


def test_the_frechet_distance_is_that_of_the_matrix_square_root(generator):
    linalg = pytest.importorskip("scipy.linalg")
    a, b = generator.normal(size=(200, 5)) @ generator.normal(size=(5, 5)), generator.normal(0.3, 2, size=(300, 5))
    first, second = np.cov(a.T), np.cov(b.T)
    known = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first + second - 2 * linalg.sqrtm(first @ second).real)
    assert ts.frechet_distance(a, b) == pytest.approx(known, rel=1e-6)
    assert ts.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_a_known_label_shift_is_recovered(generator):
    """Answers of a model that is right in 70 % of cases, on images with shares of 0.7, 0.2, 0.1."""
    rates = np.array([[0.7, 0.2, 0.1], [0.1, 0.7, 0.2], [0.2, 0.1, 0.7]])
    true = np.array([0.7, 0.2, 0.1])
    confusion = np.stack([generator.multinomial(2000, row) for row in rates])
    found = ts.label_shift(confusion, generator.multinomial(5000, true @ rates))
    assert found is not None
    assert found.shares == pytest.approx(true, abs=0.04)
    assert ((found.low <= true) & (true <= found.high)).all() and (found.high - found.low < 0.12).all()
    exact = ts.label_shift((1000 * rates).astype(int), np.round(100_000 * (true @ rates)).astype(int), resamples=2)
    assert exact is not None and exact.shares == pytest.approx(true, abs=1e-4)


def test_no_label_shift_is_told_where_the_equations_do_not_hold(generator):
    assert ts.label_shift(np.array([[50, 50], [50, 50]]), np.array([10, 10])) is None  # says nothing of the class
    assert ts.label_shift(np.array([[50, 2], [1, 2]]), np.array([10, 10])) is None  # 3 images of the second class


def test_accuracy_by_a_threshold_is_right_where_a_threshold_parts_right_from_wrong(generator):
    """Right answers have a confidence above 0.7, wrong ones below; the second set has more of the wrong ones."""
    edges = np.linspace(0, 1, 201)

    def confidence(right: int, wrong: int) -> np.ndarray:
        return binned(np.concatenate([generator.uniform(0.7, 1, right), generator.uniform(0.3, 0.7, wrong)]), edges)

    before, after = confidence(900, 100), confidence(600, 400)
    assert ts.thresholded_accuracy(before, before, 0.9) == pytest.approx(0.9)
    assert ts.thresholded_accuracy(before, after, 0.9) == pytest.approx(0.6)
    assert ts.thresholded_accuracy(before, after, 1.0) == pytest.approx(1.0)
