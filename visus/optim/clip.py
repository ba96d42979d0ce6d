"""Clipping gradients by their global norm."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

NORM_EPSILON = 1e-6  # as torch.nn.utils.clip_grad_norm_


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], max_norm: float | None = None) -> Tensor:
    """Scale all gradients, in place, by min(1, max_norm / (norm + 1e-6)); gives the L2 norm that they had
    before.

    parameters: those without a gradient are passed over. max_norm: None or inf measures only. -> float32
    scalar (float64 for float64 gradients), on the device of the first gradient; 0 without any. (Pascanu et
    al. 2013, algorithm 1.) A norm that is not finite comes back as it is, and then no gradient is touched:
    the caller sees it and decides. On the CPU the gradients are read once, and written only where they must
    shrink.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.zeros(())
    device = gradients[0].device
    dtype = torch.float64 if any(g.dtype == torch.float64 for g in gradients) else torch.float32
    if device.type == "cpu":
        norms = [torch.linalg.vector_norm(g, dtype=dtype) for g in gradients]
    else:
        norms = [n.to(device, dtype) for n in torch._foreach_norm(gradients, 2, dtype=dtype)]
    norm = torch.linalg.vector_norm(torch.stack(norms))
    if max_norm is None or math.isinf(max_norm):
        return norm
    scale = (max_norm / (norm + NORM_EPSILON)).clamp_max(1.0)
    if device.type == "cpu":
        if torch.isfinite(norm) and scale < 1:
            for gradient in gradients:
                gradient.mul_(scale)
    else:
        scale = torch.where(torch.isfinite(norm), scale, 1.0)  # no wait for the device
        for gradient in gradients:
            gradient.mul_(scale.to(gradient.device))
    return norm
