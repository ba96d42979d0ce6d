"""Bayesian optimisation against chance on known functions; importance against the analytic shares."""

from __future__ import annotations

import math

import numpy as np
import optuna
import pytest

from visus.core.errors import UserError
from visus.search.bayesian import first_trials, importance, propose
from visus.search.samplers import METHODS, PRUNERS, make_pruner, make_sampler, suggest
from visus.search.space import Dimension, draw

PLANE = [Dimension("x", "uniform", -5, 10), Dimension("y", "uniform", 0, 15)]
UNITS = [Dimension("x", "uniform"), Dimension("y", "uniform")]


def branin(x: float, y: float) -> float:
    """Minus the function of Branin, whose three maxima are -0.397887."""
    return -((y - 5.1 / (4 * math.pi**2) * x * x + 5 / math.pi * x - 6) ** 2
             + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10)


def search(seed: int, count: int, method: str = "ei") -> float:
    tried: list[dict] = []
    scores: list[float] = []
    for number in range(count):
        tried.append(propose(PLANE, tried, scores, method=method, seed=[seed, number]))
        scores.append(branin(**tried[-1]))
    return max(scores)


def test_it_beats_chance_on_a_known_function_over_seeds():
    """After 16 trials it is nearer to the maximum than chance after twice as many, in the mean over seeds."""
    ours = [search(seed, 16) for seed in range(3)]
    chance = [max(branin(**draw(PLANE, rng)) for _ in range(32)) for rng in map(np.random.default_rng, range(30))]
    assert max(ours) <= -0.397887 + 1e-6
    assert np.mean(ours) > np.mean(chance) and min(ours) > -1.2


def test_the_same_arguments_give_the_same_proposal():
    rng = np.random.default_rng(0)
    tried = [draw(PLANE, rng) for _ in range(first_trials(PLANE))]
    scores = [branin(**row) for row in tried]
    first = propose(PLANE, tried, scores, seed=[1, 2])
    assert first == propose(PLANE, tried, scores, seed=[1, 2])
    assert first != propose(PLANE, tried, scores, seed=[1, 2], running=[first])  # another worker is there already


def test_a_small_space_of_choices_is_not_asked_twice():
    space = [Dimension("a", "choice", choices=("p", "q", "r")), Dimension("n", "int", 1, 4)]
    tried: list[dict] = []
    for number in range(12):
        tried.append(propose(space, tried, [float(row["n"]) for row in tried], seed=[0, number], number=number))
    late = [tuple(row.values()) for row in tried[first_trials(space):]]
    assert len(set(late)) == len(late)


def test_one_diverged_trial_does_not_flatten_the_rest():
    rng = np.random.default_rng(1)
    tried = [draw(UNITS, rng) for _ in range(14)]
    scores = [row["x"] for row in tried]
    tried.append({"x": 0.5, "y": 0.5})
    found = propose(UNITS, tried, [*scores, -1e9], seed=3, number=15)
    assert found["x"] > 0.8


def test_importance_is_the_share_of_the_variance():
    """3 x + y, both uniform: variances 9/12 and 1/12, so 90 % and 10 %."""
    rng = np.random.default_rng(0)
    tried = [draw(UNITS, rng) for _ in range(40)]
    shares = importance(UNITS, tried, [3 * row["x"] + row["y"] for row in tried])
    assert shares["x"] == pytest.approx(0.9, abs=0.04) and shares["y"] == pytest.approx(0.1, abs=0.04)
    with pytest.raises(UserError, match="too few"):
        importance(UNITS, tried[:3], [1, 2, 3])


def test_what_two_dimensions_do_together_is_in_no_share():
    rng = np.random.default_rng(0)
    tried = [draw(UNITS, rng) for _ in range(60)]
    shares = importance(UNITS, tried, [(row["x"] - 0.5) * (row["y"] - 0.5) for row in tried])
    assert shares["x"] < 0.25 and shares["y"] < 0.25


@pytest.mark.parametrize("method", [pytest.param(m, marks=pytest.mark.slow if m == "optuna_gp" else ())
                                    for m in METHODS if m != "cmaes"])
def test_every_method_is_a_sampler_that_draws_by_its_trial(method):
    """The same trial gives the same values in another process; the next trial gives others."""
    space = [Dimension("lr", "log", 1e-4, 1e-1), Dimension("n", "logint", 2, 64),
             Dimension("c", "choice", choices=(1, "b", None))]

    def drawn(count: int) -> list[dict]:
        study = optuna.create_study(direction="maximize")
        for number in range(count):
            study.sampler = make_sampler(method, space, (0, 1, number))
            trial = study.ask()
            values = suggest(trial, space)
            assert 1e-4 <= values["lr"] <= 1e-1 and 2 <= values["n"] <= 64 and values["c"] in ("1", "b", "null")
            study.tell(trial, -abs(math.log10(values["lr"]) + 2))
        return [t.params for t in study.trials]

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rows = drawn(10)
    assert rows == drawn(10) and len({row["lr"] for row in rows}) == 10


def test_unknown_names_are_refused_and_a_missing_package_is_named():
    with pytest.raises(UserError, match="no such method"):
        make_sampler("tpf", UNITS, (0,))
    with pytest.raises(UserError, match="no such pruner"):
        make_pruner("halve")
    assert all(make_pruner(name) is not None for name in PRUNERS)
    try:
        import cmaes  # noqa: F401
    except ImportError:
        with pytest.raises(UserError, match="pip install cmaes"):
            make_sampler("cmaes", UNITS, (0,))
