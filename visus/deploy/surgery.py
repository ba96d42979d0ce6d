"""A network whose layers are not those of its config any more: what was changed, as plain values, and the way back.

A record has up to five parts, each {dotted path: value}: `identity` (layers that became nn.Identity, as folded batch
norms do), `split` (layers that became two, visus.deploy.low_rank), `quantised` (layers that round as int8 does,
visus.deploy.quantise_aware), `groups` (of convolutions) and `shapes` (of parameters and buffers). Nothing in it is
code: `operate` builds the layers from these numbers, and the tensors of a weights file fill them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from visus.core.errors import CheckpointError

PARTS = ("identity", "split", "quantised", "groups", "shapes")
MOST_ENTRIES = 1 << 28  # of one tensor
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def record_of(model: nn.Module, plain: nn.Module) -> dict[str, Any]:
    """What makes `model` differ from `plain`, the net as its config builds it (on the meta device, say); {} where
    nothing does."""
    from visus.deploy.low_rank import split_of
    from visus.deploy.quantise_aware import bits_of

    out: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
    modules = dict(model.named_modules())
    for name, before in plain.named_modules():
        now = modules.get(name)
        if isinstance(now, nn.Identity) and not isinstance(before, nn.Identity):
            out["identity"][name] = True
        elif now is not None and (bits := bits_of(now)) is not None and bits_of(before) is None:
            out["quantised"][name] = bits
        elif now is not None and (split := split_of(now)) is not None and split_of(before) is None:
            out["split"][name] = split
    like = plain_like(plain, out)
    first = _shapes(like)
    out["shapes"] = {name: list(shape) for name, shape in _shapes(model).items() if first.get(name) != shape}
    out["groups"] = {name: module.groups for name, module in model.named_modules()
                     if isinstance(module, _CONVS) and getattr(_maybe(like, name), "groups", module.groups)
                     != module.groups}
    return {part: values for part, values in out.items() if values}


def plain_like(plain: nn.Module, record: Mapping[str, Any]) -> nn.Module:
    """A copy of `plain` with the record's new layers, in the sizes of the old ones."""
    import copy

    out = copy.deepcopy(plain)
    _replace(out, {part: record.get(part, {}) for part in ("identity", "split", "quantised")})
    return out


def operate(model: nn.Module, record: Mapping[str, Any]) -> nn.Module:
    """Change the net, in place, into what the record describes; the values of resized tensors are then zeros.

    It keeps the record as its `surgery`. Raises CheckpointError for a record that does not fit the net, or of sizes
    that no net has.
    """
    if not isinstance(record, Mapping) or not record.keys() <= set(PARTS) or not all(
            isinstance(values, Mapping) for values in record.values()):
        raise CheckpointError("is not a record of changed layers", where="surgery")
    try:
        _replace(model, record)
        for name, groups in record.get("groups", {}).items():
            layer = model.get_submodule(name)
            if not isinstance(layer, _CONVS) or type(groups) is not int or groups < 1:
                raise CheckpointError("does not fit this net", where=f"surgery.groups.{name}={groups!r}")
            layer.groups = groups
        for name, shape in record.get("shapes", {}).items():
            _resize(model, name, shape)
    except AttributeError as error:
        raise CheckpointError(f"does not fit this net: {error}", where="surgery") from None
    fit_attributes(model)
    model.surgery = {part: dict(values) for part, values in record.items()}  # type: ignore[assignment]
    return model


def surgery_of(model: nn.Module) -> dict[str, Any]:
    """The record that the net was operated by; {} for a net as its config builds it."""
    return dict(getattr(model, "surgery", {}))


def fit_attributes(model: nn.Module) -> None:
    """The numbers of channels that layers state, taken from their tensors."""
    for module in model.modules():
        weight = module._parameters.get("weight")
        if isinstance(module, _CONVS) and weight is not None:
            module.out_channels, module.in_channels = weight.shape[0], weight.shape[1] * module.groups
        elif isinstance(module, _TRANSPOSED) and weight is not None:
            module.in_channels, module.out_channels = weight.shape[0], weight.shape[1] * module.groups
        elif isinstance(module, nn.Linear) and weight is not None:
            module.out_features, module.in_features = weight.shape
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            known = weight if weight is not None else module._buffers.get("running_mean")
            module.num_features = module.num_features if known is None else len(known)


def replace_tensor(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Put a tensor where the parameter or buffer of this path is; a parameter stays one, and keeps asking for
    gradients or not."""
    owner_name, _, leaf = name.rpartition(".")
    owner = model.get_submodule(owner_name)
    if leaf in owner._parameters:
        old = owner._parameters[leaf]
        wanted = old is None or old.requires_grad
        owner._parameters[leaf] = nn.Parameter(tensor.detach().clone(), requires_grad=wanted)
    elif leaf in owner._buffers:
        owner._buffers[leaf] = tensor.detach().clone()
    else:
        raise AttributeError(f"it has no tensor {name}")


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of the one of this path, wherever it is used."""
    old = model.get_submodule(name)
    for parent in list(model.modules()):
        for leaf, child in list(parent._modules.items()):
            if child is old:
                parent._modules[leaf] = module


def _replace(model: nn.Module, record: Mapping[str, Any]) -> None:
    from visus.deploy.low_rank import split_layer
    from visus.deploy.quantise_aware import quantised_layer

    for name in record.get("identity", {}):
        model.get_submodule(name)
        replace_module(model, name, nn.Identity())
    for name, split in record.get("split", {}).items():
        replace_module(model, name, split_layer(model.get_submodule(name), split))
    for name, bits in record.get("quantised", {}).items():
        replace_module(model, name, quantised_layer(model.get_submodule(name), bits))


def _resize(model: nn.Module, name: str, shape: Any) -> None:
    sizes = list(shape) if isinstance(shape, list | tuple) else None
    if sizes is None or any(type(size) is not int or size < 0 for size in sizes) or math.prod(sizes) > MOST_ENTRIES:
        raise CheckpointError("is not the shape of a tensor", where=f"surgery.shapes.{name}={shape!r}")
    owner_name, _, leaf = name.rpartition(".")
    owner = model.get_submodule(owner_name)
    old = owner._parameters.get(leaf, owner._buffers.get(leaf))
    like = old if old is not None else next(owner.parameters(), torch.empty(0))
    replace_tensor(model, name, torch.zeros(sizes, dtype=like.dtype, device=like.device))


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _maybe(model: nn.Module, name: str) -> nn.Module | None:
    try:
        return model.get_submodule(name)
    except AttributeError:
        return None
