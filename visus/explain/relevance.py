"""DeepLIFT and layer-wise relevance propagation (LRP): an answer's score handed down, layer by layer, to the pixels.

Papers: Shrikumar, Greenside, Kundaje, Learning Important Features Through Propagating Activation Differences, ICML
2017, arXiv:1704.02685, section 3.5.1 (the rescale rule): at each activation the slope is replaced by the ratio of the
differences from a reference, out by in, so that the shares sum to the difference of the scores; of max pooling the
winners of image and reference share what changed. Bach, Binder, Montavon, Klauschen, Mueller, Samek, On Pixel-Wise
Explanations by Layer-Wise Relevance Propagation, PLoS ONE 2015, equations 58 (epsilon) and 60 (alpha - beta = 1);
Montavon et al., Layer-Wise Relevance Propagation: An Overview, 2019, section 10.2.1 (gamma): each value gets of what
stands above it in proportion to what it put in. Rule by kind of layer as in Kohlbrenner et al., IJCNN 2020,
arXiv:1910.09840: the chosen one for convolutions, epsilon for all else.

What goes down is relevance divided by the value that it belongs to, which is the gradient where no rule changes it: so
sums, shortcuts and reshapes need no rule. Departures: epsilon is a share of the root mean square of what a layer puts
out for an image, so that it has no unit; gamma takes the parts of positive and of negative products apart, so that
values below zero (pixels) may come in; alpha-beta gives the bias no share; a batch norm that follows a convolution
counts as part of it. Of LRP the ReLU networks are here (Bach et al.'s case); activations that multiply each other
(gates, attention, layer norms) have no rule in these papers, and models that hold them are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from visus import explain
from visus.core.validate import one_of, require
from visus.explain.explanation import Explanation, in_eval_mode
from visus.explain.integrated_gradients import baseline_words, baselines, completeness_error, said_error
from visus.explain.pixels import Scale
from visus.explain.saliency import Targets, class_scores, image_gradients, no_gradient

LrpRule = Literal["epsilon", "gamma", "alpha_beta"]
_MOVES = frozenset({"reshape", "view", "view_as", "flatten", "unflatten", "permute", "transpose", "movedim",
                    "contiguous", "to", "float", "double", "type", "clone", "squeeze", "unsqueeze", "expand", "cat",
                    "concat", "stack", "chunk", "split", "unbind", "narrow", "pad", "roll", "flip", "dropout",
                    "feature_dropout", "dropout2d", "channel_shuffle", "pixel_shuffle", "__getitem__", "__get__"})
_SUMS = frozenset({"add", "add_", "__add__", "__radd__", "__iadd__", "sub", "sub_", "__sub__", "__rsub__", "__isub__",
                   "mean", "sum", "avg_pool2d", "adaptive_avg_pool2d", "batch_norm", "linear", "conv2d", "neg",
                   "__neg__"})
_PRODUCTS = frozenset({"mul", "mul_", "__mul__", "__rmul__", "__imul__", "div", "div_", "__truediv__", "__itruediv__",
                       "matmul", "__matmul__", "einsum", "bmm"})  # linear where only one factor hangs on the image
_RELUS = frozenset({"relu", "relu_", "relu6", "hardtanh", "leaky_relu"})
_ACTIVATIONS = _RELUS | {"gelu", "silu", "mish", "elu", "celu", "selu", "tanh", "tanh_", "sigmoid", "sigmoid_", "abs",
                         "softplus", "hardswish", "hardsigmoid", "prelu", "logsigmoid", "square", "exp"}
Call = Callable[..., Tensor]


class _Multiplied(torch.autograd.Function):
    """The values `out` in place of x; a gradient that comes down is multiplied by `multiplier`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, out: Tensor, multiplier: Tensor, inplace: bool) -> Tensor:
        ctx.save_for_backward(multiplier)
        if inplace:
            ctx.mark_dirty(x)
            return x.copy_(out)
        return out.clone()

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> tuple[Tensor, None, None, None]:
        return signal * ctx.saved_tensors[0], None, None, None


class _Walk(TorchFunctionMode):
    """Sees each operation on what hangs on the image (it alone wants gradients here). `foreign`: those without a
    rule."""

    activations: ClassVar[frozenset[str]] = _ACTIVATIONS

    def __init__(self) -> None:
        super().__init__()
        self.foreign: dict[str, None] = {}

    def __torch_function__(self, func: Call, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        hanging = sum(_hangs(value) for value in (*args, *kwargs.values()))
        if not hanging:
            return func(*args, **kwargs)
        if name in self.activations:
            return self.activation(func, name, args, kwargs)
        if name == "max_pool2d":
            return self.max_pool(func, args, kwargs)
        if name in _SUMS:
            return self.sum(func, name, args, kwargs)
        out = func(*args, **kwargs)
        if _hangs(out) and name not in _MOVES and not (name in _PRODUCTS and hanging == 1):
            self.foreign[name.strip("_")] = None
        return out

    def activation(self, func: Call, name: str, args: tuple, kwargs: dict) -> Tensor:
        return func(*args, **kwargs)

    def max_pool(self, func: Call, args: tuple, kwargs: dict) -> Tensor:
        return func(*args, **kwargs)

    def sum(self, func: Call, name: str, args: tuple, kwargs: dict) -> Tensor:
        return func(*args, **kwargs)


class _Rectifying(_Walk):
    """For networks of ReLUs."""

    activations = _RELUS


def _hangs(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(_hangs(one) for one in value)
    return isinstance(value, Tensor) and value.requires_grad


class _Walked(nn.Module):
    """The model under a walk's rules, with parameters that want no gradient; nothing in it is changed."""

    def __init__(self, model: nn.Module, walk: _Walk):
        super().__init__()
        self.call = partial(functional_call, model, {name: p.detach() for name, p in model.named_parameters()})
        self.walk = walk

    def forward(self, images: Tensor) -> Tensor:
        with self.walk:
            return self.call((images,))


def _walked(model: nn.Module, images: Tensor, targets: Targets, walk: _Walk) -> Tensor:
    """What comes down to the pixels, [B, C, H, W], the score's gradient under the walk's rules."""
    with in_eval_mode(model):
        return image_gradients(_Walked(model, walk), images, targets)


def _without_rules(model: nn.Module, images: Tensor, walk: _Walk) -> str | None:
    problem = no_gradient(model, images)
    if problem is not None:
        return problem
    with in_eval_mode(model), torch.enable_grad():
        _Walked(model, walk)(images.detach().requires_grad_())
    if walk.foreign:
        return f"the papers have no rule for {', '.join(walk.foreign)}, which {type(model).__name__} computes"
    return None


# -- DeepLIFT ------------------------------------------------------------------------------------------------------


class _Recorded(_Walk):
    """Notes what goes into each activation and max pooling; `seen` in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def activation(self, func: Call, name: str, args: tuple, kwargs: dict) -> Tensor:
        self.seen.append(_first(args, kwargs).detach().clone())
        return func(*args, **kwargs)

    def max_pool(self, func: Call, args: tuple, kwargs: dict) -> Tensor:
        self.seen.append(_first(args, kwargs).detach().clone())
        return func(*args, **kwargs)


class _Rescaled(_Walk):
    """The rescale rule against what the reference put into the same places."""

    def __init__(self, reference: list[Tensor]):
        super().__init__()
        self.reference = iter(reference)

    def activation(self, func: Call, name: str, args: tuple, kwargs: dict) -> Tensor:
        x, before = _first(args, kwargs), next(self.reference)
        here = x.detach().clone().requires_grad_()
        plain, inplace = _out_of_place(func, name, args, kwargs)
        with torch.enable_grad():
            out = plain(here.clone())
            slope, = torch.autograd.grad(out.sum(), here)
        with torch.no_grad():
            change = here - before
            ratio = (out - plain(before.clone())) / torch.where(_nil(change, here, before), 1, change)
            multiplier = torch.where(_nil(change, here, before), slope, ratio)
        return _Multiplied.apply(x, out.detach(), multiplier, inplace)

    def max_pool(self, func: Call, args: tuple, kwargs: dict) -> Tensor:
        x, before = _first(args, kwargs), next(self.reference)
        settings = _pooling(*args, **kwargs)
        return _RescaledPool.apply(x, before.expand_as(x), settings)


class _RescaledPool(torch.autograd.Function):
    """Max pooling: what rose is the image's winner's, what fell the reference's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, before: Tensor, settings: dict) -> Tensor:
        out, places = F.max_pool2d(x, **settings, return_indices=True)
        out_before, places_before = F.max_pool2d(before, **settings, return_indices=True)
        ctx.save_for_backward(x, before, out, out_before, places, places_before)
        return out

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> tuple[Tensor, None, None]:
        x, before, out, out_before, places, places_before = (value.flatten(2) for value in ctx.saved_tensors)
        signal = signal.flatten(2)
        rose = signal * (out - out_before).clamp(min=0)
        fell = signal * (out - out_before).clamp(max=0)
        change, nil = x - before, _nil(x - before, x, before)
        shares = torch.zeros_like(x).scatter_add(2, places, rose).scatter_add(2, places_before, fell)
        plain = torch.zeros_like(x).scatter_add(2, places, signal)
        return torch.where(nil, plain, shares / torch.where(nil, 1, change)).view_as(ctx.saved_tensors[0]), None, None


def _nil(change: Tensor, after: Tensor, before: Tensor) -> Tensor:
    """Where a change is no more than rounding."""
    return change.abs() <= 64 * torch.finfo(change.dtype).eps * torch.maximum(after.abs(), before.abs())


def _first(args: tuple, kwargs: dict) -> Tensor:
    return args[0] if args else kwargs["input"]


def _out_of_place(func: Call, name: str, args: tuple, kwargs: dict) -> tuple[Call, bool]:
    """x -> what func makes of it; x may be overwritten. And whether the call writes into its input."""
    kept = {key: value for key, value in kwargs.items() if key != "input"}
    inplace = name.endswith("_") or kept.get("inplace", False) is True or args[-1] is True
    return (lambda x: func(x, *args[1:], **kept)), inplace


def _pooling(input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
             ceil_mode: bool = False, return_indices: bool = False) -> dict[str, Any]:
    return {"kernel_size": kernel_size, "stride": stride, "padding": padding, "dilation": dilation,
            "ceil_mode": ceil_mode}


def deep_lift(model: nn.Module, images: Tensor, baseline: Tensor, targets: Targets = None) -> Tensor:
    """[B, C, H, W] -> the same, signed: multipliers by the rescale rule, times the difference from the baseline, which
    is [B or 1, C, H, W]. targets: int64 [B], one class for all, or None for the model's own answers."""
    recorded = _Recorded()
    with in_eval_mode(model), torch.enable_grad():
        _Walked(model, recorded)(baseline.detach().clone().requires_grad_())
    return (images - baseline) * _walked(model, images, targets, _Rescaled(recorded.seen))


@dataclass(frozen=True, kw_only=True)
class DeepLift:
    """target: the class asked about. baseline: the reference: black, grey, mean, blur, or several joined by +, whose
    maps are averaged. mean, std: of the model's normalisation, which tell what black is."""

    target: int | None = None
    baseline: str = "black"
    mean: Scale = None
    std: Scale = None
    needs_images: ClassVar[bool] = True
    folded: ClassVar[bool] = True

    def problem(self, model: nn.Module, images: Tensor) -> str | None:
        return _without_rules(model, images, _Walk())

    def __call__(self, model: nn.Module, images: Tensor) -> Explanation:
        targets = class_scores(model, images, self.target)[1]
        maps, errors = [], []
        for reference in baselines(images, self.baseline, self.mean, self.std):
            maps.append(deep_lift(model, images, reference, targets))
            errors.append(completeness_error(model, images, reference, maps[-1], targets))
        return Explanation(
            sentence="What each pixel adds to the score of the class, or takes from it, against "
                     f"{baseline_words(self.baseline)}: at each activation the ratio of the differences in place of "
                     f"the slope. {said_error(torch.stack(errors), 'the shares are not to be trusted')}",
            heat=torch.stack(maps).mean(0).sum(1), signed=True)


# -- relevance propagation -----------------------------------------------------------------------------------------


class _Relevant(_Rectifying):
    """What goes down is relevance by value. Each linear layer is run so that its gradient follows its rule."""

    def __init__(self, rule: LrpRule, epsilon: float, gamma: float, alpha: float):
        super().__init__()
        self.rule, self.epsilon, self.gamma, self.alpha = rule, epsilon, gamma, alpha
        self.last: tuple[Any, ...] | None = None  # the convolution before: its output, version, and what made it

    def activation(self, func: Call, name: str, args: tuple, kwargs: dict) -> Tensor:
        x = _first(args, kwargs)
        plain, inplace = _out_of_place(func, name, args, kwargs)
        with torch.no_grad():
            out = plain(x.detach().clone())
            passes = torch.where(x == 0, 0, out / torch.where(x == 0, 1, x))
        return _Multiplied.apply(x, out, passes, inplace)

    def sum(self, func: Call, name: str, args: tuple, kwargs: dict) -> Tensor:
        last, self.last = self.last, None
        if name == "conv2d" and not _hangs((args[1:], kwargs.get("weight"))):
            x, weight, bias, run = _convolution(*args, **kwargs)
            out = self.layer(run, x, weight, bias)
            self.last = (out, out._version, run, x, weight, bias)
            return out
        before = _first(args, kwargs)
        if name == "batch_norm" and last is not None and last[0] is before and last[1] == before._version:
            run, x, weight, bias = last[2:]
            scale, shift = _affine(*args, **kwargs)
            bias = shift if bias is None else shift + scale * bias
            return self.layer(run, x, scale[:, None, None, None] * weight, bias)
        out = func(*args, **kwargs)
        return _routed(out * _over(out.detach(), self.small(out)), out.detach()) if _hangs(out) else out

    def small(self, out: Tensor) -> Tensor:
        """Epsilon times the root mean square of each image, [B, 1, ...]; at least what rounding leaves."""
        spread = out.detach().square().mean(tuple(range(1, out.ndim)), keepdim=True).sqrt()
        return max(self.epsilon, 4 * torch.finfo(out.dtype).eps) * spread

    def layer(self, run: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        whole = run(x, weight, bias)
        small, z = self.small(whole), whole.detach()
        if self.rule == "epsilon":
            return _routed(whole * _over(z, small), z)
        up, down = x.clamp(min=0), x.clamp(max=0)
        rises = run(up, weight.clamp(min=0), None) + run(down, weight.clamp(max=0), None)
        bare = whole if bias is None else run(x, weight, None)
        falls = bare - rises
        if self.rule == "alpha_beta":  # equation 60
            way = self.alpha * rises * _ratio(z, rises.detach() + small)
            if self.alpha > 1:
                way = way - (self.alpha - 1) * falls * _ratio(z, falls.detach().clamp(max=0) - small)
            return _routed(way, z)
        if bias is not None:
            wide = bias[None, :, None, None]
            rises, falls = rises + wide.clamp(min=0), falls + wide.clamp(max=0)
        above, below = whole + self.gamma * rises, whole + self.gamma * falls
        return _routed(torch.where(z >= 0, above * _ratio(z, above.detach() + small),
                                   below * _ratio(z, below.detach() - small)), z)


def _ratio(over: Tensor, under: Tensor) -> Tensor:
    """over / under; 0 where nothing is under."""
    return torch.where(under == 0, 0, over / torch.where(under == 0, 1, under))


def _over(z: Tensor, small: Tensor) -> Tensor:
    """z / (z + sign(z) small)."""
    return _ratio(z.abs(), z.abs() + small)


def _routed(way: Tensor, value: Tensor) -> Tensor:
    """`value`, with the gradient of `way`."""
    return way + (value - way).detach()


def _convolution(input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
                 dilation: Any = 1, groups: int = 1) -> tuple[Tensor, Tensor, Tensor | None, Call]:
    def run(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    return input, weight, bias, run


def _affine(input: Tensor, running_mean: Tensor, running_var: Tensor, weight: Tensor | None = None,
            bias: Tensor | None = None, training: bool = False, momentum: float = 0.1,
            eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """Scale and shift, [C] each, of a batch norm in eval mode."""
    scale = (running_var + eps).rsqrt() if weight is None else weight * (running_var + eps).rsqrt()
    return scale, (0 if bias is None else bias) - running_mean * scale


def layer_relevance(model: nn.Module, images: Tensor, targets: Targets = None, *, rule: LrpRule = "gamma",
                    epsilon: float = 1e-6, gamma: float = 0.25, alpha: float = 2.0) -> Tensor:
    """[B, C, H, W] -> the same, signed: the score's relevance at the pixels. rule: of convolutions; all else has
    epsilon. epsilon: share of a layer's root mean square. alpha: beta is one less. targets: int64 [B], one class for
    all, or None for the model's own answers."""
    one_of(get_args(LrpRule), rule=rule)
    for name, value, least in (("epsilon", epsilon, 0), ("gamma", gamma, 0), ("alpha", alpha, 1)):
        require(isinstance(value, int | float) and not isinstance(value, bool) and least <= value < 1e6, name, value,
                f"be a number of at least {least}")
    return images.detach() * _walked(model, images, targets, _Relevant(rule, epsilon, gamma, alpha))


@dataclass(frozen=True, kw_only=True)
class LayerRelevance:
    """target: the class asked about. rule: of convolutions: gamma, alpha_beta or epsilon; all else has epsilon.
    epsilon: share of a layer's root mean square that takes up relevance; gamma: how much more the positive parts weigh;
    alpha: weight of the positive parts of alpha_beta, beta is one less."""

    target: int | None = None
    rule: LrpRule = "gamma"
    epsilon: float = 1e-6
    gamma: float = 0.25
    alpha: float = 2.0
    needs_images: ClassVar[bool] = True
    folded: ClassVar[bool] = True

    def problem(self, model: nn.Module, images: Tensor) -> str | None:
        return _without_rules(model, images, _Rectifying())

    def __call__(self, model: nn.Module, images: Tensor) -> Explanation:
        scores, targets = class_scores(model, images, self.target)
        shares = layer_relevance(model, images, targets, rule=self.rule, epsilon=self.epsilon, gamma=self.gamma,
                                 alpha=self.alpha)
        held = float((shares.sum((1, 2, 3)) / scores).mean())
        number = {"epsilon": "", "gamma": f" of {self.gamma:g}",
                  "alpha_beta": f" with alpha {self.alpha:g} and beta {self.alpha - 1:g}"}[self.rule]
        return Explanation(
            sentence=f"The score of the class, handed down layer by layer by the rule {self.rule.replace('_', '-')}"
                     f"{number} in proportion to what each value put in. The pixels hold {held:.1%} of it, the "
                     "difference stays with biases.",
            heat=shares.sum(1), signed=True)


explain.add(DeepLift, {"deep_lift": {}}, summary="the score's difference from a baseline, handed down layer by layer",
            paper="Shrikumar, Greenside, Kundaje, ICML 2017, arXiv:1704.02685")
explain.add(LayerRelevance, {"lrp": {}}, summary="the score handed down a ReLU network layer by layer, to the pixels",
            paper="Bach et al., PLoS ONE 10(7), 2015, e0130140")
