"""Fooling images: any picture made into any class, with changes that are hard to see, or out of noise.

Papers: Nguyen, Yosinski, Clune, Deep Neural Networks are Easily Fooled, CVPR 2015, arXiv:1412.1897, section 3.3 (ascent
by gradient; the evolved pictures of the paper are not here); the recipe of Stanford CS231n: start from any image, pick
any class, follow the gradient of its score until the network is fooled. Images that are done leave the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from visus import explain
from visus.core.validate import natural, positive, require
from visus.explain.activations import without_parameter_gradients
from visus.explain.explanation import Explanation, classes_asked, in_eval_mode
from visus.explain.filters import filter_sheet
from visus.explain.pixels import PixelScale, Scale, pixel_scale

Start = Literal["image", "noise"]


def fooling_images(model: nn.Module, targets: Tensor, start: Tensor, scale: PixelScale, *, confidence: float = 0.9,
                   steps: int = 200, step_size: float = 0.5) -> Tensor:
    """Pixels [B, C, H, W] in [0, 1]: `start` moved by steps of Euclidean length `step_size` along the gradient of the
    log-probability of each one's class, int64 [B], until that is at least `confidence`."""
    pixels = start.detach().clone()
    left = torch.arange(len(pixels), device=pixels.device)
    with in_eval_mode(model), without_parameter_gradients(model):
        for step in range(steps + 1):
            with torch.enable_grad():
                leaf = pixels[left].requires_grad_()
                log_probs = model(scale.normalised(leaf)).log_softmax(1).gather(1, targets[left, None]).squeeze(1)
                going = log_probs.detach().exp() < confidence
                if step == steps or not going.any():
                    break
                gradient, = torch.autograd.grad(log_probs[going].sum(), leaf)
            left, gradient, now = left[going], gradient[going], leaf.detach()[going]
            length = gradient.flatten(1).norm(dim=1).clamp(min=torch.finfo(gradient.dtype).tiny)
            pixels[left] = (now + step_size * gradient / length.view(-1, 1, 1, 1)).clamp(0, 1)
    return pixels


@dataclass(frozen=True, kw_only=True)
class Fooling:
    """target: the class to be made of each image; None is the one that the model finds least likely. start: the image
    itself, or noise of the same size. confidence: the probability at which to stop. step_size: Euclidean length of a
    step in pixels of [0, 1]. seed: of the noise."""

    target: int | None = None
    start: Start = "image"
    confidence: float = 0.9
    steps: int = 200
    step_size: float = 0.5
    seed: int = 0
    mean: Scale = None
    std: Scale = None
    needs_images: ClassVar[bool] = True
    folded: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.start in get_args(Start), "start", self.start, f"be one of {', '.join(get_args(Start))}")
        require(isinstance(self.confidence, int | float) and 0 < self.confidence < 1, "confidence", self.confidence,
                "lie between 0 and 1")
        positive(steps=self.steps)
        require(isinstance(self.step_size, int | float) and self.step_size > 0, "step_size", self.step_size,
                "be above 0")
        natural(seed=self.seed)

    def problem(self, model: nn.Module, images: Tensor) -> str | None:
        return None

    @torch.no_grad()
    def __call__(self, model: nn.Module, images: Tensor) -> Explanation:
        scale = pixel_scale(images, self.mean, self.std)
        start = scale.pixels(images)
        if self.start == "noise":
            generator = torch.Generator().manual_seed(self.seed)
            start = torch.rand(1, *images.shape[1:], generator=generator).to(images).expand_as(images)
        with in_eval_mode(model):
            before = model(scale.normalised(start)).softmax(1)
            targets = before.argmin(1) if self.target is None else classes_asked(model, images, self.target)
            found = fooling_images(model, targets, start, scale, confidence=self.confidence, steps=self.steps,
                                   step_size=self.step_size)
            after = model(scale.normalised(found)).softmax(1)
        change = (0.5 + 10 * (found - start)).clamp(0, 1)
        side = images.shape[2]
        sheets = torch.stack([filter_sheet(torch.stack(row), 3, side_px=max(side, 160), gap=3)
                              for row in zip(start, change, found, strict=True)])
        names = tuple(f"class {int(b.argmax())} ({100 * float(b.max()):.1f} %) made class {int(t)} "
                      f"({100 * float(a[t]):.1f} %), distance {float((f - s).norm()):.2f}"
                      for b, a, t, f, s in zip(before, after, targets, found, start, strict=True))
        return Explanation(sentence="Each start, what was added (ten times as strong, around grey), and the fooling "
                                    "image.", pictures=sheets, picture_names=names)


explain.add(Fooling, {"fooling": {}}, summary="any picture made into any class, by changes hard to see",
            paper="Nguyen, Yosinski, Clune, CVPR 2015, arXiv:1412.1897; Stanford CS231n")
