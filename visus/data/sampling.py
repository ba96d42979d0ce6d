"""Repeated augmentation: each sample several times in a batch, every time with other draws."""

from __future__ import annotations

import numpy as np

from visus.core.errors import DataError
from visus.core.seeds import permutation

_COPY = 1 << 44  # more than there are samples in any set


class RepeatedSampling:
    """An order for `Loader` in which each sample comes `repeats` times in a row, in one batch (Hoffer et al. 2020,
    "Augment your batch: improving generalization through instance repetition"; three times in DeiT).

    An epoch is as long as without it: it shows ceil(count / repeats) of the samples, other ones each epoch. The last of
    them may lack copies. The order of an epoch is a pure function of (seed, epoch). What tells the copies apart is
    `draw_index`. Raises DataError unless batch_size is a multiple of repeats.
    """

    def __init__(self, count: int, batch_size: int, *, repeats: int = 3, seed: int = 0):
        if repeats < 1:
            raise DataError("must be 1 or more", where=f"repeats={repeats}")
        if batch_size % repeats:
            raise DataError(f"a batch of {batch_size} does not hold each image {repeats} times",
                            where=f"repeats={repeats}", remedy=f"Use a batch_size that {repeats} divides")
        self.count, self.repeats, self.seed = count, repeats, seed

    def __len__(self) -> int:
        return self.count

    def order(self, epoch: int) -> np.ndarray:
        """int64 [count]: positions in range(count)."""
        shown = permutation(self.count, self.seed, "order", epoch)[:-(-self.count // self.repeats)]
        return np.repeat(shown, self.repeats)[:self.count]


def draw_index(index: np.ndarray) -> np.ndarray:
    """int64 [B]: what the random numbers of a batch are to depend on in the place of `index` [B], so that copies of a
    sample differ: the first copy in the batch keeps its own, each further one gets another."""
    index = np.asarray(index, np.int64)
    order = np.argsort(index, kind="stable")
    first = np.r_[True, np.diff(index[order]) != 0] if len(index) else np.zeros(0, bool)
    place = np.arange(len(index))
    copies = np.empty(len(index), np.int64)
    copies[order] = place - np.maximum.accumulate(np.where(first, place, 0))
    return index + copies * _COPY
