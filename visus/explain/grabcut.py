"""The object cut out, by colour, from where the classifier looks: GrabCut seeded with a saliency map.

Papers: Simonyan, Vedaldi, Zisserman, ICLR workshop 2014, arXiv:1312.6034, section 3.2 (the most salient pixels are
surely object, the least salient surely ground, and colours decide the rest); Rother, Kolmogorov, Blake, GrabCut,
SIGGRAPH 2004: a Gaussian mixture of colours for each side, a minimum cut between them, and again. Mixtures are fitted
by expectation and maximisation; the cut is that of visus/ops/min_cut.py. Images are cut at a side of at most `side_px`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visus import explain
from visus.core.validate import positive, require
from visus.explain.class_image import numbered
from visus.explain.explanation import Explanation, classes_asked, in_eval_mode
from visus.explain.masking import blurred
from visus.explain.pixels import Scale, pixel_scale
from visus.explain.saliency import image_gradients, no_gradient
from visus.ops.min_cut import STEPS, differences, min_cut
from visus.ops.resample import resize

_EM_STEPS = 6
_LEAST_SPREAD = 1e-3  # added to the variance of each colour


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Gaussian mixtures of B images. weights: [B, K]; means: [B, K, C]; covariances: [B, K, C, C]."""

    weights: Tensor
    means: Tensor
    covariances: Tensor

    def log_density(self, colours: Tensor) -> Tensor:
        """[B, N, C] -> [B, N]."""
        return self._parts(colours).logsumexp(2)

    def _parts(self, colours: Tensor) -> Tensor:
        """[B, N, K]: the logarithm of weight times density of each component."""
        factor = torch.linalg.cholesky(self.covariances)
        away = (colours[:, None] - self.means[:, :, None]).transpose(2, 3)  # [B, K, C, N]
        scaled = torch.linalg.solve_triangular(factor, away, upper=False).square().sum(2)  # [B, K, N]
        log_det = 2 * factor.diagonal(dim1=2, dim2=3).log().sum(2)
        constant = colours.shape[2] * math.log(2 * math.pi)
        log_weights = self.weights.clamp(min=1e-12).log()
        return (log_weights[:, :, None] - 0.5 * (scaled + log_det[:, :, None] + constant)).transpose(1, 2)


def fit_mixture(colours: Tensor, share: Tensor, count: int) -> Mixture:
    """colours: [B, N, C]; share: [B, N] in [0, 1], how much each belongs to the sample. The first components are slices
    of equal number along the direction in which the colours differ most."""
    held = share.sum(1, keepdim=True).clamp(min=1e-6)
    mean = (share[..., None] * colours).sum(1) / held
    centred = (colours - mean[:, None]) * share[..., None].sqrt()
    spread = centred.transpose(1, 2) @ centred / held[..., None]
    direction = torch.linalg.eigh(spread).eigenvectors[..., -1]
    along = (colours * direction[:, None]).sum(2)
    order = along.argsort(1)
    rank = torch.zeros_like(along).scatter_(1, order, (share.gather(1, order).cumsum(1) - 0.5) / held)
    slices = (rank.clamp(0, 1 - 1e-6) * count).long()
    belongs = share[..., None] * F.one_hot(slices, count).to(colours)  # [B, N, K]
    mixture = _maximised(colours, belongs, held)
    for _ in range(_EM_STEPS):
        mixture = _maximised(colours, share[..., None] * mixture._parts(colours).softmax(2), held)
    return mixture


def _maximised(colours: Tensor, belongs: Tensor, held: Tensor) -> Mixture:
    mass = belongs.sum(1).clamp(min=1e-6)  # [B, K]
    means = belongs.transpose(1, 2) @ colours / mass[..., None]
    away = colours[:, None] - means[:, :, None]  # [B, K, N, C]
    covariances = (away * belongs.transpose(1, 2)[..., None]).transpose(2, 3) @ away / mass[..., None, None]
    eye = torch.eye(colours.shape[2], dtype=colours.dtype, device=colours.device)
    return Mixture(weights=mass / held, means=means, covariances=covariances + _LEAST_SPREAD * eye)


def grabcut(pixels: Tensor, sure: Tensor, *, components: int = 5, smoothness: float = 20.0, rounds: int = 3) -> Tensor:
    """Pixels [B, C, h, w] in [0, 1] -> bool [B, h, w], the object. sure: [B, h, w], 1 is surely object, -1 surely
    ground, 0 to be found. smoothness: what a border between two alike neighbours costs (the paper's gamma is 50)."""
    batch, channels, height, width = pixels.shape
    colours = pixels.flatten(2).transpose(1, 2)  # [B, N, C]
    weights = neighbour_weights(pixels, smoothness)
    known = sure.flatten(1)
    object_share, ground_share = (known > 0).to(pixels), (known < 0).to(pixels)
    certain = 10 * float(weights.sum(1).amax()) + 100.0  # above what any cut around a pixel could save
    labels = sure > 0
    for _ in range(rounds):
        inside = fit_mixture(colours, object_share, components).log_density(colours)
        outside = fit_mixture(colours, ground_share, components).log_density(colours)
        unary = (outside - inside).clamp(-50, 50)
        unary = torch.where(known > 0, -certain, torch.where(known < 0, certain, unary))
        labels = min_cut(unary.view(batch, height, width), weights).labels
        object_share = labels.flatten(1).to(pixels)
        ground_share = 1 - object_share
    return labels


def neighbour_weights(pixels: Tensor, smoothness: float) -> Tensor:
    """[B, 4, h, w], of each pixel with half of its eight neighbours: smoothness / distance *
    exp(-|difference of colours|^2 / (2 mean of it)) (GrabCut, equation 4)."""
    squared = torch.stack([differences(channel).square() for channel in pixels.unbind(1)]).sum(0)
    mean = squared.flatten(1).mean(1).clamp(min=1e-12).view(-1, 1, 1, 1)
    apart = torch.tensor([math.hypot(*step) for step in STEPS]).to(pixels).view(1, -1, 1, 1)
    return smoothness / apart * torch.exp(-squared / (2 * mean))


def seeds(saliency: Tensor, surely_object: float, surely_ground: float) -> Tensor:
    """Saliency [B, h, w] -> 1 for the share of pixels that is most salient, -1 for that least so, 0 between."""
    flat = saliency.flatten(1)
    high, low = flat.quantile(1 - surely_object, dim=1), flat.quantile(surely_ground, dim=1)
    return (saliency >= high[:, None, None]).to(saliency) - (saliency <= low[:, None, None]).to(saliency)


@dataclass(frozen=True, kw_only=True)
class GrabCut:
    """target: the class whose saliency seeds the cut. surely_object, surely_ground: shares of the pixels, most and
    least salient. components: of each mixture. smoothness: what a border costs. rounds: of fitting and cutting.
    side_px: the longer side at which is cut."""

    target: int | None = None
    surely_object: float = 0.05
    surely_ground: float = 0.3
    components: int = 5
    smoothness: float = 20.0
    rounds: int = 3
    side_px: int = 128
    mean: Scale = None
    std: Scale = None
    needs_images: ClassVar[bool] = True
    folded: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, value in (("surely_object", self.surely_object), ("surely_ground", self.surely_ground)):
            require(isinstance(value, int | float) and 0 < value < 0.5, name, value, "lie between 0 and 0.5")
        positive(components=self.components, rounds=self.rounds, side_px=self.side_px)
        require(isinstance(self.smoothness, int | float) and self.smoothness >= 0, "smoothness", self.smoothness,
                "be at least 0")

    def problem(self, model: nn.Module, images: Tensor) -> str | None:
        return no_gradient(model, images)

    def __call__(self, model: nn.Module, images: Tensor) -> Explanation:
        scale = pixel_scale(images, self.mean, self.std)
        with in_eval_mode(model):
            targets = classes_asked(model, images, self.target)
        saliency = image_gradients(model, images, targets).abs().amax(1, keepdim=True)
        factor = min(1.0, self.side_px / max(images.shape[2:]))
        size = (max(2, round(factor * images.shape[2])), max(2, round(factor * images.shape[3])))
        smooth = resize(blurred(saliency, max(images.shape[2:]) / 64), size)[:, 0]
        pixels = scale.pixels(images)
        labels = grabcut(resize(pixels, size).clamp(0, 1), seeds(smooth, self.surely_object, self.surely_ground),
                         components=self.components, smoothness=self.smoothness, rounds=self.rounds)
        mask = resize(labels[:, None].to(pixels), (images.shape[2], images.shape[3])).clamp(0, 1)
        return Explanation(
            sentence=f"The object cut out by colour: the {self.surely_object:.0%} of pixels that the class's score "
                     f"depends on most are surely object, the {self.surely_ground:.0%} it depends on least surely "
                     "ground.",
            heat=labels.to(pixels), pictures=mask * pixels + (1 - mask),
            picture_names=tuple(f"{name}: {100 * float(m.mean()):.0f} % of the picture"
                                for name, m in zip(numbered("cut out", len(mask)), mask, strict=True)))


explain.add(GrabCut, {"grabcut": {}}, summary="the object cut out by colour, from where the classifier looks",
            paper="Simonyan et al., ICLR workshop 2014, arXiv:1312.6034; Rother et al., SIGGRAPH 2004")
