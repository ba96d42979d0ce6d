"""Which training images an epoch draws, where not each of them once: classes of different sizes drawn more evenly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np

from visus.core.seeds import uniform
from visus.data.samples import Samples

EXPONENTS = {"weighted": 1.0, "sqrt": 0.5}  # q of `ClassSampling`


class Sampling(Protocol):
    """What `Loader` asks in the place of a shuffled order."""

    def order(self, epoch: int) -> np.ndarray:
        """int64 [draws]: positions in the loader's indices, in the order of this epoch; a position may come again."""
        ...

    def __len__(self) -> int:
        """Draws of an epoch."""
        ...


class ClassSampling:
    """Draws with replacement, as many as there are images: a class of n_c images has a probability in proportion to
    n_c^(1 - q), and the images in it are alike.

    q = 1: every class equally often. q = 0.5: in proportion to the root of its size. q = 0 would be the classes as they
    are (Mahajan et al. 2018, section 2.2; Kang et al. 2020, equation 1, with 1 - q for their q). Of several labels an
    image goes by its rarest, as in Gupta et al. 2019, "LVIS"; without any by the commonest. The order of an epoch is a
    pure function of (seed, epoch). Copies of an image are augmented differently in one batch and in different epochs,
    and alike in different batches of one epoch.
    """

    def __init__(self, targets: np.ndarray, *, q: float, seed: int = 0):
        """targets: int64 [N] or of 0 and 1 [N, K], of the images that the loader goes through. q in [0, 1]."""
        self.q, self.seed = q, seed
        weights = image_weights(targets, q)
        self.cumulative = np.cumsum(weights / weights.sum())

    def __len__(self) -> int:
        return len(self.cumulative)

    def order(self, epoch: int) -> np.ndarray:
        """int64 [N]: positions, independent draws."""
        draws = uniform(np.arange(len(self)), self.seed, "sampling", epoch)
        return np.minimum(np.searchsorted(self.cumulative, draws, side="right"), len(self) - 1).astype(np.int64)


def image_weights(targets: np.ndarray, q: float) -> np.ndarray:
    """float64 [N]: in proportion to the probability of each image: n_c^-q of its (rarest) class."""
    if targets.ndim == 1:
        counts = np.bincount(targets)
        return counts[targets].astype(np.float64) ** -q
    held = targets > 0
    counts = held.sum(0)
    none = np.iinfo(np.int64).max
    rarest = np.where(held, counts, none).min(1, initial=none)
    return np.minimum(rarest, max(1, counts.max(initial=1))).astype(np.float64) ** -q


def make_sampling(name: Literal["none", "weighted", "sqrt"], samples: Samples, indices: Sequence[int] | np.ndarray,
                  seed: int) -> ClassSampling | None:
    """The sampling that a recipe names, over the samples at `indices`; None for 'none'."""
    if name == "none":
        return None
    return ClassSampling(samples.targets[np.asarray(indices, np.int64)], q=EXPONENTS[name], seed=seed)


def expected_draws(targets: np.ndarray, classes: int, q: float) -> np.ndarray:
    """float64 [K]: how often an image of each class is drawn in an epoch of N draws, on the average."""
    weights = image_weights(targets, q)
    expected = len(targets) * weights / weights.sum()
    if targets.ndim == 1:
        return np.bincount(targets, expected, minlength=classes)
    return ((targets > 0) * expected[:, None]).sum(0)
