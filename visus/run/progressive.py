"""Progressive resizing: the first part of a run on smaller images (Howard et al. 2018, as used for DAWNBench)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace

import torch.nn.functional as F

from visus.core.batch import ImageBatch
from visus.core.errors import RecipeError
from visus.core.preprocessing import Preprocessing
from visus.models import registry
from visus.run.recipe import Recipe
from visus.train.contracts import BatchSource


class Resized:
    """The batches of `source`, each at the size of its place in the run: batch b of n in epoch e of `epochs` is at
    (e + b / n) / epochs of it.

    sizes: (share of the run, height, width), rising from a share of 0; the size holds from its share on.
    """

    def __init__(self, source: BatchSource, sizes: Sequence[tuple[float, int, int]], epochs: int):
        self.source = source
        self.sizes = tuple(sizes)
        self.epochs = epochs

    def __len__(self) -> int:
        return len(self.source)

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[ImageBatch]:
        batches = self.source.epoch(epoch, start_batch)
        try:
            for number, batch in enumerate(batches, start_batch):
                yield self._resized(batch, self.size_at((epoch + number / len(self.source)) / self.epochs))
        finally:
            close = getattr(batches, "close", None)  # ends the loader's workers with this generator
            if close is not None:
                close()

    def size_at(self, share: float) -> tuple[int, int]:
        """(height, width) in pixels at a share of the run in [0, 1]."""
        return next((height, width) for start, height, width in reversed(self.sizes) if share >= start - 1e-9)

    def _resized(self, batch: ImageBatch, size: tuple[int, int]) -> ImageBatch:
        if tuple(batch.images.shape[-2:]) == size:
            return batch
        smaller = F.interpolate(batch.images, size, mode="bilinear", antialias=True, align_corners=False)
        return replace(batch, images=smaller)


def progressive_sizes(recipe: Recipe, preprocessing: Preprocessing) -> tuple[tuple[float, int, int], ...]:
    """train.sizes as (share of the run, height, width) in pixels; () where none are set.

    Raises RecipeError: shares of the run that do not rise from 0, sides that do not rise to the model's own, a model
    that is built for one size.
    """
    steps = recipe.train.sizes
    if not steps:
        return ()
    where = f"train.sizes={[list(step) for step in steps]}"
    shares, sides = [share for share, _ in steps], [side for _, side in steps]
    if shares[0] != 0 or any(a >= b for a, b in zip(shares, shares[1:], strict=False)):
        raise RecipeError("the shares of the run must begin with 0 and rise", where=where,
                          remedy="Such as [[0, 0.6], [0.6, 1]]")
    if sides[-1] != 1 or sorted(sides) != sides:
        raise RecipeError("the sides must rise to 1, the side that the model is used at", where=where,
                          remedy=f"End with [{shares[-1]:g}, 1]")
    if "image_size" in {field.name for field in fields(registry.get(recipe.model.name).build.Config)}:
        raise RecipeError(f"{recipe.model.name} is built for one image size", where=where,
                          remedy="Choose a convolutional network, or leave train.sizes empty")
    height, width = preprocessing.size
    return tuple((share, max(1, math.floor(height * side + 0.5)), max(1, math.floor(width * side + 0.5)))
                 for share, side in steps)
