"""Layers and losses written by hand in NumPy, as functions that torch differentiates by their own backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from visus.core.errors import UserError


def numpy_layer(forward: Callable[..., Any], backward: Callable[..., Any]) -> Callable[..., Tensor]:
    """A pair `forward(*arrays) -> (out, cache)`, `backward(dout, cache) -> gradients of what went in, in order`, the
    form of the courses' assignments. The gradients may be fewer than the arrays: what follows has none."""
    class Layer(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Tensor) -> Tensor:
            answer = forward(*(x.detach().numpy().copy() for x in inputs))
            if not isinstance(answer, tuple) or len(answer) != 2:
                raise UserError(f"gives {type(answer).__name__}, not (out, cache)", where=_name(forward))
            ctx.cache, ctx.shapes = answer[1], [tuple(x.shape) for x in inputs]
            return torch.as_tensor(np.asarray(answer[0], np.float64).copy())

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
            found = backward(grads[0].numpy().copy(), ctx.cache)
            found = tuple(found) if isinstance(found, tuple | list) else (found,)
            return _gradients(found, ctx.shapes, _name(backward))

    return Layer.apply


def numpy_loss(function: Callable[..., Any]) -> Callable[..., Tensor]:
    """`function(scores, labels) -> (loss, gradient of the scores)`, the form of the courses' losses."""
    class Loss(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Tensor) -> Tensor:
            answer = function(*(x.detach().numpy().copy() for x in inputs))
            if not isinstance(answer, tuple) or len(answer) < 2:
                raise UserError(f"gives {type(answer).__name__}, not (loss, gradient)", where=_name(function))
            ctx.gradients, ctx.shapes = answer[1:], [tuple(x.shape) for x in inputs]
            return torch.as_tensor(np.float64(answer[0]))

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
            upstream = grads[0].numpy()
            return _gradients(tuple(upstream * g for g in ctx.gradients), ctx.shapes, _name(function))

    return Loss.apply


def _gradients(found: tuple[Any, ...], shapes: list[tuple[int, ...]], where: str) -> tuple[Tensor | None, ...]:
    out: list[Tensor | None] = []
    for number, shape in enumerate(shapes):
        if number >= len(found) or found[number] is None:
            out.append(None)
            continue
        gradient = np.asarray(found[number], np.float64)
        if gradient.shape != shape:
            raise UserError(f"gives a gradient of shape {gradient.shape} for input {number} of shape {shape}",
                            where=where, remedy="A gradient has the shape of what it is taken of")
        out.append(torch.as_tensor(gradient.copy()))
    return tuple(out)


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(getattr(function, "func", function), "__name__", type(function).__name__))
