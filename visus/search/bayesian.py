"""Bayesian optimisation of a score over a space: where to try next, and how much each dimension mattered.

Snoek, Larochelle, Adams, Practical Bayesian Optimization of Machine Learning Algorithms, NIPS 2012: a Gaussian process
over the trials so far, and the point where an acquisition function is largest. Departures: trials that still run
(other workers) count as if they had given what the process expects there (Ginsbourger et al. 2010, kriging believer),
where the paper integrates over their outcomes; the acquisition is maximised by chance and then by local steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from visus.core.errors import UserError
from visus.search.acquisition import acquisition
from visus.search.gaussian_process import GaussianProcess, Kernel, fit
from visus.search.space import Dimension, columns, draw, encode, spread

CANDIDATES = 1000
ROUNDS, NEIGHBOURS = 6, 60  # of the local steps around the best candidates
GRID = 17  # values of a dimension in `importance`
BASES = 128  # configurations over which it averages


def first_trials(space: Sequence[Dimension]) -> int:
    """How many trials fill the space evenly before the surrogate chooses: two for each dimension and two more, up to
    ten."""
    return min(10, 2 * len(space) + 2)


def propose(space: Sequence[Dimension], tried: Sequence[Mapping[str, Any]], scores: Sequence[float], *,
            running: Sequence[Mapping[str, Any]] = (), method: str = "ei", margin: float = 0.01, kappa: float = 2.0,
            kernel: Kernel = "matern52", seed: int | Sequence[int] = 0, number: int | None = None) -> dict[str, Any]:
    """The configuration to try next, for scores to be maximised. The same arguments give the same answer.

    tried: configurations with a finite score each. margin: of the scores' standard deviation, by which ei and pi want
    the best one beaten. seed: of the trial. number: of the trial, from 0; None: how many there were. The first
    `first_trials` fill the space evenly, and whatever comes before so many have a score is drawn by chance.
    """
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
    number = len(tried) + len(running) if number is None else number
    if number < first_trials(space):
        return spread(space, number, seed if isinstance(seed, int) else seed[0])
    if len(tried) < first_trials(space):
        return draw(space, rng)
    process, scaled = surrogate(space, tried, scores, kernel=kernel, seed=int(rng.integers(2**31)))
    if running:
        believed = np.stack([encode(space, values) for values in running])
        mean, _ = process.posterior(believed)
        process = GaussianProcess(np.concatenate([process.inputs.numpy(), believed]), np.concatenate([scaled, mean]),
                                  process.hyper, kernel=kernel, mean=process.mean)
    best_seen = float(scaled.max())

    def rate(found: Sequence[Mapping[str, Any]]) -> np.ndarray:
        mean, std = process.posterior(np.stack([encode(space, values) for values in found]))
        return acquisition(method, mean, std, best_seen, margin=margin, kappa=kappa)

    candidates = [draw(space, rng) for _ in range(CANDIDATES)]
    best = tried[int(np.argmax(np.asarray(scores)))]
    candidates += [_near(space, best, 0.1, rng) for _ in range(NEIGHBOURS)]
    rated = rate(candidates)
    chosen, value = candidates[int(rated.argmax())], float(rated.max())
    for width in np.geomspace(0.1, 0.003, ROUNDS):
        around = [_near(space, chosen, float(width), rng) for _ in range(NEIGHBOURS)]
        rated = rate(around)
        if rated.max() > value:
            chosen, value = around[int(rated.argmax())], float(rated.max())
    known = {tuple(values.items()) for values in (*tried, *running)}
    if tuple((d.name, chosen[d.name]) for d in space) in known:  # whole numbers and choices alone: look elsewhere
        fresh = [c for c in candidates if tuple((d.name, c[d.name]) for d in space) not in known]
        return fresh[int(rate(fresh).argmax())] if fresh else chosen
    return chosen


def surrogate(space: Sequence[Dimension], tried: Sequence[Mapping[str, Any]], scores: Sequence[float], *,
              kernel: Kernel = "matern52", seed: int = 0) -> tuple[GaussianProcess, np.ndarray]:
    """The process over the encoded trials, and the scores as it saw them: standardised, outliers below drawn in."""
    inputs = np.stack([encode(space, values) for values in tried])
    raw = np.asarray(scores, np.float64)
    quarter, middle = np.quantile(raw, (0.25, 0.5))
    raw = np.maximum(raw, middle - 5 * max(middle - quarter, 1e-12)) if len(raw) > 4 else raw  # a diverged trial is bad
    scaled = (raw - raw.mean()) / (raw.std() or 1.0)  # enough: how bad would only flatten the rest
    return fit(inputs, scaled, kernel=kernel, seed=seed, groups=tuple(columns(space))), scaled


def _near(space: Sequence[Dimension], values: Mapping[str, Any], width: float,
          rng: np.random.Generator) -> dict[str, Any]:
    found = {}
    for d in space:
        if d.kind == "choice":
            found[d.name] = d.value(float(rng.random())) if rng.random() < 0.2 else values[d.name]
        else:
            found[d.name] = d.value(float(np.clip(d.unit(values[d.name]) + width * rng.normal(), 0.0, 1.0)))
    return found


def importance(space: Sequence[Dimension], tried: Sequence[Mapping[str, Any]], scores: Sequence[float],
               seed: int = 0) -> dict[str, float]:
    """Share of the score's variance over the space that each dimension explains alone (first-order functional ANOVA,
    Hutter, Hoos, Leyton-Brown, ICML 2014, with the Gaussian process as the surrogate instead of a forest). What
    dimensions do together is in none of the shares, so that they may sum to less than 1."""
    if len(tried) < 4:
        raise UserError(f"{len(tried)} scored trials are too few", where="importance", remedy="Give at least 4")
    process, _ = surrogate(space, tried, scores, seed=seed)
    rng = np.random.Generator(np.random.PCG64(seed))
    bases = [draw(space, rng) for _ in range(BASES)]
    encoded = np.stack([encode(space, values) for values in bases])
    total = float(process.posterior(encoded)[0].var())
    of = np.array(columns(space))
    shares = {}
    for k, d in enumerate(space):
        points = list(d.labels) if d.kind == "choice" else [d.value((i + 0.5) / GRID) for i in range(GRID)]
        means = []
        for value in points:
            changed = encoded.copy()
            changed[:, of == k] = encode([d], {d.name: value})
            means.append(float(process.posterior(changed)[0].mean()))
        shares[d.name] = min(1.0, float(np.var(means)) / total) if total > 1e-12 else 0.0
    return shares
