"""Names of other packages' parameters under ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor


def rename(state: Mapping[str, Tensor],
           patterns: Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]) -> dict[str, Tensor]:
    """The state with each pattern (re.sub's: what is found, what it becomes) applied to every name, in order."""
    out = {}
    for name, tensor in state.items():
        for theirs, ours in patterns:
            name = re.sub(theirs, ours, name)
        out[name] = tensor
    return out


def join_parts(state: Mapping[str, Tensor], parts: Sequence[str], whole: str) -> dict[str, Tensor]:
    """The state with linear layers that stand side by side made one: for parts ("q", "k", "v") and whole "qkv", the
    tensors x.q.weight, x.k.weight and x.v.weight, each [n, ...], become x.qkv.weight [3 n, ...], and so the biases.
    Where one of them lacks, the others stay, for strict loading to name."""
    out = dict(state)
    first = f".{parts[0]}."
    for name in [name for name in out if first in name]:
        own = [name.replace(first, f".{part}.") for part in parts]
        if all(part in out for part in own):
            out[name.replace(first, f".{whole}.")] = torch.cat([out.pop(part) for part in own])
    return out
