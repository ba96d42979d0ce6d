"""The perceptron: scores W x, and W moves only at a mistake, towards the image for its class and away from it for the
class that was taken.

Papers: Rosenblatt, The perceptron, Psychological Review 1958; for several classes the form of Duda and Hart 1973
(Crammer and Singer, JMLR 2003). Freund and Schapire (Machine Learning 1999): the vote and the mean of all weights on
the way. Novikoff 1962: at most R^2 / gamma^2 mistakes where some weights separate the images with margin gamma.
A block of images is scored at once; inside of it only mistakes are visited, each of which changes the scores of the
images after it by a column of the block's Gram matrix. The weights are those of the rule one image at a time.
forward: images [B, C, S, S], normalised -> scores [B, num_classes], or logarithms of the shares of votes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from visus import classical
from visus.classical.fitted import Examples
from visus.classical.linear import LinearFitted, with_ones
from visus.core.errors import ResourceError
from visus.core.validate import one_of, positive

KEPT = ("last", "averaged", "voted")
BLOCK = 512
VOTED_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class PerceptronConfig:
    """image_size: side in pixels of the square images. epochs: passes at most; one without a mistake is the last.
    keep: the last weights, the mean over all steps (averaged), or all that were ever held, each with as many votes as
    images it came through (voted). mistakes: of a voted perceptron, as `fit` found them; it says the shapes."""

    image_size: int = 28
    in_channels: int = 1
    num_classes: int = 10
    epochs: int = 20
    keep: str = "averaged"
    mistakes: int = 0

    def __post_init__(self) -> None:
        positive(image_size=self.image_size, in_channels=self.in_channels, num_classes=self.num_classes,
                 epochs=self.epochs)
        one_of(KEPT, keep=self.keep)


@dataclass(frozen=True)
class Course:
    """weight: [K, D], of the last step, mean: over all steps. At mistake m image `seen[m]` was taken for `taken[m]`
    instead of `right[m]`; survived: [M + 1], steps that each W was held for (the zero W first). by_epoch: mistakes of
    each pass."""

    weight: Tensor
    mean: Tensor
    seen: Tensor
    right: Tensor
    taken: Tensor
    survived: Tensor
    by_epoch: list[int]

    @property
    def separated(self) -> bool:
        return self.by_epoch[-1] == 0


class Perceptron(LinearFitted):
    Config = PerceptronConfig
    seen: Tensor
    right: Tensor
    taken: Tensor
    survived: Tensor

    def __init__(self, config: PerceptronConfig):
        super().__init__()
        self.config = config
        self._begin(config.num_classes)
        if config.keep == "voted":
            dim = self.weight.shape[1] + 1
            self.register_buffer("seen", torch.zeros(config.mistakes, dim))
            self.register_buffer("right", torch.zeros(config.mistakes, dtype=torch.int64))
            self.register_buffer("taken", torch.zeros(config.mistakes, dtype=torch.int64))
            self.register_buffer("survived", torch.ones(config.mistakes + 1))

    def fit(self, examples: Examples) -> None:
        images, targets = examples.gathered()
        rows = with_ones(self.flat(images))
        examples.begin("mistakes", self.config.epochs * len(rows))
        found = learn(rows, targets, self.config.num_classes, self.config.epochs, examples)
        examples.say(told(found, rows, targets))
        self.hold(found.mean if self.config.keep == "averaged" else found.weight)
        if self.config.keep == "voted":
            self._hold_votes(found, rows)
        else:
            self.find_scale(examples)

    def _hold_votes(self, found: Course, rows: Tensor) -> None:
        size = len(found.seen) * rows.shape[1] * 4
        if size > VOTED_BYTES:
            raise ResourceError(f"a vote of {len(found.seen):,} perceptrons takes {size >> 20:,} MiB",
                                where="model.config.keep='voted'",
                                remedy="Use averaged, which is nearly as good, or fewer epochs")
        self.config = PerceptronConfig(**{**vars(self.config), "mistakes": len(found.seen)})
        self.seen, self.right, self.taken = rows[found.seen], found.right, found.taken
        self.survived = found.survived

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, S, S] -> [B, K]."""
        if self.config.keep != "voted":
            return super().forward(images)
        rows = with_ones(self.flat(images))
        chunk = max(1, (64 << 20) // (4 * max(1, len(self.seen)) * self.config.num_classes))
        shares = torch.cat([self._votes(part) for part in rows.split(chunk)])
        return (shares + 1e-6).log()

    def _votes(self, rows: Tensor) -> Tensor:
        """[B, D + 1] -> shares of the votes [B, K]: all perceptrons' scores are running sums over the mistakes."""
        with torch.autocast(rows.device.type, enabled=False):  # votes are counted by running sums of these
            like = rows @ self.seen.to(rows).T  # [B, M]
        index = torch.arange(len(self.seen), device=rows.device)
        steps = rows.new_zeros(len(rows), self.config.num_classes, len(self.seen) + 1)
        steps[:, self.right, index + 1] = like
        steps[:, self.taken, index + 1] = -like
        taken = steps.cumsum(2).argmax(1)  # [B, M + 1]
        votes = rows.new_zeros(len(rows), self.config.num_classes)
        votes.scatter_add_(1, taken, self.survived.to(rows).expand(len(rows), -1))
        return votes / self.survived.sum()


def learn(rows: Tensor, targets: Tensor, num_classes: int, epochs: int, examples: Examples | None = None) -> Course:
    """Rosenblatt's rule from W = 0 over [N, D] in a new order each epoch, which the seed of `examples` draws (without
    examples: in the order given). Of equal scores the first class is taken."""
    weight = torch.zeros(num_classes, rows.shape[1], dtype=torch.float64, device=rows.device)
    late = torch.zeros_like(weight)  # sum over mistakes of the change times the steps before it
    seen: list[int] = []
    right: list[int] = []
    taken: list[int] = []
    when: list[int] = []
    by_epoch: list[int] = []
    step = 0
    generator = torch.Generator().manual_seed(examples.seed if examples else 0)
    for epoch in range(epochs):
        order = torch.randperm(len(rows), generator=generator) if examples else torch.arange(len(rows))
        begun = len(seen)
        for index in order.to(rows.device).split(BLOCK):
            for place, was, instead in _mistakes(rows[index], targets[index], weight, late, step):
                seen.append(int(index[place]))
                right.append(was)
                taken.append(instead)
                when.append(step + place)
            step += len(index)
            if examples:
                examples.advance(len(index))
        by_epoch.append(len(seen) - begun)
        if examples:
            examples.log(epoch + 1, train_error=by_epoch[-1] / len(rows))
        if not by_epoch[-1]:
            break
    survived = torch.diff(torch.tensor([0, *when, step]))  # from a W's own mistake to the next one
    mean = weight - late / step
    index = torch.tensor([seen, right, taken], dtype=torch.int64, device=rows.device)  # [3, M]
    return Course(weight.to(rows), mean.to(rows), index[0], index[1], index[2], survived.to(rows), by_epoch)


def _mistakes(rows: Tensor, targets: Tensor, weight: Tensor, late: Tensor, step: int) -> list[tuple[int, int, int]]:
    """The mistakes of one block in order, as (place, right, taken); `weight` and `late` are moved by all of them."""
    scores = rows.double() @ weight.T  # [B, K]
    gram = rows.double() @ rows.double().T  # [B, B]
    wrong = scores.argmax(1) != targets
    found: list[tuple[int, int, int]] = []
    start = 0
    while start < len(rows):
        following = wrong[start:].nonzero()
        if not len(following):
            break
        place = start + int(following[0])
        was, instead = int(targets[place]), int(scores[place].argmax())
        found.append((place, was, instead))
        start = place + 1
        scores[start:, was] += gram[start:, place]
        scores[start:, instead] -= gram[start:, place]
        wrong[start:] = scores[start:].argmax(1) != targets[start:]
    if found:
        places, was_, instead_ = (torch.tensor(column, device=rows.device) for column in zip(*found, strict=True))
        at = rows[places].double()
        before = (step + places).double()[:, None]
        weight.index_add_(0, was_, at).index_add_(0, instead_, -at)
        late.index_add_(0, was_, at * before).index_add_(0, instead_, -at * before)
    return found


def margin_and_bound(weight: Tensor, rows: Tensor, targets: Tensor) -> tuple[float, float]:
    """(gamma, R^2 / gamma^2) of weights [K, D] on rows [N, D]: gamma is the least difference between the right score
    and the best wrong one over |W|; no image separates its classes' scores by more than R = sqrt(2) max |x|. For two
    classes this is Novikoff's bound of the one vector w_1 = -w_0. It is infinite where gamma is not above 0."""
    scores = rows.double() @ weight.double().T
    right = scores.gather(1, targets[:, None])[:, 0]
    wrong = scores.scatter(1, targets[:, None], -torch.inf).amax(1)
    gamma = float((right - wrong).min() / weight.double().norm().clamp_min(1e-300))
    radius = 2 * float(rows.double().square().sum(1).max())
    return gamma, radius / gamma**2 if gamma > 0 else float("inf")


def told(found: Course, rows: Tensor, targets: Tensor) -> str:
    """The course in a sentence."""
    total = sum(found.by_epoch)
    if not found.separated:
        share = found.by_epoch[-1] / len(rows)
        return (f"perceptron: {total:,} mistakes in {len(found.by_epoch)} epochs, {100 * share:.1f} % of the images in "
                "the last; the training images may not be linearly separable, and then the rule never ends")
    gamma, bound = margin_and_bound(found.weight, rows, targets)
    return (f"perceptron: the training images are linearly separable, with a margin of at least {gamma:.3g}: "
            f"{total:,} mistakes in {len(found.by_epoch)} epochs, of at most {bound:,.0f} by Novikoff's bound")


VARIANTS: dict[str, dict[str, Any]] = {"perceptron": {}}

classical.add(Perceptron, VARIANTS, family="linear", task="classification",
              paper="Rosenblatt: The perceptron, Psychological Review 1958")
