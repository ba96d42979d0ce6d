"""Which channels of a network belong together, found by following one forward pass on the meta device.

Every output channel of a convolution or full layer gets a number of its own. The numbers travel with the tensors:
through what works place by place, pooling, concatenation, flattening. Where two channels meet in a sum or a product (a
residual connection, a gate, a scale) their numbers become one, by union-find; a depthwise convolution hands its inputs'
numbers on, and one in groups ties the channels that have the same place in each group. What a number is bound to (rows
of one layer, an entry of a batch norm, columns of the next layers) can be removed together, and only together. Numbers
that run into an operation that looks at all channels at once, or at their count, are frozen, with the reason.

The idea of dependency groups: Fang et al., DepGraph, CVPR 2023, arXiv:2301.12900; here by indices of single channels,
so that concatenations and flattening need no rules of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from visus.core.weights import with_tensors

Index = tuple[str, int]  # a parameter or buffer by its dotted path, and one of its axes
_CONVS = (torch.conv1d, torch.conv2d, torch.conv3d)
_TRANSPOSED = (torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d)
_SAME = frozenset({"aten::clone", "aten::detach", "aten::alias", "aten::_to_copy", "aten::contiguous",
                   "aten::native_dropout", "aten::lift_fresh", "aten::expand"})
_PLACE_BY_PLACE = frozenset({"aten::hardswish", "aten::hardswish_"})  # though not tagged pointwise
_NEW = ("aten::new_", "aten::empty", "aten::zeros", "aten::ones", "aten::rand", "aten::full")
_POOLS = frozenset({"aten::max_pool2d_with_indices", "aten::avg_pool2d", "aten::_adaptive_avg_pool2d",
                    "aten::adaptive_max_pool2d", "aten::upsample_nearest2d", "aten::upsample_bilinear2d",
                    "aten::upsample_bicubic2d", "aten::_upsample_nearest_exact2d", "aten::adaptive_avg_pool2d"})
_REDUCTIONS = frozenset({"aten::mean", "aten::sum", "aten::amax", "aten::amin", "aten::linalg_vector_norm"})
_ALONG = {"aten::_softmax": 1, "aten::_log_softmax": 1, "aten::split": 2, "aten::split_with_sizes": 2,
          "aten::unbind": 1, "aten::flip": 1, "aten::cumsum": 1, "aten::select": 1}  # place of the axis they work along


@dataclass(frozen=True)
class Slot:
    """One channel wherever it is: the entries of each (tensor, axis) that fall away with it. made: rows and scales that
    make the channel. read: columns of the layers that read it."""

    made: Mapping[Index, tuple[int, ...]]
    read: Mapping[Index, tuple[int, ...]]


@dataclass(frozen=True)
class Group:
    """Channels that are made and read by the same layers. layers: dotted paths of those that make them."""

    layers: tuple[str, ...]
    slots: tuple[Slot, ...]


@dataclass(frozen=True)
class Channels:
    """groups: what can be removed. kept: (layer, why its output channels stay)."""

    groups: tuple[Group, ...]
    kept: tuple[tuple[str, str], ...]


def find_channels(model: nn.Module, images_shape: tuple[int, ...]) -> Channels:
    """Follow one forward pass in eval mode. images_shape: [B, C, H, W] that the model takes. The model is left as it
    is; no data is computed."""
    meta = with_tensors(model, lambda _, tensor: torch.empty_like(tensor, device="meta")).eval()
    dtype = next((p.dtype for p in meta.parameters()), torch.float32)
    images = torch.empty((2, *images_shape[1:]), device="meta", dtype=dtype)  # of one, batch and channels look alike
    trace = _Trace(meta)
    trace.label(images, 1, trace.fresh(images_shape[1]))
    trace.freeze(trace.labels[id(images)][1], "they are the image's")
    with torch.no_grad(), _Operations(trace), _Functions(trace):
        out = meta(images)
    for tensor in _tensors(out):
        trace.freeze_tensor(tensor, "they are the answer")
    return trace.channels()


class _Trace:
    """Numbers of channels, what they are bound to, and which of them are one."""

    def __init__(self, model: nn.Module):
        self.names = {id(t): name for name, t in (*model.named_parameters(), *model.named_buffers())}
        self.shapes = {name: tuple(t.shape) for name, t in (*model.named_parameters(), *model.named_buffers())}
        self.parent: list[int] = []
        self.reasons: dict[int, str] = {}  # root -> why it is frozen
        self.labels: dict[int, tuple[int, np.ndarray]] = {}  # id of a tensor -> axis, numbers along it
        self.made: dict[Index, np.ndarray] = {}
        self.read: dict[Index, np.ndarray] = {}
        self.raw: set[str] = set()   # parameters that are used in another way than a layer uses them
        self.alive: list[Any] = []   # keeps ids unique while we look
        self.paused = False

    # -- numbers -------------------------------------------------------------------------------------------------

    def fresh(self, count: int) -> np.ndarray:
        start = len(self.parent)
        self.parent += range(start, start + count)
        return np.arange(start, start + count)

    def root(self, number: int) -> int:
        while self.parent[number] != number:
            self.parent[number] = self.parent[self.parent[number]]
            number = self.parent[number]
        return number

    def unite(self, first: np.ndarray, second: np.ndarray) -> None:
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            a, b = self.root(a), self.root(b)
            if a != b:
                self.parent[b] = a
                if b in self.reasons:
                    self.reasons.setdefault(a, self.reasons[b])

    def freeze(self, numbers: Iterable[int], reason: str) -> None:
        for number in numbers:
            self.reasons.setdefault(self.root(int(number)), reason)

    def freeze_tensor(self, tensor: Tensor, reason: str) -> None:
        found = self.labels.get(id(tensor))
        if found is not None:
            self.freeze(found[1], reason)

    def label(self, tensor: Tensor, axis: int, numbers: np.ndarray) -> None:
        assert tensor.shape[axis] == len(numbers), (tuple(tensor.shape), axis, len(numbers))
        self.alive.append(tensor)
        self.labels[id(tensor)] = (axis, numbers)

    def of(self, tensor: Tensor) -> tuple[int, np.ndarray] | None:
        """The numbers of a tensor. A parameter with one axis that is longer than 1 gets its own at first sight."""
        if id(tensor) in self.labels:
            return self.labels[id(tensor)]
        name = self.names.get(id(tensor))
        if name is None:
            return None
        long = [axis for axis, size in enumerate(tensor.shape) if size > 1]
        if len(long) != 1:
            self.raw.add(name)
            return None
        numbers = self.made.get((name, long[0]))
        if numbers is None:
            numbers = self.made[name, long[0]] = self.fresh(tensor.shape[long[0]])
        self.label(tensor, long[0], numbers)
        return self.labels[id(tensor)]

    def bind(self, table: dict[Index, np.ndarray], tensor: Tensor, axis: int, numbers: np.ndarray) -> None:
        """The entries of a parameter along an axis are these channels. A tensor without a name was computed from
        others: its channels are frozen."""
        name = self.names.get(id(tensor))
        if name is None:
            self.freeze(numbers, "a weight beside them is computed")
        elif (name, axis) in table:
            self.unite(table[name, axis], numbers)
        else:
            table[name, axis] = numbers

    # -- layers --------------------------------------------------------------------------------------------------

    def full(self, out: Tensor, images: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        found = self.of(images)
        if found is not None and found[0] != images.ndim - 1:
            self.label(out, *found)  # it mixes another axis than that of the channels
            return
        if found is not None:
            self.bind(self.read, weight, 1, found[1])
        self._new(out, out.ndim - 1, weight, 0, bias)

    def convolution(self, out: Tensor, images: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> None:
        found, axis = self.of(images), images.ndim - (weight.ndim - 1)
        if found is None or found[0] != axis:
            self.freeze_tensor(images, "a convolution slides along them")
            if groups == 1:
                self._new(out, axis, weight, 0, bias)
            return
        numbers = found[1]
        if groups == 1:
            self.bind(self.read, weight, 1, numbers)
            self._new(out, axis, weight, 0, bias)
        elif weight.shape[1] == 1 and groups == images.shape[axis]:
            numbers = np.repeat(numbers, out.shape[axis] // groups)
            self.bind(self.made, weight, 0, numbers)
            if bias is not None:
                self.bind(self.made, bias, 0, numbers)
            self.label(out, axis, numbers)
        else:
            self._tie(numbers, groups)
            self.bind(self.read, weight, 1, numbers.reshape(groups, -1)[0])
            self._new(out, axis, weight, 0, bias)
            self._tie(self.labels[id(out)][1], groups)

    def transposed(self, out: Tensor, images: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> None:
        found, axis = self.of(images), images.ndim - (weight.ndim - 1)
        if groups != 1 or found is None or found[0] != axis:
            self.freeze_tensor(images, "a transposed convolution reads them in groups")
            return
        self.bind(self.read, weight, 0, found[1])
        self._new(out, axis, weight, 1, bias)

    def norm(self, out: Tensor, images: Tensor, *entries: Tensor | None) -> None:
        found = self.of(images)
        if found is None or found[0] != 1:
            self.freeze_tensor(images, "a batch norm reads another axis")
            found = (1, self.fresh(images.shape[1]))
            self.freeze(found[1], "a batch norm reads another axis")
        for entry in entries:
            if entry is not None:
                self.bind(self.made, entry, 0, found[1])
        self.label(out, *found)

    def _new(self, out: Tensor, axis: int, weight: Tensor, weight_axis: int, bias: Tensor | None) -> None:
        name = self.names.get(id(weight))
        numbers = self.made.get((name, weight_axis)) if name is not None else None
        if numbers is None:
            numbers = self.fresh(out.shape[axis])
        self.bind(self.made, weight, weight_axis, numbers)
        if bias is not None:
            self.bind(self.made, bias, 0, numbers)
        self.label(out, axis, numbers)

    def _tie(self, numbers: np.ndarray, groups: int) -> None:
        first, *others = numbers.reshape(groups, -1)
        for other in others:
            self.unite(first, other)

    # -- everything else -----------------------------------------------------------------------------------------

    def operation(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> None:
        name = func._schema.name
        given, made = list(_tensors((args, tuple(kwargs.values())))), list(_tensors(out))
        self.alive += given + made
        if name.startswith(_NEW):
            return
        if torch.Tag.pointwise in func.tags or name in _PLACE_BY_PLACE:
            self._pointwise(given, made, name)
            return
        labelled = [(tensor, found) for tensor in given if (found := self.of(tensor)) is not None]
        if not labelled or not made:
            return
        tensor, (axis, numbers) = labelled[0]
        if name == "aten::cat":
            self._concatenate(given, args[1] if len(args) > 1 else kwargs.get("dim", 0), made[0])
            return
        if len(labelled) == 1 and (after := _axis_after(name, args, kwargs, tensor, axis, made)) is not None:
            for one in made:
                if one.ndim > after and one.shape[after] == len(numbers):
                    self.label(one, after, numbers)
            return
        if name in ("aten::view", "aten::_unsafe_view", "aten::reshape") and self._view(tensor, axis, numbers, made[0]):
            return
        if name == "aten::slice" and axis == (args[1] if len(args) > 1 else 0) % tensor.ndim \
                and made[0].shape == tensor.shape:
            self.label(made[0], axis, numbers)
            return
        for one, _ in labelled:
            self.freeze_tensor(one, f"{name.removeprefix('aten::')} looks at all of them, or at their number")

    def _pointwise(self, given: Sequence[Tensor], made: Sequence[Tensor], name: str) -> None:
        labelled = [(tensor, *found) for tensor in given if (found := self.of(tensor)) is not None]
        if not labelled:
            return
        places = {axis - tensor.ndim for tensor, axis, _ in labelled}
        out = made[0]
        place = min(places)
        count = out.shape[place] if -place <= out.ndim else 0
        strangers = [t for t in given if self.of(t) is None and t.ndim >= -place and t.shape[place] > 1]
        if len(places) > 1 or strangers or any(len(numbers) != count for _, _, numbers in labelled):
            for tensor, _, _ in labelled:
                self.freeze_tensor(tensor, f"{name.removeprefix('aten::')} joins them with something else")
            return
        first = labelled[0][2]
        for _, _, numbers in labelled[1:]:
            self.unite(first, numbers)
        for one in made:
            self.label(one, out.ndim + place, first)

    def _concatenate(self, given: Sequence[Tensor], axis: int, out: Tensor) -> None:
        axis %= out.ndim
        found = [self.of(tensor) for tensor in given]
        own = {one[0] for one in found if one is not None}
        if own == {axis}:
            parts = []
            for tensor, one in zip(given, found, strict=True):
                numbers = self.fresh(tensor.shape[axis]) if one is None else one[1]
                if one is None:
                    self.freeze(numbers, "they come from something that was not followed")
                parts.append(numbers)
            self.label(out, axis, np.concatenate(parts))
        elif len(own) == 1 and None not in found:
            first, *others = [one[1] for one in found if one is not None]
            for other in others:
                self.unite(first, other)
            self.label(out, own.pop(), first)
        else:
            for tensor in given:
                self.freeze_tensor(tensor, "cat joins them with something else")

    def _view(self, tensor: Tensor, axis: int, numbers: np.ndarray, out: Tensor) -> bool:
        """Whether the channels can be followed: what lies before them stays apart, what lies behind may join them."""
        before, inner = 1, 1
        for size in tensor.shape[:axis]:
            before *= size
        for size in tensor.shape[axis + 1:]:
            inner *= size
        run = 1
        for at, size in enumerate(out.shape):
            if run == before and size > 1 or run == before and len(numbers) == 1:
                if size % len(numbers) == 0 and inner % (size // len(numbers)) == 0:
                    self.label(out, at, np.repeat(numbers, size // len(numbers)))
                    return True
                return False
            run *= size
        return False

    # -- the result ----------------------------------------------------------------------------------------------

    def channels(self) -> Channels:
        for table in (self.made, self.read):
            for (name, _), numbers in table.items():
                if name in self.raw:
                    self.freeze(numbers, "their weight is used in another way too")
        members: dict[int, tuple[dict[Index, list[int]], dict[Index, list[int]]]] = {}
        for which, table in enumerate((self.made, self.read)):
            for index, numbers in table.items():
                for position, number in enumerate(numbers.tolist()):
                    members.setdefault(self.root(number), ({}, {}))[which].setdefault(index, []).append(position)
        groups: dict[frozenset[Index], list[Slot]] = {}
        kept: dict[str, str] = {}
        for root, (made, read) in members.items():
            layers = [name.removesuffix(".weight") for name, axis in made if len(self.shapes[name]) > 1]
            if not layers:
                continue
            if root in self.reasons or not read:
                for layer in layers:
                    kept.setdefault(layer, self.reasons.get(root, "no layer that was followed reads them"))
                continue
            slot = Slot({k: tuple(v) for k, v in made.items()}, {k: tuple(v) for k, v in read.items()})
            groups.setdefault(frozenset((*made, *(("read", *k) for k in read))), []).append(slot)  # type: ignore[arg-type]
        return Channels(tuple(Group(_layers(slots[0], self.shapes), tuple(slots)) for slots in groups.values()
                              if len(slots) > 1), tuple(kept.items()))


def _layers(slot: Slot, shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    return tuple(name.removesuffix(".weight") for name, _ in slot.made if len(shapes[name]) > 1)


def _axis_after(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], tensor: Tensor, axis: int,
                made: Sequence[Tensor]) -> int | None:
    """Where the axis of the channels is after an operation that leaves the channels apart; None where it does not, or
    where that is not known."""
    ndim = tensor.ndim
    if name == "aten::expand":
        return axis + made[0].ndim - ndim if tensor.shape[axis] == made[0].shape[axis + made[0].ndim - ndim] else None
    if name in _SAME:
        return axis
    if name in _POOLS:
        return axis if axis == ndim - 3 else None
    if name == "aten::constant_pad_nd":
        return axis if axis < ndim - len(args[1]) // 2 else None
    if name == "aten::permute":
        return [place % ndim for place in args[1]].index(axis)
    if name in ("aten::transpose", "aten::t"):
        first, second = (place % ndim for place in args[1:3]) if name == "aten::transpose" else (0, ndim - 1)
        return second if axis == first else first if axis == second else axis
    if name == "aten::unsqueeze":
        return axis + (args[1] % (ndim + 1) <= axis)
    if name == "aten::squeeze":
        gone = list(range(ndim)) if len(args) < 2 else [args[1]] if isinstance(args[1], int) else list(args[1])
        gone = [place % ndim for place in gone if tensor.shape[place] == 1]
        return None if axis in gone else axis - sum(place < axis for place in gone)
    if name in _REDUCTIONS:
        at = 2 if name == "aten::linalg_vector_norm" else 1
        places = args[at] if len(args) > at else kwargs.get("dim")
        if places is None or axis in (gone := [place % ndim for place in ([places] if isinstance(places, int)
                                                                           else places)]):
            return None
        keeps = args[at + 1] if len(args) > at + 1 else kwargs.get("keepdim", False)
        return axis if keeps else axis - sum(place < axis for place in gone)
    if name == "aten::slice":
        return axis if axis != (args[1] if len(args) > 1 else 0) % ndim else None
    if name in _ALONG:
        place = args[_ALONG[name]] if len(args) > _ALONG[name] else 0
        places = [one % ndim for one in (place if isinstance(place, list | tuple) else [place])]
        if axis in places:
            return None
        return axis - (places[0] < axis) if name in ("aten::unbind", "aten::select") else axis
    return None


class _Functions(TorchFunctionMode):
    """Sees the layers that have weights, whole."""

    def __init__(self, trace: _Trace):
        super().__init__()
        self.trace = trace

    def __torch_function__(self, func: Any, types_: Any, args: tuple[Any, ...] = (),
                           kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if not (func in _CONVS or func in _TRANSPOSED or func in (F.linear, F.batch_norm)) or self.trace.paused:
            return func(*args, **kwargs)
        self.trace.paused = True
        try:
            out = func(*args, **kwargs)
        finally:
            self.trace.paused = False
        self._follow(func, args, kwargs, out)
        return out

    def _follow(self, func: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> None:
        trace = self.trace
        trace.alive += list(_tensors((args, tuple(kwargs.values()))))

        def given(place: int, name: str, default: Any = None) -> Any:
            return args[place] if len(args) > place else kwargs.get(name, default)

        images = given(0, "input")
        if func is F.batch_norm:
            entries = (given(1, "running_mean"), given(2, "running_var"), given(3, "weight"), given(4, "bias"))
            trace.norm(out, images, *entries)
        elif func is F.linear:
            trace.full(out, images, given(1, "weight"), given(2, "bias"))
        elif func in _CONVS:
            trace.convolution(out, images, given(1, "weight"), given(2, "bias"), given(6, "groups", 1))
        else:
            trace.transposed(out, images, given(1, "weight"), given(2, "bias"), given(6, "groups", 1))


class _Operations(TorchDispatchMode):
    """Sees every other operation as it is carried out."""

    def __init__(self, trace: _Trace):
        super().__init__()
        self.trace = trace

    def __torch_dispatch__(self, func: Any, types_: Any, args: tuple[Any, ...] = (),
                           kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not self.trace.paused:
            self.trace.operation(func, args, kwargs, out)
        return out


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, Mapping):
        yield from _tensors(tuple(value.values()))
