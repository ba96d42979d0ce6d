"""Layers of low rank: one layer becomes two narrow ones, by a truncated singular value decomposition.

A full layer's matrix W [out, in] of rank r: U_r S_r V_r^T, in -> r without bias, r -> out with the bias (Girshick, Fast
R-CNN, ICCV 2015, section 3.1; Denton et al., NIPS 2014, arXiv:1404.0736). A convolution by channels: W as a matrix
[out, in kh kw], r filters of the same size and a 1 x 1 convolution over them (Zhang, Zou, He, Sun, 2016,
arXiv:1505.06798, without its data). By space: W as a matrix [in kh, out kw], a column filter kh x 1 and a row filter 1
x kw (Jaderberg, Vedaldi, Zisserman, BMVC 2014, arXiv:1405.3866, scheme 2). The error of the matrix, in the Frobenius
norm, is the root of the sum of the squared singular values that were left out, the least of any rank r (Eckart and
Young 1936).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from visus.core.errors import CheckpointError, UserError
from visus.deploy.surgery import replace_module

KINDS = ("full", "channel", "spatial")


@dataclass(frozen=True)
class LowRank:
    """model: the copy. ranks: {layer: (rank, largest rank, share of the squared singular values kept)}. kept: (layer,
    why it is whole)."""

    model: nn.Module
    ranks: Mapping[str, tuple[int, int, float]]
    kept: tuple[tuple[str, str], ...]


class Split(nn.Sequential):
    """Two layers in the place of one."""

    def __init__(self, kind: str, first: nn.Module, second: nn.Module):
        super().__init__(first, second)
        self.kind = kind

    @property
    def rank(self) -> int:
        first: Any = self[0]
        return int(first.weight.shape[0])


def low_rank(model: nn.Module, *, energy: float | None = None, amount: float | None = None,
             kinds: Sequence[str] = ("full",)) -> LowRank:
    """A copy of the model with layers of low rank.

    kinds: 'full' layers, convolutions by 'channel' or by 'spatial'. energy: the least rank that keeps this share of the
    squared singular values; amount: the largest rank at which the share `amount` of the layer's multiplications falls
    away. One of the two. A layer stays whole where the rank saves nothing. Raises UserError for a wrong choice, and
    where no layer is left to split.
    """
    if (energy is None) == (amount is None):
        raise UserError("takes one of energy and amount", where=f"energy={energy}, amount={amount}")
    for name, share in (("energy", energy), ("amount", amount)):
        if share is not None and not 0 < share < 1:
            raise UserError("is a share between 0 and 1", where=f"{name}={share}")
    if not kinds or not set(kinds) <= set(KINDS) or {"channel", "spatial"} <= set(kinds):
        raise UserError("names full, channel or spatial; a convolution is split in one way",
                        where=f"kinds={list(kinds)}")
    out = copy.deepcopy(model)
    ranks: dict[str, tuple[int, int, float]] = {}
    kept: list[tuple[str, str]] = []
    for name, layer in list(out.named_modules()):
        kind = _kind(layer, kinds)
        if kind is None:
            continue
        values = torch.linalg.svdvals(_matrix(layer, kind).double())
        rank = rank_by_energy(values, energy) if energy is not None else rank_by_cost(layer, kind, amount or 0.0)
        if not 0 < rank < len(values) or _cost(layer, kind, rank) >= layer.weight.numel():
            kept.append((name, f"rank {rank} of {len(values)} would save nothing"))
            continue
        replace_module(out, name, decomposed(layer, kind, rank))
        squares = values.square()
        ranks[name] = (rank, len(values), float(squares[:rank].sum() / squares.sum()))
    if not ranks:
        raise UserError("has no layer that a lower rank would make cheaper", where=f"kinds={list(kinds)}",
                        remedy="Choose a smaller --energy, or also convolutions: --layers full channel")
    return LowRank(out, ranks, tuple(kept))


def rank_by_energy(values: Tensor, energy: float) -> int:
    """The least r whose first r singular values hold `energy` of the sum of squares."""
    squares = values.square()
    share = squares.cumsum(0) / squares.sum()
    return min(int((share < energy).sum()) + 1, len(values))


def rank_by_cost(layer: Any, kind: str, amount: float) -> int:
    """The largest r whose two layers cost at most 1 - amount of the one, in multiplications where both work on maps of
    one size."""
    return int((1 - amount) * layer.weight.numel() / _cost(layer, kind, 1))


def decomposed(layer: Any, kind: str, rank: int) -> Split:
    """The layer as two, of the best approximation of this rank; the root of each singular value goes to either side."""
    with torch.no_grad():
        u, s, vt = torch.linalg.svd(_matrix(layer, kind).double(), full_matrices=False)
        root = s[:rank].sqrt()
        left, right = u[:, :rank] * root, root[:, None] * vt[:rank]  # [m, r], [r, n]
        out = split_layer(layer, {"kind": kind, "rank": rank})
        first: Any = out[0]
        second: Any = out[1]
        if kind == "spatial":
            height, width = layer.kernel_size
            # rows of the matrix are (in, kh), columns (out, kw)
            first.weight.copy_(left.T.reshape(rank, layer.in_channels, height, 1))
            second.weight.copy_(right.reshape(rank, layer.out_channels, width).permute(1, 0, 2)[:, :, None])
        else:
            first.weight.copy_(right.reshape(first.weight.shape))
            second.weight.copy_(left.reshape(second.weight.shape))
        if layer.bias is not None:
            second.bias.copy_(layer.bias)
    return out


def split_layer(layer: Any, split: Any) -> Split:
    """The two layers, of weights yet to be filled in. split: {"kind", "rank"}. Raises CheckpointError where they do not
    fit the layer."""
    kind, rank = (split.get("kind"), split.get("rank")) if isinstance(split, Mapping) else (None, None)
    if _kind(layer, (kind,)) != kind or kind is None or type(rank) is not int or not 0 < rank <= 1 << 20:
        raise CheckpointError("does not fit this net", where=f"surgery.split={split!r}")
    like: dict[str, Any] = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    has_bias = layer.bias is not None
    with torch.random.fork_rng(devices=[]):  # weights are filled in: the caller's generator stays as it is
        if kind == "full":
            return Split(kind, nn.Linear(layer.in_features, rank, bias=False, **like),
                         nn.Linear(rank, layer.out_features, bias=has_bias, **like))
        (kh, kw), (sh, sw), (ph, pw), (dh, dw) = layer.kernel_size, layer.stride, layer.padding, layer.dilation
        if kind == "channel":
            return Split(kind, nn.Conv2d(layer.in_channels, rank, (kh, kw), (sh, sw), (ph, pw), (dh, dw), bias=False,
                                         padding_mode=layer.padding_mode, **like),
                         nn.Conv2d(rank, layer.out_channels, 1, bias=has_bias, **like))
        return Split(kind, nn.Conv2d(layer.in_channels, rank, (kh, 1), (sh, 1), (ph, 0), (dh, 1), bias=False, **like),
                     nn.Conv2d(rank, layer.out_channels, (1, kw), (1, sw), (0, pw), (1, dw), bias=has_bias, **like))


def split_of(module: nn.Module) -> dict[str, Any] | None:
    """{"kind", "rank"} of two layers in the place of one; None for any other module."""
    return {"kind": module.kind, "rank": module.rank} if isinstance(module, Split) else None


def _kind(layer: nn.Module, kinds: Sequence[Any]) -> str | None:
    if type(layer) is nn.Linear:
        return "full" if "full" in kinds else None
    if type(layer) is not nn.Conv2d or layer.groups != 1 or isinstance(layer.padding, str):
        return None
    if "channel" in kinds:
        return "channel" if max(layer.kernel_size) > 1 else None
    if "spatial" in kinds:
        return "spatial" if min(layer.kernel_size) > 1 and layer.padding_mode == "zeros" else None
    return None


def _matrix(layer: Any, kind: str) -> Tensor:
    weight: Tensor = layer.weight.detach()
    if kind == "spatial":  # [out, in, kh, kw] -> [in kh, out kw]
        return weight.permute(1, 2, 0, 3).flatten(2).flatten(0, 1)
    return weight.flatten(1)


def _cost(layer: Any, kind: str, rank: int) -> int:
    rows, columns = _matrix(layer, kind).shape
    return rank * (rows + columns)
