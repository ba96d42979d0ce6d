"""A Gaussian process as the surrogate of a score: posterior, likelihood, and hyper-parameters that maximise it.

Rasmussen, Williams, Gaussian Processes for Machine Learning, 2006: algorithm 2.1 (posterior and likelihood through a
Cholesky factor), equations 4.9 and 4.17 (squared exponential and Matern 5/2), section 5.1 (one length for each input:
automatic relevance determination). Snoek, Larochelle, Adams, NIPS 2012, choose Matern 5/2: a score is not infinitely
smooth in its hyper-parameters. Departures: the hyper-parameters are a point estimate with weak log-normal priors, where
Snoek et al. average over samples of them; without the priors a handful of trials lets a length run to infinity.
All in float64 with one factorisation, O(n^3) for n trials: a second for a thousand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from visus.core.validate import require

Kernel = Literal["matern52", "rbf"]
JITTER = 1e-10
LENGTHS = (0.02, 20.0)  # bounds of the fit, in units of the scaled inputs
NOISES = (1e-6, 1.0)
SCALES = (0.05, 20.0)


@dataclass(frozen=True, slots=True)
class Hyper:
    """lengths: [D] in units of the inputs. scale: signal variance. noise: its variance, added on the diagonal."""

    lengths: tuple[float, ...]
    scale: float = 1.0
    noise: float = 1e-3


class GaussianProcess:
    """Posterior of f given noisy values. inputs: [n, D]; values: [n]. The prior's mean is `mean`."""

    def __init__(self, inputs: np.ndarray, values: np.ndarray, hyper: Hyper, *, kernel: Kernel = "matern52",
                 mean: float = 0.0):
        require(len(inputs) == len(values) > 0, "values", len(values), "be as many as there are inputs, at least one")
        self.inputs = torch.as_tensor(np.asarray(inputs, np.float64))
        self.values = torch.as_tensor(np.asarray(values, np.float64))
        self.hyper, self.kernel, self.mean = hyper, kernel, float(mean)
        self._lengths = torch.tensor(hyper.lengths, dtype=torch.float64)
        covariance = hyper.scale * correlation(self.inputs, self.inputs, self._lengths, kernel)
        self._factor = _cholesky(covariance + hyper.noise * torch.eye(len(values), dtype=torch.float64))
        self._weights = torch.cholesky_solve((self.values - mean)[:, None], self._factor)[:, 0]

    def posterior(self, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[m, D] -> mean [m] and standard deviation [m] of f itself, without the noise."""
        new = torch.as_tensor(np.asarray(inputs, np.float64))
        cross = self.hyper.scale * correlation(new, self.inputs, self._lengths, self.kernel)
        solved = torch.linalg.solve_triangular(self._factor, cross.T, upper=False)
        variance = (self.hyper.scale - solved.square().sum(0)).clamp_min(0.0)
        return (self.mean + cross @ self._weights).numpy(), variance.sqrt().numpy()

    @property
    def log_likelihood(self) -> float:
        """Log marginal likelihood of the values (equation 2.30)."""
        return float(_log_likelihood(self._factor, self.values - self.mean))


def fit(inputs: np.ndarray, values: np.ndarray, *, kernel: Kernel = "matern52", starts: int = 2, seed: int = 0,
        steps: int = 40, groups: tuple[int, ...] | None = None) -> GaussianProcess:
    """The process whose hyper-parameters maximise likelihood times prior, from `starts` starting points by L-BFGS.

    Values are used as they are: standardise them first. groups: for each column the number of its length, so that the
    columns of one choice share it; None: one length a column.
    """
    x = torch.as_tensor(np.asarray(inputs, np.float64))
    mean = float(np.mean(values))
    y = torch.as_tensor(np.asarray(values, np.float64)) - mean
    group = torch.tensor(groups if groups is not None else range(x.shape[1]), dtype=torch.int64)
    count = int(group.max()) + 1 if len(group) else 0
    rng = np.random.Generator(np.random.PCG64(seed))
    eye = torch.eye(len(y), dtype=torch.float64)
    best: tuple[float, Tensor] | None = None
    for start in range(starts):
        first = torch.zeros(count + 2, dtype=torch.float64)
        first[:count] = math.log(0.5)
        first[count + 1] = math.log(1e-2)
        if start:
            first += torch.as_tensor(rng.normal(0.0, 1.0, count + 2))
        free = first.clone().requires_grad_()
        optimizer = torch.optim.LBFGS([free], max_iter=steps, line_search_fn="strong_wolfe", tolerance_change=1e-7)

        def closure(free: Tensor = free, optimizer: torch.optim.Optimizer = optimizer) -> Tensor:
            optimizer.zero_grad()
            loss = objective(free)
            loss.backward()
            return loss

        def objective(free: Tensor) -> Tensor:
            lengths, scale, noise = _bounded(free, count)
            covariance = scale * correlation(x, x, lengths[group], kernel) + noise * eye
            # weak priors: lengths around half of the range, a signal of the values' own size, little noise
            prior = 0.5 * ((free[:count] - math.log(0.5)) / 1.0).square().sum() + 0.5 * free[count].square() \
                + 0.5 * ((free[count + 1] - math.log(1e-2)) / 2.0).square()
            return prior - _log_likelihood(_cholesky(covariance), y)

        try:
            optimizer.step(closure)
            with torch.no_grad():
                value = float(objective(free))
        except torch.linalg.LinAlgError:
            continue
        if math.isfinite(value) and (best is None or value < best[0]):
            best = value, free.detach().clone()
    lengths, scale, noise = _bounded(best[1] if best is not None else first, count)
    hyper = Hyper(tuple(float(v) for v in lengths[group]), float(scale), float(noise))
    return GaussianProcess(inputs, values, hyper, kernel=kernel, mean=mean)


def correlation(a: Tensor, b: Tensor, lengths: Tensor, kernel: Kernel) -> Tensor:
    """[n, D], [m, D] -> [n, m]: 1 at equal points, by the distance in units of the lengths."""
    difference = (a / lengths)[:, None] - (b / lengths)[None]  # [n, m, D]
    squared = difference.square().sum(-1)
    if kernel == "rbf":
        return torch.exp(-0.5 * squared)
    root = torch.sqrt(5.0 * squared + 1e-24)  # the root's slope at 0 is infinite, and times 0 in the chain rule
    return (1.0 + root + 5.0 / 3.0 * squared) * torch.exp(-root)


def _bounded(free: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Lengths [count], scale and noise from their logarithms."""
    return (free[:count].exp().clamp(*LENGTHS), free[count].exp().clamp(*SCALES),
            free[count + 1].exp().clamp(*NOISES))


def _cholesky(covariance: Tensor) -> Tensor:
    return torch.linalg.cholesky(covariance + JITTER * torch.eye(len(covariance), dtype=torch.float64))


def _log_likelihood(factor: Tensor, centred: Tensor) -> Tensor:
    weights = torch.cholesky_solve(centred[:, None], factor)[:, 0]
    return -0.5 * centred @ weights - factor.diagonal().log().sum() - 0.5 * len(centred) * math.log(2 * math.pi)
