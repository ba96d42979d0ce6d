"""The last activation of a classifier that still has places, for methods that weigh its channels (CAM, Grad-CAM, ...).

Selvaraju et al., ICCV 2017, arXiv:1610.02391, section 3, take the last convolutional layer: the most of meaning that
still has places. It is found for any classifier by watching one forward pass: an activation counts when everything
that the answer takes from the image goes through it (in the graph of operations it dominates the logits), when it has
places, and when the answer depends on what stands at them. The last such one is taken, before pooling and before a
layer norm, which make no features. So it is the rectified map before the average of a ResNet, the one before the last
pooling of a VGG, the last block's map of a Swin or ConvNeXt, the last block's tokens of a transformer that averages
them, and the tokens that enter the last block where a class token answers: behind that block it alone is read.

Gradients are wanted at this activation only: all before it runs without a graph, and the graph begins there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from visus.core.errors import UserError, did_you_mean
from visus.explain.explanation import classes_in, in_eval_mode

Layout = Literal["channels first", "channels last", "tokens"]
_MOVES = frozenset({"reshape", "view", "flatten", "unflatten", "permute", "transpose", "contiguous", "to", "float",
                    "clone", "squeeze", "unsqueeze", "movedim", "roll", "dropout", "dropout2d", "feature_dropout",
                    "pad", "__getitem__", "__get__"})  # the same values in other places
_NORMS = frozenset({"layer_norm", "rms_norm"})
_PRODUCTS = frozenset({"matmul", "__matmul__", "einsum", "softmax", "scaled_dot_product_attention"})  # of attention
_MOST_PREFIX = 16  # tokens without a place: class, distillation, registers


@dataclass(frozen=True, kw_only=True)
class FeatureLayer:
    """An activation of one model at one image size.

    name: the dotted name of the module that gives it, or the operation and the module in which it is made. step: the
    number of the operation among those of a forward pass that make tensors, and `output` which of its tensors. shape:
    of the activation, without the batch. grid: (h, w) of its places; num_prefix: tokens before them (class token,
    registers).
    """

    name: str
    step: int
    output: int
    function: str
    shape: tuple[int, ...]
    layout: Layout
    grid: tuple[int, int]
    num_prefix: int = 0

    @property
    def words(self) -> str:
        return f"{self.name}, {self.grid[0]} x {self.grid[1]} places"

    def maps(self, activation: Tensor) -> Tensor:
        """[B, *shape], the activation or its gradient -> [B, C, h, w]."""
        if self.layout == "tokens":
            return activation[:, self.num_prefix:].transpose(1, 2).unflatten(2, self.grid)
        return activation.permute(0, 3, 1, 2) if self.layout == "channels last" else activation


@dataclass(frozen=True)
class LastMaps:
    """maps: [B, C, h, w]. logits: [B, classes], with a graph that begins at the maps. raw: the activation itself, the
    leaf of that graph."""

    layer: FeatureLayer
    raw: Tensor
    logits: Tensor

    @property
    def maps(self) -> Tensor:
        return self.layer.maps(self.raw.detach())

    def gradient(self, targets: Tensor | int | None) -> Tensor:
        """d logit of each image's target / d maps, [B, C, h, w]. targets: int64 [B], one class for all, or None for the
        model's own answers. Once only: the graph is freed."""
        with torch.enable_grad():
            asked = self.logits.gather(1, classes_in(self.logits, targets)[:, None]).sum()
        return self.layer.maps(torch.autograd.grad(asked, self.raw)[0])


_found: WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], FeatureLayer]] = WeakKeyDictionary()


def feature_layer(model: nn.Module, images: Tensor, layer: str | None = None, *,
                  before_norm: bool = True) -> FeatureLayer:
    """The activation that maps are made of. images: [B, C, H, W] of the size in question; their values do not matter.

    layer: the dotted name of a module whose output to take instead. before_norm: False takes what a last layer norm
    gives, where there is one. The choice is kept for as long as the model lives. Raises UserError for a model that has
    no such activation, and for a name that does not fit.
    """
    if layer is not None and not isinstance(layer, str):
        raise UserError("must be the dotted name of a module, such as stages.3", where=f"layer={layer!r}")
    found = _found.setdefault(model, {})
    key = (tuple(images.shape[1:]), layer, before_norm)
    if key not in found:
        found[key] = _chosen(model, images, layer, before_norm)
    return found[key]


def last_maps(model: nn.Module, images: Tensor, layer: str | FeatureLayer | None = None, *, graph: bool = True,
              instead: Tensor | None = None) -> LastMaps:
    """One forward pass in eval mode that holds the feature layer's activation; the model is left as it was.

    graph: whether logits get one, from that activation on. instead: what to put in the activation's place,
    [B, *shape]."""
    for _ in range(2):  # a second time where the model was changed since its layer was chosen
        chosen = layer if isinstance(layer, FeatureLayer) else feature_layer(model, images, layer)
        cut = _Cut(chosen, graph, instead)
        with in_eval_mode(model), torch.no_grad(), cut:
            logits = model(images)
        if cut.raw is not None:
            return LastMaps(chosen, cut.raw, logits)
        _found.pop(model, None)
    raise UserError("the forward passes of this model differ from each other, or the layer is another model's",
                    where=f"layer={chosen.name}")


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, Mapping):
        yield from _tensors(tuple(value.values()))


class _Cut(TorchFunctionMode):
    """Runs under no_grad; at the layer's step its output becomes a leaf, and the graph begins."""

    def __init__(self, layer: FeatureLayer, graph: bool, instead: Tensor | None) -> None:
        super().__init__()
        self.layer, self.graph, self.instead, self.step = layer, graph, instead, -1
        self.raw: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (),
                           kwargs: Mapping[str, Any] | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if self.step >= self.layer.step or next(_tensors(out), None) is None:
            return out
        self.step += 1
        if self.step < self.layer.step:
            return out
        made = list(_tensors(out))
        if len(made) <= self.layer.output or getattr(func, "__name__", "") != self.layer.function \
                or tuple(made[self.layer.output].shape[1:]) != self.layer.shape:
            return out
        self.raw = (made[self.layer.output] if self.instead is None else self.instead).detach()
        if not self.graph:
            return out
        self.raw.requires_grad_()
        torch.set_grad_enabled(True)  # until last_maps ends
        passed_on = self.raw.clone()  # what follows may work in place
        if isinstance(out, Tensor):
            return passed_on
        return type(out)(passed_on if item is made[self.layer.output] else item for item in out)


# -- watching ------------------------------------------------------------------------------------------------------


@dataclass
class _Node:
    """A tensor made from the image. parent: the nearest node that all ways from the image to this one pass."""

    tensor: Tensor
    parent: int
    depth: int
    step: int = -1
    output: int = 0
    function: str = ""
    module: str = ""  # in which it was made
    name: str = ""  # the outermost module whose output it is
    moved: bool = False  # the values of its parent in other places


class _Watch(TorchFunctionMode):
    """Sees every operation of a forward pass: what each tensor is made of, hence what dominates it."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.nodes = [_Node(images, -1, 0)]
        self.at = {id(images): 0}
        self.step = -1
        self.inside: list[str] = []
        self.grids: list[tuple[int, int]] = []  # of all maps that convolutions and poolings make
        self.last_by: dict[int, str] = {}  # node -> the function that reads it last
        self.outputs: dict[str, int] = {}  # module -> node of its last output
        self.called: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (),
                           kwargs: Mapping[str, Any] | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made, given = list(_tensors(out)), list(_tensors((args, tuple((kwargs or {}).values()))))
        name = getattr(func, "__name__", "")
        if not made:
            if name == "__setitem__" and any(id(tensor) in self.at for tensor in given):
                self._add(given[0], given, name, 0)
            return out
        self.step += 1
        if not any(id(tensor) in self.at for tensor in given):
            return out
        for tensor in given:
            if id(tensor) in self.at:
                self.last_by[self.at[id(tensor)]] = name
        for number, tensor in enumerate(made):
            self._add(tensor, given, name, number)
            if tensor.ndim == 4 and (name == "conv2d" or "pool2d" in name):
                self.grids.append((tensor.shape[2], tensor.shape[3]))
        return out

    def _add(self, tensor: Tensor, given: list[Tensor], function: str, output: int) -> None:
        sources = [self.at[id(one)] for one in given if id(one) in self.at]
        parent = sources[0]
        for other in sources[1:]:
            parent = self._common(parent, other)
        whose = self.nodes[parent].tensor
        moved = function in _MOVES or (tensor is not whose and not any(tensor is one for one in given)
                                       and tensor.untyped_storage().data_ptr() == whose.untyped_storage().data_ptr())
        self.at[id(tensor)] = len(self.nodes)
        self.nodes.append(_Node(tensor, parent, self.nodes[parent].depth + 1, self.step, output, function,
                                self.inside[-1] if self.inside else "", moved=moved))

    def _common(self, one: int, other: int) -> int:
        while one != other:
            if self.nodes[one].depth < self.nodes[other].depth:
                one, other = other, one
            one = self.nodes[one].parent
        return one

    def enter(self, name: str) -> None:
        self.inside.append(name)

    def leave(self, name: str, out: Any) -> None:
        self.inside.pop()
        self.called.add(name)
        self.outputs.pop(name, None)
        made = [self.at[id(tensor)] for tensor in _tensors(out) if id(tensor) in self.at]
        if len(made) == 1:
            self.outputs[name] = made[0]
            node = self.nodes[made[0]]
            if name and f"{node.module}.".startswith(f"{name}."):  # one that only passes it on gives no name
                node.name = name

    def dominators(self, logits: Tensor) -> list[int]:
        """Of the logits, from the image to them, without the image itself; those overwritten in place left out."""
        line, number = [], self.at.get(id(logits), 0)
        while number > 0:
            if self.at[id(self.nodes[number].tensor)] == number:
                line.append(number)
            number = self.nodes[number].parent
        return line[::-1]


def _watched(model: nn.Module, images: Tensor) -> tuple[_Watch, Tensor]:
    """One forward pass on noise of the images' size, with a graph from the image on."""
    noise = torch.randn(1, *images.shape[1:], generator=torch.Generator().manual_seed(0)).to(images).requires_grad_()
    watch = _Watch(noise)
    with ExitStack() as stack:
        for name, module in model.named_modules():
            stack.callback(module.register_forward_pre_hook(lambda *_, name=name: watch.enter(name)).remove)
            stack.callback(module.register_forward_hook(lambda _, __, out, name=name: watch.leave(name, out)).remove)
        stack.enter_context(in_eval_mode(model))
        stack.enter_context(torch.enable_grad())
        with watch:
            logits = model(noise)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise UserError(f"{type(model).__name__} is no classifier: its output is no [B, classes]")
    return watch, logits


def _chosen(model: nn.Module, images: Tensor, layer: str | None, before_norm: bool) -> FeatureLayer:
    watch, logits = _watched(model, images)
    if layer is not None:
        return _named(model, watch, layer, images)
    line = [(number, _places(watch, number, images)) for number in watch.dominators(logits)]
    spatial = [(number, found) for number, found in line if found is not None]
    makers = [(number, found) for number, found in spatial if not watch.nodes[number].moved
              and not (before_norm and found.function in _NORMS) and "pool" not in found.function]
    if not makers:
        raise UserError(f"{type(model).__name__} has no feature map: nothing between image and answer has places",
                        remedy="Take a method that asks the image itself, or name a module with --layer")
    behind = [node.tensor for node in watch.nodes[spatial[-1][0] + 1:]
              if node.tensor.requires_grad and _places(watch, watch.at[id(node.tensor)], images) is None]
    for asked in ([logits], behind):  # an untrained head of zeros reads nothing: then all that is made behind the maps
        for number, found in reversed(makers):
            if asked and _reads_places(asked, watch.nodes[number].tensor, found):
                return found
    return makers[-1][1]


def _reads_places(asked: list[Tensor], activation: Tensor, layer: FeatureLayer) -> bool:
    generator = torch.Generator().manual_seed(0)
    with torch.enable_grad():
        value = sum((tensor * torch.randn(tensor.shape, generator=generator).to(tensor)).sum() for tensor in asked)
    gradient, = torch.autograd.grad(value, activation, retain_graph=True, allow_unused=True)  # type: ignore[arg-type]
    return gradient is not None and bool(layer.maps(gradient).any())


def _named(model: nn.Module, watch: _Watch, layer: str, images: Tensor) -> FeatureLayer:
    known = [name for name, _ in model.named_modules() if name]
    if layer not in known:
        raise UserError("the model has no such module", where=f"layer={layer}", remedy=did_you_mean(layer, known))
    if layer not in watch.called:
        raise UserError("the forward pass does not call this module", where=f"layer={layer}")
    found = _places(watch, watch.outputs[layer], images) if layer in watch.outputs else None
    if found is not None:
        return replace(found, name=layer)
    fit = [name for name in known if name in watch.outputs and _places(watch, watch.outputs[name], images)]
    raise UserError("the output of this module has no places", where=f"layer={layer}",
                    remedy=f"Modules that have them, the last ones: {', '.join(fit[-5:])}" if fit else "")


def _places(watch: _Watch, number: int, images: Tensor) -> FeatureLayer | None:
    """The activation as a feature layer, or None where it has no more than one place."""
    node, (height, width) = watch.nodes[number], images.shape[2:]
    shape = tuple(node.tensor.shape)
    if len(shape) not in (3, 4) or shape[0] != 1 or not node.tensor.is_floating_point():
        return None
    name = node.name if node.name and watch.outputs.get(node.name) == number else \
        f"{node.function} in {node.module or 'the model itself'}"  # a module may be called more than once
    about: dict[str, Any] = {"name": name, "step": node.step, "output": node.output, "function": node.function,
                             "shape": shape[1:]}
    if len(shape) == 4 and node.function in _PRODUCTS:  # [B, heads, N, d]
        return None
    if len(shape) == 4:
        first, last = (_unlike(shape[i], shape[i + 1], height, width) for i in (2, 1))
        channels_last = last < first or (last == first and watch.last_by.get(number) in _NORMS | {"linear"})
        grid = (shape[1], shape[2]) if channels_last else (shape[2], shape[3])
        if math.prod(grid) < 2 or min(first, last) > 0.7:  # neither pair of axes has the image's form
            return None
        return FeatureLayer(layout="channels last" if channels_last else "channels first", grid=grid, **about)
    fitting = _token_grid(shape[1], watch.grids, height, width)
    if fitting is None:
        return None
    return FeatureLayer(layout="tokens", grid=fitting, num_prefix=shape[1] - math.prod(fitting), **about)


def _unlike(h: int, w: int, height: int, width: int) -> float:
    """How far a grid is from the form of the image; 0 where it is alike."""
    return abs(math.log(h / w) - math.log(height / width))


def _token_grid(count: int, grids: list[tuple[int, int]], height: int, width: int) -> tuple[int, int] | None:
    """The grid of `count` tokens: of the maps that the model has made, else of the image's form; as few tokens as can
    be stand before it."""
    known = grids or [(h, round(h * width / height)) for h in range(1, count + 1)]  # patches cut without a convolution
    near = [grid for grid in known if math.prod(grid) > 1 and 0 <= count - math.prod(grid) <= _MOST_PREFIX]
    return max(near, key=math.prod) if near else None
