"""Edges of a picture: how steep it is (Sobel, Scharr, Prewitt), and the thin lines along which it is steepest (Canny).

Papers: Sobel, Feldman, talk at the Stanford Artificial Intelligence Project, 1968; Prewitt, Object Enhancement and
Extraction, 1970; Scharr, thesis, Heidelberg 2000 (integer weights 3, 10, 3); Canny, A Computational Approach to Edge
Detection, TPAMI 8(6), 1986: a Gaussian, its gradient, only places that are not below their two neighbours along the
gradient (the neighbours interpolated between pixels), and of those above a low threshold the connected lines that
somewhere rise above a high one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from visus.core.errors import UserError
from visus.core.validate import require
from visus.ops.smoothing import smoothed

# How the differences of a pixel's two neighbours are averaged over three lines.
OPERATORS = {"sobel": (1, 2, 1), "scharr": (3, 10, 3), "prewitt": (1, 1, 1)}
_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601
_SOBEL_SUM = 8.0  # Sobel's integer weights give so many times the slope


def gradient(images: Tensor, operator: str = "sobel") -> tuple[Tensor, Tensor]:
    """[B, C, H, W] -> slopes to the right and downwards per px, of that shape: of a ramp exactly its slope. Border
    pixels are repeated outwards."""
    if operator not in OPERATORS:
        raise UserError("there is no such operator", where=f"operator={operator!r}",
                        remedy="Known: " + ", ".join(OPERATORS))
    side, middle, _ = (weight / (2 * sum(OPERATORS[operator])) for weight in OPERATORS[operator])
    around = F.pad(images, (1, 1, 1, 1), mode="replicate")
    apart = around[..., 2:] - around[..., :-2]
    right = side * (apart[..., :-2, :] + apart[..., 2:, :]) + middle * apart[..., 1:-1, :]
    apart = around[..., 2:, :] - around[..., :-2, :]
    down = side * (apart[..., :-2] + apart[..., 2:]) + middle * apart[..., 1:-1]
    return right, down


def edge_strength(images: Tensor, operator: str = "sobel") -> Tensor:
    """[B, C, H, W] -> the steepness of the brightness per px, [B, H, W]."""
    right, down = gradient(brightness(images), operator)
    return torch.hypot(right, down)[:, 0]


def canny(images: Tensor, sigma: float = 1.0, low: float = 0.1, high: float = 0.2) -> Tensor:
    """bool [B, H, W], the edges of images [B, C, H, W] in [0, 1].

    sigma: px, of the Gaussian. low, high: thresholds of Sobel's sum (its integer weights, so that a step from 0 to 1
    has at most 4). The outermost pixels have no neighbours on one side and are never an edge.
    """
    check_canny(sigma, low, high)
    right, down = (_SOBEL_SUM * part[:, 0] for part in gradient(smoothed(brightness(images), sigma)))
    steepness = torch.hypot(right, down)
    inside = torch.zeros_like(steepness, dtype=torch.bool)
    inside[:, 1:-1, 1:-1] = True
    places = torch.nonzero((steepness >= low) & (steepness > 0) & inside).unbind(1)
    weak = torch.zeros_like(inside)
    weak[places] = _ridges(steepness, right[places], down[places], places)
    return hysteresis(weak, weak & (steepness >= high))


def check_canny(sigma: float, low: float, high: float) -> None:
    require(isinstance(sigma, int | float) and 0 <= sigma <= 100, "sigma", sigma, "be a number of px from 0 to 100")
    require(isinstance(low, int | float) and 0 <= low < math.inf, "low", low, "be a number of at least 0")
    require(isinstance(high, int | float) and low <= high < math.inf, "high", high, f"be at least low, which is {low}")


def brightness(images: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, 1, H, W]: the luma of three channels, else the mean of all."""
    require(images.ndim == 4 and images.is_floating_point(), "images", f"{images.dtype} {tuple(images.shape)}",
            "be float [B, C, H, W]")
    if images.shape[1] == 3:
        return torch.einsum("c,bchw->bhw", images.new_tensor(_LUMA), images)[:, None]
    return images.mean(1, keepdim=True)


def _ridges(steepness: Tensor, right: Tensor, down: Tensor, places: Sequence[Tensor]) -> Tensor:
    """bool [N]: not below either neighbour along the gradient. steepness: [B, H, W]; right, down: [N], slopes at the
    places, which are [N] each, none at the border."""
    width = steepness.shape[2]
    flat = steepness.flatten()
    at = (places[0] * steepness.shape[1] + places[1]) * width + places[2]
    x, y = right.abs(), down.abs()
    steep = y > x  # the nearer neighbour lies below or above, else beside
    falling = right * down >= 0  # along the gradient lies the diagonal to the lower right, else to the upper right
    share = torch.minimum(x, y) / torch.maximum(x, y)
    straight = torch.where(steep, width, 1)
    diagonal = torch.where(falling, width + 1, torch.where(steep, width - 1, 1 - width))
    own, kept = flat[at], torch.ones_like(steep)
    for side in (1, -1):
        kept &= flat[at + side * diagonal] * share + flat[at + side * straight] * (1 - share) <= own
    return kept


def hysteresis(weak: Tensor, strong: Tensor) -> Tensor:
    """bool [B, H, W]: the parts of `weak`, connected over eight neighbours, that hold a pixel of `strong`."""
    place = torch.full(weak.shape, -1, dtype=torch.long, device=weak.device)
    count = int(weak.sum())
    place[weak] = torch.arange(count, device=weak.device)
    pairs = []
    height, width = weak.shape[1:]
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        here = place[:, :height - down, max(0, -right):width - max(0, right)]
        there = place[:, down:, max(0, right):width - max(0, -right)]
        both = (here >= 0) & (there >= 0)
        pairs.append(torch.stack([here[both], there[both]]))
    tails, heads = torch.cat(pairs, 1)
    part = torch.arange(count, device=weak.device)
    while len(tails):
        root = torch.arange(count, device=weak.device)
        root.scatter_reduce_(0, torch.maximum(tails, heads), torch.minimum(tails, heads), "amin")
        while not torch.equal(further := root[root], root):
            root = further
        part, tails, heads = root[part], root[tails], root[heads]
        apart = tails != heads
        tails, heads = tails[apart], heads[apart]
    held = torch.zeros(count, dtype=torch.bool, device=weak.device)
    held[part[place[weak & strong]]] = True
    edges = torch.zeros_like(weak)
    edges[weak] = held[part]
    return edges
