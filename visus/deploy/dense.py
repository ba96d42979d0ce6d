"""A classifier whose full layers become convolutions: on a larger image it gives a map of scores in one pass.

Sermanet, Eigen, Zhang, Mathieu, Fergus, LeCun, OverFeat, ICLR 2014, arXiv:1312.6229, section 3.5; Simonyan, Zisserman,
arXiv:1409.1556, section 3.2. A full layer that sees maps of C x h x w is a convolution with a filter of C x h x w for
each of its outputs (fc6 of AlexNet: 4096 filters of 256 x 6 x 6), so that place (i, j) of the map holds the scores of
the window of `image_size` pixels whose corner lies at (i, j) times the network's stride.

That is equal, to rounding, where no layer pads. Where layers pad, a window in the middle of an image sees its
neighbours' pixels in place of zeros, and its scores differ from those of the window cut out; an image of `image_size`
gives one place with the model's own scores in either case. Squeeze and excitation sees the whole larger image.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from visus.core.errors import UserError
from visus.core.validate import positive
from visus.core.weights import with_tensors

_PERIOD = 20160  # 2^6 3^2 5 7: pixels that every usual stride divides
_POINTWISE_MODULES = (nn.ReLU, nn.ReLU6, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.Hardswish, nn.Hardtanh, nn.LeakyReLU,
                      nn.ELU, nn.Identity, nn.Dropout)
_POINTWISE = (F.relu, F.relu6, F.tanh, F.gelu, F.silu, F.hardswish, F.dropout, torch.relu, torch.tanh, torch.sigmoid,
              "relu", "relu_", "tanh", "sigmoid", "contiguous")
_FLATTENING = (torch.flatten, torch.reshape, torch.squeeze, "flatten", "reshape", "view", "squeeze")


def to_fully_convolutional(model: nn.Module, image_size: int) -> fx.GraphModule:
    """A copy of a classifier in eval mode that takes images [B, C, H, W] of `image_size` pixels a side or more and
    gives maps of scores [B, num_classes, H', W'].

    image_size: side of the images that the model was made for. The copy's `stride` is the number of pixels between
    the windows of neighbouring scores (None where it is not whole), `window` is `image_size`. `model` is left as it is.
    Raises UserError for a model whose head is not pooling, flattening, full layers and functions of one value, and for
    one that no symbolic trace can follow.
    """
    positive(image_size=image_size)
    channels = _in_channels(model)
    own = copy.deepcopy(model).eval()
    shape = (1, channels, image_size, image_size)
    tracer = _Tracer(shape)
    try:
        graph = tracer.trace(own)
    except (fx.proxy.TraceError, TypeError, RuntimeError) as error:
        raise UserError(f"a symbolic trace cannot follow {type(model).__name__}: {error}", where="model",
                        remedy="Use a model whose forward does not depend on its values") from error
    dense = fx.GraphModule(own, graph, type(model).__name__)
    _Head(dense, tracer.results).convert()
    dense.delete_all_unused_submodules()
    dense.graph.lint()
    dense.recompile()
    dense.window = image_size
    dense.stride = _stride(dense, shape)
    return dense.eval()


@torch.no_grad()
def dense_evaluate(dense: nn.Module, images: Tensor, flip: bool = False) -> Tensor:
    """The mean of the map of scores, of all windows at the network's stride: images [B, C, H, W] -> [B, num_classes].

    dense: what `to_fully_convolutional` gives, in eval mode. flip: the mean with that of the mirrored images, as in
    section 3.2 of arXiv:1409.1556.
    """
    scores = dense(images).mean((2, 3))
    return (scores + dense(images.flip(3)).mean((2, 3))) / 2 if flip else scores


class _Tracer(fx.Tracer):
    """Traces, and runs each step on the meta device, so that a question about sizes has its answer at `shape`."""

    proxy_buffer_attributes = True

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.shape = shape
        self.results: dict[fx.Node, Any] = {}

    def trace(self, root: nn.Module, concrete_args: Any = None) -> fx.Graph:
        self.meta = with_tensors(root, lambda _, tensor: torch.empty_like(tensor, device="meta"))
        self.dtype = next((p.dtype for p in root.parameters()), torch.float32)
        return super().trace(root, concrete_args)

    def create_node(self, kind: str, target: Any, args: Any, kwargs: Any, name: str | None = None,
                    type_expr: Any = None) -> fx.Node:
        node = super().create_node(kind, target, args, kwargs, name, type_expr)
        self.results[node] = self._run(node)
        return node

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if m not in self.submodule_paths:  # one of the meta copy, which runs and is not traced
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def to_bool(self, obj: fx.Proxy) -> bool:
        return bool(self.results[obj.node])

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        value = self.results[obj.node]
        return iter([obj[i] for i in range(len(value))]) if isinstance(value, list | tuple) else super().iter(obj)

    def _run(self, node: fx.Node) -> Any:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: self.results[n])
        with torch.no_grad():
            if node.op == "placeholder":
                return torch.empty(self.shape, dtype=self.dtype, device="meta")
            if node.op == "get_attr":
                constant = self.root.__dict__.get(node.target)  # where the trace keeps tensors that it meets
                return operator.attrgetter(node.target)(self.meta) if constant is None else constant.to("meta")
            if node.op == "call_module":
                return self.meta.get_submodule(node.target)(*args, **kwargs)
            if node.op == "call_method":
                return getattr(args[0], node.target)(*args[1:], **kwargs)
            return node.target(*args, **kwargs) if node.op == "call_function" else None


class _Head:
    """The steps from the last maps to the scores, each in turn made one that keeps places."""

    def __init__(self, dense: fx.GraphModule, results: dict[fx.Node, Any]):
        self.dense = dense
        self.results = results
        self.modules = dict(dense.named_modules())

    def convert(self) -> None:
        scores = next(node for node in self.dense.graph.nodes if node.op == "output").args[0]
        if not isinstance(scores, fx.Node) or not isinstance(self.results[scores], Tensor):
            raise UserError("the model does not give one tensor of scores", where="model")
        steps = self._steps(scores)
        if not steps:
            raise UserError("the model has no head that pools or flattens its maps", where="model")
        maps = tuple(self.results[steps[0].args[0]].shape[1:])  # (C, h, w) that the head sees
        stand_ins: list[tuple[fx.Node, nn.Module | None]] = []  # None: the step is left out
        for node in steps:
            module = self._module(node)
            if self._flattens(node):
                stand_ins.append((node, None))
            elif self._pools(node):
                made = tuple(self.results[node].shape[2:]) or (1, 1)
                stand_ins.append((node, self._pooling(node, maps[1:], made)))
                maps = (maps[0], *made)
            elif isinstance(module, nn.Linear):
                stand_ins.append((node, _as_convolution(module, maps)))
                maps = (module.out_features, 1, 1)
            elif isinstance(module, nn.Conv2d):
                maps = (module.out_channels, 1, 1)
            elif isinstance(module, nn.BatchNorm1d):
                stand_ins.append((node, _as_norm_of_maps(module)))
        for node, module in stand_ins:
            self._replace(node, module)

    def _steps(self, scores: fx.Node) -> list[fx.Node]:
        """From the first step of the head to the last, found from the scores backwards."""
        steps: list[fx.Node] = []
        node = scores
        while (self._flattens(node) or self._pools(node) or self._pointwise(node)
               or isinstance(self._module(node), nn.Linear | nn.BatchNorm1d) or self._is_point_convolution(node)):
            steps.insert(0, node)
            node = node.args[0]
        while steps and self._pointwise(steps[0]):  # of the trunk
            node = steps.pop(0)
        if not self._is_maps(node):
            raise UserError("the head has a step that is not pooling, flattening, a full layer or a function of one "
                            f"value: {node.name}", where="model",
                            remedy="Dense evaluation needs a head that convolutions can stand for")
        if any(len(step.users) > 1 for step in steps):
            raise UserError("the head branches", where="model")
        return steps

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self.modules[node.target] if node.op == "call_module" else None

    def _pointwise(self, node: fx.Node) -> bool:
        return isinstance(self._module(node), _POINTWISE_MODULES) or (
            node.op in ("call_function", "call_method") and node.target in _POINTWISE)

    def _is_point_convolution(self, node: fx.Node) -> bool:
        """Of maps that are one place, after pooling."""
        return isinstance(self._module(node), nn.Conv2d) and self.results[node.args[0]].shape[2:] == (1, 1)

    def _flattens(self, node: fx.Node) -> bool:
        """[B, C, h, w] -> [B, C h w], however it is written."""
        named = isinstance(self._module(node), nn.Flatten) or node.target in _FLATTENING
        if not named or not self._is_maps(node.args[0]):
            return False
        before, after = self.results[node.args[0]].shape, self.results[node].shape
        return tuple(after) == (before[0], before[1:].numel())

    def _pools(self, node: fx.Node) -> bool:
        """To a fixed number of places, or to none."""
        if isinstance(self._module(node), nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d):
            return True
        if node.target in (F.adaptive_avg_pool2d, F.adaptive_max_pool2d):
            return True
        if node.target in ("mean", torch.mean, "amax", torch.amax) and self._is_maps(node.args[0]):
            axes = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
            return isinstance(axes, list | tuple) and {axis % 4 for axis in axes} == {2, 3}
        return False

    def _is_maps(self, node: Any) -> bool:
        return isinstance(node, fx.Node) and isinstance(self.results[node], Tensor) and self.results[node].ndim == 4

    def _pooling(self, node: fx.Node, given: tuple[int, ...], made: tuple[int, ...]) -> nn.Module:
        """The pooling of one window, for each window: at stride 1."""
        if given == made:
            return nn.Identity()
        if made != (1, 1):
            raise UserError(f"the head pools {given[0]} x {given[1]} places to {made[0]} x {made[1]}",
                            where="image_size", remedy="Give the size where this pooling does nothing")
        largest = isinstance(self._module(node), nn.AdaptiveMaxPool2d) or node.target in (
            F.adaptive_max_pool2d, "amax", torch.amax)
        return (nn.MaxPool2d if largest else nn.AvgPool2d)(given, 1)

    def _replace(self, node: fx.Node, module: nn.Module | None) -> None:
        """The new module takes the old one's name where it has one, which is used once: the head does not branch."""
        new = node.args[0]
        if module is not None:
            name = node.target if node.op == "call_module" else f"dense_{node.name}"
            self.dense.add_submodule(name, module.eval())
            with self.dense.graph.inserting_after(node):
                new = self.dense.graph.call_module(name, (node.args[0],))
        node.replace_all_uses_with(new)
        self.dense.graph.erase_node(node)


def _as_convolution(layer: nn.Linear, maps: tuple[int, ...]) -> nn.Conv2d:
    """A filter of C x h x w for each output of a full layer that sees flattened maps of (C, h, w)."""
    state = {"weight": layer.weight.detach().view(layer.out_features, *maps).clone()}  # [D, C h w] -> [D, C, h, w]
    if layer.bias is not None:
        state["bias"] = layer.bias.detach().clone()
    conv = nn.Conv2d(maps[0], layer.out_features, maps[1:], bias=layer.bias is not None, device="meta")
    conv.load_state_dict(state, assign=True)
    return conv


def _as_norm_of_maps(norm: nn.BatchNorm1d) -> nn.BatchNorm2d:
    out = nn.BatchNorm2d(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats, "meta")
    out.load_state_dict({name: tensor.clone() for name, tensor in norm.state_dict().items()}, assign=True)
    return out


def _in_channels(model: nn.Module) -> int:
    channels = getattr(getattr(model, "config", None), "in_channels", None) or next(
        (module.in_channels for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if channels is None:
        raise UserError("the model has no convolutions", where="model", remedy="Dense evaluation needs maps")
    return channels


def _stride(dense: nn.Module, shape: tuple[int, ...]) -> int | None:
    meta = with_tensors(dense, lambda _, tensor: torch.empty_like(tensor, device="meta"))
    dtype = next((p.dtype for p in dense.parameters()), torch.float32)
    with torch.no_grad():
        sides = [meta(torch.empty(*shape[:2], side, side, device="meta", dtype=dtype)).shape[-1]
                 for side in (shape[-1], shape[-1] + _PERIOD)]
    added = sides[1] - sides[0]
    if sides[0] != 1 or added <= 0:
        raise UserError(f"images of {shape[-1]} pixels give {sides[0]} scores a side, larger ones {added} more",
                        where="model", remedy="Dense evaluation needs a network whose maps grow with the image")
    return _PERIOD // added if _PERIOD % added == 0 else None
