"""Integral images: the sum of any upright rectangle from four numbers.

Paper: Viola and Jones, Robust Real-Time Face Detection, IJCV 2004, section 2.1 (Crow's summed-area tables, SIGGRAPH
1984). Here the integral has a row and a column of zeros in front, so that no rectangle is a special case.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def integral_image(images: Tensor) -> Tensor:
    """[..., H, W] -> [..., H + 1, W + 1]; place (y, x) is the sum of the y rows above and the x columns to the left.

    Whole numbers are summed as int64, floats in their own type: give float64 for large images, whose sums outgrow the
    24 bits of float32.
    """
    values = images if images.is_floating_point() else images.long()
    return F.pad(values.cumsum(-1).cumsum(-2), (1, 0, 1, 0))


def box_sums(integral: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """Sums of K rectangles of each image: integral [..., H + 1, W + 1], corners and sides int64 [K] -> [..., K]."""
    flat, row = integral.flatten(-2), integral.shape[-1]
    bottom, right = top + height, left + width
    return (flat[..., bottom * row + right] - flat[..., top * row + right] - flat[..., bottom * row + left]
            + flat[..., top * row + left])


def window_moments(images: Tensor, window: int, epsilon: float = 1e-8) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each window x window square, [..., H - window + 1, W - window + 1] each, from the
    integrals of the image and of its square (section 5.3). images: [..., H, W], float. Summed in float64."""
    values = images.double()
    values = values - values.mean((-2, -1), keepdim=True)  # the variance is a difference of sums: keep them small
    means = []
    for part in (values, values.square()):
        whole = integral_image(part)
        sums = (whole[..., window:, window:] - whole[..., :-window, window:] - whole[..., window:, :-window]
                + whole[..., :-window, :-window])
        means.append(sums / window**2)
    offset = images.double().mean((-2, -1), keepdim=True)
    deviation = (means[1] - means[0].square()).clamp(min=epsilon**2).sqrt()
    return (means[0] + offset).to(images.dtype), deviation.to(images.dtype)
