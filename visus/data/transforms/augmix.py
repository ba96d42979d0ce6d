"""AugMix: several chains of operations, mixed with each other and with the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from visus.core.errors import RecipeError
from visus.core.seeds import uniform
from visus.data.transforms import Draws, augmentations, check_range
from visus.data.transforms.groups import per_image
from visus.data.transforms.levels import to_levels
from visus.data.transforms.operations import PUBLISHED, Interpolation, Range, apply_
from visus.data.transforms.policies import drawn_magnitudes, drawn_names

_STEPS = 9  # of 10 strengths the first `severity` are drawn
_RANGES = {**PUBLISHED, "translate_x": Range(0, 1 / 3, "width"), "translate_y": Range(0, 1 / 3, "height"),
           "posterize": Range(4, 0, "whole")}
_TRIES = 24  # each is accepted with a probability of at least 0.95


@dataclass(frozen=True)
class AugMix:
    """m times the image and 1 - m times a mix of `width` chains of operations, m ~ Beta(alpha, alpha) and the chains'
    weights ~ Dirichlet(alpha) (Hendrycks et al. 2020, "AugMix: a simple data processing method to improve robustness
    and uncertainty", algorithm 1). Each chain has 1 to 3 operations, or `depth`, of one of the first `severity` of 10
    strengths.

    all_operations: with brightness, color, contrast and sharpness, which the paper leaves out because ImageNet-C tests
    them. The paper's consistency loss is not part of this. Marks of a scene stay where they are in the image, which the
    mix still holds. fill, interpolation: as of `RandAugment`.
    """

    severity: int = 3
    width: int = 3
    depth: int | None = None
    alpha: float = 1.0
    all_operations: bool = False
    fill: float = 0.5
    interpolation: Interpolation = "bilinear"
    any_dtype: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for field, high in (("severity", 10), ("width", 100), ("depth", 100)):
            value = getattr(self, field)
            if field == "depth" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool):
                raise RecipeError("must be a whole number", where=f"augmentation.AugMix.{field}={value!r}")
            check_range(self, field, value, 1, high)
        check_range(self, "alpha", self.alpha, 0.01, 1000)
        check_range(self, "fill", self.fill, 0, 1)
        if self.interpolation not in ("nearest", "bilinear"):
            raise RecipeError("must be 'nearest' or 'bilinear'",
                              where=f"augmentation.AugMix.interpolation={self.interpolation!r}")

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        whole = images.dtype == torch.uint8
        levels = images if whole else to_levels(images)
        m, weights = self.weights(draws)
        mix = levels.to(torch.float32) * per_image(m, levels)
        for chain in range(self.width):
            changed = levels.clone()
            for names, magnitudes in self.rounds(draws, chain, *images.shape[-2:]):
                apply_(changed, names, magnitudes, self.fill, self.interpolation)
            mix += changed * per_image((1 - m) * weights[:, chain], levels)
        return mix.round_().clamp_(0, 255).to(torch.uint8) if whole else mix.div_(255).clamp_(0, 1)

    def weights(self, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
        """The image's share m [B], and those of the chains in the rest [B, width]."""
        gammas = np.stack([gamma(self.alpha, draws, f"weight{k}") for k in range(self.width + 2)], -1)
        gammas = np.maximum(gammas, 1e-300)
        return gammas[:, 0] / gammas[:, :2].sum(1), gammas[:, 2:] / gammas[:, 2:].sum(1, keepdims=True)

    def rounds(self, draws: Draws, chain: int, height: int, width: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Names ('' for none) and magnitudes [B] of the operations of one chain, one after the other."""
        enhancing = () if self.all_operations else ("brightness", "color", "contrast", "sharpness")
        choices = tuple(name for name in _RANGES if name not in enhancing)
        most = self.depth or 3
        u = uniform(draws.index, draws.seed, draws.epoch, draws.stream, f"chain{chain}", draws=1 + 3 * most)
        depth = np.full(len(u), self.depth) if self.depth else 1 + np.floor(3 * u[:, 0])
        out = []
        for place in range(most):
            choice, strength, sign = u[:, 1 + 3 * place:4 + 3 * place].T
            names = np.where(place < depth, drawn_names(choice, choices), "")
            strength = np.floor(strength * self.severity) / _STEPS
            out.append((names, drawn_magnitudes(names, strength, sign, _RANGES, height, width)))
        return out


def gamma(shape: float, draws: Draws, stream: str) -> np.ndarray:
    """float64 [B]: gamma numbers of the shape (Marsaglia and Tsang 2000), the first accepted of many tries."""
    u = uniform(draws.index, draws.seed, draws.epoch, draws.stream, stream, draws=3 * _TRIES + 1)
    a, b, accept = u[:, :-1].reshape(len(u), 3, _TRIES).swapaxes(0, 1)
    normal = np.sqrt(-2 * np.log1p(-a)) * np.cos(2 * np.pi * b)
    d = (shape if shape >= 1 else shape + 1) - 1 / 3
    v = (1 + normal / np.sqrt(9 * d)) ** 3
    with np.errstate(invalid="ignore", divide="ignore"):
        good = (v > 0) & (np.log(accept) < normal**2 / 2 + d * (1 - v + np.log(np.abs(v))))
    found = d * v[np.arange(len(u)), good.argmax(1)]
    return found if shape >= 1 else found * (1 - u[:, -1]) ** (1 / shape)


augmentations.add(AugMix, {"augmix": {}})
