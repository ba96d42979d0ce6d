"""The templates of a linear classifier in its run: what each class multiplies the pixels by, as pictures.

Source: Stanford CS231n, notes on linear classification: rows of W as images.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor, nn

from visus.core.errors import ResourceError, UserError
from visus.core.files import write_bytes
from visus.core.record import RunFolder
from visus.explain.filters import filter_pictures, weight_templates

FILE = "templates.json"
MOST = 20  # classes that are drawn
SIDE_PX = 96


def templates_of(model: nn.Module, shape: tuple[int, int, int]) -> Tensor | None:
    """[K, C, H, W], or None for a model without any: what its own method `templates` gives, or the slopes of a network
    that is affine in its pixels. shape: of an image, (C, H, W)."""
    if any(isinstance(module, nn.Conv2d | nn.LayerNorm | nn.ReLU) for module in model.modules()):  # no pass is needed
        return None
    try:
        return weight_templates(model, shape)
    except UserError:  # it is not affine
        return None


def draw_templates(folder: RunFolder, model: nn.Module, shape: tuple[int, int, int], classes: Sequence[str]) -> None:
    """images/template-NN.png for the first MOST classes, and templates.json; nothing where there are no templates."""
    found = templates_of(model, shape)
    if found is None or found.shape[1] not in (1, 3) or not bool(found.isfinite().all()):
        return
    pictures = filter_pictures(found[:MOST].detach().float().cpu())
    rows = []
    try:
        for number, picture in enumerate(pictures):
            name = f"template-{number:02}.png"
            write_bytes(folder.path / "images" / name, _png(picture))
            rows.append({"image": f"images/{name}", "class": classes[number]})
        folder.write(FILE, {"classes": len(found), "rows": rows})
    except ResourceError:  # a full disk does not end the run
        pass


def _png(picture: Tensor) -> bytes:
    """[C, H, W] in [0, 1], each pixel a square."""
    factor = max(1, SIDE_PX // picture.shape[1])
    large = (255 * picture).round().to(torch.uint8).repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    pixels = large.permute(1, 2, 0).numpy()
    encoded = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(encoded, "PNG")
    return encoded.getvalue()
