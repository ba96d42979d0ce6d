"""A few fixed parameters and gradients, and NumPy's view of them: what the tests of single optimizers share."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

SHAPES = ((7, 5), (4, 3, 2, 2), (6,), ())


def parameters(seed: int = 0, shapes=SHAPES, dtype=torch.float64) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in shapes]


def gradients(step: int, shapes=SHAPES) -> list[np.ndarray]:
    generator = np.random.Generator(np.random.PCG64(100 + step))
    return [np.asarray(generator.standard_normal(shape)) for shape in shapes]


def give(tensors: list[nn.Parameter], values: list[np.ndarray]) -> None:
    for p, value in zip(tensors, values, strict=True):
        p.grad = torch.tensor(value, dtype=p.dtype)


def arrays(tensors) -> list[np.ndarray]:
    return [p.detach().numpy().copy() for p in tensors]


def assert_near(tensors, expected, rtol: float = 1e-10) -> None:
    for p, x in zip(tensors, expected, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), x, rtol=rtol, atol=1e-13)
