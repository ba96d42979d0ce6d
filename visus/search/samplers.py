"""The ways to choose the next trial, all as Optuna samplers: storage, resume, pruning and workers are Optuna's.

A sampler is made for one trial, from (seed, stage, number of the trial): a study that was stopped draws what it would
have drawn, and two workers never draw the same. Needs the extra 'hpo'.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from visus.core.errors import UserError, did_you_mean
from visus.search.bayesian import first_trials, propose
from visus.search.space import Dimension, draw

METHODS = {
    "gp": "Bayesian optimisation: our Gaussian process with expected improvement (or --acquisition pi, ucb)",
    "random": "chance, even on each range's own scale",
    "grid": "every combination of --points values a range",
    "tpe": "Optuna's tree-structured Parzen estimator",
    "cmaes": "Optuna's CMA-ES, for ranges without choices (needs the package cmaes)",
    "optuna_gp": "Optuna's Gaussian process",
}
PRUNERS = {
    "halving": "successive halving, asynchronous: of the trials that reach epoch 1, 3, 9, ... the best third goes on",
    "median": "stop below the median of the earlier trials at the same epoch",
    "none": "every trial runs to its end",
}
HALVING = 3


def make_sampler(method: str, space: Sequence[Dimension], seed: Sequence[int], *, acquisition: str = "ei",
                 parallel: bool = False) -> optuna.samplers.BaseSampler:
    """seed: of this trial. Raises UserError for an unknown method, MissingExtra where a package is not there."""
    one = int(np.random.SeedSequence(list(seed)).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if method in ("random", "grid"):  # a grid's trials come with their values
            return ChanceSampler(space, seed)
        if method == "gp":
            return BayesianSampler(space, seed, acquisition)
        if method == "tpe":
            return optuna.samplers.TPESampler(seed=one, n_startup_trials=first_trials(space), constant_liar=parallel)
        if method == "optuna_gp":
            return optuna.samplers.GPSampler(seed=one, n_startup_trials=first_trials(space))
        if method == "cmaes":
            try:
                import cmaes  # noqa: F401
            except ImportError:
                raise UserError("needs the package cmaes, which is not installed", where="--method cmaes",
                                remedy="Install it: pip install cmaes; or use --method gp") from None
            return optuna.samplers.CmaEsSampler(seed=one, n_startup_trials=first_trials(space),
                                                warn_independent_sampling=False)
    raise UserError("there is no such method", where=f"--method {method}", remedy=did_you_mean(method, METHODS))


def make_pruner(name: str) -> optuna.pruners.BasePruner:
    if name == "none":
        return optuna.pruners.NopPruner()
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=0)
    if name == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=HALVING)
    raise UserError("there is no such pruner", where=f"--pruner {name}", remedy=did_you_mean(name, PRUNERS))


def distribution(d: Dimension) -> BaseDistribution:
    """The dimension as Optuna knows it."""
    if d.kind == "choice":
        return CategoricalDistribution(d.labels)
    if d.is_whole:
        return IntDistribution(int(d.low), int(d.high), log=d.is_log)
    return FloatDistribution(d.low, d.high, log=d.is_log)


def suggest(trial: optuna.trial.Trial, space: Sequence[Dimension]) -> dict[str, Any]:
    """The trial's value of each dimension (labels for choices), drawn by the study's sampler and stored."""
    found: dict[str, Any] = {}
    for d in space:
        if d.kind == "choice":
            found[d.name] = trial.suggest_categorical(d.name, d.labels)
        elif d.is_whole:
            found[d.name] = trial.suggest_int(d.name, int(d.low), int(d.high), log=d.is_log)
        else:
            found[d.name] = trial.suggest_float(d.name, d.low, d.high, log=d.is_log)
    return found


class ChanceSampler(optuna.samplers.BaseSampler):
    """Random search: Bergstra, Bengio, JMLR 2012."""

    def __init__(self, space: Sequence[Dimension], seed: Sequence[int]):
        self.space, self.seed = tuple(space), list(seed)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {d.name: distribution(d) for d in self.space}

    def sample_relative(self, study: Study, trial: FrozenTrial,
                        search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        return self._choose(study, trial) if search_space else {}

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str,
                           param_distribution: BaseDistribution) -> Any:
        return draw(self.space, self._rng())[param_name]

    def _choose(self, study: Study, trial: FrozenTrial) -> dict[str, Any]:
        return draw(self.space, self._rng())

    def _rng(self) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(self.seed)))


class BayesianSampler(ChanceSampler):
    """Our Gaussian process: `search.bayesian.propose` on what the study knows. A pruned trial counts with its last
    value; one without any (it diverged) as the worst seen."""

    def __init__(self, space: Sequence[Dimension], seed: Sequence[int], acquisition: str = "ei"):
        super().__init__(space, seed)
        self.acquisition = acquisition

    def _choose(self, study: Study, trial: FrozenTrial) -> dict[str, Any]:
        sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
        names = [d.name for d in self.space]
        ended = [t for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
                 if all(name in t.params for name in names)]
        ended = sorted(ended, key=lambda t: t.user_attrs.get("retry_of", t.number))  # as if it had not been stopped
        known = [sign * t.value for t in ended if t.value is not None]
        scores = [sign * t.value if t.value is not None else min(known, default=0.0) for t in ended]
        running = [t for t in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
                   if t.number != trial.number and all(name in t.params for name in names)]
        return propose(self.space, [_only(t, names) for t in ended], scores,
                       running=[_only(t, names) for t in running], method=self.acquisition, seed=self.seed,
                       number=trial.number)


def _only(trial: FrozenTrial, names: Sequence[str]) -> dict[str, Any]:
    return {name: trial.params[name] for name in names}
