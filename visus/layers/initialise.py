"""First weights of any net: a rule for all its linear layers and convolutions, biases at 0.

The other parameters (scales of norms, tokens, positions) keep what the model gave them. Random numbers come from a
generator of one's own, so that equal seeds give equal weights wherever the function is called.

Sources: LeCun et al., Efficient BackProp, 1998; Glorot, Bengio, AISTATS 2010; He et al., ICCV 2015, arXiv:1502.01852;
Saxe et al., ICLR 2014, arXiv:1312.6120; Martens, ICML 2010 (sparse); Mishkin, Matas, ICLR 2016, arXiv:1511.06422
(LSUV); Zhang, Dauphin, Ma, ICLR 2019, arXiv:1901.09321 (Fixup); Le, Jaitly, Hinton, 2015, arXiv:1504.00941 (identity
for recurrent nets).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from visus.core.errors import UserError
from visus.layers.normalise import StandardisedConv2d, residual_branches

CONNECTIONS = 15  # Martens 2010, section 5: inputs of a unit that are not 0
RELU_GAIN = math.sqrt(2)
INITS = ("zeros", "small", "lecun", "xavier", "kaiming", "orthogonal", "sparse", "fixup", "lsuv")
Layer = nn.Linear | _ConvNd


def initialise(model: nn.Module, how: str, *, seed: int = 0, scale: float = 0.01, bias: float = 0.0,
               images: Tensor | None = None) -> list[str]:
    """Draw all weights of the model's linear layers and convolutions anew; returns what was done, in words.

    how: zeros; small: N(0, scale^2); lecun: variance 1 / fan_in; xavier: 2 / (fan_in + fan_out); kaiming: 2 / fan_in;
    orthogonal: rows or columns orthogonal, of length sqrt(2), for ReLUs; sparse: 15 inputs a unit, variance 2 / 15;
    fixup: kaiming with the corrections of residual branches, for a net that `renormalise` gave the scalars of Fixup;
    lsuv: orthogonal, then each layer divided so that its outputs for `images` [B, C, H, W], normalised, have variance 1
    (without images: orthogonal of length 1 alone). bias: of every layer (0.01 for ReLUs that shall all answer at first;
    0.5 with tanh in Martens 2010). Raises UserError for an unknown name, and for Fixup where no block allows it.
    """
    if how not in INITS:
        raise UserError("is no way to begin", where=f"init={how!r}", remedy=f"Use one of {', '.join(INITS)}")
    generator = torch.Generator().manual_seed(seed)
    layers = list(weight_layers(model))
    if not layers:
        raise UserError("this model has no layer with weights", where=f"model.init={how}")
    for _, layer in layers:
        set_weight(layer, drawn(layer, how, generator, scale))
        if layer.bias is not None:
            nn.init.constant_(layer.bias, bias)
    notes = [f"{how}: {len(layers)} layers drawn by seed {seed}"]
    if how == "fixup":
        notes = [_fixup(model)]
    elif how == "lsuv" and images is not None:
        notes = [f"{how}: {lsuv(model, images)} of {len(layers)} layers scaled to outputs of variance 1 on "
                 f"{len(images)} images"]
    return notes


def weight_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """(name, layer) of the linear layers and convolutions, in the order of the model; tied weights once."""
    seen: set[int] = set()
    for name, module in model.named_modules():
        if isinstance(module, Layer):
            own = id(module.weight) if not hasattr(module, "parametrizations") else id(module)
            if own not in seen:
                seen.add(own)
                yield name, module


def fans(layer: Any) -> tuple[int, int]:
    """(fan_in, fan_out): terms of the sum in an output; outputs that an input reaches (at stride 1), groups apart."""
    weight = layer.weight
    window = math.prod(weight.shape[2:])
    groups = getattr(layer, "groups", 1)
    first, second = weight.shape[0] // groups * window, weight.shape[1] * window
    return (first, second) if isinstance(layer, _ConvTransposeNd) else (second, first)


def drawn(layer: Any, how: str, generator: torch.Generator, scale: float = 0.01) -> Tensor:
    """New weights for a layer, float32 on the CPU, of its weight's shape."""
    fan_in, fan_out = fans(layer)
    empty = torch.empty(layer.weight.shape)
    if how == "zeros":
        return empty.zero_()
    if how in ("orthogonal", "lsuv"):
        return nn.init.orthogonal_(empty, gain=RELU_GAIN if how == "orthogonal" else 1.0, generator=generator)
    if how == "sparse":
        rows = empty.flatten(1)
        count = min(CONNECTIONS, rows.shape[1])
        chosen = torch.rand(rows.shape, generator=generator).topk(count, dim=1).indices  # [units, count]
        values = torch.randn(chosen.shape, generator=generator) * math.sqrt(2 / count)
        return rows.zero_().scatter_(1, chosen, values).reshape(empty.shape)
    variance = {"small": scale**2, "lecun": 1 / fan_in, "xavier": 2 / (fan_in + fan_out), "kaiming": 2 / fan_in,
                "fixup": 2 / fan_in}[how]
    return empty.normal_(0, math.sqrt(variance), generator=generator)


@torch.no_grad()
def set_weight(layer: Any, value: Tensor) -> None:
    """Into the layer's weight, or into what it is computed from (weight norm)."""
    value = value.to(layer.weight)
    if hasattr(layer, "parametrizations"):
        layer.weight = value
    else:
        layer.weight.copy_(value)


@torch.no_grad()
def lsuv(model: nn.Module, images: Tensor) -> int:
    """Divide the weights of each layer by the standard deviation of its outputs, in the order of the forward pass;
    returns how many were. Algorithm 1 of Mishkin and Matas in one pass: with biases at 0 an output is linear in the
    weights, so that one division gives variance 1, and the divided outputs are what the next layer sees. Layers that
    give a constant are left, and standardised kernels, whose outputs do not depend on their size. Dropout is off."""
    done: list[Any] = []
    seen: set[int] = set()

    def unit(layer: Any, _: Any, output: Tensor) -> Tensor | None:
        std = float(output.float().std(correction=0))
        if id(layer) in seen or not math.isfinite(std) or std < 1e-8:
            return None
        seen.add(id(layer))
        set_weight(layer, layer.weight / std)
        done.append(layer)
        return output / std

    handles = [layer.register_forward_hook(unit) for _, layer in weight_layers(model)
               if not isinstance(layer, StandardisedConv2d)]
    try:
        with _as_in_training(model):
            model(images.to(next(model.parameters())))
    finally:
        for handle in handles:
            handle.remove()
    return len(done)


def recurrent(layer: nn.RNNBase, how: Literal["identity", "orthogonal"], *, seed: int = 0, std: float = 0.001) -> None:
    """First weights of a recurrent layer: hidden to hidden (of each gate) the identity or orthogonal, from the inputs
    N(0, std^2) with 'identity' as Le et al. have it, else Xavier; biases 0."""
    if how not in ("identity", "orthogonal"):
        raise UserError("is no way to begin for a recurrent layer", where=f"how={how!r}",
                        remedy="Use identity or orthogonal")
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in layer.named_parameters():
        if "bias" in name:
            nn.init.zeros_(parameter)
        elif "weight_hh" in name:
            for gate in parameter.data.split(layer.hidden_size):
                if how == "identity":
                    nn.init.eye_(gate)
                else:
                    nn.init.orthogonal_(gate, generator=generator)
        elif how == "identity":
            nn.init.normal_(parameter, 0, std, generator=generator)
        else:
            nn.init.xavier_normal_(parameter, generator=generator)


def identity(layer: nn.Linear | nn.Conv2d) -> None:
    """The layer begins as the identity on as many features or channels as it has in and out; biases 0."""
    if isinstance(layer, nn.Linear):
        nn.init.eye_(layer.weight)
    else:
        nn.init.dirac_(layer.weight, groups=layer.groups)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _fixup(model: nn.Module) -> str:
    """Rules 1 and 2: the last layer of a branch and the classifier at 0, the others of m in each of L branches times
    L^(-1 / (2m - 2)). Rule 3 is in `normalise`."""
    branches = residual_branches(model)
    with torch.no_grad():
        for _, convs in branches:
            nn.init.zeros_(convs[-1].weight)
            for conv in convs[:-1]:
                conv.weight.mul_(len(branches) ** (-1 / (2 * len(convs) - 2)))
        head = [layer for _, layer in weight_layers(model) if isinstance(layer, nn.Linear)][-1:]
        for layer in head:
            nn.init.zeros_(layer.weight)
    return f"fixup: {len(branches)} branches begin at 0, the layers inside are scaled for so many"


@contextmanager
def _as_in_training(model: nn.Module) -> Iterator[None]:
    """Batch statistics, no dropout; modes and running statistics are afterwards what they were."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    model.train()
    for module in model.modules():
        if "drop" in type(module).__name__.lower():
            module.eval()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        for module, training in modes:
            module.training = training
        for buffer, before in buffers:
            buffer.copy_(before)
