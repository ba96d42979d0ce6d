"""How the loss lies around the weights, along a line or over a plane.

Papers: Goodfellow, Vinyals, Saxe, Qualitatively Characterizing Neural Network Optimization Problems, ICLR 2015,
arXiv:1412.6544 (the loss on the straight line between two sets of weights); Choromanska et al., The Loss Surfaces of
Multilayer Networks, AISTATS 2015; Li et al., Visualizing the Loss Landscape of Neural Nets, NeurIPS 2018,
arXiv:1712.09913 (random directions in which each filter is as long as the filter of the weights; biases and norms stay
as they are). The model is never written to: other weights are handed to its forward pass. Statistics of batch norms
stay those of the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from visus import explain
from visus.core.errors import UserError
from visus.core.validate import natural, positive, require
from visus.explain.explanation import Explanation, in_eval_mode

Direction = Mapping[str, Tensor]
PICTURE_PX = 420


def filter_direction(model: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """A random direction in the space of weights: of each parameter with two axes or more, each filter (first axis)
    scaled to the length of that of the model. Section 4 of Li et al."""
    out = {}
    for name, weight in model.named_parameters():
        if weight.ndim < 2:
            continue
        drawn = torch.randn(weight.shape, generator=generator).to(weight)
        wanted, length = (w.detach().flatten(1).norm(dim=1) for w in (weight, drawn))
        out[name] = drawn * (wanted / length.clamp(min=1e-12)).view(-1, *[1] * (weight.ndim - 1))
    return out


@torch.no_grad()
def slice_losses(model: nn.Module, images: Tensor, targets: Tensor, directions: Sequence[Direction],
                 places: Tensor) -> Tensor:
    """The mean cross-entropy at weights + sum of place * direction. places: [P, number of directions] -> [P]. images:
    [N, C, H, W]; targets: int64 [N]."""
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    losses = []
    with in_eval_mode(model):
        for place in places.tolist():
            moved = dict(weights)
            for step, direction in zip(place, directions, strict=True):
                for name, part in direction.items():
                    moved[name] = moved[name] + step * part
            losses.append(F.cross_entropy(functional_call(model, moved, (images,)), targets))
    return torch.stack(losses)


def towards(model: nn.Module, other: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The direction from the model's weights to those of a model of the same kind: place 0 is the one, 1 the other
    (Goodfellow et al., section 2). Buffers do not count. Raises UserError for weights of another form."""
    out = {}
    for name, weight in model.named_parameters():
        if name not in other or other[name].shape != weight.shape:
            raise UserError("the other weights are not those of such a model", where=name)
        out[name] = other[name].to(weight) - weight.detach()
    return out


@dataclass(frozen=True, kw_only=True)
class LossLandscape:
    """dims: 1 is a line, 2 a plane. points: along each axis. span: how far to go to both sides, where 1 is a direction
    as long as the weights themselves. seed: of the directions."""

    dims: int = 2
    points: int = 15
    span: float = 1.0
    seed: int = 0
    needs_images: ClassVar[bool] = True
    together: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.dims in (1, 2), "dims", self.dims, "be 1 or 2")
        positive(points=self.points)
        require(self.points >= 3, "points", self.points, "be at least 3")
        require(isinstance(self.span, int | float) and self.span > 0, "span", self.span, "be above 0")
        natural(seed=self.seed)

    def problem(self, model: nn.Module, images: Tensor) -> str | None:
        if any(parameter.ndim > 1 for parameter in model.parameters()):
            return None
        return "has no weights that a direction could lead along"

    def __call__(self, model: nn.Module, images: Tensor) -> Explanation:
        with in_eval_mode(model), torch.no_grad():
            targets = model(images).argmax(1)
        generator = torch.Generator().manual_seed(self.seed)
        directions = [filter_direction(model, generator) for _ in range(self.dims)]
        along = torch.linspace(-self.span, self.span, self.points)
        places = torch.cartesian_prod(*[along] * self.dims).view(-1, self.dims)
        losses = slice_losses(model, images, targets, directions, places).float().cpu()
        here = float(slice_losses(model, images, targets, directions, torch.zeros(1, self.dims)))
        low, high = float(losses.min()), float(losses.max())
        drawn = curve_picture(losses) if self.dims == 1 else contour_picture(losses.view(self.points, self.points))
        return Explanation(
            sentence=f"The cross-entropy against the model's own answers to {len(images)} images, "
                     + ("along a random direction" if self.dims == 1 else "over two random directions")
                     + f" from -{self.span:g} to {self.span:g} times the length of each filter; the model is in the "
                       f"middle, at {here:.3g}.",
            pictures=drawn[None], picture_names=(f"loss from {low:.3g} to {high:.3g}",))


def contour_picture(losses: Tensor, levels: int = 14) -> Tensor:
    """[P, P] -> [3, PICTURE_PX, PICTURE_PX] in [0, 1]: dark where the loss is low, a line between one band and the
    next, bands of equal steps of log(1 + loss - least); the middle is marked."""
    height = (losses.nan_to_num(nan=math.inf).clamp(max=1e30) - losses.min()).log1p()
    fine = F.interpolate(height[None, None], (PICTURE_PX, PICTURE_PX), mode="bicubic", align_corners=True)[0, 0]
    fine = fine.clamp(min=0) / height.max().clamp(min=1e-12)
    band = (fine * levels).floor().clamp(max=levels - 1)
    low, high = torch.tensor([0.10, 0.22, 0.42]), torch.tensor([0.96, 0.97, 0.93])
    colour = low[:, None, None] + (high - low)[:, None, None] * (band / (levels - 1))
    line = torch.zeros_like(band, dtype=torch.bool)
    line[:, 1:] |= band[:, 1:] != band[:, :-1]
    line[1:] |= band[1:] != band[:-1]
    colour = torch.where(line, 0.6 * colour, colour)
    middle = PICTURE_PX // 2
    colour[:, middle - 5:middle + 6, middle - 1:middle + 2] = colour.new_tensor([0.85, 0.30, 0.05])[:, None, None]
    colour[:, middle - 1:middle + 2, middle - 5:middle + 6] = colour.new_tensor([0.85, 0.30, 0.05])[:, None, None]
    return colour.clamp(0, 1)


def curve_picture(losses: Tensor) -> Tensor:
    """[P] -> [3, PICTURE_PX / 2, PICTURE_PX] in [0, 1]: the loss as a curve; upright lines at the ends and in the
    middle."""
    height, width = PICTURE_PX // 2, PICTURE_PX
    fine = F.interpolate(losses.nan_to_num(nan=1e30).clamp(max=1e30)[None, None], width, mode="linear",
                         align_corners=True)[0, 0]
    share = (fine - fine.min()) / (fine.max() - fine.min()).clamp(min=1e-12)
    at = (height - 9) - share * (height - 18)
    before = torch.cat([at[:1], at[:-1]])
    rows = torch.arange(height)[:, None]
    ink = (rows >= torch.minimum(at, before) - 1.2) & (rows <= torch.maximum(at, before) + 1.2)
    picture = torch.full((3, height, width), 0.97)
    for column in (0, width // 2, width - 1):
        picture[:, :, column] = 0.75
    return torch.where(ink, picture.new_tensor([0.15, 0.39, 0.69])[:, None, None], picture)


explain.add(LossLandscape, {"loss_landscape": {}}, summary="how the loss lies around the weights",
            paper="Goodfellow et al., ICLR 2015, arXiv:1412.6544; Li et al., NeurIPS 2018, arXiv:1712.09913")
