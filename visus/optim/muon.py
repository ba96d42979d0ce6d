"""Muon: the momentum of each matrix is replaced by the nearest orthogonal one, so that all its directions move alike.

Sources: Jordan et al., Muon, 2024 (kellerjordan.github.io/posts/muon); Liu et al., Muon is Scalable for LLM Training,
2025, arXiv:2502.16982 (one rate for matrices and the rest). Only kernels and matrices inside the net are such matrices:
embeddings, the classifier and all vectors take AdamW's step, or SGD's, in the same optimizer (see `matrix_groups`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from visus.optim.grouped import GroupedOptimizer, check_numbers
from visus.optim.parameter_groups import EMBEDDINGS

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan 2024: the steepest at 0 that keeps [0, 1] near 1
STEPS = 5
EPSILON = 1e-7
ADAMW_SIZE = 0.2  # root mean square of AdamW's usual step (Liu et al. 2025, section 2.2)


class Muon(GroupedOptimizer):
    """X <- (1 - lr * weight_decay) X - lr * s * orthogonal(u), u = (1 - b) g + b m (nesterov; else m), with
    m <- b m + (1 - b) g and b = momentum, for matrices X [rows, columns]; a kernel is the matrix [out, in * h * w].

    scale: what s is. 'adamw': 0.2 sqrt(max(rows, columns)), which makes steps as large as AdamW's, so that its rates
    and decay serve here too; 'jordan': sqrt(max(1, rows / columns)), for rates of 0.02 and more. rest: 'adamw' (betas,
    eps) or 'sgd' (Nesterov, momentum), for groups that say matrices=False; a group that says nothing is split by the
    number of axes (from two on: matrices). unit_weights: each matrix is first scaled to a root mean square norm of 1
    per row, for nets in which a norm follows each kernel. dtype: of the products; None: bfloat16 on CUDA, else the
    parameter's. State per parameter: momentum_buffer (matrices), and that of torch's AdamW or SGD. Raises ValueError
    for values out of range."""

    def __init__(self, params: Any, lr: float = 1e-3, momentum: float = 0.95, weight_decay: float = 0.0, *,
                 nesterov: bool = True, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 scale: Literal["adamw", "jordan"] = "adamw", rest: Literal["adamw", "sgd"] = "adamw",
                 steps: int = STEPS, unit_weights: bool = False, dtype: torch.dtype | None = None):
        check_numbers({"learning rate": lr, "epsilon": eps, "weight_decay": weight_decay},
                      {"momentum": momentum, "beta parameter at index 0": betas[0],
                       "beta parameter at index 1": betas[1]})
        if scale not in ("adamw", "jordan") or rest not in ("adamw", "sgd") or steps < 1:
            raise ValueError(f"Invalid scale, rest or steps: {scale!r}, {rest!r}, {steps}")
        super().__init__([split for group in _as_groups(params) for split in _split(group)],
                         {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov,
                          "foreach": True})
        self.scale, self.steps, self.unit_weights, self.dtype = scale, steps, unit_weights, dtype
        rest_groups = [group for group in self.param_groups if not group["matrices"]]
        self.rest: torch.optim.Optimizer | None = None
        if rest_groups:
            for group in rest_groups:
                group["foreach"] = None
            fused = all(p.device.type in ("cpu", "cuda", "mps", "xpu") and p.is_floating_point()
                        for group in rest_groups for p in group["params"])
            self.rest = torch.optim.AdamW(rest_groups, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay,
                                          fused=fused) if rest == "adamw" else \
                torch.optim.SGD(rest_groups, lr=lr, momentum=momentum, weight_decay=weight_decay,
                                nesterov=nesterov and momentum > 0, fused=fused)
        self._link()

    def _link(self) -> None:
        """Both work on the same groups and the same state."""
        if self.rest is not None:
            self.rest.param_groups = [group for group in self.param_groups if not group["matrices"]]
            self.rest.state = self.state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict(dict(state_dict))
        self._link()

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update of every parameter that has a gradient."""
        loss = super().step(closure)
        if self.rest is not None:
            self.rest.step()
        return loss

    def update(self, tensors: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        if not group["matrices"]:
            return
        beta, lr = group["momentum"], group["lr"]
        means = self.remembered(tensors, "momentum_buffer")
        torch._foreach_lerp_(means, gradients, 1 - beta)
        updates = list(torch._foreach_lerp(gradients, means, beta)) if group["nesterov"] else means
        if group["weight_decay"]:
            torch._foreach_mul_(tensors, 1 - lr * group["weight_decay"])
        if self.unit_weights:
            for p in tensors:
                p.mul_(math.sqrt(len(p)) / p.norm().clamp_min(EPSILON))
        for p, matrix in zip(tensors, orthogonal(updates, self.steps, self.dtype), strict=True):
            p.add_(matrix, alpha=-lr * _scale(matrix, self.scale))


def orthogonal(matrices: Sequence[Tensor], steps: int = STEPS, dtype: torch.dtype | None = None) -> list[Tensor]:
    """Each [R, ...], seen as [R, C] = U S V^T, -> about U V^T, in its own shape and type: every singular value s, as a
    share of the Frobenius norm, goes `steps` times through a s + b s^3 + c s^5, which ends within 0.7 and 1.2 for all
    but the smallest. Matrices of equal size, or of the transposed one, go through as one batch."""
    found: list[Tensor | None] = [None] * len(matrices)
    batches: dict[tuple[Any, ...], list[int]] = {}
    for number, matrix in enumerate(matrices):
        rows, columns = len(matrix), matrix.numel() // len(matrix)
        key = (min(rows, columns), max(rows, columns), matrix.device, matrix.dtype)
        batches.setdefault(key, []).append(number)
    for (_, _, device, kind), numbers in batches.items():
        flat = [matrices[n].reshape(len(matrices[n]), -1) for n in numbers]
        tall = [m.shape[0] > m.shape[1] for m in flat]
        work = dtype or (torch.bfloat16 if device.type == "cuda" else kind)
        wide = torch.stack([m.mT if t else m for m, t in zip(flat, tall, strict=True)]).to(work)  # [N, R, C], R <= C
        for n, t, result in zip(numbers, tall, _newton_schulz(wide, steps).to(kind).unbind(), strict=True):
            found[n] = (result.mT if t else result).reshape(matrices[n].shape)
    return [m for m in found if m is not None]


def _newton_schulz(x: Tensor, steps: int) -> Tensor:
    """[N, R, C], R <= C -> the same shape."""
    a, b, c = COEFFICIENTS
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp_min(EPSILON)
    for _ in range(steps):
        gram = x @ x.mT  # [N, R, R]
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _scale(matrix: Tensor, kind: str) -> float:
    rows, columns = len(matrix), matrix.numel() // len(matrix)
    return ADAMW_SIZE * math.sqrt(max(rows, columns)) if kind == "adamw" else math.sqrt(max(1.0, rows / columns))


def matrix_groups(groups: Sequence[Mapping[str, Any]], model: nn.Module) -> list[dict[str, Any]]:
    """Each group in two, with all that it says: matrices=True for what Muon is for, matrices=False for the rest.

    Matrices are parameters with two or more axes, but not of an nn.Embedding or named in `EMBEDDINGS`, nor of the last
    linear layer, the classifier (in a net that has no linear layer: of the last convolution)."""
    modules = list(model.modules())
    layers: list[nn.Module] = [m for m in modules if isinstance(m, nn.Linear)]
    layers = layers or [m for m in modules if isinstance(m, nn.Conv2d)]
    left_out = {id(p) for m in [*layers[-1:], *(m for m in modules if isinstance(m, nn.Embedding))]
                for p in m.parameters()}
    left_out |= {id(p) for name, p in model.named_parameters() if name.rsplit(".", 1)[-1] in EMBEDDINGS}
    return [split for group in groups for split in _split(group, left_out)]


def _as_groups(params: Any) -> list[dict[str, Any]]:
    rows = list(params)
    return [dict(row) for row in rows] if rows and isinstance(rows[0], Mapping) else [{"params": rows}]


def _split(group: Mapping[str, Any], left_out: set[int] = frozenset()) -> list[dict[str, Any]]:  # type: ignore[assignment]
    if "matrices" in group:
        return [dict(group)]
    parts: dict[bool, list[Tensor]] = {True: [], False: []}
    held = group["params"]
    for p in [held] if isinstance(held, Tensor) else held:
        parts[p.ndim >= 2 and id(p) not in left_out].append(p)
    return [{**group, "params": params, "matrices": matrices} for matrices, params in parts.items() if params]
