"""Guided backpropagation and the deconvnet: gradients that other rules lead through the ReLUs.

Papers: Springenberg, Dosovitskiy, Brox, Riedmiller, Striving for Simplicity, ICLR workshop 2015, arXiv:1412.6806,
section 3.4 and Fig. 1; Zeiler, Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014,
arXiv:1311.2901, section 2.1. Down through a ReLU a gradient passes where its input was positive; in a deconvnet where
the signal itself is positive; in guided backpropagation where both are. All else is the gradient: convolutions
transposed, and max pooling undone by its switches, the places where the maxima stood. Here the signal starts at the
score of a class, and goes down to all pixels. Rules are put in from outside while the model runs: nn.ReLU, nn.ReLU6,
F.relu and the like, in place or not; the model is not touched.

A deconvnet has no other trace of the image than the switches; a network without max pooling would give the same map
for all images (Springenberg et al., section 3.4), and is refused. Both sharpen edges: their maps hardly change when the
upper layers hold random weights (Adebayo et al., NeurIPS 2018, arXiv:1810.03292), so they show the picture more than
the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from visus import explain
from visus.explain.explanation import Explanation, in_eval_mode
from visus.explain.saliency import Targets, image_gradients, no_gradient, strongest

Rule = Literal["guided", "deconvnet"]
_SMOOTH = frozenset({"gelu", "silu", "mish", "elu", "selu", "tanh", "tanh_", "hardswish", "hardtanh", "leaky_relu",
                     "softplus"})


class _Rectified(torch.autograd.Function):
    """min(max(x, 0), ceiling), whose gradient follows the rule."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ceiling: float, rule: Rule, inplace: bool) -> Tensor:
        ctx.rule, ctx.passes = rule, (x > 0) & (x < ceiling)
        if inplace:
            ctx.mark_dirty(x)
            return x.clamp_(0, ceiling)
        return x.clamp(0, ceiling)

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> tuple[Tensor, None, None, None]:
        signal = signal.clamp(min=0)
        return (signal * ctx.passes if ctx.rule == "guided" else signal), None, None, None


class ReluRule(TorchFunctionMode):
    """Inside, every ReLU that runs has the rule. count: how many ran; pools: how many max poolings; others:
    activations that are no ReLU."""

    def __init__(self, rule: Rule):
        super().__init__()
        self.rule, self.count, self.pools, self.others = rule, 0, 0, set[str]()

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        found = _relu(*args, **kwargs) if name in ("relu", "relu_", "relu6") else \
            _hardtanh(*args, **kwargs) if name == "hardtanh" else None
        self.pools += name == "max_pool2d"
        if found is None:  # no ReLU
            if name in _SMOOTH:
                self.others.add(name.rstrip("_"))
            return func(*args, **kwargs)
        self.count += 1
        x, ceiling, inplace = found
        return _Rectified.apply(x, 6.0 if name == "relu6" else ceiling, self.rule, inplace or name == "relu_")


def _relu(input: Tensor, inplace: bool = False) -> tuple[Tensor, float, bool]:
    return input, float("inf"), inplace


def _hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0,
              inplace: bool = False) -> tuple[Tensor, float, bool] | None:
    """nn.ReLU6 is one from 0 to 6."""
    return (input, max_val, inplace) if min_val == 0 else None


def ruled_gradients(model: nn.Module, images: Tensor, targets: Targets = None, *, rule: Rule) -> Tensor:
    """[B, C, H, W] -> the same, signed: the score's signal led down to the pixels. targets: int64 [B], one class for
    all, or None for the model's own answers."""
    with ReluRule(rule):
        return image_gradients(model, images, targets)


def unruled(model: nn.Module, images: Tensor, rule: Rule = "guided") -> str | None:
    """Why the rule means nothing for this model, or None."""
    name = type(model).__name__
    with ReluRule(rule) as seen, in_eval_mode(model), torch.no_grad():
        model(images)
    if not seen.count or seen.others:
        found = f"has {', '.join(sorted(seen.others))}" if seen.others else "has none"
        return f"the rule is for networks whose activations are ReLUs, and {name} {found}"
    if rule == "deconvnet" and not seen.pools:
        return f"a deconvnet knows the image by the switches of max pooling alone, and {name} has none"
    return no_gradient(model, images)


def as_pictures(signal: Tensor) -> Tensor:
    """[B, C, H, W] -> [0, 1]: zero is grey, the strongest value of each image is black or white."""
    return 0.5 + signal / (2 * signal.abs().amax((1, 2, 3), keepdim=True)).clamp(min=torch.finfo(signal.dtype).tiny)


@dataclass(frozen=True, kw_only=True)
class GuidedBackprop:
    """target: the class asked about."""

    target: int | None = None
    needs_images: ClassVar[bool] = True
    folded: ClassVar[bool] = True
    rule: ClassVar[Rule] = "guided"
    words: ClassVar[str] = "guided backpropagation: at each ReLU only what is positive passes, where its input was too"

    def problem(self, model: nn.Module, images: Tensor) -> str | None:
        return unruled(model, images, self.rule)

    def __call__(self, model: nn.Module, images: Tensor) -> Explanation:
        signal = ruled_gradients(model, images, self.target, rule=self.rule)
        return Explanation(
            sentence=f"The score of the class led down to the pixels by {self.words}. The maps show edges that the "
                     "network uses, much alike for any class.",
            heat=strongest(signal), pictures=as_pictures(signal), picture_names=(self.rule,) * len(images))


@dataclass(frozen=True, kw_only=True)
class Deconvnet(GuidedBackprop):
    """As of guided_backprop."""

    rule: ClassVar[Rule] = "deconvnet"
    words: ClassVar[str] = "a deconvnet: at each ReLU only what is positive passes, and max pooling is undone by the " \
                           "places where its maxima stood"


explain.add(GuidedBackprop, {"guided_backprop": {}},
            summary="the score led down, through each ReLU only what speaks for it",
            paper="Springenberg et al., ICLR workshop 2015, arXiv:1412.6806")
explain.add(Deconvnet, {"deconvnet": {}},
            summary="the score led down by transposed filters, ReLUs and pooling switches",
            paper="Zeiler, Fergus, ECCV 2014, arXiv:1311.2901")
