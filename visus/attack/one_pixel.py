"""One-pixel attack: differential evolution over the place and colour of a few pixels, by scores alone.

Paper: Su, Vargas, Sakurai, One Pixel Attack for Fooling Deep Neural Networks, IEEE TEVC 2019, arXiv:1710.08864, section
III.C and equation 3: x_i(g + 1) = x_r1(g) + F (x_r2(g) - x_r3(g)) with F = 0.5, no crossover; a child replaces its
parent when it is fitter. Places begin even, colours normal around the middle. The populations of all samples are asked
about together; a sample stops when one of its members fools the classifier.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from visus import attack
from visus.attack.attack import Attacked, Classifier, Ledger, Norm, Sees, checked, margin, remaining, seeded
from visus.core.validate import natural, positive, require

FACTOR = 0.5  # F of equation 3
AT_ONCE = 4096  # images in one question


@dataclass(frozen=True, kw_only=True)
class OnePixel:
    """eps: pixels that may change. population: members, 400 in the paper. steps: generations, 100 in the paper."""

    eps: int = 1
    population: int = 400
    steps: int = 100
    norm: ClassVar[Norm] = "l0"
    sees: ClassVar[Sees] = "scores"
    targeted: ClassVar[bool] = True
    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(eps=self.eps)
        natural(steps=self.steps)
        require(isinstance(self.population, int) and self.population >= 4, "population", self.population,
                "be a whole number of at least 4: a child has three parents beside its place")

    @torch.no_grad()
    def __call__(self, classifier: Classifier, images: Tensor, labels: Tensor, *, targets: Tensor | None = None,
                 generator: Generator | None = None) -> Attacked:
        checked(self, images, labels, targets)
        ledger, generator = Ledger(images), seeded(generator)
        if not len(images):
            return ledger.result()
        start = margin(classifier(ledger.originals), labels, targets)
        ledger.asked(ledger.rows)
        ledger.success |= start > 0
        rows, origin, labels, targets = remaining(~ledger.success, ledger.rows, ledger.originals, labels, targets)
        if not len(rows):
            return ledger.result()
        count, channels = len(rows), origin.shape[1]
        shape = (count, self.population, self.eps)
        # genes: row and column as shares of the sides, then a colour, [B, P, pixels, 2 + C]
        genes = torch.cat([torch.rand(*shape, 2, generator=generator),
                           (0.5 + 0.5 * torch.randn(*shape, channels, generator=generator)).clamp(0, 1)], -1).to(origin)
        fitness = self._fitness(classifier, origin, genes, labels, targets)
        ledger.asked(rows, self.population)
        ledger.moved(rows)
        for generation in range(self.steps + 1):
            best, member = fitness.max(1)
            shown = drawn(origin, genes.gather(1, member.view(-1, 1, 1, 1).expand(-1, 1, *genes.shape[2:])))[:, 0]
            gone = best > 0
            ledger.done(rows, shown, gone)
            rows, origin, labels, targets, genes, fitness = remaining(
                ~gone, rows, origin, labels, targets, genes, fitness)
            if not len(rows) or generation == self.steps:
                break
            children = self._children(genes, generator)
            theirs = self._fitness(classifier, origin, children, labels, targets)
            ledger.asked(rows, self.population)
            ledger.moved(rows)
            better = theirs > fitness
            genes = torch.where(better[..., None, None], children, genes)
            fitness = torch.where(better, theirs, fitness)
        return ledger.result()

    def _children(self, genes: Tensor, generator: Generator) -> Tensor:
        """Equation 3 with three different members; genes beyond their range are put back at its edge."""
        order = torch.rand(*genes.shape[:2], self.population, generator=generator).topk(3, dim=2).indices
        parents = [genes.gather(1, order[..., i].to(genes.device)[..., None, None].expand_as(genes)) for i in range(3)]
        return (parents[0] + FACTOR * (parents[1] - parents[2])).clamp(0, 1)

    def _fitness(self, classifier: Classifier, origin: Tensor, genes: Tensor, labels: Tensor,
                 targets: Tensor | None) -> Tensor:
        """The margin of each member, [B, P]; a few samples at a time, so that memory stays small."""
        parts = []
        each = max(1, AT_ONCE // self.population)
        for first in range(0, len(origin), each):
            some = slice(first, first + each)
            made = drawn(origin[some], genes[some]).flatten(0, 1)  # [b P, C, H, W]
            goals = None if targets is None else targets[some].repeat_interleave(self.population)
            scores = margin(classifier(made), labels[some].repeat_interleave(self.population), goals)
            parts.append(scores.view(-1, self.population))
        return torch.cat(parts)


def drawn(origin: Tensor, genes: Tensor) -> Tensor:
    """[B, C, H, W] with the pixels of [B, P, pixels, 2 + C] -> [B, P, C, H, W]."""
    height, width = origin.shape[2:]
    row = (genes[..., 0] * height).long().clamp(max=height - 1)
    column = (genes[..., 1] * width).long().clamp(max=width - 1)
    places = (row * width + column)[:, :, None].expand(-1, -1, origin.shape[1], -1)  # [B, P, C, pixels]
    flat = origin.flatten(2)[:, None].repeat(1, genes.shape[1], 1, 1)
    return flat.scatter(3, places, genes[..., 2:].transpose(2, 3)).unflatten(3, (height, width))


attack.add(OnePixel, {"one_pixel": {}}, summary="place and colour of one pixel, or a few, by differential evolution",
           paper="Su, Vargas, Sakurai, IEEE TEVC 2019, arXiv:1710.08864")
