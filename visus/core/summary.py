"""What each layer of a model makes and costs, found by running the model once on the meta device: no data, no
memory.

Conventions. MACs: multiply-accumulates of convolutions, matrix products and attention, as executed; biases,
normalisation, activations and pooling count nothing (one MAC is two FLOPs). Activation bytes: what leaf
modules put out, float32, before any is freed. Receptive field: side in input pixels of the square that one
output place depends on, by the theory of kernels, strides and dilations; borders cut it. None past an
operation that sees everything (attention, global pooling, flattening).
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from visus.core.weights import with_tensors

_LOCAL = frozenset({  # per place once statistics are fixed, though not tagged pointwise
    "aten::hardswish", "aten::hardswish_", "aten::native_batch_norm",
    "aten::_native_batch_norm_legit_no_training", "aten::cudnn_batch_norm", "aten::native_group_norm",
    "aten::clone", "aten::detach", "aten::alias", "aten::cat", "aten::constant_pad_nd", "aten::_to_copy",
    "aten::split", "aten::unsafe_split", "aten::split_with_sizes", "aten::native_dropout",
})


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One call of one layer. name: dotted path ("" is the model itself, for what it does outside of its
    layers); type: class name; output_shape: with the batch first; params: own parameters, counted at the
    first call, of which weights: without biases and scales, that is, matrices and kernels; receptive_field: side in
    pixels, or None."""

    name: str
    type: str
    output_shape: tuple[int, ...]
    params: int
    macs: int
    activation_bytes: int
    receptive_field: int | None
    weights: int = 0


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """The layers of a model in the order in which they finish, for images of `input_shape` (batch first)."""

    name: str
    input_shape: tuple[int, ...]
    rows: tuple[LayerRow, ...]
    trainable_params: int

    @property
    def params(self) -> int:
        return sum(row.params for row in self.rows)

    @property
    def macs(self) -> int:
        return sum(row.macs for row in self.rows)

    @property
    def activation_bytes(self) -> int:
        return sum(row.activation_bytes for row in self.rows)

    @property
    def receptive_field(self) -> int | None:
        """Of the last layer that has one."""
        return next((row.receptive_field for row in reversed(self.rows) if row.receptive_field is not None),
                    None)

    def _repr_html_(self) -> str:
        head = ("layer", "type", "output", "parameters", "MACs", "activation bytes", "receptive field")
        body = [(row.name or "(model)", row.type, " x ".join(map(str, row.output_shape)), f"{row.params:,}",
                 f"{row.macs:,}", f"{row.activation_bytes:,}",
                 "" if row.receptive_field is None else str(row.receptive_field)) for row in self.rows]
        body.append(("total", "", "", f"{self.params:,}", f"{self.macs:,}", f"{self.activation_bytes:,}", ""))
        cells = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>"
                        for line in body)
        return (f"<table><caption>{html.escape(self.name)}</caption><thead><tr>"
                + "".join(f"<th>{cell}</th>"
                          for cell in head) + f"</tr></thead><tbody>{cells}</tbody></table>")


def summarise(model: nn.Module, images_shape: tuple[int, ...], name: str = "") -> ModelSummary:
    """Run `model` in eval mode on meta images of shape (B, C, H, W) and list its layers. `model` is left as
    it is."""
    meta = with_tensors(model, lambda _, tensor: torch.empty_like(tensor, device="meta")).eval()
    tracer = _Tracer()
    images = torch.empty(images_shape, device="meta", dtype=_float_dtype(model))
    tracer.fields[id(images)] = _Field.start(images)
    tracer.kept.append(images)
    with torch.no_grad(), _hooked(meta, tracer), tracer:
        meta(images)
    used = {row.name for row in tracer.rows}
    idle = [LayerRow(path, type(module).__name__, (), count, 0, 0,
                     None)  # holds parameters that forward never uses
            for path, module in meta.named_modules() if (count := _own_params(module)) and path not in used]
    return ModelSummary(name or type(model).__name__, tuple(images_shape), (*tracer.rows, *idle),
                        sum(p.numel() for p in model.parameters() if p.requires_grad))


def _float_dtype(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def _own_params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters(recurse=False))


@dataclass(frozen=True, slots=True)
class _Field:
    """sides and jumps (distance in input pixels between neighbouring places), one per spatial axis."""

    sides: tuple[float, ...]
    jumps: tuple[float, ...]

    @classmethod
    def start(cls, images: Tensor) -> _Field:
        axes = max(images.ndim - 2, 0)
        return cls((1.0,) * axes, (1.0,) * axes)

    def through(self, kernel: Any, stride: Any, dilation: Any = 1) -> _Field:
        axes = range(len(self.sides))
        k, s, d = ([value[i if len(value) > 1 else 0] for i in axes]
                   for value in (_listed(kernel), _listed(stride) or _listed(kernel), _listed(dilation)))
        return _Field(tuple(self.sides[i] + (k[i] - 1) * d[i] * self.jumps[i] for i in axes),
                      tuple(self.jumps[i] * s[i] for i in axes))

    def through_transposed(self, kernel: Any, stride: Any) -> _Field:
        """Each output place sees ceil(kernel / stride) input places; neighbours are 1 / stride apart."""
        axes = range(len(self.sides))
        k, s = ([value[i if len(value) > 1 else 0] for i in axes]
                for value in (_listed(kernel), _listed(stride)))
        return _Field(tuple(self.sides[i] + (-(-k[i] // s[i]) - 1) * self.jumps[i] for i in axes),
                      tuple(self.jumps[i] / s[i] for i in axes))


def _keeps_places(name: str, args: tuple[Any, ...]) -> bool:
    """Whether an operation that regroups axes (as a channel shuffle does) leaves the last two, the places, alone."""
    if name in ("aten::view", "aten::_unsafe_view", "aten::reshape"):
        return args[0].ndim >= 4 and len(args[1]) >= 4 and list(args[1][-2:]) == list(args[0].shape[-2:])
    if name == "aten::stack":
        axis, ndim = (args[1] if len(args) > 1 else 0), args[0][0].ndim
        return ndim >= 4 and axis % (ndim + 1) <= ndim - 2
    if name == "aten::transpose":
        return all(axis % args[0].ndim < args[0].ndim - 2 for axis in args[1:3])
    return False


def _listed(value: Any) -> list[int]:
    return list(value) if isinstance(value, list | tuple) else [value]


class _Tracer(TorchDispatchMode):
    """Sees every operation: counts its MACs for the innermost running module and follows receptive fields."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[LayerRow] = []
        self.fields: dict[int, _Field] = {}
        self.kept: list[Tensor] = []     # keeps ids unique while we look
        self.macs: list[int] = [0]       # one counter per running module
        self.counted: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (),
                           kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        packet = func._overloadpacket
        if packet not in flop_registry:
            with self:
                decomposed = func.decompose(*args, **kwargs)
            if decomposed is not NotImplemented:
                return decomposed
        out = func(*args, **kwargs)
        if packet in flop_registry:
            self.macs[-1] += flop_registry[packet](*args, **kwargs, out_val=out) // 2
        field = self._field(func, args)
        for tensor in _tensors(out):
            self.kept.append(tensor)
            if field is None:
                self.fields.pop(id(tensor), None)
            else:
                self.fields[id(tensor)] = field
        return out

    def _field(self, func: Any, args: tuple[Any, ...]) -> _Field | None:
        inputs = [self.fields[id(t)] for t in _tensors(args) if id(t) in self.fields]
        if not inputs:
            return None
        field = max(inputs, key=lambda f: f.sides)
        name = func._schema.name
        if torch.Tag.pointwise in func.tags or name in _LOCAL:
            return field
        if name == "aten::convolution":
            weight, stride, dilation, transposed = args[1], args[3], args[5], args[6]
            kernel = list(weight.shape[2:])
            return field.through_transposed(kernel, stride) if transposed else field.through(kernel, stride,
                                                                                             dilation)
        if name == "aten::max_pool2d_with_indices":
            return field.through(args[1], args[2] if len(args) > 2 else [], args[4] if len(args) > 4 else 1)
        if name == "aten::avg_pool2d":
            return field.through(args[1], args[2] if len(args) > 2 else [])
        if name == "aten::slice":
            axis, step = (args[1] if len(args) > 1 else 0), (args[4] if len(args) > 4 else 1)
            jumps = tuple(j * step if i + 2 == axis % args[0].ndim else j for i, j in enumerate(field.jumps))
            return _Field(field.sides, jumps)
        return field if _keeps_places(name, args) else None

    def enter(self) -> None:
        self.macs.append(0)

    def leave(self, name: str, module: nn.Module, out: Any) -> None:
        macs = self.macs.pop()
        leaf = next(module.children(), None) is None
        params = _own_params(module) if name not in self.counted else 0
        if not (leaf or macs or params):
            return
        self.counted.add(name)
        tensors = _tensors(out)
        fields = [self.fields[id(t)].sides for t in tensors if id(t) in self.fields]
        self.rows.append(LayerRow(
            name, type(module).__name__, tuple(tensors[0].shape) if tensors else (), params, macs,
            sum(t.numel() * t.element_size() for t in tensors) if leaf else 0,
            round(max(max(sides) for sides in fields)) if fields and all(fields) else None,
            sum(p.numel() for p in module.parameters(recurse=False) if p.ndim > 1) if params else 0))


@contextmanager
def _hooked(model: nn.Module, tracer: _Tracer) -> Iterator[None]:
    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_: tracer.enter()))
        handles.append(module.register_forward_hook(
            lambda module, _, out, name=name: tracer.leave(name, module, out)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in _tensors(item)]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in _tensors(item)]
    return []
