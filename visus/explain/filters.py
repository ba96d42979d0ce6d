"""The weights themselves, as pictures: filters of a convolution, and templates of a linear classifier.

Papers: Krizhevsky, Sutskever, Hinton, ImageNet Classification with Deep Convolutional Neural Networks, NIPS 2012,
Figure 3: the filters of the first layer, which see colours, are pictures. Those of later layers see channels; their
slices are grey, and tell little (Stanford CS231n). A classifier that is one matrix has for each class a picture of the
image's own size: what it multiplies the pixels by.
Grey is a weight of 0; each filter has its own scale, the same for its channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visus import explain
from visus.core.errors import UserError, did_you_mean
from visus.core.validate import positive, require
from visus.explain.explanation import Explanation, in_eval_mode


def filter_pictures(weight: Tensor) -> Tensor:
    """[K, C, h, w] with C = 1 or 3, signed -> [0, 1]: 0.5 + 0.5 w / (largest |w| of each filter)."""
    largest = weight.flatten(1).abs().amax(1).clamp(min=torch.finfo(weight.dtype).tiny)
    return 0.5 + 0.5 * weight / largest.view(-1, 1, 1, 1)


def filter_sheet(pictures: Tensor, columns: int, side_px: int, gap: int = 1) -> Tensor:
    """[K, C, h, w] in [0, 1] -> [C, H, W]: row by row, pixels as squares, each picture about `side_px` high, on
    white."""
    factor = max(1, side_px // pictures.shape[2])
    large = pictures.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    padded = F.pad(large, (0, gap, 0, gap), value=1.0)
    rows = -(-len(padded) // columns)
    blank = padded.new_ones(rows * columns - len(padded), *padded.shape[1:])
    grid = torch.cat([padded, blank]).unflatten(0, (rows, columns))  # [rows, columns, C, h, w]
    return grid.permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)[:, :-gap, :-gap]  # [C, rows * h, columns * w]


def not_affine(model: nn.Module, shape: tuple[int, int, int]) -> str | None:
    """Why the logits are not affine in the pixels, or None: f(a) + f(b) is not f(a + b) + f(0) for two random
    images. A model with a method `templates` says itself what they are."""
    if callable(getattr(model, "templates", None)):
        return None
    like = next(model.parameters(), None)
    if like is None:
        return f"{type(model).__name__} is no linear classifier: it has no weights"
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(1, *shape, generator=generator).to(like) for _ in range(2))
    with in_eval_mode(model), torch.no_grad():
        at_a, at_b, together, origin = (model(x.clone()) for x in (a, b, a + b, torch.zeros_like(a)))
    apart, size = at_a + at_b - together - origin, max(float(at_a.abs().max()), float(at_b.abs().max()))
    if float(apart.abs().max()) <= 1e-4 * size:
        return None
    return f"{type(model).__name__} is no linear classifier: its logits are not affine in the pixels"


def weight_templates(model: nn.Module, shape: tuple[int, int, int]) -> Tensor:
    """[classes, C, H, W]: what each class multiplies the pixels by, of a model that is affine in its image: the
    Jacobian of the logits, which is the same everywhere. Raises UserError for a model that is not affine."""
    own = getattr(model, "templates", None)
    if callable(own):
        found: Tensor = own().detach()
        return found
    problem = not_affine(model, shape)
    if problem is not None:
        raise UserError(problem, remedy="The method filters shows the first layer of others, class_image what a class "
                                        "wants")
    image = torch.zeros(1, *shape).to(next(model.parameters()))
    with in_eval_mode(model), torch.enable_grad():
        jacobian = torch.autograd.functional.jacobian(lambda x: model(x)[0], image)
    return jacobian[:, 0]


def convolutions(model: nn.Module) -> dict[str, nn.Conv2d]:
    """Name -> convolution over images or maps, in the order of definition."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}


@dataclass(frozen=True, kw_only=True)
class Filters:
    """layer: a convolution's dotted name; None is the first. count: how many filters (or slices of filters) to show at
    most."""

    layer: str | None = None
    count: int = 256
    needs_images: ClassVar[bool] = False

    def __post_init__(self) -> None:
        positive(count=self.count)
        require(self.layer is None or isinstance(self.layer, str | int), "layer", self.layer, "be a module's name")

    def problem(self, model: nn.Module, images: Tensor) -> str | None:
        try:
            self._chosen(model)
        except UserError as error:
            return error.problem
        return None

    def _chosen(self, model: nn.Module) -> tuple[str, Tensor]:
        known = {name: conv for name, conv in convolutions(model).items() if max(conv.kernel_size) > 1}
        if not known:
            raise UserError("has no convolution with a filter of more than one pixel")
        name = next(iter(known)) if self.layer is None else str(self.layer)
        if name not in known:
            raise UserError("is no convolution with a filter of more than one pixel", where=f"layer={name}",
                            remedy=did_you_mean(name, list(known)))
        return name, known[name].weight.detach()

    def __call__(self, model: nn.Module, images: Tensor) -> Explanation:
        name, weight = self._chosen(model)
        filters, channels, height, width = weight.shape
        coloured = channels == 3 and images.shape[1] == 3
        if not coloured:
            weight = weight.reshape(-1, 1, height, width)  # [K * C, 1, h, w]
        shown = filter_pictures(weight[:self.count].float())
        sheet = filter_sheet(shown, columns=16, side_px=34)
        what = f"{len(shown)} of {filters} filters" if coloured or channels == 1 else \
            f"{len(shown)} of {filters * channels} slices of {filters} filters, {channels} for each filter"
        return Explanation(
            sentence=f"Weights of {name}: {what}, {height} x {width}, row by row; grey is a weight of 0, each on its "
                     "own scale.",
            pictures=sheet[None], picture_names=(name,))


@dataclass(frozen=True, kw_only=True)
class Templates:
    """count: how many classes to show at most, from the first."""

    count: int = 100
    needs_images: ClassVar[bool] = False

    def __post_init__(self) -> None:
        positive(count=self.count)

    def problem(self, model: nn.Module, images: Tensor) -> str | None:
        if any(isinstance(module, nn.Conv2d | nn.LayerNorm) for module in model.modules()):  # no pass is needed
            return f"{type(model).__name__} is no linear classifier: it has convolutions or norms"
        return not_affine(model, tuple(images.shape[1:]))  # type: ignore[arg-type]

    def __call__(self, model: nn.Module, images: Tensor) -> Explanation:
        templates = weight_templates(model, tuple(images.shape[1:])).float()[:self.count]  # type: ignore[arg-type]
        return Explanation(
            sentence="What the classifier multiplies the pixels by, class by class: bright counts for the class, dark "
                     "against it, grey for nothing.",
            pictures=filter_pictures(templates), picture_names=tuple(f"class {n}" for n in range(len(templates))))


explain.add(Filters, {"filters": {}}, summary="the filters of a convolution, as pictures",
            paper="Krizhevsky, Sutskever, Hinton, NIPS 2012, Figure 3")
explain.add(Templates, {"templates": {}}, summary="the templates of a linear classifier, one a class",
            paper="Stanford CS231n, Linear Classification")
