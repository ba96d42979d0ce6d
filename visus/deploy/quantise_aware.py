"""Training that knows of int8: convolutions and full layers compute with weights and inputs as int8 rounds them.

Jacob, Kligys, Chen, Zhu, Tang, Howard, Adam, Kalenichenko, CVPR 2018, arXiv:1712.05877: the forward pass rounds, the
backward pass does not see the rounding and is cut where a value was cut (the straight-through estimator). Weights: one
symmetric scale for each output channel, -63 to 63 in 7 bits. Inputs of a layer: one affine scale, 0 to 255, whose range
is a running average of each batch's least and largest value in training (section 3.1) and fixed afterwards. Batch norms
are folded into their neighbours before (visus.deploy.fold). Sums of branches stay float. Written as ONNX, the layers
have QuantizeLinear and DequantizeLinear with these very scales, and their weights are int8.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visus.core.errors import CheckpointError, UserError
from visus.deploy.fold import fold_batch_norm
from visus.deploy.surgery import replace_module

LEAST_BITS, MOST_BITS = 2, 8
WEIGHT_BITS = 7  # products of 8 bit weights saturate in processors with AVX2 alone: see visus.deploy.quantise
INPUT_TOP = 255
DECAY = 0.99  # of the running average of the ranges, by batch


@dataclass(frozen=True)
class Ranges:
    """What an int8 graph needs of one layer: weight_scales [out], symmetric; input_low, input_high of its input, which
    hold 0; bits of the weights."""

    weight_scales: tuple[float, ...]
    input_low: float
    input_high: float
    bits: int


class Quantised(nn.Module):
    """A convolution or full layer that rounds its weights, to `bits`, and its input, to 8 bits. `low`, `high`: the
    input's range; both 0 until a batch was seen, and the input passes as it is."""

    def __init__(self, layer: nn.Conv2d | nn.Linear, bits: int = WEIGHT_BITS):
        super().__init__()
        self.layer = layer
        self.bits = bits
        like: dict[str, Any] = {"dtype": layer.weight.dtype, "device": layer.weight.device}
        self.register_buffer("low", torch.zeros((), **like))
        self.register_buffer("high", torch.zeros((), **like))
        self.register_buffer("whole", torch.zeros_like(layer.weight, dtype=torch.int8), persistent=False)
        self.register_buffer("scales", torch.ones(len(layer.weight), **like), persistent=False)
        self.low: Tensor
        self.high: Tensor
        self.whole: Tensor
        self.scales: Tensor

    def train(self, mode: bool = True) -> Quantised:
        super().train(mode)
        if not mode:  # what a file is to hold: the weights do not move now
            with torch.no_grad():
                self.scales = weight_scales(self.layer.weight, self.bits)
                self.whole = (self.layer.weight / _wide(self.scales, self.layer.weight)).round().to(torch.int8)
        return self

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.observe(images)
        images = round_input(images, self.low, self.high)
        if torch.onnx.is_in_onnx_export():
            zeros = torch.zeros_like(self.scales, dtype=torch.int8)
            weight = torch.onnx.ops.symbolic("DequantizeLinear", (self.whole, self.scales, zeros), {"axis": 0},
                                             dtype=self.scales.dtype, shape=self.whole.shape)
        else:
            weight = round_weight(self.layer.weight, self.bits)
        if isinstance(self.layer, nn.Linear):
            return F.linear(images, weight, self.layer.bias)
        return self.layer._conv_forward(images, weight, self.layer.bias)

    @torch.no_grad()
    def observe(self, images: Tensor) -> None:
        low, high = images.amin().clamp_max(0).to(self.low), images.amax().clamp_min(0).to(self.high)
        first = (self.low == 0) & (self.high == 0)
        self.low.copy_(torch.where(first, low, DECAY * self.low + (1 - DECAY) * low))
        self.high.copy_(torch.where(first, high, DECAY * self.high + (1 - DECAY) * high))


class _Straight(torch.autograd.Function):
    """Rounding whose gradient is 1 where nothing was cut, else 0."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: Tensor, zero: Tensor, low: int, high: int) -> Tensor:
        whole = (values / scale).round() + zero
        ctx.save_for_backward((whole >= low) & (whole <= high))
        return (whole.clamp(low, high) - zero) * scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        inside, = ctx.saved_tensors
        return gradients[0] * inside, None, None, None, None


def rounded(values: Tensor, scale: Tensor, zero: Tensor, low: int, high: int) -> Tensor:
    """(clamp(round(values / scale) + zero, low, high) - zero) * scale, halves to even; scale and zero broadcast. The
    gradient passes to what was not cut, and to nothing else."""
    if not torch.compiler.is_compiling() and not torch.onnx.is_in_onnx_export():
        return _Straight.apply(values, scale, zero, low, high)  # with gradients or not: explanations compare passes
    return (((values / scale).round() + zero).clamp(low, high) - zero) * scale


def weight_scales(weight: Tensor, bits: int = WEIGHT_BITS) -> Tensor:
    """One for each output channel, [out]: the largest absolute value falls on 2^(bits - 1) - 1."""
    return (weight.detach().flatten(1).abs().amax(1) / (2 ** (bits - 1) - 1)).clamp_min(1e-12)


def round_weight(weight: Tensor, bits: int = WEIGHT_BITS) -> Tensor:
    """The weights [out, ...] as integers of so many bits hold them, as floats."""
    wide, top = _wide(weight_scales(weight, bits), weight), 2 ** (bits - 1) - 1
    return rounded(weight, wide, torch.zeros_like(wide), -top, top)


def _wide(scales: Tensor, weight: Tensor) -> Tensor:
    return scales.reshape(-1, *[1] * (weight.ndim - 1))


def round_input(images: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The values as 8 bits without sign hold them; as they are where the range is empty."""
    scale, zero = input_scale(low, high)
    if torch.onnx.is_in_onnx_export():
        zero = zero.to(torch.uint8)
        whole = torch.onnx.ops.symbolic("QuantizeLinear", (images, scale, zero), dtype=torch.uint8, shape=images.shape)
        return torch.onnx.ops.symbolic("DequantizeLinear", (whole, scale, zero), dtype=images.dtype, shape=images.shape)
    return torch.where(high > low, rounded(images, scale, zero, 0, INPUT_TOP), images)


def input_scale(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """(scale, zero point, a whole number) of a range that holds 0: 0 falls on a whole number (equation 1)."""
    scale = ((high - low) / INPUT_TOP).clamp_min(1e-12)
    return scale, (-low / scale).round().clamp(0, INPUT_TOP)


def quantise_aware(model: nn.Module, batches: Iterable[Tensor], images_shape: tuple[int, ...],
                   bits: int = WEIGHT_BITS) -> nn.Module:
    """A copy of the model in eval mode, batch norms folded, whose convolutions and full layers round; its ranges are
    begun with `batches` of normalised images. Raises UserError for bits out of range, and a model without such layers.
    """
    if not LEAST_BITS <= bits <= MOST_BITS:
        raise UserError(f"must be {LEAST_BITS} to {MOST_BITS}", where=f"bits={bits}")
    out = fold_batch_norm(model, images_shape).model
    names = [name for name, module in out.named_modules() if type(module) in (nn.Conv2d, nn.Linear)]
    if not names:
        raise UserError("has no convolution and no full layer that could round", where=type(model).__name__)
    for name in names:
        replace_module(out, name, Quantised(out.get_submodule(name), bits))  # type: ignore[arg-type]
    observing = [module for module in out.modules() if isinstance(module, Quantised)]
    for layer in observing:
        layer.training = True
    with torch.no_grad():
        for images in batches:
            out(images)
    return out.eval()


def plain(model: nn.Module) -> nn.Module:
    """A copy with ordinary layers, whose weights are those that int8 holds; inputs are not rounded."""
    out = copy.deepcopy(model)
    for name, module in list(out.named_modules()):
        if isinstance(module, Quantised):
            with torch.no_grad():
                module.layer.weight.copy_(round_weight(module.layer.weight, module.bits))
            replace_module(out, name, module.layer)
    return out


def ranges(model: nn.Module) -> dict[str, Ranges]:
    """What was learnt about each layer that rounds, by its name: for a file with quantised layers."""
    return {name: Ranges(tuple(weight_scales(module.layer.weight, module.bits).tolist()), float(module.low),
                         float(module.high), module.bits)
            for name, module in model.named_modules() if isinstance(module, Quantised)}


def quantised_layer(layer: nn.Module, bits: Any) -> Quantised:
    """For visus.deploy.surgery. Raises CheckpointError where the layer or the bits are not such."""
    if type(layer) not in (nn.Conv2d, nn.Linear) or type(bits) is not int or not LEAST_BITS <= bits <= MOST_BITS:
        raise CheckpointError("does not fit this net", where=f"surgery.quantised={bits!r}")
    return Quantised(layer, bits)  # type: ignore[arg-type]


def bits_of(module: nn.Module) -> int | None:
    """Of a layer that rounds; None for any other."""
    return module.bits if isinstance(module, Quantised) else None
