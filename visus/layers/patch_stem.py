"""Patches of images of one size, for networks whose layers mix a fixed number of places."""

from __future__ import annotations

from torch import Tensor, nn

from visus.core.errors import UserError
from visus.core.validate import positive, require


def check_patches(image_size: int, patch_size: int) -> None:
    """Raises UserError, by field, unless patches of `patch_size` pixels fill an image of `image_size`."""
    positive(image_size=image_size, patch_size=patch_size)
    require(image_size % patch_size == 0, "image_size", image_size, f"be a multiple of patch_size={patch_size}")


class PatchStem(nn.Module):
    """[B, C, S, S] -> tokens [B, (S / patch_size)^2, dim], row by row. Raises UserError for images of another size."""

    def __init__(self, in_channels: int, dim: int, image_size: int, patch_size: int):
        super().__init__()
        self.image_size = image_size
        self.grid = image_size // patch_size
        self.proj = nn.Conv2d(in_channels, dim, patch_size, patch_size)

    def forward(self, images: Tensor) -> Tensor:
        size = self.image_size
        if images.shape[-2:] != (size, size):
            raise UserError(f"this model was built for images of {size} x {size} pixels",
                            where="x".join(map(str, images.shape[-2:])),
                            remedy="Resize the images, or build the model with another image_size")
        return self.proj(images).flatten(2).transpose(1, 2)  # [B, dim, h, w] -> [B, h * w, dim]

    def maps(self, tokens: Tensor) -> Tensor:
        """Tokens [B, N, dim] back in their places: [B, dim, S / patch_size, S / patch_size]."""
        return tokens.transpose(1, 2).unflatten(2, (self.grid, self.grid))
