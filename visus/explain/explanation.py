"""What a method of explanation gives, and what it has to offer itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor, nn


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
    tiles: [B, K, h, w], further maps for each image, and tile_names, K of them.
    distances: of the layers in order; uniform_px: that of attention which is the same everywhere.
    similarity: [h, w, h, w] in [-1, 1], of the positions of a grid to each other.
    """

    sentence: str
    heat: Tensor | None = None
    tiles: Tensor | None = None
    tile_names: tuple[str, ...] = ()
    distances: tuple[HeadDistances, ...] = ()
    uniform_px: float | None = None
    similarity: Tensor | None = None


class Method(Protocol):
    """A registered method: a frozen dataclass whose fields are its options."""

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
