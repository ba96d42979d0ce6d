"""What all linear classifiers share: scores W x + b of the pixels, templates to draw, and a strength chosen on val.

Source: Stanford CS231n, notes on linear classification: each row of W is a template of its class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from visus.classical.fitted import Examples, Fitted
from visus.core.errors import UserError

STRENGTHS = (10.0, 1.0, 0.1, 0.01, 0.001)  # of the L2 penalty l2 / 2 |W|^2 beside the mean loss; strong first
CHOSEN_ON = 10_000  # training images at most that the strengths are compared on


class LinearFitted(Fitted):
    """Buffers weight, float32 [K, D] and bias [K], with D = C S S, and scale, which makes scores logits. Its config has
    image_size and in_channels."""

    weight: Tensor
    bias: Tensor
    scale: Tensor

    def _begin(self, rows: int) -> None:
        """Empty buffers of `rows` rows."""
        self.register_buffer("weight", torch.zeros(rows, self.config.in_channels * self.config.image_size**2))
        self.register_buffer("bias", torch.zeros(rows))
        self.register_buffer("scale", torch.ones(()))

    def flat(self, images: Tensor) -> Tensor:
        """[B, C, S, S] -> [B, D]. Raises UserError for another image shape."""
        expected = (self.config.in_channels, self.config.image_size, self.config.image_size)
        if tuple(images.shape[1:]) != expected:
            raise UserError(f"this model was built for images of {expected}", where=tuple(images.shape[1:]),
                            remedy="Resize the images, or build the model with their image_size and in_channels")
        return images.flatten(1)

    def scores(self, images: Tensor) -> Tensor:
        """[B, C, S, S] -> W x + b, [B, K]."""
        return F.linear(self.flat(images), self.weight, self.bias)

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, S, S] -> logits: the scores times one scale, [B, K]."""
        return self.scale * self.scores(images)

    @torch.no_grad()
    def find_scale(self, examples: Examples) -> None:
        """The scale under which the validation labels are likeliest, for methods whose scores are no logarithms of
        probabilities (as Platt 1999, with one number; Guo et al., ICML 2017); 1 without validation images."""
        images, targets = validation(examples)
        if images is None or len(self.weight) < 2:
            return
        scores = torch.cat([self.scores(part) for part in images.split(4096)]).double()
        low, high = -12.0, 12.0  # of the exponent of 2; the loss is convex in the scale, with one minimum
        size = float(scores.std().clamp_min(1e-12))
        for _ in range(40):
            thirds = (low + (high - low) / 3, high - (high - low) / 3)
            losses = [float(F.cross_entropy(scores * 2**third / size, targets)) for third in thirds]
            low, high = (low, thirds[1]) if losses[0] <= losses[1] else (thirds[0], high)
        self.scale.fill_(2 ** ((low + high) / 2) / size)

    def templates(self) -> Tensor:
        """W as images, [K, C, S, S]: what each class looks for."""
        side = self.config.image_size
        return self.weight.reshape(len(self.weight), self.config.in_channels, side, side)

    def hold(self, augmented: Tensor) -> None:
        """Take weights with the bias as their last column, [K, D + 1]."""
        self.weight.copy_(augmented[:, :-1])
        self.bias.copy_(augmented[:, -1])


def with_ones(rows: Tensor) -> Tensor:
    """[N, D] -> [N, D + 1]: a last column of ones, so that W x holds the bias."""
    return F.pad(rows, (0, 1), value=1.0)


def some(examples: Examples, rows: Tensor, targets: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """At most `limit` of the rows, the same draw for the same seed."""
    if len(rows) <= limit:
        return rows, targets
    generator = torch.Generator().manual_seed(examples.seed)
    kept = torch.randperm(len(rows), generator=generator)[:limit].to(rows.device)
    return rows[kept], targets[kept]


def validation(examples: Examples) -> tuple[Tensor | None, Tensor]:
    """(images [N, C, H, W] or None where there are none, labels [N])."""
    if next(iter(examples.val()), None) is None:
        return None, torch.zeros(0)
    return examples.gathered("val")


def choose_strength(examples: Examples, solve: Callable[[float], Tensor], method: str,
                    prepare: Callable[[Tensor], Tensor] = lambda images: images.flatten(1),
                    strengths: Sequence[float] = STRENGTHS) -> float:
    """The strength whose weights are right most often on val; of equals the strongest.

    solve: strength -> weights [K, D + 1], called from strong to weak, so that it may go on from where it was.
    prepare: images -> rows [N, D] as `solve` saw them. Without validation images it is 0.01. The choice is said.
    """
    images, targets = validation(examples)
    if images is None:
        examples.say(f"{method}: the L2 strength is 0.01, as there are no validation images to choose it on")
        return 0.01
    rows = with_ones(prepare(images))
    found: dict[float, float] = {}
    for strength in sorted(strengths, reverse=True):
        scores = rows @ solve(strength).to(rows).T
        right = (scores[:, 0] > 0).long() if scores.shape[1] == 1 else scores.argmax(1)
        found[strength] = float((right == targets).float().mean())
    best = max(found, key=lambda strength: found[strength])  # the first of equals: strong ones come first
    told = ", ".join(f"{strength:g}: {100 * value:.1f} %" for strength, value in found.items())
    examples.say(f"{method}: of the L2 strengths {told} on val, {best:g} is taken (--set model.config.l2={best:g})")
    return best
