"""The features of an image as assignment 1 of Stanford's course CS231n puts them together: histograms of oriented
gradients, and a histogram of the hue where there is colour."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from visus.core.errors import UserError
from visus.core.validate import one_of, positive, require
from visus.ops.colour_histogram import hue_histogram
from visus.ops.hog import COURSE, DALAL_TRIGGS, Hog, hog


@dataclass(frozen=True, kw_only=True)
class FeatureConfig:
    """image_size: side in pixels of the square images. descriptor: "course" (mean gradients of cells; 144 numbers for
    32 x 32) or "dalal_triggs" (blocks, normalised; 324 numbers for 32 x 32). orientations: bins of direction. cell:
    side in pixels; None = 8, or a quarter of a smaller image. hue_bins: of the histogram of hues; 0 = none."""

    image_size: int = 32
    in_channels: int = 3
    num_classes: int = 10
    descriptor: str = "course"
    orientations: int = 9
    cell: int | None = None
    hue_bins: int = 0

    def __post_init__(self) -> None:
        positive(image_size=self.image_size, in_channels=self.in_channels, num_classes=self.num_classes,
                 orientations=self.orientations)
        one_of(("course", "dalal_triggs"), descriptor=self.descriptor)
        require(isinstance(self.hue_bins, int) and self.hue_bins >= 0, "hue_bins", self.hue_bins,
                "be a whole number of at least 0")
        if self.cell is not None:
            positive(cell=self.cell)
        self.options().blocks(self.image_size, self.image_size)

    def options(self) -> Hog:
        cell = self.cell if self.cell is not None else max(2, min(8, self.image_size // 4))
        base = COURSE if self.descriptor == "course" else DALAL_TRIGGS
        return replace(base, orientations=self.orientations, cell=cell)

    def coloured(self) -> bool:
        return self.in_channels == 3 and self.hue_bins > 0

    def length(self) -> int:
        return self.options().length(self.image_size, self.image_size) + (self.hue_bins if self.coloured() else 0)

    def words(self) -> list[str]:
        """What was chosen for the user, a sentence each."""
        found = []
        if self.cell is None and self.options().cell != 8:
            found.append(f"cells of {self.options().cell} px, as the images have only {self.image_size} "
                         "(--set model.config.cell=...)")
        if self.hue_bins and not self.coloured():
            found.append(f"images of {self.in_channels} channel{'s' * (self.in_channels > 1)} have no hue: gradients "
                         "alone are used")
        return found

    def describe(self, images: Tensor) -> Tensor:
        """In [0, 1], [B, C, S, S] -> [B, length]: gradients, then hues. Differentiable but for the hues."""
        if images.shape[-2:] != (self.image_size, self.image_size):
            raise UserError(f"this model was built for images of {self.image_size} x {self.image_size} px",
                            where=f"images of {images.shape[-2]} x {images.shape[-1]} px", remedy="Resize the images")
        found = hog(images, self.options()).flatten(1)
        if not self.coloured():
            return found
        return torch.cat([found, hue_histogram(images, self.hue_bins).to(found)], dim=1)
