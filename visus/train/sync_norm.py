"""Batch norm over the batches of all processes, on any device: torch's own works on GPUs only.

Each process gives count, mean and sum of squared distances of each channel; they are combined exactly (Chan, Golub,
LeVeque, 1979, equations 2.1), so that the result is that of one process with the whole batch. Larger statistics batches
by this way: Peng et al., MegDet, CVPR 2018, section 3.4; that 32 images are enough: Goyal et al. 2017, section 2.3.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm


class SharedBatchNorm(_BatchNorm):
    """`nn.BatchNorm1d`, `2d` or `3d` whose batch in train mode is that of all processes; the same parameters, buffers
    and, in eval mode, results. Input [B, C, ...]."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected [B, C, ...], got {input.dim()} axes")

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not dist.is_initialized():
            return super().forward(input)
        self._check_input_dim(input)
        output, mean, variance, count = _Normalised.apply(input, self.weight, self.bias, self.eps)
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                rate = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
                unbiased = variance * (count / (count - 1).clamp_min(1))
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), rate)
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), rate)
        return output


SHARED_NORMS = (SharedBatchNorm, nn.SyncBatchNorm)


def share_batch_norms(model: nn.Module) -> int:
    """Let every plain batch norm of the model see the batches of all processes, in place; -> how many were changed.
    Parameters and buffers stay the same tensors under the same names. torch's own on a GPU."""
    changed = 0
    for parent in model.modules():
        for name, norm in parent.named_children():
            if type(norm) not in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
                continue
            assert isinstance(norm, _BatchNorm)
            on_gpu = norm.weight is not None and norm.weight.is_cuda
            shared = (nn.SyncBatchNorm if on_gpu else SharedBatchNorm)(
                norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
            shared._parameters, shared._buffers = norm._parameters, norm._buffers
            shared.training = norm.training
            setattr(parent, name, shared)
            changed += 1
    return changed


class _Normalised(torch.autograd.Function):
    """(x, weight, bias, eps) -> (y, mean [C], biased variance [C], count [1]) over all processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Any:
        axes = [axis for axis in range(x.dim()) if axis != 1]
        wide = x if x.dtype == torch.float64 else x.float()
        channels = x.shape[1]
        own = torch.empty(2 * channels + 1, dtype=wide.dtype, device=x.device)
        own_variance, own_mean = torch.var_mean(wide, dim=axes, correction=0)
        number = x.numel() // channels
        own[:channels], own[channels:-1], own[-1] = own_mean, own_variance * number, number
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, own)
        stacked = torch.stack(parts)  # [S, 2 C + 1]
        means, spreads, counts = stacked[:, :channels], stacked[:, channels:-1], stacked[:, -1:]
        count = counts.sum()
        mean = (means * counts).sum(0) / count
        variance = (spreads.sum(0) + (counts * (means - mean).square()).sum(0)) / count
        inverse = (variance + eps).rsqrt()
        ctx.save_for_backward(wide, weight, mean, inverse, count)
        y = F.batch_norm(x, mean.to(x.dtype) if x.dtype == torch.float64 else mean, variance, weight, bias, False, 0.0,
                         eps)
        ctx.mark_non_differentiable(mean, variance, count)
        return y, mean, variance, count

    @staticmethod
    def backward(ctx: Any, slope: Tensor, *_: Any) -> Any:
        x, weight, mean, inverse, count = ctx.saved_tensors
        shape = [1, -1] + [1] * (x.dim() - 2)
        axes = [axis for axis in range(x.dim()) if axis != 1]
        wide = slope.to(x.dtype)
        normed = (x - mean.view(shape)) * inverse.view(shape)
        sums = torch.cat([wide.sum(axes), (wide * normed).sum(axes)])  # [2 C]
        of_bias, of_weight = sums.chunk(2)
        of_bias, of_weight = of_bias.clone(), of_weight.clone()
        dist.all_reduce(sums)
        total, turned = (part.view(shape) / count for part in sums.chunk(2))
        scale = inverse if weight is None else inverse * weight.to(inverse.dtype)
        of_x = (wide - total - normed * turned) * scale.view(shape)
        return (of_x.to(slope.dtype), None if weight is None else of_weight.to(weight.dtype),
                None if weight is None else of_bias.to(weight.dtype), None)
