"""What a method of explanation gives, and what it has to offer itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from visus.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class HeadDistances:
    """How far the heads of one layer look. layer: its number in the model, from 0; pixels: [heads], the mean over
    images."""

    layer: int
    pixels: Tensor


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """A method fills what it has. sentence: what is to be seen, in plain words.

    heat: [B, h, w], a value for each place of each image, the larger the hotter; h, w may be coarser than the images.
    signed: heat below zero speaks against the answer; it is drawn in two colours around zero.
    tiles: [B, K, h, w], further maps for each image, and tile_names, K of them.
    distances: of the layers in order; uniform_px: that of attention which is the same everywhere.
    similarity: [h, w, h, w] in [-1, 1], of the positions of a grid to each other.
    pictures: [K, C, H, W] in [0, 1], images that the method made, and picture_names, K of them.
    points: [B, 2], a place on a plane for each image.
    """

    sentence: str
    heat: Tensor | None = None
    tiles: Tensor | None = None
    tile_names: tuple[str, ...] = ()
    distances: tuple[HeadDistances, ...] = ()
    uniform_px: float | None = None
    similarity: Tensor | None = None
    signed: bool = False
    pictures: Tensor | None = None
    picture_names: tuple[str, ...] = ()
    points: Tensor | None = None


def classes_asked(model: nn.Module, images: Tensor, target: int | None) -> Tensor:
    """int64 [B]: `target` for every image, or the model's own answer for each where it is None.

    Raises UserError for a class that the model does not have.
    """
    with torch.no_grad():
        return classes_in(model(images), target)


def classes_in(logits: Tensor, targets: Tensor | int | None) -> Tensor:
    """int64 [B], as `classes_asked`, where logits [B, classes] are known. targets: one class for all, or one each."""
    if targets is None:
        return logits.detach().argmax(-1)
    if isinstance(targets, Tensor):
        return targets
    if not 0 <= targets < logits.shape[-1]:
        raise UserError(f"the model has the classes 0 to {logits.shape[-1] - 1}", where=f"target={targets}")
    return torch.full((len(logits),), targets, device=logits.device)


class Method(Protocol):
    """A registered method: a frozen dataclass whose fields are its options. One that explains an answer has the field
    `target: int | None = None`, the class asked about; None is the model's own answer, image by image. One that draws
    pixels has the fields `mean` and `std`, those of the model's normalisation, which `visus explain` fills in (see
    visus/explain/pixels.py). One that compares images has `together: ClassVar[bool] = True` and gets all at once;
    others get them one by one. One to which a copy with folded batch norms is as good has `folded: ClassVar[bool] =
    True` and gets that copy from `visus explain`, unless a `layer` is named."""

    needs_images: ClassVar[bool]

    def problem(self, model: nn.Module, images: Tensor) -> str | None:
        """Why the method can say nothing about this model, or None. images: a batch of one, of the model's size. Costs
        a forward pass at most."""

    def __call__(self, model: nn.Module, images: Tensor) -> Explanation:
        """images: [B, C, H, W], normalised. The model is left as it was."""


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """The model in eval mode inside; afterwards each of its modules as it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
