"""Is a robust accuracy real, or is the gradient hidden? Signs of masking, as findings.

Papers: Athalye, Carlini, Wagner, Obfuscated Gradients Give a False Sense of Security, ICML 2018, arXiv:1802.00420,
section 3.1, whose list of signs this is; Carlini et al., On Evaluating Adversarial Robustness, 2019, arXiv:1902.06705.
A net that shows none of them is not proven robust by that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from visus.attack.attack import Classifier, cross_entropy, fooled, gradient, random_start, remaining, seeded
from visus.attack.pgd import PGD
from visus.attack.square import Square
from visus.core.record import Finding
from visus.core.validate import positive

UNBOUNDED = 1.0  # of linf in [0, 1]: any image can be reached


@dataclass(frozen=True, kw_only=True)
class MaskingReport:
    """success: by attack, the share of the images answered rightly at first that it turned. findings: what speaks for a
    hidden gradient; none are good news."""

    images: int
    success: Mapping[str, float]
    findings: tuple[Finding, ...]


def masking_report(classifier: Classifier, images: Tensor, labels: Tensor, eps: float, *, steps: int = 20,
                   queries: int = 500, random_tries: int = 100, generator: Generator | None = None) -> MaskingReport:
    """Attacks in linf within eps, weak and strong. Differences below about two standard errors of the share are not
    called signs. images: those that are answered wrongly already do not count."""
    positive(steps=steps, queries=queries, random_tries=random_tries)
    generator = seeded(generator)
    with torch.no_grad():
        right = ~fooled(classifier(images), labels)
    images, labels = images[right], labels[right]
    count = len(images)
    if not count:
        return MaskingReport(images=0, success={}, findings=(Finding(
            "gradient-masking", "warning", "Nothing to look at", "no image is answered rightly",
            "Give images that the model knows"),))

    def share(attack: PGD | Square) -> float:
        return float(attack(classifier, images, labels, generator=generator).success.float().mean())

    one = PGD(eps=eps, steps=1, step_size=eps, random_start=False)
    success = {"one step": share(one), f"{steps} steps": share(PGD(eps=eps, steps=steps, random_start=False)),
               f"{5 * steps} steps": share(PGD(eps=eps, steps=5 * steps, random_start=False)),
               "unbounded": share(PGD(eps=UNBOUNDED, steps=5 * steps, step_size=0.05, random_start=False)),
               "Square": share(Square(eps=eps, queries=queries)),
               "random search": _random_search(classifier, images, labels, eps, random_tries, generator)}
    few, some, many, everywhere, black, drawn = success.values()
    slope = gradient(classifier, images, cross_entropy(labels, None))[1]
    silent = float((slope.flatten(1).abs().amax(1) == 0).float().mean())
    success["no gradient at all"] = silent

    def beyond(larger: float, smaller: float) -> bool:
        middle = (larger + smaller) / 2
        return larger - smaller > 2 * (max(middle * (1 - middle), 1 / count) / count) ** 0.5

    signs = [
        (beyond(few, max(some, many)), "one step fools more than many",
         f"one step {few:.1%}, {steps} steps {some:.1%}, {5 * steps} steps {many:.1%}"),
        (beyond(some, many), "more steps fool fewer", f"{steps} steps {some:.1%}, {5 * steps} steps {many:.1%}"),
        (beyond(black, many), "a search without gradients fools more than gradients",
         f"Square with {queries} queries {black:.1%}, {5 * steps} steps of PGD {many:.1%}"),
        (everywhere < 1, "an attack without bounds does not fool all",
         f"{everywhere:.1%} at eps {UNBOUNDED:g}, where every image can be reached"),
        (beyond(drawn, many), "images drawn at random fool more than gradients",
         f"{random_tries} random images each {drawn:.1%}, PGD {many:.1%}"),
        (silent > 0, "the gradient is exactly zero", f"for {silent:.1%} of the images"),
    ]
    findings = tuple(Finding("gradient-masking", "warning", f"The gradient may be hidden: {title}", evidence,
                             "Do not trust the robust accuracy: attack through the defence (Transformed with "
                             "straight_through), with auto_attack, and by transfer from another net")
                     for found, title, evidence in signs if found)
    return MaskingReport(images=count, success=success, findings=findings)


@torch.no_grad()
def _random_search(classifier: Classifier, images: Tensor, labels: Tensor, eps: float, tries: int,
                   generator: Generator) -> float:
    """The share that one of so many even draws from the ball fools."""
    count, turned = len(images), 0
    for _ in range(tries):
        if not len(images):
            break
        won = fooled(classifier((images + random_start(images, eps, "linf", generator)).clamp(0, 1)), labels)
        turned += int(won.sum())
        images, labels = remaining(~won, images, labels)
    return turned / count
