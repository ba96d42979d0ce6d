"""A classifier's answer for an image at several sizes: dense evaluation of each, and the mean of what they say.

Simonyan, Zisserman, ICLR 2015, arXiv:1409.1556, sections 3.2 and 4.2: the short side of the image is brought to each
scale, the class scores are averaged over all places, and the softmax posteriors over the mirrored image and the scales.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from visus.core.errors import UserError
from visus.core.preprocessing import Preprocessing
from visus.core.validate import positive, require
from visus.deploy.dense import dense_evaluate, to_fully_convolutional
from visus.ops.resample import resize


@torch.no_grad()
def multi_scale_evaluate(model: nn.Module, images: Tensor, scales: Sequence[int], image_size: int, flip: bool = True,
                         preprocessing: Preprocessing | None = None) -> Tensor:
    """Class probabilities [B, num_classes] of images [B, C, H, W], all of one size.

    model: a classifier, or what `to_fully_convolutional` made of it, which a loop over batches should do once. images:
    normalised floats, or uint8, which `preprocessing` normalises after resizing (its own size and crop are not used).
    scales: lengths of the short side in pixels, none below `image_size`, the side that the model was made for.
    """
    require(isinstance(scales, list | tuple) and len(scales) > 0, "scales", scales, "be a list of short sides")
    for scale in scales:
        positive(scales=scale)
        require(scale >= image_size, "scales", scale, f"be at least the model's image_size, {image_size}")
    if images.dtype == torch.uint8 and preprocessing is None:
        raise UserError("uint8 images need the model's preprocessing", where="preprocessing=None",
                        remedy="Give it, or images that are normalised already")
    dense = model if getattr(model, "window", None) == image_size else to_fully_convolutional(model, image_size)
    dtype = next(dense.parameters()).dtype
    interpolation = "bilinear" if preprocessing is None else preprocessing.interpolation
    height, width = images.shape[-2:]
    probs = []
    for scale in scales:
        size = (max(scale, round(height * scale / width)), max(scale, round(width * scale / height)))
        resized = resize(images, size, interpolation)
        if preprocessing is not None and images.dtype == torch.uint8:
            resized = preprocessing.normalise(resized.float() / 255).to(dtype)
        probs.append(dense_evaluate(dense, resized).softmax(1))
        if flip:
            probs.append(dense_evaluate(dense, resized.flip(3)).softmax(1))
    return torch.stack(probs).mean(0)
