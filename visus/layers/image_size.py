"""What a network that does not pad asks of its images."""

from __future__ import annotations

from torch import Tensor

from visus.core.errors import UserError


def require_size(images: Tensor, least: int, what: str = "this model", remedy: str = "Resize the images") -> None:
    """Raises UserError where H or W of [B, C, H, W] is below `least` pixels, before a layer fails on empty maps."""
    if min(images.shape[-2:]) < least:
        raise UserError(f"{what} takes images of at least {least} pixels",
                        where="x".join(map(str, images.shape[-2:])), remedy=remedy)
