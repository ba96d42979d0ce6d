"""Lab batchnorm: batch normalisation, forwards in training and at test time, backwards twice.

In training each feature is brought to mean 0 and variance 1 over the batch, then scaled and shifted by numbers that are
learnt:

    z = (x - mean) / sqrt(var + eps),     out = gamma z + beta

mean and var are those of the batch, each feature for itself (var over N, not N - 1). For test time, when there may be
one image only, running averages of both are kept:

    running = (1 - momentum) running + momentum (that of the batch)          momentum = 0.1: a tenth of the new

For the running variance the batch's is taken without bias, var N / (N - 1), as PyTorch does.

Backwards first in stages: walk the graph of the forward pass in reverse, gate by gate. Mind that x enters twice,
through the mean and by itself, and that the centred x enters twice, too. Then by the closed form that is left after
all of it is put together: with g = dout gamma,

    dx = (g - mean(g) - z mean(g z)) / sqrt(var + eps)

    visus lab check batchnorm.py
    visus lab show batchnorm.py

Source: Ioffe and Szegedy 2015; Stanford CS231n, assignment 2.
"""

from __future__ import annotations

import numpy as np

from visus.labs import NotWritten

LAB = "batchnorm"


def batchnorm_train(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, eps: float) -> tuple[np.ndarray, tuple]:
    """x: [N, D]; gamma, beta: [D]. Returns out [N, D] and a cache that serves both backward functions."""
    raise NotWritten


def running_averages(x: np.ndarray, running_mean: np.ndarray, running_var: np.ndarray,
                     momentum: float) -> tuple[np.ndarray, np.ndarray]:
    """The two running averages [D] after the batch x [N, D], in new arrays."""
    raise NotWritten


def batchnorm_test(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, running_mean: np.ndarray,
                   running_var: np.ndarray, eps: float) -> np.ndarray:
    """The same with the running averages in place of those of the batch. x: [N, D], N may be 1."""
    raise NotWritten


def backward_staged(dout: np.ndarray, cache: tuple) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns dx [N, D], dgamma [D], dbeta [D], through every step of the forward pass in reverse."""
    raise NotWritten


def backward_simplified(dout: np.ndarray, cache: tuple) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same by the closed form."""
    raise NotWritten
