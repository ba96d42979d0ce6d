"""What is tried next, from a surrogate's mean and standard deviation: larger is better, for scores to be maximised.

With z = (mean - best - margin) / std, Phi and phi the normal distribution and density:
expected improvement  std * (z Phi(z) + phi(z))      Mockus 1978; Jones, Schonlau, Welch 1998
probability of improvement  Phi(z)                   Kushner 1964
upper confidence bound  mean + kappa * std           Srinivas et al., ICML 2010 (Cox and John 1992)
The three of Snoek, Larochelle, Adams, NIPS 2012, section 2.2, there for minima.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from visus.core.errors import UserError, did_you_mean

Acquisition = Literal["ei", "pi", "ucb"]
ACQUISITIONS = ("ei", "pi", "ucb")
LEAST_STD = 1e-12


def acquisition(name: str, mean: np.ndarray, std: np.ndarray, best: float, *, margin: float = 0.0,
                kappa: float = 2.0) -> np.ndarray:
    """float64 [m]. best: the highest score so far. margin: by how much it is to be beaten (ei, pi). kappa: weight of
    the uncertainty (ucb)."""
    if name == "ei":
        return expected_improvement(mean, std, best, margin)
    if name == "pi":
        return probability_of_improvement(mean, std, best, margin)
    if name == "ucb":
        return upper_confidence_bound(mean, std, kappa)
    raise UserError("there is no such acquisition function", where=f"acquisition={name!r}",
                    remedy=did_you_mean(name, ACQUISITIONS))


def expected_improvement(mean: np.ndarray, std: np.ndarray, best: float, margin: float = 0.0) -> np.ndarray:
    """E[max(f - best - margin, 0)] for f ~ N(mean, std^2); the improvement itself where std is 0."""
    gain = np.asarray(mean, np.float64) - best - margin
    z = gain / np.maximum(std, LEAST_STD)
    return np.where(std > LEAST_STD, std * (z * _cdf(z) + _pdf(z)), np.maximum(gain, 0.0)).clip(min=0.0)


def probability_of_improvement(mean: np.ndarray, std: np.ndarray, best: float, margin: float = 0.0) -> np.ndarray:
    """P(f > best + margin) for f ~ N(mean, std^2)."""
    return _cdf((np.asarray(mean, np.float64) - best - margin) / np.maximum(std, LEAST_STD))


def upper_confidence_bound(mean: np.ndarray, std: np.ndarray, kappa: float = 2.0) -> np.ndarray:
    return np.asarray(mean, np.float64) + kappa * np.asarray(std, np.float64)


def _cdf(z: np.ndarray) -> np.ndarray:
    return torch.special.ndtr(torch.as_tensor(z, dtype=torch.float64)).numpy()


def _pdf(z: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * np.square(z)) / np.sqrt(2 * np.pi)
