"""The Bayes classifier: the best that any classifier can do when the densities of the classes are known.

It names the class of the largest posterior p(c | x) = p(x | c) p(c) / p(x). Where the densities overlap, the same x
comes from several classes, and no rule tells them apart: what is left, E[1 - max_c p(c | x)], is the Bayes error. More
data, a larger net or longer training lower the distance to it, never itself.

Sources: Duda, Hart and Stork, Pattern Classification, 2001, chapter 2; Kailath 1967 (the Bhattacharyya bound).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from visus.core.errors import UserError
from visus.foundations.floating_point import log_sum_exp


@dataclass(frozen=True)
class GaussianClasses:
    """One Gaussian density a class: means [C, D], covariances [C, D, D], priors [C] that sum to 1."""

    means: np.ndarray
    covariances: np.ndarray
    priors: np.ndarray

    def __post_init__(self) -> None:
        classes, dim = self.means.shape
        if self.covariances.shape != (classes, dim, dim) or self.priors.shape != (classes,):
            raise UserError(f"covariances of shape {self.covariances.shape} and priors of shape {self.priors.shape} "
                            f"for means of shape {self.means.shape}", where="GaussianClasses",
                            remedy="Pass [C, D], [C, D, D] and [C]")
        if (self.priors < 0).any() or abs(self.priors.sum() - 1) > 1e-9:
            raise UserError(f"priors that sum to {self.priors.sum():g}", where="GaussianClasses",
                            remedy="They are at least 0 and sum to 1")

    def log_joint(self, x: np.ndarray) -> np.ndarray:
        """log p(x | c) p(c). x: [N, D] -> [N, C]."""
        whitening = np.linalg.inv(np.linalg.cholesky(self.covariances))  # [C, D, D]
        z = np.einsum("cij,ncj->nci", whitening, x[:, None] - self.means)
        scale = np.log(np.diagonal(whitening, axis1=1, axis2=2)).sum(axis=1)
        with np.errstate(divide="ignore"):
            return -0.5 * (z * z).sum(axis=2) + scale - 0.5 * x.shape[1] * math.log(2 * math.pi) + np.log(self.priors)

    def posteriors(self, x: np.ndarray) -> np.ndarray:
        """p(c | x). [N, D] -> [N, C], rows that sum to 1."""
        joint = self.log_joint(x)
        return np.exp(joint - log_sum_exp(joint)[:, None])

    def classify(self, x: np.ndarray) -> np.ndarray:
        """The class of the largest posterior. [N, D] -> [N]."""
        return self.log_joint(x).argmax(axis=1)

    def sample(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """`count` draws: x [N, D] and their classes [N]."""
        labels = rng.choice(len(self.priors), count, p=self.priors)
        noise = rng.standard_normal((count, self.means.shape[1]))
        return self.means[labels] + np.einsum("nij,nj->ni", np.linalg.cholesky(self.covariances)[labels], noise), labels


def bayes_error(classes: GaussianClasses, *, cells: int = 2000, deviations: float = 8.0) -> float:
    """The integral of p(x) (1 - max_c p(c | x)) over a grid, for one or two dimensions.

    cells: of the grid along an axis; deviations: how far it reaches beyond the means, in the largest standard
    deviation. Accurate to about 1e-6 in one dimension.
    """
    dim = classes.means.shape[1]
    if dim > 2:
        raise UserError(f"{dim} dimensions are too many for a grid", where="bayes_error",
                        remedy="Use sampled_bayes_error")
    reach = deviations * math.sqrt(float(np.linalg.eigvalsh(classes.covariances).max()))
    axes = [np.linspace(low, high, cells, endpoint=False) + (high - low) / cells / 2
            for low, high in zip(classes.means.min(0) - reach, classes.means.max(0) + reach, strict=True)]
    error, cell = 0.0, math.prod(float(axis[1] - axis[0]) for axis in axes)
    others = np.stack(np.meshgrid(*axes[1:], indexing="ij"), -1).reshape(-1, dim - 1) if dim > 1 else np.zeros((1, 0))
    for start in range(0, cells, 100):  # bounded memory
        first = axes[0][start:start + 100]
        grid = np.concatenate([np.repeat(first, len(others))[:, None], np.tile(others, (len(first), 1))], 1)
        joint = np.exp(classes.log_joint(grid))
        error += float((joint.sum(axis=1) - joint.max(axis=1)).sum()) * cell
    return error


def sampled_bayes_error(classes: GaussianClasses, count: int, rng: np.random.Generator) -> tuple[float, float]:
    """The mean of 1 - max_c p(c | x) over `count` draws, and its standard error; any number of dimensions."""
    x, _ = classes.sample(count, rng)
    left = 1 - classes.posteriors(x).max(axis=1)
    return float(left.mean()), float(left.std(ddof=1) / math.sqrt(count))


def two_gaussians_error(distance: float, prior: float = 0.5) -> float:
    """The Bayes error of two Gaussians with one covariance, in closed form. distance: between the means, in standard
    deviations along the line that joins them (Mahalanobis); prior: of the first class, in (0, 1).

    The border lies where the log-odds are 0; for equal priors the error is Phi(-distance / 2).
    """
    if distance < 0 or not 0 < prior < 1:
        raise UserError(f"a distance of {distance} and a prior of {prior}", where="two_gaussians_error",
                        remedy="The distance is at least 0, the prior in (0, 1)")
    if distance == 0:
        return min(prior, 1 - prior)
    shift = math.log(prior / (1 - prior)) / distance
    return prior * _below(-distance / 2 - shift) + (1 - prior) * _below(-distance / 2 + shift)


def _below(z: float) -> float:
    """The standard normal distribution function."""
    return 0.5 * math.erfc(-z / math.sqrt(2))
