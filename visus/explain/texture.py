"""Texture synthesis: a new picture whose layers have the same channels active together as a given one's.

Paper: Gatys, Ecker, Bethge, Texture Synthesis Using Convolutional Neural Networks, NIPS 2015, arXiv:1505.07376: from
white noise, L-BFGS lowers the difference of the Gram matrices of VGG's layers; what lies where is free. Departures: any
network that has named maps serves, not VGG-19 alone; each layer counts relative to its own target, which takes the
place of the paper's rescaled network whose maps average to 1; the picture is kept in the range of pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor, nn

from visus import explain
from visus.core.errors import UserError
from visus.core.validate import natural, one_of, positive, require
from visus.explain.explanation import Explanation, in_eval_mode
from visus.explain.pixels import PixelScale, Scale, pixel_scale
from visus.losses.perceptual import POOLS, FeatureMaps, paper_layers, style_grams, style_loss
from visus.ops.total_variation import total_variation

Optimiser = Literal["lbfgs", "adam"]
OPTIMISERS = ("lbfgs", "adam")


def synthesise_texture(model: nn.Module, images: Tensor, scale: PixelScale, *, layers: Sequence[str] = (),
                       pool: str = "max", size: tuple[int, int] | None = None, steps: int = 200,
                       optimiser: Optimiser = "lbfgs", lr: float = 0.05, tv_weight: float = 0.0,
                       generator: Generator | None = None) -> tuple[Tensor, list[float]]:
    """Pictures with the textures of images [B, C, H, W], from noise: [B, C, *size], normalised; and the loss by
    evaluation.

    scale: of the images' normalisation. The loss is the mean over `layers` (by default
    those of `paper_layers`) of the relative `style_loss`; one picture for each image. tv_weight: of the
    total variation, per value. size: of the pictures, by default the images'.
    """
    names = tuple(layers) or paper_layers(model).style
    features = FeatureMaps(model, names, pool)
    with torch.no_grad(), in_eval_mode(model):
        targets = style_grams(features(images), names)
    start = noise_like(images, size or (images.shape[2], images.shape[3]), scale, generator)
    weights = dict.fromkeys(names, 1 / len(names))

    def loss(pictures: Tensor) -> Tensor:
        value = style_loss(style_grams(features(pictures), names), targets, weights, relative=True)
        return value + smoothness(pictures, tv_weight)

    with in_eval_mode(model):
        return optimise_images(start, loss, scale, steps=steps, optimiser=optimiser, lr=lr)


def noise_like(images: Tensor, size: tuple[int, int], scale: PixelScale, generator: Generator | None) -> Tensor:
    """[B, C, *size], normalised: pixels uniform from 0.45 to 0.55, as strong noise stays long. Drawn on the CPU."""
    draws = torch.rand(*images.shape[:2], *size, generator=generator, dtype=torch.float64).to(images)
    return scale.normalised(0.45 + 0.1 * draws)


def smoothness(pictures: Tensor, weight: float) -> Tensor:
    """weight times the total variation (beta 2) per value; zero without computing it where the weight is."""
    if not weight:
        return pictures.new_zeros(())
    return weight * total_variation(pictures).mean() / pictures[0].numel()


def optimise_images(start: Tensor, loss: Callable[[Tensor], Tensor], scale: PixelScale, *, steps: int,
                    optimiser: Optimiser = "lbfgs", lr: float = 0.05) -> tuple[Tensor, list[float]]:
    """Images of a small loss, from `start`, whose pixels lie in [0, 1], and the loss by evaluation: first that of the
    start, last that of what is given.

    L-BFGS as in Gatys et al. (with a strong-Wolfe line search; lr is not used; cut to the range at the end), or Adam
    with step lr in normalised units (cut after each step). No gradient is computed but the images'. Raises UserError
    where the loss is not finite.
    """
    images = start.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
    low, high = (scale.normalised(torch.full_like(scale.mean, value)) for value in (0.0, 1.0))
    history: list[float] = []
    factor = 1.0

    def evaluate() -> float:
        with torch.enable_grad():
            value = loss(images)
            gradient, = torch.autograd.grad(factor * value, images)
        images.grad = gradient.contiguous()
        history.append(float(value.detach()))
        return factor * history[-1]

    evaluate()
    assert images.grad is not None
    spread = float(images.grad.abs().mean())
    if not torch.isfinite(torch.tensor([history[0], spread])).all():
        raise UserError("the loss of the first picture is not finite", where=f"loss={history[0]}",
                        remedy="Give a trained model: maps that overflow cannot be matched")
    if steps == 0 or spread == 0:
        return images.detach().clamp(low, high), history
    factor = 1 / spread  # L-BFGS throws tiny products away, Adam adds 1e-8 to tiny gradients
    images.grad *= factor
    if optimiser == "lbfgs":
        descent = torch.optim.LBFGS([images], max_iter=steps, history_size=50, tolerance_grad=0.0,
                                    tolerance_change=0.0, line_search_fn="strong_wolfe")
        history.pop()
        descent.step(evaluate)
    else:
        adam = torch.optim.Adam([images], lr=lr)
        for _ in range(steps):
            adam.step()
            with torch.no_grad():
                images.clamp_(low, high)
            evaluate()
    with torch.no_grad():
        images.clamp_(low, high)
        history.append(float(loss(images)))
    return images.detach(), history


def as_tuple(value: object) -> tuple:
    """What --set gives, one or a list, as a tuple; nothing is the empty one."""
    if value is None or value == "":
        return ()
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def check_descent(steps: object, optimiser: object, lr: object, pool: object, tv_weight: object, seed: object) -> None:
    natural(steps=steps, seed=seed)
    one_of(OPTIMISERS, optimiser=optimiser)
    one_of(POOLS, pool=pool)
    check_weight(tv_weight=tv_weight)
    require(isinstance(lr, int | float) and not isinstance(lr, bool) and lr > 0, "lr", lr, "be above 0")


def check_weight(**fields: object) -> None:
    for field, value in fields.items():
        require(isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf"), field,
                value, "be a number of at least 0")


@dataclass(frozen=True, kw_only=True)
class Texture:
    """layers: whose Gram matrices are matched; by default the paper's of a VGG, else all of stride 16 and less. side:
    of the picture made, in pixels; None: as the image. pool: 'average' replaces VGG's max pooling, as the paper found
    better. steps, optimiser ('lbfgs' or 'adam'), lr (of Adam), tv_weight, seed. mean, std: of the model's
    normalisation."""

    layers: tuple[str, ...] = ()
    side: int | None = None
    pool: str = "max"
    steps: int = 200
    optimiser: Optimiser = "lbfgs"
    lr: float = 0.05
    tv_weight: float = 0.0
    seed: int = 0
    mean: Scale = None
    std: Scale = None
    needs_images: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", as_tuple(self.layers))
        check_descent(self.steps, self.optimiser, self.lr, self.pool, self.tv_weight, self.seed)
        if self.side is not None:
            positive(side=self.side)

    def problem(self, model: nn.Module, images: Tensor) -> str | None:
        try:
            FeatureMaps(model, self.layers or paper_layers(model).style, self.pool)
        except UserError as error:
            return str(error)
        return None

    def __call__(self, model: nn.Module, images: Tensor) -> Explanation:
        scale = pixel_scale(images, self.mean, self.std)
        size = None if self.side is None else (self.side, self.side)
        made, history = synthesise_texture(
            model, images, scale, layers=self.layers, pool=self.pool, size=size, steps=self.steps,
            optimiser=self.optimiser, lr=self.lr, tv_weight=self.tv_weight,
            generator=Generator().manual_seed(self.seed))
        names = self.layers or paper_layers(model).style
        return Explanation(
            sentence=f"A picture made from noise whose Gram matrices of {', '.join(names)} are those of the image: the "
                     f"network cannot tell the textures apart there, and where things lie is forgotten. Relative "
                     f"difference {history[0]:.3g} at the start, {history[-1]:.3g} at the end.",
            pictures=scale.pixels(made), picture_names=("texture",) * len(made))


explain.add(Texture, {"texture": {}}, summary="a new picture of the same texture, from noise",
            paper="Gatys, Ecker, Bethge, NIPS 2015, arXiv:1505.07376")
