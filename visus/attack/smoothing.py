"""Randomised smoothing: a classifier that no change within a proven l2 radius can turn.

Paper: Cohen, Rosenfeld, Kolter, Certified Adversarial Robustness via Randomized Smoothing, ICML 2019, arXiv:1902.02918:
the smoothed answer is the class that the classifier gives most often under Gaussian noise (equation 1). With p, a lower
bound of that class's share that holds with probability 1 - alpha, the answer holds within sigma Phi^-1(p) (theorem 1,
with the runner-up's share bounded by 1 - p); where p is at most one half it abstains. CERTIFY and PREDICT are the
paper's algorithms (section 3.2); the bound is that of Clopper and Pearson. The classifier should have been trained
under such noise; otherwise it abstains nearly always, which is true but of no use.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from visus.attack.attack import Classifier, seeded
from visus.core.validate import positive, require

ABSTAIN = -1
_TERMS, _HALVINGS, _TINY = 1000, 60, 1e-300


@dataclass(frozen=True, kw_only=True)
class Certified:
    """classes: int64 [B], -1 where it abstains. radii: float [B], l2 in units of [0, 1] images; 0 where it abstains.
    lower: float64 [B], the bound p of the class's share under noise."""

    classes: Tensor
    radii: Tensor
    lower: Tensor


@dataclass(frozen=True, kw_only=True)
class Smoothed:
    """classifier: images [B, C, H, W] -> logits [B, K], asked about images outside [0, 1] too, as noise makes them.
    sigma: of the noise, in units of [0, 1] images. num_classes: K. batch_size: noisy images in one question."""

    classifier: Classifier
    sigma: float
    num_classes: int
    batch_size: int = 1024

    def __post_init__(self) -> None:
        positive(num_classes=self.num_classes, batch_size=self.batch_size)
        require(isinstance(self.sigma, int | float) and 0 < self.sigma < float("inf"), "sigma", self.sigma,
                "be a number above 0")

    @torch.no_grad()
    def counts(self, images: Tensor, samples: int, generator: Generator) -> Tensor:
        """int64 [B, K]: how often each class is answered under noise."""
        positive(samples=samples)
        out = torch.zeros(len(images), self.num_classes, dtype=torch.int64, device=images.device)
        left = samples
        while left and len(images):
            each = max(1, min(left, self.batch_size // len(images)))
            noise = torch.randn((each, *images.shape), generator=generator).to(images)
            answers = self.classifier((images + self.sigma * noise).flatten(0, 1)).argmax(1).view(each, -1)  # [n, B]
            out.scatter_add_(1, answers.T, torch.ones_like(answers.T))
            left -= each
        return out

    def certify(self, images: Tensor, *, samples: int = 10_000, selection: int = 100, alpha: float = 0.001,
                generator: Generator | None = None) -> Certified:
        """CERTIFY: `selection` draws choose the class, `samples` others bound its share. alpha: the probability, for
        each image, that a certificate is wrong."""
        _check_alpha(alpha)
        generator = seeded(generator)
        classes = self.counts(images, selection, generator).argmax(1)
        hits = self.counts(images, samples, generator).gather(1, classes[:, None])[:, 0]
        lower = lower_bound(hits, samples, alpha)
        sure = lower > 0.5
        radii = torch.where(sure, self.sigma * torch.special.ndtri(lower), 0.0)
        return Certified(classes=torch.where(sure, classes, ABSTAIN), radii=radii.to(images.dtype), lower=lower)

    def predict(self, images: Tensor, *, samples: int = 1000, alpha: float = 0.001,
                generator: Generator | None = None) -> Tensor:
        """PREDICT: int64 [B], the class, or -1 where the two most frequent cannot be told apart at level alpha."""
        _check_alpha(alpha)
        counts, classes = self.counts(images, samples, seeded(generator)).topk(2, dim=1)
        return torch.where(two_sided(counts[:, 0], counts[:, 1]) <= alpha, classes[:, 0], ABSTAIN)


def _check_alpha(alpha: float) -> None:
    require(isinstance(alpha, int | float) and 0 < alpha < 1, "alpha", alpha, "lie in (0, 1)")


def two_sided(first: Tensor, second: Tensor) -> Tensor:
    """The probability that a fair coin falls at least as unevenly as first against second: float64 [B]."""
    more, less = torch.maximum(first, second), torch.minimum(first, second)
    half = torch.full(more.shape, 0.5, dtype=torch.float64, device=more.device)
    return (2 * incomplete_beta(more.double(), less.double() + 1, half)).clamp(max=1)


def lower_bound(hits: Tensor, samples: int, alpha: float) -> Tensor:
    """Clopper and Pearson's one-sided bound, float64 [B]: the share at which `hits` or more of `samples` would be seen
    with probability alpha; below it with less. Found by halving, since that probability grows with the share."""
    hits = hits.double()
    low, high = torch.zeros_like(hits), torch.ones_like(hits)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        # P(X >= k) = I_p(k, n - k + 1)
        likely = incomplete_beta(hits.clamp(min=1), samples - hits.clamp(min=1) + 1, middle) > alpha
        low, high = torch.where(likely, low, middle), torch.where(likely, middle, high)
    return torch.where(hits > 0, low, 0.0)


def incomplete_beta(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """I_x(a, b), the regularised incomplete beta function, float64: its continued fraction (Abramowitz and Stegun,
    26.5.8), evaluated as Lentz does, on the side of the mean where it converges fast."""
    swap = x > (a + 1) / (a + b + 2)
    a, b, x = torch.where(swap, b, a), torch.where(swap, a, b), torch.where(swap, 1 - x, x)
    front = torch.exp(torch.lgamma(a + b) - torch.lgamma(a) - torch.lgamma(b) + torch.xlogy(a, x)
                      + torch.xlogy(b, 1 - x)) / a
    value = front * torch.from_numpy(_fraction(*(v.cpu().numpy() for v in (a, b, x)))).to(front)
    return torch.where(swap, 1 - value, value)


def _fraction(a: np.ndarray, b: np.ndarray, x: np.ndarray) -> np.ndarray:
    """1 / (1 + d_1 / (1 + d_2 / ...)), with the d of 26.5.8."""
    def safe(value: np.ndarray) -> np.ndarray:
        return np.where(np.abs(value) < _TINY, _TINY, value)

    c = np.ones_like(x)
    d = 1 / safe(1 - (a + b) * x / (a + 1))
    fraction = d.copy()
    for m in range(1, _TERMS):
        for term in (m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
                     -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))):
            d, c = 1 / safe(1 + term * d), safe(1 + term / c)
            fraction *= c * d
        if (np.abs(c * d - 1) < 4e-15).all():
            break
    return fraction
