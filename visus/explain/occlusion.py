"""Occlusion: a patch slides over the image, and the map is how far the score of the answer falls under it.

Paper: Zeiler, Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014, arXiv:1311.2901, section 4.2: a
grey square at each place, the probability of the true class. A pixel gets the mean fall over the patches that cover it,
so that the map has the size of the image; the paper draws the score at the patch's place. A patch that hangs over the
right or lower border is cut there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from visus import explain
from visus.core.validate import one_of, positive, require
from visus.explain.explanation import Explanation, classes_in, in_eval_mode
from visus.explain.masking import FILLS, SCORES, Fill, Score, hidden, masked_scores, single_output_problem


@torch.no_grad()
def occlusion(model: nn.Module, images: Tensor, targets: Tensor | int | None = None, *, window: int,
              stride: int | None = None, fill: Fill = "grey", of: Score = "probability", batch: int = 64) -> Tensor:
    """[B, C, H, W] -> [B, H, W]: the mean fall of the score over the square patches that cover a pixel; below zero
    where hiding helps. targets: int64 [B], one class for all, or None for the model's own answers. window: side of
    the patch in pixels. stride: from patch to patch, at most `window`; None is half of it."""
    height, width = images.shape[2:]
    stride = max(1, window // 2) if stride is None else stride
    _check(window, stride, (height, width))
    if not isinstance(targets, Tensor):
        with in_eval_mode(model):
            targets = classes_in(model(images), targets)
    down, right = (_covered(side, window, stride, images.device) for side in (height, width))  # [ny, H], [nx, W]

    nothing = torch.zeros(1, height, dtype=torch.bool, device=images.device)
    rows = torch.cat([down, nothing])  # the last, empty one is the whole image

    def shown(numbers: Tensor) -> Tensor:
        return ~(rows[numbers // len(right)][:, :, None] & right[numbers % len(right)][:, None])

    count = len(down) * len(right)
    scores = masked_scores(model, images, targets, hidden(images, fill), shown, count + 1, of=of, batch=batch)
    fall = (scores[:, count:] - scores[:, :count]).view(-1, len(down), len(right))
    covers = down.to(fall).sum(0)[:, None] * right.to(fall).sum(0)  # patches over each pixel
    return down.to(fall).T @ fall @ right.to(fall) / covers


def _check(window: int, stride: int, size: tuple[int, int]) -> None:
    positive(window=window, stride=stride)
    require(window <= min(size), "window", window, f"be at most the image's side of {min(size)} pixels")
    require(stride <= window, "stride", stride, f"be at most window={window}, or pixels are left out")


def _covered(side: int, window: int, stride: int, device: torch.device) -> Tensor:
    """bool [patches, side]: which pixels of a side each patch covers; the last one may hang over."""
    count = -(-(side - window) // stride) + 1
    starts = stride * torch.arange(count, device=device)[:, None]
    places = torch.arange(side, device=device)
    return (places >= starts) & (places < starts + window)


@dataclass(frozen=True, kw_only=True)
class Occlusion:
    """target: the class asked about; None: the model's own answer. window: side of the patch in pixels; None: a seventh
    of the image's. stride: from patch to patch; None: half of it. fill: what the patch shows: grey, mean (the image's
    own mean colour) or blur. of: probability or logit. batch: images at a time."""

    target: int | None = None
    window: int | None = None
    stride: int | None = None
    fill: Fill = "grey"
    of: Score = "probability"
    batch: int = 64
    needs_images: ClassVar[bool] = True
    folded: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(batch=self.batch, **{name: value for name in ("window", "stride")
                                      if (value := getattr(self, name)) is not None})
        one_of(FILLS, fill=self.fill)
        one_of(SCORES, of=self.of)

    def _window(self, images: Tensor) -> tuple[int, int]:
        window = self.window or max(1, round(min(images.shape[2:]) / 7))
        return window, self.stride or max(1, window // 2)

    def problem(self, model: nn.Module, images: Tensor) -> str | None:
        _check(*self._window(images), (images.shape[2], images.shape[3]))
        return single_output_problem(model, images, self.of)

    def __call__(self, model: nn.Module, images: Tensor) -> Explanation:
        window, stride = self._window(images)
        hides = {"grey": "a grey", "mean": "the image's mean colour in a", "blur": "a blurred"}[self.fill]
        return Explanation(
            sentence=f"How far the {self.of} of the answer falls under {hides} patch of {window} pixels that slides by "
                     f"{stride}: red places speak for the answer, blue ones against it.",
            heat=occlusion(model, images, self.target, window=window, stride=stride, fill=self.fill, of=self.of,
                           batch=self.batch), signed=True)


explain.add(Occlusion, {"occlusion": {}}, summary="how far the answer falls when a patch hides a place",
            paper="Zeiler, Fergus, ECCV 2014, arXiv:1311.2901")
