"""Adversarial patch: one picture that, put anywhere in any image, leads the classifier to a class.

Paper: Brown, Mane, Roy, Abadi, Gilmer, Adversarial Patch, NIPS workshop 2017, arXiv:1712.09665, equation in section 2:
the patch maximises the expectation, over images, places, sizes and turns, of log P(class | image under the patch). The
patch is a disc, drawn by bilinear sampling so that its pixels get gradients; Adam moves them. Unlike other attacks it
is learnt on all images at once, and made to be used on others: `learn_patch` and `put_patch`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from visus import attack
from visus.attack.attack import (
    Attacked,
    Classifier,
    Ledger,
    Norm,
    Sees,
    check_number,
    checked,
    cross_entropy,
    fooled,
    remaining,
    seeded,
)
from visus.core.validate import natural, require


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where the patch lies on each image. share: [B], of the shorter side that it spans. turn: [B], radians. row,
    column: [B], of its centre, as shares of the sides."""

    share: Tensor
    turn: Tensor
    row: Tensor
    column: Tensor


def placements(count: int, shares: tuple[float, float], degrees: float, generator: Generator) -> Placement:
    """Even draws; the patch lies wholly within a square image."""
    drawn = torch.rand(4, count, generator=generator)
    share = shares[0] + (shares[1] - shares[0]) * drawn[0]
    return Placement(share=share, turn=math.radians(degrees) * (2 * drawn[1] - 1),
                     row=share / 2 + (1 - share) * drawn[2], column=share / 2 + (1 - share) * drawn[3])


def put_patch(images: Tensor, patch: Tensor, where: Placement) -> Tensor:
    """images: [B, C, H, W]; patch: [C, s, s] -> the images under the patch, with gradients for its pixels."""
    count, channels, height, width = images.shape
    share, turn, row, column = (v.to(images) for v in (where.share, where.turn, where.row, where.column))
    span = share * min(height, width)
    cos, sin = turn.cos() * 2 / span, turn.sin() * 2 / span
    y = (torch.arange(height, device=images.device) + 0.5)[None, :, None] - (row * height)[:, None, None]
    x = (torch.arange(width, device=images.device) + 0.5)[None, None, :] - (column * width)[:, None, None]
    # each pixel in the patch's own coordinates, [-1, 1] inside: [B, H, W, 2]
    grid = torch.stack([cos[:, None, None] * x + sin[:, None, None] * y,
                        cos[:, None, None] * y - sin[:, None, None] * x], -1)
    laid = F.grid_sample(patch.expand(count, -1, -1, -1), grid, padding_mode="border", align_corners=False)
    inside = (grid.square().sum(-1) <= 1)[:, None]
    return torch.where(inside, laid, images)


def learn_patch(classifier: Classifier, images: Tensor, labels: Tensor, target: int | None, *, pixels: int,
                shares: tuple[float, float], degrees: float, steps: int, step_size: float,
                generator: Generator) -> Tensor:
    """[C, pixels, pixels] in [0, 1]: raises the probability of `target` on all images, or lowers that of the labels."""
    aims = None if target is None else torch.full_like(labels, target)
    loss = cross_entropy(labels, aims)
    patch = torch.full((images.shape[1], pixels, pixels), 0.5, dtype=images.dtype, device=images.device)
    first, second = torch.zeros_like(patch), torch.zeros_like(patch)  # moments of Adam
    for step in range(1, steps + 1):
        patch.requires_grad_()
        with torch.enable_grad():
            where = placements(len(images), shares, degrees, generator)
            value = loss(classifier(put_patch(images, patch, where))).mean()
        (slope,) = torch.autograd.grad(value, patch)
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope.square()
        move = step_size * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        patch = (patch.detach() + move).clamp(0, 1)
    return patch.detach()


@dataclass(frozen=True, kw_only=True)
class Patch:
    """target: the class that it leads to; None leads away from the labels. share: of the shorter side that it spans;
    share_min: down to which sizes are drawn while it is learnt (None: half of it). degrees: turns to either side.
    steps, step_size: of Adam. pixels: side of the patch itself; None is as it is shown. Success is counted at one
    place of each image, drawn anew, with the largest size."""

    target: int | None = None
    share: float = 0.4
    share_min: float | None = None
    degrees: float = 45.0
    steps: int = 200
    step_size: float = 0.05
    pixels: int | None = None
    norm: ClassVar[Norm] = "l0"
    sees: ClassVar[Sees] = "gradients"
    targeted: ClassVar[bool] = False
    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(0 < self.share <= 1, "share", self.share, "lie in (0, 1]")
        if self.share_min is not None:
            require(0 < self.share_min <= self.share, "share_min", self.share_min, f"lie in (0, {self.share}]")
        check_number(0, degrees=self.degrees, step_size=self.step_size)
        natural(steps=self.steps)

    def learn(self, classifier: Classifier, images: Tensor, labels: Tensor, generator: Generator) -> Tensor:
        """The patch, [C, s, s]."""
        least = self.share / 2 if self.share_min is None else self.share_min
        pixels = self.pixels or max(2, round(self.share * min(images.shape[2:])))
        return learn_patch(classifier, images, labels, self.target, pixels=pixels, shares=(least, self.share),
                           degrees=self.degrees, steps=self.steps, step_size=self.step_size, generator=generator)

    def __call__(self, classifier: Classifier, images: Tensor, labels: Tensor, *, targets: Tensor | None = None,
                 generator: Generator | None = None) -> Attacked:
        checked(self, images, labels, targets)
        ledger, generator = Ledger(images), seeded(generator)
        if not len(images):
            return ledger.result()
        with torch.no_grad():
            logits = classifier(ledger.originals)
        classes = logits.shape[1]
        require(self.target is None or 0 <= self.target < classes, "target", self.target,
                f"be a class from 0 to {classes - 1}")
        goal = None if self.target is None else torch.full_like(labels, self.target)
        ledger.asked(ledger.rows)
        ledger.success |= fooled(logits, labels, goal)
        rows, origin, own, aims = remaining(~ledger.success, ledger.rows, ledger.originals, labels, goal)
        if not len(rows):
            return ledger.result()
        patch = self.learn(classifier, origin, own, generator)
        moved = put_patch(origin, patch, placements(len(rows), (self.share, self.share), self.degrees, generator))
        with torch.no_grad():
            won = fooled(classifier(moved), own, aims)
        ledger.asked(rows, self.steps + 1)
        ledger.moved(rows, max(1, self.steps))
        ledger.done(rows, moved, won)
        return ledger.result()


attack.add(Patch, {"patch": {}}, summary="one disc that fools wherever it is put, learnt on all images together",
           paper="Brown, Mane, Roy, Abadi, Gilmer, 2017, arXiv:1712.09665")
