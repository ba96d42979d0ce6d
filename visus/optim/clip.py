"""Clipping gradients: by their global norm, or each unit's by the norm of its weights."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

NORM_EPSILON = 1e-6  # as torch.nn.utils.clip_grad_norm_
WEIGHT_FLOOR = 1e-3  # Brock et al. 2021, equation 3: epsilon


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], max_norm: float | None = None,
                   optimizer: torch.optim.Optimizer | None = None) -> Tensor:
    """Scale all gradients, in place, by min(1, max_norm / (norm + 1e-6)); gives the L2 norm that they had
    before.

    parameters: those without a gradient are passed over. max_norm: None or inf measures only. -> float32
    scalar (float64 for float64 gradients), on the device of the first gradient; 0 without any. (Pascanu et
    al. 2013, algorithm 1.) A norm that is not finite comes back as it is, and then no gradient is touched:
    the caller sees it and decides. On the CPU the gradients are read once, and written only where they must
    shrink; given an optimizer with a fused kernel, which must step next, not even then: its kernel scales them on
    its way, and leaves them scaled.
    """
    gradients = [g for g in [p.grad for p in parameters] if g is not None]
    if not gradients:
        return torch.zeros(())
    device, kinds = gradients[0].device, {g.dtype for g in gradients}
    dtype = torch.float64 if torch.float64 in kinds else torch.float32
    norms = list(torch._foreach_norm(gradients, 2, dtype=dtype))
    if device.type != "cpu":
        norms = [n.to(device) for n in norms]  # of several devices
    norm = torch.linalg.vector_norm(torch.stack(norms))
    if max_norm is None or math.isinf(max_norm):
        return norm
    scale = (max_norm / (norm + NORM_EPSILON)).clamp_max(1.0)
    if device.type == "cpu":
        shrinks, divisor = bool(torch.isfinite(norm) and scale < 1), 1 / scale
        if kinds == {torch.float32} and optimizer is not None and "_step_supports_amp_scaling" in optimizer.__dict__ \
                and type(gradients[0]) is Tensor:
            optimizer.grad_scale = divisor if shrinks else None  # type: ignore[attr-defined]
        elif shrinks:
            torch._foreach_div_(gradients, float(divisor))  # as the kernels divide: the same bits either way
    else:
        scale = torch.where(torch.isfinite(norm), scale, 1.0)  # no wait for the device
        for gradient in gradients:
            gradient.mul_(scale.to(gradient.device))
    return norm


@torch.no_grad()
def adaptive_clip(parameters: Iterable[Tensor], limit: float, eps: float = WEIGHT_FLOOR) -> None:
    """Scale each unit's gradient G, in place, by min(1, limit * max(|W|, eps) / |G|), where W are its weights.

    parameters: those without a gradient are passed over; see `clipped_parameters`. A unit is one output of a matrix
    or a kernel (the first axis); a vector or a scalar is one unit as a whole. limit: lambda, 0.01 in the paper for
    batches of 4096, and more for smaller ones. |.|: L2, in float32 (float64 for float64). A gradient within its
    limit keeps its bits; one that is not finite stays so. No wait for the device. (Brock, De, Smith, Simonyan,
    High-Performance Large-Scale Image Recognition Without Normalization, ICML 2021, equation 3.)
    """
    kept = [(p, p.grad) for p in parameters if p.grad is not None]
    if not kept:
        return
    gradients = [g for _, g in kept]
    allowed = torch._foreach_clamp_min([_unit_norms(p) for p, _ in kept], eps)
    torch._foreach_mul_(allowed, limit)
    found = torch._foreach_clamp_min([_unit_norms(g) for g in gradients], NORM_EPSILON)
    torch._foreach_div_(allowed, found)
    torch._foreach_clamp_max_(allowed, 1.0)
    torch._foreach_mul_(gradients, allowed)


def clipped_parameters(model: nn.Module) -> list[nn.Parameter]:
    """What adaptive clipping is for: all parameters that train but those of the last linear layer, the classifier
    (Brock et al. 2021, section 4.1)."""
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    left_out = {id(p) for p in linear[-1].parameters()} if linear else set()
    return [p for p in model.parameters() if p.requires_grad and id(p) not in left_out]


def _unit_norms(tensor: Tensor) -> Tensor:
    """[U, ...] -> [U, 1, ...]; a vector or a scalar -> a scalar."""
    dtype = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    if tensor.ndim < 2:
        return torch.linalg.vector_norm(tensor, dtype=dtype)
    return torch.linalg.vector_norm(tensor, dim=tuple(range(1, tensor.ndim)), keepdim=True, dtype=dtype)
