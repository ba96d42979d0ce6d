"""How robust a classifier is, in numbers with intervals.

Robust accuracy: the share of all images that are answered rightly and stay so under an attack; its interval is Wilson's
(Wilson 1927), which holds for shares near 0 and 1 and small samples. Fooling rate and rho: Moosavi-Dezfooli, Fawzi,
Frossard, CVPR 2016, arXiv:1511.04599, equation 2, and Moosavi-Dezfooli, Fawzi, Fawzi, Frossard, CVPR 2017,
arXiv:1610.08401, equation 1. Transfer: Papernot, McDaniel, Goodfellow 2016, arXiv:1605.07277, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from visus.attack.attack import Attack, Attacked, Classifier, distances, seeded
from visus.core.errors import UserError

NORMAL = 1.959964  # of a 95 % interval


@dataclass(frozen=True)
class Share:
    """hits of count, with the 95 % interval of the share."""

    hits: int
    count: int

    @property
    def value(self) -> float:
        return self.hits / self.count if self.count else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.hits, self.count)


def wilson(hits: int, count: int, z: float = NORMAL) -> tuple[float, float]:
    """(low, high) of a share: Wilson's score interval. (0, 1) where nothing was counted."""
    if not count:
        return 0.0, 1.0
    share, spread = hits / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    return (0.0 if hits == 0 else middle - half), (1.0 if hits == count else middle + half)


@torch.no_grad()
def answers(classifier: Classifier, images: Tensor, batch_size: int = 128) -> Tensor:
    """int64 [N], the class that is answered for each image."""
    parts = [classifier(part).argmax(-1) for part in images.split(batch_size)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)


def attack_all(attack: Attack, classifier: Classifier, images: Tensor, labels: Tensor, *,
               targets: Tensor | None = None, generator: Generator | None = None, batch_size: int = 128,
               advance: Callable[[int], object] = lambda count: None) -> Attacked:
    """The attack on any number of images, batch after batch."""
    generator, parts = seeded(generator), []
    for rows in torch.arange(len(images)).split(batch_size):
        parts.append(attack(classifier, images[rows], labels[rows], targets=None if targets is None else targets[rows],
                            generator=generator))
        advance(len(rows))
    return joined(parts)


def joined(parts: Sequence[Attacked]) -> Attacked:
    first = parts[0]
    return Attacked(images=torch.cat([p.images for p in parts]), success=torch.cat([p.success for p in parts]),
                    queries=torch.cat([p.queries for p in parts]), steps=torch.cat([p.steps for p in parts]),
                    distances={norm: torch.cat([p.distances[norm] for p in parts]) for norm in first.distances})


def fooling_rate(before: Tensor, after: Tensor) -> Share:
    """The share of images whose answer is another than before; the labels play no part. before, after: int64 [N]."""
    return Share(int((before != after).sum()), len(before))


def rho(originals: Tensor, attacked: Attacked, norm: str = "l2") -> float:
    """Adversarial robustness: the mean of |r| / |x| over the images that were fooled, the smaller the less robust."""
    away = attacked.distances[norm][attacked.success]
    size = distances(torch.zeros_like(originals), originals)[norm][attacked.success]
    return float((away / size.clamp(min=1e-30)).double().mean()) if len(away) else float("nan")


@dataclass(frozen=True)
class CurvePoint:
    eps: float
    robust: Share


def robust_curve(made: Callable[[float], Attack], classifier: Classifier, images: Tensor, labels: Tensor,
                 eps: Sequence[float], *, generator: Generator | None = None, batch_size: int = 128,
                 advance: Callable[[int], object] = lambda count: None) -> Iterator[CurvePoint]:
    """Robust accuracy at each distance, ascending. made: eps -> the attack.

    An image that a small distance fools is fooled at every larger one, so that only those still standing are attacked
    on, and the curve falls. eps 0 is the plain accuracy."""
    if not eps or any(b <= a for a, b in zip(eps, eps[1:], strict=False)) or eps[0] < 0:
        raise UserError("must ascend from 0 or more", where=f"eps={list(eps)}")
    count, generator = len(images), seeded(generator)
    standing = (answers(classifier, images, batch_size) == labels).nonzero()[:, 0]
    for value in eps:
        if value > 0 and len(standing):
            found = attack_all(made(value), classifier, images[standing], labels[standing], generator=generator,
                               batch_size=batch_size, advance=advance)
            standing = standing[~found.success]
        yield CurvePoint(value, Share(len(standing), count))


def distance_curve(attacked: Attacked, norm: str, eps: Sequence[float], count: int) -> list[CurvePoint]:
    """Robust accuracy at each distance from an attack that seeks the smallest perturbation, of the images that were
    answered rightly; count: of all images. It is an upper bound: the smallest may be smaller still."""
    away = attacked.distances[norm].where(attacked.success, float("inf"))
    return [CurvePoint(value, Share(int((away > value).sum()), count)) for value in eps]


@dataclass(frozen=True)
class Transfer:
    """rates[source][target]: of the images that both answer rightly and on which the attack on the source succeeded,
    the share that the target answers wrongly."""

    names: tuple[str, ...]
    rates: tuple[tuple[Share, ...], ...]


def transfer_table(attack: Attack, classifiers: Mapping[str, Classifier], images: Tensor, labels: Tensor, *,
                   generator: Generator | None = None, batch_size: int = 128) -> Transfer:
    """Each classifier attacked, and its adversarial images shown to all. Steps that go on past success transfer better:
    `early_stop=False` where the attack has it."""
    if getattr(attack, "early_stop", None):
        attack = replace(attack, early_stop=False)  # type: ignore[type-var]
    generator = seeded(generator)
    right = {name: answers(one, images, batch_size) == labels for name, one in classifiers.items()}
    rows = []
    for name, source in classifiers.items():
        found = attack_all(attack, source, images, labels, generator=generator, batch_size=batch_size)
        row = []
        for other, target in classifiers.items():
            counted = right[name] & right[other] & found.success
            wrong = answers(target, found.images[counted], batch_size) != labels[counted]
            row.append(Share(int(wrong.sum()), int(counted.sum())))
        rows.append(tuple(row))
    return Transfer(tuple(classifiers), tuple(rows))
