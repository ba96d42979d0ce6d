"""Feature inversion: the picture that a layer remembers, from its activations alone.

Paper: Mahendran, Vedaldi, Understanding Deep Image Representations by Inverting Them, CVPR 2015, arXiv:1412.0035: make
|| f(x) - f(x0) ||^2 / || f(x0) ||^2 small (equation 2), with the alpha norm, which keeps pixels in range, and total
variation (section 3.1) as priors. Descent is by Adam in place of momentum; the priors are means over pixels, so that
their weights hold for any size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from visus import explain
from visus.core.validate import natural, positive, require
from visus.explain.activations import layer_maps, layer_problem
from visus.explain.class_image import noise_start, numbered
from visus.explain.explanation import Explanation
from visus.explain.feature_layer import FeatureLayer, feature_layer
from visus.explain.pixels import PixelScale, Scale, pixel_scale
from visus.ops.total_variation import total_variation


def invert(model: nn.Module, pixels: Tensor, scale: PixelScale, layer: FeatureLayer, *, steps: int = 300,
           lr: float = 0.03, alpha: float = 6.0, alpha_weight: float = 0.005, beta: float = 2.0, tv_weight: float = 1.0,
           seed: int = 0) -> tuple[Tensor, Tensor]:
    """Pixels [B, C, H, W] in [0, 1] whose features at the layer come near to those of `pixels`, and what is left of the
    squared distance relative to the features themselves, [B]."""
    with torch.no_grad():
        wanted = layer_maps(model, scale.normalised(pixels), layer)
    norm = wanted.square().flatten(1).sum(1).clamp(min=torch.finfo(wanted.dtype).tiny)

    def distance(seen: Tensor) -> Tensor:
        return (layer_maps(model, scale.normalised(seen), layer) - wanted).square().flatten(1).sum(1) / norm

    x = noise_start(pixels, scale, seed).clone()
    count = x[0, 0].numel()
    mean, square = torch.zeros_like(x), torch.zeros_like(x)
    for step in range(steps):
        with torch.enable_grad():
            leaf = x.requires_grad_()
            far = (2 * (leaf - 0.5)).abs().pow(alpha).flatten(1).mean(1)
            rough = total_variation(leaf, beta) / count
            loss = distance(leaf) + alpha_weight * far + tv_weight * rough
            gradient, = torch.autograd.grad(loss.sum(), leaf)
        mean, square = mean.lerp(gradient, 0.1), square.lerp(gradient.square(), 0.001)
        rate = lr * (1 - 0.9 * step / steps) / (1 - 0.9 ** (step + 1))
        spread = (square / (1 - 0.999 ** (step + 1))).sqrt()
        x = x.detach() - rate * mean / spread.clamp(min=1e-30)
    found = x.detach().clamp(0, 1)
    with torch.no_grad():
        return found, distance(found)


@dataclass(frozen=True, kw_only=True)
class Inversion:
    """layer: a module's dotted name; None is the last that has places. steps, lr: of the descent. alpha, alpha_weight:
    of the alpha norm; beta, tv_weight: of the total variation; late layers need
    more of it, early ones less. seed: of the noise at the start."""

    layer: str | None = None
    steps: int = 300
    lr: float = 0.03
    alpha: float = 6.0
    alpha_weight: float = 0.005
    beta: float = 2.0
    tv_weight: float = 1.0
    seed: int = 0
    mean: Scale = None
    std: Scale = None
    needs_images: ClassVar[bool] = True
    folded: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(steps=self.steps)
        natural(seed=self.seed)
        for name, value in (("lr", self.lr), ("beta", self.beta)):
            require(isinstance(value, int | float) and value > 0, name, value, "be above 0")
        require(isinstance(self.alpha, int | float) and self.alpha >= 1, "alpha", self.alpha, "be at least 1")
        for name, value in (("alpha_weight", self.alpha_weight), ("tv_weight", self.tv_weight)):
            require(isinstance(value, int | float) and value >= 0, name, value, "be at least 0")

    def problem(self, model: nn.Module, images: Tensor) -> str | None:
        return layer_problem(model, images, self.layer)

    def __call__(self, model: nn.Module, images: Tensor) -> Explanation:
        scale = pixel_scale(images, self.mean, self.std)
        layer = feature_layer(model, images, self.layer)
        made, left = invert(model, scale.pixels(images), scale, layer, steps=self.steps, lr=self.lr, alpha=self.alpha,
                            alpha_weight=self.alpha_weight, beta=self.beta, tv_weight=self.tv_weight, seed=self.seed)
        names = numbered("inversion", len(made))
        return Explanation(
            sentence=f"Pictures made from nothing but the activations of {layer.words}; beside each name what is left "
                     "of the squared distance to them.",
            pictures=made, picture_names=tuple(f"{name}: {100 * float(e):.2g} % left"
                                               for name, e in zip(names, left, strict=True)))


explain.add(Inversion, {"inversion": {}}, summary="the picture that a layer remembers",
            paper="Mahendran, Vedaldi, CVPR 2015, arXiv:1412.0035")
