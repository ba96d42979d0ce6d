"""Structured pruning: whole channels are removed, so that the net that remains is a smaller dense one.

What a channel is worth, by `criterion`: 'l1', the sum of the absolute weights of the filters that make it (Li, Kadav,
Durdanovic, Samet, Graf, Pruning Filters for Efficient ConvNets, ICLR 2017, arXiv:1608.08710); 'bn', the absolute scale
of its batch norms (Liu, Li, Shen, Huang, Yan, Zhang, Network Slimming, ICCV 2017, arXiv:1708.06519); 'taylor', the
squared first order estimate of what its removal does to the loss, (sum of gradient times weight over its filters and
scales)^2 (Molchanov, Mallya, Tyree, Frosio, Kautz, CVPR 2019, arXiv:1906.10771, equation 8). Channels that the net ties
together (visus.deploy.channels) are worth what they are worth together, the mean over the layers that make them, and go
together.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from visus.core.errors import UserError
from visus.core.weights import with_tensors
from visus.deploy.channels import Channels, Group, Slot, find_channels
from visus.deploy.surgery import fit_attributes, replace_tensor

CRITERIA = ("l1", "bn", "taylor")
SCOPES = ("layer", "global")
_DEPTHWISE = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Pruned:
    """model: the smaller copy. removed: {layer: (channels before, channels after)} of the layers that make them. kept:
    (layer, why all its channels stayed)."""

    model: nn.Module
    removed: Mapping[str, tuple[int, int]]
    kept: tuple[tuple[str, str], ...]


def prune_channels(model: nn.Module, images_shape: tuple[int, ...], amount: float, *, criterion: str = "l1",
                   scope: str = "layer", gradients: Mapping[str, Tensor] | None = None) -> Pruned:
    """A copy of the model without the share `amount` (0 to 1) of the channels that can go.

    scope: 'layer', the share of each group of channels; 'global', of all together, worth compared as a share of the
    mean of its group. At least one channel of each group stays. gradients: of the loss, by parameter, for 'taylor'.
    Raises UserError where no channel can be removed, and for 'bn' in a net without batch norm.
    """
    if not 0 <= amount < 1:
        raise UserError("is a share from 0 to below 1", where=f"amount={amount}")
    found = removable(model, images_shape)
    groups, kept = found.groups, found.kept
    if not groups:
        raise UserError("has no channels that could be removed: " + "; ".join(f"{n}: {w}" for n, w in kept[:3]),
                        where=type(model).__name__, remedy="Prune single weights: --method magnitude")
    worth = [_worth(model, group, criterion, gradients or {}) for group in groups]
    goes = chosen(worth, amount, scope)
    slots = [group.slots[k] for group, which in zip(groups, goes, strict=True) for k in which]
    removed = {layer: (len(group.slots), len(group.slots) - len(which)) for group, which in
               zip(groups, goes, strict=True) for layer in group.layers}
    return Pruned(without(model, slots), removed, kept)


def removable(model: nn.Module, images_shape: tuple[int, ...]) -> Channels:
    """`find_channels`, less the groups without which the net does not run: code that counts its channels itself."""
    found = find_channels(model, images_shape)
    meta = with_tensors(model, lambda _, tensor: torch.empty_like(tensor, device="meta")).eval()
    images = torch.empty(images_shape, device="meta", dtype=next(p.dtype for p in meta.parameters()))

    def runs(groups: Sequence[Group]) -> bool:
        try:
            with torch.no_grad():
                without(meta, [group.slots[0] for group in groups])(images)
        except (RuntimeError, ValueError, AssertionError, IndexError):
            return False
        return True

    if runs(found.groups):
        return found
    groups, kept = [], list(found.kept)
    for group in found.groups:
        if runs([group]):
            groups.append(group)
        else:
            kept += [(layer, "the net counts its channels itself") for layer in group.layers]
    return Channels(tuple(groups), tuple(kept))


def without(model: nn.Module, slots: Sequence[Slot]) -> nn.Module:
    """A copy of the model from which these channels are removed, wherever they are made and read."""
    out = copy.deepcopy(model)
    gone: dict[str, dict[int, set[int]]] = {}
    for slot in slots:
        for table in (slot.made, slot.read):
            for (name, axis), entries in table.items():
                gone.setdefault(name, {}).setdefault(axis, set()).update(entries)
    tensors = dict((*out.named_parameters(), *out.named_buffers()))
    for name, axes in gone.items():
        tensor = tensors[name]
        for axis, falls in axes.items():
            stays = [k for k in range(tensor.shape[axis]) if k not in falls]
            tensor = tensor.detach().index_select(axis, torch.tensor(stays, device=tensor.device))
        replace_tensor(out, name, tensor)
        owner = out.get_submodule(name.rpartition(".")[0])
        if isinstance(owner, _DEPTHWISE) and name.endswith("weight") and 1 < owner.groups == owner.in_channels:
            owner.groups = owner.groups * tensor.shape[0] // tensors[name].shape[0]
    fit_attributes(out)
    return out


def silenced(model: nn.Module, slots: Sequence[Slot]) -> nn.Module:
    """A copy of the model of the same size that reads zeros where these channels were: it computes what `without` does.
    """
    out = copy.deepcopy(model)
    tensors = dict(out.named_parameters())
    with torch.no_grad():
        for slot in slots:
            for (name, axis), entries in slot.read.items():
                tensors[name].index_fill_(axis, torch.tensor(entries, device=tensors[name].device), 0.0)
    return out


def chosen(worth: Sequence[Tensor], amount: float, scope: str) -> list[list[int]]:
    """worth: of each group's channels, [n]. Which of them go: the least, `amount` of each group, or of all by their
    share of the mean of their group; one of each group stays."""
    if scope not in SCOPES:
        raise UserError("is not a scope", where=f"scope={scope!r}", remedy="Use layer or global")
    orders = [torch.argsort(values, stable=True).tolist() for values in worth]
    if scope == "layer":
        return [order[:min(round(amount * len(order)), len(order) - 1)] for order in orders]
    shares = [values / values.mean().clamp_min(1e-30) for values in worth]
    everything = sorted((float(share[k]), g, k) for g, share in enumerate(shares) for k in range(len(share)))
    out: list[list[int]] = [[] for _ in worth]
    left = round(amount * len(everything))
    for _, g, k in everything:
        if left and len(out[g]) < len(worth[g]) - 1:
            out[g].append(k)
            left -= 1
    return out


def _worth(model: nn.Module, group: Group, criterion: str, gradients: Mapping[str, Tensor]) -> Tensor:
    """What each channel of the group is worth, float64 [n]."""
    if criterion not in CRITERIA:
        raise UserError("is not a criterion", where=f"criterion={criterion!r}", remedy="Use l1, bn or taylor")
    parameters = dict(model.named_parameters())
    norms = {f"{name}.weight" for name, module in model.named_modules()
             if isinstance(module, nn.modules.batchnorm._BatchNorm)}
    used = [index for index in group.slots[0].made if index[0] in parameters and (
        index[0] in norms if criterion == "bn" else parameters[index[0]].ndim > 1 if criterion == "l1" else True)]
    if not used:
        raise UserError("has channels without a batch norm, and so without a scale to judge them by",
                        where=", ".join(group.layers[:3]), remedy="Use --criterion l1 or taylor")
    if criterion == "taylor" and not gradients:
        raise UserError("needs the gradients of the loss", where="criterion='taylor'")
    total = torch.zeros(len(group.slots), dtype=torch.float64)
    for name, axis in used:
        tensor = parameters[name].detach().double()
        if criterion == "taylor":
            tensor = tensor * gradients[name].double()
        else:
            tensor = tensor.abs()
        rows = tensor.movedim(axis, 0).reshape(tensor.shape[axis], -1).sum(1).cpu()
        total += torch.stack([rows[list(slot.made[name, axis])].sum() for slot in group.slots])
    return total.square() if criterion == "taylor" else total / len(used)
