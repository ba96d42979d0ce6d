"""Schaul's unit tests: shapes that fit together, noises of the stated size, verdicts worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from visus.optim.contenders import Contender
from visus.optim.prototypes import SHAPES, chain, draw_noise
from visus.optim.unit_tests import DRIFT_EVERY, REFERENCE_RATES, TESTS, Bench, UnitTest, judge, reference

SGD = Contender("sgd", "sgd", {"momentum": 0.0})
CHAINS = sorted({names for test in TESTS for names, _ in test.dims} | {(name,) for name in SHAPES})


def at(names, x, slope):
    x = torch.as_tensor(x, dtype=torch.float64)
    return chain(names, x, torch.full_like(x, slope))


@pytest.mark.parametrize("slope", [-1.0, 1.0, -10.0])
@pytest.mark.parametrize("names", CHAINS, ids="-".join)
def test_a_chain_begins_as_told_is_continuous_and_its_slope_is_its_derivative(names, slope):
    value, derivative = at(names, [0.0], slope)
    assert value == 0 and float(derivative) == pytest.approx(0.0 if names[0] == "bend" else slope, rel=1e-12)
    x = torch.linspace(-0.3, 1.3, 3201, dtype=torch.float64) + 1e-5  # no point on a junction
    step = 1e-7
    (high, _), (low, _) = at(names, x + step, slope), at(names, x - step, slope)
    _, derivative = at(names, x, slope)
    size = float(derivative.abs().max())
    wrong = ((high - low) / (2 * step) - derivative).abs() > 1e-4 * derivative.abs() + 1e-6 * max(1.0, size)
    assert not wrong.any()
    for place in (k / len(names) for k in range(1, len(names))):  # no step where two shapes meet, nor a kink
        (left, before), (right, after) = at(names, place - 1e-9, slope), at(names, place + 1e-9, slope)
        assert float(left) == pytest.approx(float(right), abs=1e-7 * max(1.0, size))
        assert float(before) == pytest.approx(float(after), rel=1e-6, abs=1e-6)


def test_shapes_have_the_forms_that_their_names_say():
    x = [0.25, 0.5, 0.75, 1.0]
    assert at(("quad_bowl",), x, -1.0)[1].tolist() == [-0.5, 0.0, 0.5, 1.0]
    assert at(("abs",), x, -2.0)[0].tolist() == [-0.5, -1.0, -0.5, 0.0]
    assert at(("relu",), x, -1.0)[1].tolist() == [-1.0, 0.0, 0.0, 0.0]  # breaks at 1 / (1 + sqrt 2)
    assert at(("cliff",), [0.0, 1.0], -1.0)[1].tolist() == [-1.0, 10.0]
    assert at(("ridge",), [0.0, 1.0], -1.0)[1].tolist() == [-1.0, -10.0]
    assert float(at(("quad_convex",), 1.0, -1.0)[1]) == pytest.approx(-0.1)
    assert float(at(("exponential",), 1.0, -1.0)[1]) == pytest.approx(-1e-3)
    assert float(at(("gauss_bowl",), 0.5, -1.0)[1]) == pytest.approx(0.0, abs=1e-12)
    curvature = at(("gauss_convex",), [1e-4, 0.0], -1.0)[1].diff()  # it begins at the inflection
    assert abs(float(curvature)) < 1e-6


def test_noises_have_their_size():
    generator = torch.Generator().manual_seed(0)
    factor, addend = draw_noise("add", 0.1, (20000,), generator)
    assert (factor == 1).all() and float(addend.std()) == pytest.approx(0.1, rel=0.03)
    factor, addend = draw_noise("times", 1.0, (20000,), generator)
    assert (addend == 0).all() and float(factor.log().std()) == pytest.approx(1.0, rel=0.03)
    factor, _ = draw_noise("mask", 0.9, (20000,), generator)
    assert set(factor.unique().tolist()) == {0.0, 1.0} and float(factor.mean()) == pytest.approx(0.1, abs=0.01)
    _, addend = draw_noise("cauchy", 1.0, (20000,), generator)
    assert float(addend.abs().median()) == pytest.approx(1.0, rel=0.05)  # half of a Cauchy lies within 1


def test_the_names_are_different_and_every_kind_of_difficulty_is_there():
    assert len({test.name for test in TESTS}) == len(TESTS)
    assert {test.drift for test in TESTS} == {"", "scale", "noise", "offset"}
    assert any(test.turned for test in TESTS) and any(test.curl for test in TESTS)
    assert {len(test.dims) for test in TESTS} == {1, 2, 10}
    assert len(REFERENCE_RATES) == 34 and REFERENCE_RATES[0] == 1e-6 and REFERENCE_RATES[-1] == pytest.approx(10)


def test_plain_descent_on_the_bowl_is_the_closed_form():
    bench = Bench([UnitTest("bowl", ((("quad_bowl",), "normal"),))], steps=25, repetitions=2)
    final = bench.run(SGD, [0.1])
    x = 0.5 * (1 - (1 - 0.2) ** 25)  # slope -1 + 2 x
    assert final.tolist() == [[[pytest.approx(-x * (1 - x))] * 2]]


def test_a_turn_keeps_values_and_a_curl_has_no_loss():
    dims = ((("quad_bowl",), "steep"), (("quad_bowl",), "normal"))
    bench = Bench([UnitTest("plain", dims), UnitTest("turned", dims, turned=True), UnitTest("curl", dims, curl=True)],
                  steps=3, repetitions=1)
    points = torch.randn(3, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    which, zero = torch.tensor([1, 1, 1]), torch.tensor([0, 0, 0])
    value, gradient = bench.clean(points, which, zero, 0)
    inner = torch.einsum("ij,kj->ki", bench.turn[1], points)
    expected, slope = bench.clean(inner, zero, zero, 0)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, slope @ bench.turn[1])  # the chain rule
    step = 1e-6
    for d in range(2):
        moved = points.clone()
        moved[:, d] += step
        torch.testing.assert_close((bench.clean(moved, which, zero, 0)[0] - value) / step, gradient[:, d], rtol=1e-4,
                                   atol=1e-4)
    _, curled = bench.clean(points, which + 1, zero, 0)
    extra = curled - bench.clean(points, zero, zero, 0)[1]
    torch.testing.assert_close(extra.norm(dim=1), 0.1 * points.norm(dim=1))


def test_drifts_stand_still_between_their_moves_and_the_first_is_none():
    bench = Bench([UnitTest("o", ((("abs",), "normal"),), drift="offset"), UnitTest("s", ((("abs",), "normal"),),
                                                                                     drift="scale")], steps=40)
    assert (bench.offset[:DRIFT_EVERY] == 0).all() and (bench.scale[:DRIFT_EVERY] == 1).all()
    assert (bench.offset[10:20, 0] == bench.offset[10, 0]).all() and (bench.offset[10, 0] != 0).all()
    assert (bench.offset[:, 1] == 0).all() and (bench.scale[:, 0] == 1).all() and (bench.scale[30, 1] != 1).all()


def test_verdicts_by_hand():
    start, best = torch.zeros(1, 4), torch.tensor([-1.0])

    def verdict(*values):
        return judge(torch.tensor([values]), start, best)[0]

    nan = math.nan
    assert verdict(nan, nan, nan, -1.0) == "diverged" and verdict(1e11, 1e11, 1e11, 0.0) == "diverged"
    assert verdict(-0.05, -0.05, -0.05, -0.05) == "none" and verdict(0.5, 0.5, 0.5, 0.5) == "none"
    assert verdict(nan, -0.5, -0.5, -0.5) == "failing"
    assert verdict(-0.5, -0.5, 0.0, 0.0) == "variable" and verdict(-0.5, -0.5, -0.5, 0.0) == "good"
    assert verdict(-3.0, -3.0, -3.0, -3.0) == "excellent"


def test_the_best_sgd_is_itself_good_and_too_large_a_rate_diverges():
    names = ("quad_bowl, exact", "quad_bowl, gauss 0.1", "quad_bowl, steep, exact")
    tests = [test for test in TESTS if test.name in names]
    bench = Bench(tests, steps=60, repetitions=4)
    start, best, rates = reference(bench)
    for k, rate in enumerate(rates.tolist()):
        assert judge(bench.run(SGD, [rate])[0], start, best)[k] == "good"
    assert judge(bench.run(SGD, [10.0])[0], start, best) == ["diverged"] * 3
    assert judge(bench.run(SGD, [1e-6])[0], start, best) == ["none"] * 3
    few = bench.run(SGD, [0.01], repetitions=2)
    torch.testing.assert_close(few[0], bench.run(SGD, [0.01])[0][:, :2], rtol=1e-12, atol=1e-12)  # the same noise


def test_repetitions_differ_by_their_noise_alone():
    bench = Bench([test for test in TESTS if test.name in ("abs, exact", "abs, gauss 0.1")], steps=20, repetitions=3)
    exact, noisy = bench.run(SGD, [0.01])[0]
    assert exact.unique().numel() == 1 and noisy.unique().numel() == 3


def test_noise_is_on_the_gradient_that_the_optimizer_sees():
    bench = Bench([UnitTest("line", ((("line",), "normal"),), "gauss 0.1")], steps=5, repetitions=1)
    path = -0.1 * (-1 + bench.addend[:, 0, 0, 0]).sum()
    torch.testing.assert_close(bench.run(SGD, [0.1])[0, 0, 0], -path)
