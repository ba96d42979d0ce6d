"""Patches of images as tokens."""

from __future__ import annotations

from torch import Tensor, nn

from visus.core.errors import UserError
from visus.core.validate import positive, require


def check_patches(image_size: int, patch_size: int) -> None:
    """Raises UserError, by field, unless patches of `patch_size` pixels fill an image of `image_size`."""
    positive(image_size=image_size, patch_size=patch_size)
    require(image_size % patch_size == 0, "image_size", image_size, f"be a multiple of patch_size={patch_size}")


class PatchStem(nn.Module):
    """[B, C, H, W] -> tokens [B, (H / patch_size) (W / patch_size), dim], row by row. image_size: the side of square
    images. any_size: whether H and W may be any multiples of patch_size instead; layers that mix a fixed number of
    places cannot have that. bias: of the projection. Raises UserError for images of other sizes."""

    def __init__(self, in_channels: int, dim: int, image_size: int, patch_size: int, any_size: bool = False,
                 bias: bool = True):
        super().__init__()
        self.image_size = image_size
        self.patch_size = patch_size
        self.any_size = any_size
        self.side = image_size // patch_size
        self.proj = nn.Conv2d(in_channels, dim, patch_size, patch_size, bias=bias)

    def grid(self, images: Tensor) -> tuple[int, int]:
        """Rows and columns of patches."""
        height, width = images.shape[-2:]
        patch = self.patch_size
        if self.any_size:
            if height < patch or width < patch or height % patch or width % patch:
                raise UserError(f"the sides of images must be multiples of the patches' {patch} pixels",
                                where=f"{height}x{width}",
                                remedy=f"Resize the images, to {max(round(height / patch), 1) * patch} x "
                                       f"{max(round(width / patch), 1) * patch} for example")
        elif (height, width) != (self.image_size, self.image_size):
            raise UserError(f"this model was built for images of {self.image_size} x {self.image_size} pixels",
                            where=f"{height}x{width}",
                            remedy="Resize the images, or build the model with another image_size")
        return height // patch, width // patch

    def forward(self, images: Tensor) -> Tensor:
        self.grid(images)
        return self.proj(images).flatten(2).transpose(1, 2)  # [B, dim, h, w] -> [B, h * w, dim]


def maps_of(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens of patches [B, h * w, dim] back in their places: [B, dim, h, w]."""
    return tokens.transpose(1, 2).unflatten(2, grid)
