"""DropConnect (Wan, Zeiler, Zhang, LeCun, Fergus, Regularization of Neural Networks using DropConnect, ICML 2013):
each weight of a linear layer is left out with a probability of its own, anew for each sample.

Departure: kept weights are divided by the share that is kept while training, as inverted dropout does with units, so
that the trained weights are those of a plain linear layer. That layer is inference by the mean, what `visus` uses.
The paper's own inference, which draws the sums from Gaussians with the right mean and variance, is `sampled_forward`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DropConnectLinear(nn.Linear):
    """[B, ..., in_features] -> [B, ..., out_features]. share: of the weights left out in train mode, in [0, 1). One
    mask for each sample of the batch (the first axis), which all its positions share; biases are never left out."""

    def __init__(self, in_features: int, out_features: int, share: float, bias: bool = True):
        assert 0 <= share < 1, share
        super().__init__(in_features, out_features, bias)
        self.share = share

    @classmethod
    def of(cls, linear: nn.Linear, share: float) -> DropConnectLinear:
        """A layer with the very parameters of `linear`, not copies."""
        with torch.device("meta"):
            layer = cls(linear.in_features, linear.out_features, share, linear.bias is not None)
        layer.weight, layer.bias = linear.weight, linear.bias
        return layer.train(linear.training)

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.training or not self.share:
            return F.linear(inputs, self.weight, self.bias)
        kept = torch.rand(len(inputs), *self.weight.shape, device=inputs.device) >= self.share  # [B, out, in]
        return masked_linear(inputs, self.weight / (1 - self.share), self.bias, kept)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, share={self.share}"


def masked_linear(inputs: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor) -> Tensor:
    """inputs [B, ..., in], weight [out, in], mask [B, out, in] -> [B, ..., out]: sample b meets weight * mask[b]."""
    flat = inputs.reshape(len(inputs), -1, inputs.shape[-1])  # [B, N, in]
    out = flat @ (weight * mask).transpose(1, 2).to(flat.dtype)  # [B, N, out]
    out = out.reshape(*inputs.shape[:-1], -1)  # [B, ..., out]
    return out if bias is None else out + bias


def moments(layer: nn.Linear, inputs: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Mean and variance, [..., out] each, of what the layer gives over all masks: W v + b and
    (share / (1 - share)) (W * W)(v * v), the paper's equation 7 for weights that are divided by the share kept."""
    variance = share / (1 - share) * F.linear(inputs.square(), layer.weight.square())
    return layer(inputs) if not layer.training else F.linear(inputs, layer.weight, layer.bias), variance


@torch.no_grad()
def sampled_forward(layer: nn.Linear, inputs: Tensor, share: float, activation: Callable[[Tensor], Tensor],
                    samples: int = 1000, generator: torch.Generator | None = None) -> Tensor:
    """The paper's inference (algorithm 2): the mean of activation(u) over `samples` draws u from the Gaussian that has
    the moments of the layer's sums. inputs [..., in] -> what `activation` makes of [..., out]."""
    mean, variance = moments(layer, inputs, share)
    total = torch.zeros((), dtype=mean.dtype, device=mean.device)
    for _ in range(samples):
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        total = total + activation(mean + variance.sqrt() * noise)
    return total / samples


def drop_connections(model: nn.Module, share: float) -> list[str]:
    """Put a `DropConnectLinear` in the place of each plain linear layer that trains, with the same parameters under
    the same names; returns the names of the layers. A layer whose weight other code reads is used as it was there."""
    names = []
    for path, parent in list(model.named_modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and isinstance(child._parameters.get("weight"), nn.Parameter) \
                    and child.weight.requires_grad:
                setattr(parent, name, DropConnectLinear.of(child, share))
                names.append(f"{path}.{name}" if path else name)
    return names
