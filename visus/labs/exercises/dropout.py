"""Lab dropout: half of the units sit out, at random, another half in every step.

In training each unit is kept with probability `keep` and set to 0 otherwise. What arrives at the next layer is then
smaller by the factor `keep` on average; so that nothing has to be done at test time, the units that are kept are
divided by `keep` (inverted dropout). At test time all units take part, and the layer is the identity.

So that your numbers can be compared, draw the mask as  rng.random(x.shape) < keep.

    visus lab check dropout.py
    visus lab show dropout.py

Source: Srivastava et al. 2014; Stanford CS231n, neural networks part 2 and assignment 2.
"""

from __future__ import annotations

import numpy as np

from visus.labs import NotWritten

LAB = "dropout"


def dropout_train(x: np.ndarray, keep: float, rng: np.random.Generator) -> tuple[np.ndarray, tuple]:
    """x: any shape; keep: in (0, 1]; rng: where random numbers come from. Returns out and the cache.

    Each entry has its own draw: one call of rng.random for all of them.
    """
    raise NotWritten


def dropout_test(x: np.ndarray, keep: float) -> np.ndarray:
    """The same layer at test time."""
    raise NotWritten


def dropout_backward(dout: np.ndarray, cache: tuple) -> np.ndarray:
    """Returns dx. A unit that sat out has no part in the loss."""
    raise NotWritten
