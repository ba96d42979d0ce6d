"""Batch norm that has learnt its numbers becomes part of its neighbour: fewer layers, equal outputs in eval mode.

`fold_batch_norm` finds the neighbours by watching one forward pass on the meta device (no data, no memory), so that it
works for any model that runs, whatever Python its forward is made of, and gives back a model of the same class with
its `features` and its config. A symbolic trace would refuse a forward that looks at sizes, and would give back a
graph. A norm is folded where the watch shows that it is exact: the norm's input is the output of one convolution or
full layer, nothing else sees that output, and the layer's weight is a parameter of its own that is used once; or the
norm's output goes to one convolution without padding, or one full layer, and nowhere else.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from visus.core.errors import UserError
from visus.core.weights import with_tensors
from visus.ops.fold import fold_after, fold_before, norm_as_affine

_AXES = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3, torch.conv_transpose1d: 1, torch.conv_transpose2d: 2,
         torch.conv_transpose3d: 3, F.linear: 0}  # operation -> number of axes that its kernel has
_TRANSPOSED = (torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
_SIZE = 224


@dataclass(frozen=True)
class Folding:
    """model: the copy, in eval mode. folded: (norm, layer that took it in), dotted paths in the copy. kept: (norm, why
    it is still there)."""

    model: nn.Module
    folded: tuple[tuple[str, str], ...]
    kept: tuple[tuple[str, str], ...]


def fold_batch_norm(model: nn.Module, images_shape: tuple[int, ...] | None = None) -> Folding:
    """A copy of `model` in eval mode whose batch norms are folded into the layers beside them where that is exact.

    images_shape: (B, C, H, W) of images that the model takes; by default what its config says, at 224 pixels where
    the config names no size. `model` is left as it is. Raises UserError where no shape is known.
    """
    shape = images_shape or _images_shape(model)
    out = copy.deepcopy(model).eval()
    norms = {name for name, module in out.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)}
    folded: list[tuple[str, str]] = []
    kept: dict[str, str] = {}
    while norms:  # again while something folds: what follows a folded norm may fold into the same layer
        kept = dict.fromkeys(sorted(norms), "forward does not call it in eval mode")
        pairs = list(_pairs(out, shape, kept))
        taken: set[str] = set()
        for norm, layer, before in pairs:
            if layer in taken:
                continue
            taken.add(layer)
            _fold(out, norm, layer, before)
            folded.append((norm, layer))
            norms.discard(norm)
        if not taken:
            break
    return Folding(out, tuple(folded), tuple((name, why) for name, why in kept.items() if name in norms))


def reparameterise(model: nn.Module, images_shape: tuple[int, ...] | None = None) -> Folding:
    """`fold_batch_norm` after every part that has a plain form (RepVGG, ACNet: a `fuse()`) has taken it.

    `model` is left as it is. A part's own `fuse()` gives the part that takes its place.
    """
    plain = model.fuse() if _has_plain_form(model) else model
    plain = copy.deepcopy(model) if plain is model else plain
    _fuse_children(plain)
    return fold_batch_norm(plain, images_shape)


def _has_plain_form(module: nn.Module) -> bool:
    return callable(getattr(type(module), "fuse", None))


def _fuse_children(module: nn.Module) -> None:
    for name, child in module.named_children():
        if _has_plain_form(child):
            setattr(module, name, child.fuse())
        else:
            _fuse_children(child)


def _images_shape(model: nn.Module) -> tuple[int, ...]:
    config = getattr(model, "config", None)
    channels = getattr(config, "in_channels", None)
    if channels is None:
        raise UserError("the shape of this model's images is not known", where="images_shape=None",
                        remedy="Give images_shape, such as (1, 3, 224, 224)")
    size = getattr(config, "image_size", _SIZE)
    return (1, channels, size, size)


@dataclass(frozen=True)
class _Call:
    """One call of a convolution or full layer: the operation and its tensors, and what it was given besides."""

    operation: Callable[..., Tensor]
    images: Tensor
    weight: Tensor
    bias: Tensor | None
    out: Tensor


class _Watch(TorchFunctionMode):
    """Sees every operation on tensors: how often each tensor is used, and the calls of layers that have a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.uses: Counter[int] = Counter()
        self.calls: list[_Call] = []
        self.alive: list[Tensor] = []  # keeps ids unique while we look

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (),
                           kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        made = list(_tensors(out))
        if made:  # asking for a size is no use of the values
            given = list(_tensors((args, tuple(kwargs.values()))))
            self.uses.update(id(tensor) for tensor in given)
            self.alive += given + made
        if func in _AXES:
            images, weight, bias = (kwargs.get(name, args[i] if i < len(args) else None)
                                    for i, name in enumerate(("input", "weight", "bias")))
            self.calls.append(_Call(func, images, weight, bias, out))
        return out


def _pairs(model: nn.Module, shape: tuple[int, ...], kept: dict[str, str]) -> Iterator[tuple[str, str, bool]]:
    """(norm, layer, whether the norm comes before it) of each norm that can be folded; the others' reasons go to
    `kept`, the norms that can be leave it."""
    meta = with_tensors(model, lambda _, tensor: torch.empty_like(tensor, device="meta")).eval()
    images = torch.empty(shape, device="meta", dtype=next((p.dtype for p in meta.parameters()), torch.float32))
    tapped = _tapped_weights(meta, images)  # before the hooks: they are to see one forward
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for name, module in meta.named_modules():
        if name in kept:
            module.register_forward_hook(
                lambda _, given, out, name=name: seen.setdefault(name, []).append((given[0], out)))
    watch = _Watch()
    with torch.no_grad(), watch:
        shown = list(_tensors(meta(images)))
    watch.uses.update(id(tensor) for tensor in shown)
    homes = _homes(meta)
    for name, calls in seen.items():
        norm = meta.get_submodule(name)
        reason = _unfit_norm(norm, calls)
        if reason is None:
            given, out = calls[0]
            made_by = [call for call in watch.calls if call.out is given]
            goes_to = [call for call in watch.calls if call.images is out]
            if made_by and watch.uses[id(given)] == 1:
                reason = _unfit_after(made_by[0], watch, homes, tapped)
                if reason is None:
                    kept.pop(name)
                    yield name, homes[id(made_by[0].weight)][0], False
                    continue
            elif goes_to and watch.uses[id(out)] == 1:
                reason = _unfit_before(goes_to[0], watch, homes, meta)
                if reason is None:
                    kept.pop(name)
                    yield name, homes[id(goes_to[0].weight)][0], True
                    continue
            else:
                reason = ("something else sees the output of the layer before it too" if made_by else
                          "no convolution or full layer is next to it")
        kept[name] = reason


def _unfit_norm(norm: nn.Module, calls: list[tuple[Tensor, Tensor]]) -> str | None:
    if type(norm) not in _NORMS:
        return f"{type(norm).__name__} does more than normalise"
    if norm.running_mean is None:
        return "it uses each batch's own statistics"
    return None if len(calls) == 1 else "it is called more than once"


def _unfit_layer(call: _Call, watch: _Watch, homes: dict[int, list[str]]) -> str | None:
    home = homes.get(id(call.weight), [])
    if watch.uses[id(call.weight)] != 1 or len(home) != 1:
        return "the weight beside it is computed, shared, or not a plain layer's"
    if call.bias is not None and (watch.uses[id(call.bias)] != 1 or homes.get(id(call.bias)) != home):
        return "the bias beside it is computed or shared"
    return None if call.images.ndim == _AXES[call.operation] + 2 else "its channels are not those of the layer"


def _unfit_after(call: _Call, watch: _Watch, homes: dict[int, list[str]], tapped: set[int]) -> str | None:
    if id(call.weight) in tapped:
        return "features() shows the output of the layer before it"
    return _unfit_layer(call, watch, homes)


def _unfit_before(call: _Call, watch: _Watch, homes: dict[int, list[str]], model: nn.Module) -> str | None:
    reason = _unfit_layer(call, watch, homes)
    if reason is not None:
        return reason
    layer = model.get_submodule(homes[id(call.weight)][0])
    if call.operation in _TRANSPOSED:
        return "the borders of a transposed convolution see fewer places"
    if call.operation is not F.linear and any(_listed(layer.padding)):
        return "the zeros of a padding do not go through it"
    return None


def _homes(model: nn.Module) -> dict[int, list[str]]:
    """id of a parameter -> the plain layers that own it (a path twice where two owners share it)."""
    out: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        for field, parameter in module._parameters.items():
            if parameter is not None:
                plain = isinstance(module, _LAYERS) and field in ("weight", "bias") and _adds_its_bias(module)
                out.setdefault(id(parameter), []).extend([name] if plain else ["", ""])
    return out


def _adds_its_bias(layer: nn.Module) -> bool:
    return layer.bias is not None or any(type(layer).forward is kind.forward for kind in _LAYERS)


def _tapped_weights(model: nn.Module, images: Tensor) -> set[int]:
    """ids of the weights of layers whose outputs `features` returns as they are."""
    if isinstance(getattr(model, "features", None), nn.Module) or not callable(getattr(model, "features", None)):
        return set()
    watch = _Watch()
    with torch.no_grad(), watch:
        shown = {id(tensor) for tensor in _tensors(model.features(images))}
    return {id(call.weight) for call in watch.calls if id(call.out) in shown}


def _fold(model: nn.Module, norm_name: str, layer_name: str, before: bool) -> None:
    norm, layer = model.get_submodule(norm_name), model.get_submodule(layer_name)
    scale, shift = norm_as_affine(norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)
    groups = getattr(layer, "groups", 1)
    if before:
        weight, bias = fold_before(layer.weight, layer.bias, scale, shift, groups)
    else:
        weight, bias = fold_after(layer.weight, layer.bias, scale, shift, groups, getattr(layer, "transposed", False))
    old = layer.weight
    with torch.no_grad():
        filled = torch.empty_like(old).copy_(weight)  # keeps the memory format
    layer.weight = nn.Parameter(filled, requires_grad=old.requires_grad)
    layer.bias = nn.Parameter(bias.to(old), requires_grad=old.requires_grad)
    for parent in model.modules():
        for name, child in parent.named_children():
            if child is norm:
                setattr(parent, name, nn.Identity())


def _listed(value: Any) -> list[Any]:
    if isinstance(value, str):  # padding='same' or 'valid'
        return [value != "valid"]
    return list(value) if isinstance(value, tuple | list) else [value]


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, Mapping):
        yield from _tensors(tuple(value.values()))
