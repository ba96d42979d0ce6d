"""n-grams against plain dictionaries, Bayes errors against closed forms and draws, floats against decimals."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from decimal import Decimal, getcontext
from pathlib import Path

import numpy as np
import pytest

from visus.core.errors import UserError
from visus.foundations import floating_point as P
from visus.foundations import regression_losses
from visus.foundations.bayes import GaussianClasses, bayes_error, sampled_bayes_error, two_gaussians_error
from visus.foundations.hierarchical_softmax import ClassTree, class_log_probabilities
from visus.foundations.ngram import SMOOTHINGS, NGram

TEXT = ["the", "cat", "sat", "on", "the", "mat", "and", "the", "cat", "ate", "the", "rat"]
SHAKESPEARE = Path(__file__).parents[3] / "shared" / "data" / "tinyshakespeare.txt"


# ---------------------------------------------------------------- n-grams


def plain(text, order, smoothing, context, word):
    """The same probability from dictionaries of tuples, straight from Chen and Goodman's formulas."""
    words = [*sorted(set(text)), "<unknown>"]
    marked = ["<s>"] * (order - 1) + list(text)
    grams = {m: Counter(tuple(marked[i - m + 1:i + 1]) for i in range(order - 1, len(marked)))
             for m in range(1, order + 1)}

    def counts(m, context):
        if smoothing == "kneser_ney" and m < order:  # different tokens before (context, word)
            every = {tuple(marked[i - m:i + 1]) for i in range(m, len(marked))}
            found = Counter(g[1:] for g in every)
            return {w: found[(*context, w)] for w in words}
        return {w: grams[m][(*context, w)] for w in words}

    def p(m, context, word):
        if m == 0:
            return 1 / len(words)
        c = counts(m, context)
        total = sum(c.values())
        if smoothing == "add_k":
            return (c[word] + 0.5) / (total + 0.5 * len(words))
        lower = p(m - 1, context[1:], word)
        if not total:
            return lower
        if smoothing == "interpolated":
            return 0.7 * c[word] / total + 0.3 * lower
        return max(c[word] - 0.75, 0) / total + 0.75 * sum(v > 0 for v in c.values()) / total * lower
    return p(order, tuple(context), word)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_probabilities_equal_the_formulas_and_sum_to_one(order, smoothing):
    model = NGram(order, smoothing=smoothing, k=0.5).fit(TEXT)
    words = [*model.vocabulary, "<unknown>"]
    for context in itertools.product(["the", "cat", "never"], repeat=order - 1):
        found = model.distribution(context)
        assert found.sum() == pytest.approx(1, rel=1e-12) and found.min() > 0
        np.testing.assert_allclose(found, [plain(TEXT, order, smoothing, context, w) for w in words], rtol=1e-10)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_perplexity_is_that_of_the_single_probabilities(smoothing):
    model = NGram(3, smoothing=smoothing, k=0.5).fit(TEXT)
    other = ["the", "rat", "sat", "on", "a", "cat"]
    marked = ["<s>", "<s>", *[w if w in model.vocabulary else "<unknown>" for w in other]]
    logs = [math.log(plain(TEXT, 3, smoothing, marked[i - 2:i], marked[i])) for i in range(2, len(marked))]
    assert model.perplexity(other) == pytest.approx(math.exp(-np.mean(logs)), rel=1e-10)


def test_a_text_of_a_known_source_comes_to_the_entropy_of_the_source():
    """Each letter follows the last by a fixed table: no model can do better, and two letters are enough to see it."""
    rng = np.random.default_rng(0)
    table = rng.dirichlet(np.full(5, 0.4), 5)
    draws, text = rng.random(30_000), [0]
    for u in draws:
        text.append(min(int(np.searchsorted(np.cumsum(table[text[-1]]), u)), 4))
    share = np.bincount(text) / len(text)
    entropy = float(-(share[:, None] * table * np.log(table)).sum())
    bound = math.exp(entropy)
    train, test = text[:25_000], text[25_000:]
    for smoothing in SMOOTHINGS:
        found = NGram(2, smoothing=smoothing, share=0.999).fit(train).perplexity(test)
        assert found == pytest.approx(bound, rel=0.02)
    assert NGram(1).fit(train).perplexity(test) > 1.1 * bound


def test_samples_repeat_what_was_counted():
    model = NGram(2, smoothing="interpolated", share=0.999999).fit("abcabcabcabc")
    assert "".join(model.sample(9, np.random.default_rng(0), "a")) == "bcabcabca"
    assert model.sample(3, np.random.default_rng(1)) == model.sample(3, np.random.default_rng(1))


@pytest.mark.skipif(not SHAKESPEARE.is_file(), reason="needs ../shared/data/tinyshakespeare.txt")
def test_kneser_ney_reads_shakespeare_best_and_long_counts_alone_fail():
    text = SHAKESPEARE.read_text()
    train, test = text[:100_000], text[-10_000:]
    found = {s: NGram(5, smoothing=s).fit(train).perplexity(test) for s in SMOOTHINGS}
    assert found["kneser_ney"] < found["interpolated"] < found["add_k"]
    assert found["kneser_ney"] < 10 and NGram(1).fit(train).perplexity(test) > 25


@pytest.mark.parametrize(("arguments", "said"), [
    ({"smoothing": "kneser"}, "kneser_ney"), ({"order": 0}, "order"), ({"k": 0}, "k is 0"), ({"share": 1}, "share"),
    ({"discount": 1.0}, "discount")])
def test_wrong_settings_of_a_model_are_said(arguments, said):
    with pytest.raises(UserError, match=said):
        NGram(**arguments)
    with pytest.raises(UserError, match="fit"):
        NGram().log_probabilities("a")
    with pytest.raises(UserError, match="without tokens"):
        NGram().fit("")


# ---------------------------------------------------------------- Bayes


def two(distance, prior=0.5):
    return GaussianClasses(np.array([[0.0], [distance]]), np.ones((2, 1, 1)), np.array([prior, 1 - prior]))


@pytest.mark.parametrize(("distance", "prior"), [(0.5, 0.5), (2.0, 0.5), (2.0, 0.2), (4.0, 0.9)])
def test_the_grid_equals_the_closed_form(distance, prior):
    assert bayes_error(two(distance, prior)) == pytest.approx(two_gaussians_error(distance, prior), abs=1e-6)


def test_the_error_of_two_sigma_is_16_percent_and_no_other_rule_is_better():
    assert two_gaussians_error(2.0) == pytest.approx(0.158655, abs=1e-6)
    assert two_gaussians_error(0.0, 0.3) == 0.3
    classes = two(2.0, 0.3)
    x, labels = classes.sample(20_000, np.random.default_rng(0))
    best = (classes.classify(x) != labels).mean()
    others = [((x[:, 0] > border).astype(int) != labels).mean() for border in np.linspace(-2, 4, 61)]
    assert best <= min(others) + 0.003
    assert best == pytest.approx(two_gaussians_error(2.0, 0.3), abs=0.01)


def test_a_plane_of_three_classes_equals_its_draws_and_scipys_densities():
    rng = np.random.default_rng(1)
    roots = rng.normal(size=(3, 2, 2))
    classes = GaussianClasses(rng.normal(size=(3, 2)) * 2, roots @ roots.transpose(0, 2, 1) + 0.3 * np.eye(2),
                              np.array([0.2, 0.5, 0.3]))
    drawn, spread = sampled_bayes_error(classes, 40_000, rng)
    assert abs(bayes_error(classes, cells=400) - drawn) < 4 * spread
    scipy_stats = pytest.importorskip("scipy.stats")
    x = rng.normal(size=(20, 2)) * 2
    joint = np.stack([prior * scipy_stats.multivariate_normal(m, c).pdf(x) for m, c, prior in
                      zip(classes.means, classes.covariances, classes.priors, strict=True)], 1)
    np.testing.assert_allclose(classes.posteriors(x), joint / joint.sum(1, keepdims=True), rtol=1e-10)


def test_what_is_no_density_is_said():
    with pytest.raises(UserError, match="sum to 1"):
        GaussianClasses(np.zeros((2, 1)), np.ones((2, 1, 1)), np.array([0.5, 0.6]))
    with pytest.raises(UserError, match="covariances"):
        GaussianClasses(np.zeros((2, 2)), np.ones((2, 1, 1)), np.array([0.5, 0.5]))
    with pytest.raises(UserError, match="sampled_bayes_error"):
        bayes_error(GaussianClasses(np.zeros((2, 3)), np.stack([np.eye(3)] * 2), np.array([0.5, 0.5])))
    with pytest.raises(UserError, match="prior"):
        two_gaussians_error(1.0, 0.0)


# ---------------------------------------------------------------- floats


def test_log_sum_exp_and_softplus_equal_fifty_decimals():
    getcontext().prec = 50
    for row in ([1000.0, 1000.5, -3.0], [-2000.0, -2001.0, -2002.0], [0.1, 0.2, 0.3]):
        exact = float(sum(Decimal(v).exp() for v in row).ln())
        assert P.log_sum_exp(np.array(row)) == pytest.approx(exact, rel=1e-15)
    assert P.log_sum_exp(np.array([-np.inf, -np.inf])) == -np.inf
    assert P.log_sum_exp(np.array([[1.0, 2.0], [3.0, 4.0]]), axis=0).shape == (2,)
    for x in (-800.0, -30.0, 0.0, 30.0, 800.0):
        assert P.softplus(np.array(x)) == pytest.approx(float((1 + Decimal(x).exp()).ln()), rel=1e-15)


def test_kahans_sum_keeps_what_a_plain_sum_loses():
    values = np.full(20_000, 0.1, np.float32)
    exact = 20_000 * float(np.float32(0.1))
    assert abs(P.compensated_sum(values) - exact) / exact < 1e-7
    assert abs(P.naive_sum(values) - exact) / exact > 1e-6


def test_the_active_range_names_what_is_wrong_and_a_power_of_two_that_helps():
    fine = P.active_range(np.array([0.5, 2.0, -1.5]))
    assert fine.advice == "" and fine.median_exponent == 0
    low = P.active_range(np.full(10, 3e-14))
    assert low.tiny == 1 and "multiply the loss" in low.advice and 1 <= 3e-14 * low.factor < 2
    assert math.frexp(low.factor)[0] == 0.5  # a power of two changes no digit
    assert "float64" in P.active_range(np.ones(3, np.float32)).advice
    assert "left the range" in P.active_range(np.array([1.0, np.inf])).advice
    assert P.active_range(np.zeros(3)).median_exponent is None
    assert P.active_range(np.array([1e-310, 1.0])).subnormal == 0.5
    with pytest.raises(UserError, match="floats"):
        P.active_range(np.array([1, 2]))


def test_the_best_step_of_a_difference_is_where_its_error_is_least():
    assert P.best_step(1) == pytest.approx(1.49e-8, rel=0.01) and P.best_step(2) == pytest.approx(6.06e-6, rel=0.01)
    steps = 10.0 ** np.arange(-13, 0.0, 0.5)
    points = np.linspace(0.5, 1.5, 50)
    for order, quotient in ((1, lambda h: (np.exp(points + h) - np.exp(points)) / h),
                            (2, lambda h: (np.exp(points + h) - np.exp(points - h)) / (2 * h))):
        errors = [np.abs(quotient(h) - np.exp(points)).mean() for h in steps]
        assert abs(math.log10(steps[int(np.argmin(errors))] / P.best_step(order))) <= 1
    assert P.precision(np.float32).digits == pytest.approx(6.92, abs=0.01)
    for call in (lambda: P.best_step(0), lambda: P.precision(np.int32)):
        with pytest.raises(UserError):
            call()


# ---------------------------------------------------------------- losses


def test_one_wild_target_moves_the_mean_anywhere_and_the_median_hardly():
    targets = np.random.default_rng(0).normal(size=21)
    before = regression_losses.best_constants(targets)
    targets[np.argmax(targets)] = 1e6
    after = regression_losses.best_constants(targets)
    assert after["l1"] == before["l1"] and after["l2"] > 4e4
    with pytest.raises(UserError, match="beta"):
        regression_losses.smooth_l1_loss(targets, targets, 0)
    with pytest.raises(UserError, match="shape"):
        regression_losses.l1_loss(targets, targets[:3])


def test_a_tree_of_classes_sums_to_one_and_huffmans_is_within_a_bit_of_the_entropy():
    rng = np.random.default_rng(0)
    counts = rng.zipf(1.5, 50).astype(float)
    tree, share = ClassTree.huffman(counts), counts / counts.sum()
    x, w, b = rng.normal(size=(4, 6)), rng.normal(size=(49, 6)), rng.normal(size=49)
    np.testing.assert_allclose(np.exp(class_log_probabilities(x, w, b, tree)).sum(1), 1, rtol=1e-12)
    entropy = float(-(share * np.log2(share)).sum())
    assert entropy <= float((share * tree.lengths).sum()) < entropy + 1
    assert set(ClassTree.balanced(50).lengths) == {5, 6}
    assert (2.0 ** -tree.lengths).sum() == 1  # Kraft: the code is complete
    with pytest.raises(UserError, match="counts"):
        ClassTree.huffman([1])
