"""Histograms of oriented gradients: where in an image edges run, and in which directions.

Paper: Dalal, Triggs, Histograms of Oriented Gradients for Human Detection, CVPR 2005, sections 6.1 to 6.4. Each pixel
votes with the magnitude of its strongest channel's gradient for the direction of that gradient; the votes of a block of
neighbouring cells are weighted by a Gaussian around its centre and shared between neighbouring directions and cells;
the block is scaled to unit length, clipped and scaled again. Blocks overlap, so that a cell is seen against several
surroundings. A window of 128 rows and 64 columns gives 15 x 7 blocks of 2 x 2 cells of 9 directions: 3,780 numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from visus.core.errors import UserError
from visus.core.validate import boolean, one_of, positive, require

_PIXELS = 1 << 16  # at one time: what stays in a processor's cache
_TINY = 1e-36  # squared magnitude below which a gradient counts as none
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True, kw_only=True)
class Hog:
    """What a histogram of oriented gradients counts, and how.

    orientations: bins over half a circle, or over a whole one when `signed`. cell: side in pixels. block: cells to a
    side of a block; blocks start at every cell. sharing: between what a vote is divided: "all" (two directions and up
    to four cells), "orientation" (two directions), "none" (the vote goes to one bin whole). window: standard deviation
    of the Gaussian around the centre of a block, in block widths; None: none. difference: of the pixels on both
    sides, x[i + 1] - x[i - 1], which is 0 at the border, or "forward": x[i + 1] - x[i], 0 at the far border. channels:
    the gradient of the channel in which it is "strongest", or of the "luma" of an RGB image. square_root: of the
    images before all else. norm: of a block ("l2_hys": L2, no number above `clip`, L2 again); "none" keeps the mean
    votes of each cell. epsilon: added to the norms, squared for L2.
    """

    orientations: int = 9
    cell: int = 8
    block: int = 2
    signed: bool = False
    sharing: str = "all"
    window: float | None = 0.5
    difference: str = "centred"
    channels: str = "strongest"
    square_root: bool = False
    norm: str = "l2_hys"
    clip: float = 0.2
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        positive(orientations=self.orientations, cell=self.cell, block=self.block)
        boolean(signed=self.signed, square_root=self.square_root)
        one_of(("all", "orientation", "none"), sharing=self.sharing)
        one_of(("centred", "forward"), difference=self.difference)
        one_of(("strongest", "luma"), channels=self.channels)
        one_of(("l2_hys", "l2", "l1", "l1_sqrt", "none"), norm=self.norm)
        require(self.window is None or self.window > 0, "window", self.window, "be above 0, or null for none")
        require(self.clip > 0, "clip", self.clip, "be above 0")
        require(self.epsilon > 0, "epsilon", self.epsilon, "be above 0")

    def blocks(self, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of blocks that fit. Raises UserError when there is none."""
        rows, columns = (side // self.cell - self.block + 1 for side in (height, width))
        if min(rows, columns) < 1:
            side = self.cell * self.block
            raise UserError(f"has no room for a block of {self.block} x {self.block} cells of {self.cell} px",
                            where=f"an image of {height} x {width} px",
                            remedy=f"Use images of at least {side} x {side} px, or smaller cells or blocks")
        return rows, columns

    def length(self, height: int, width: int) -> int:
        """How many numbers describe an image."""
        rows, columns = self.blocks(height, width)
        return rows * columns * self.block**2 * self.orientations


DALAL_TRIGGS = Hog()
# scikit-image's defaults, with which equal numbers come out.
PLAIN = Hog(block=3, sharing="none", window=None)
# After assignment 1 of Stanford's course CS231n: 4 x 4 cells of a 32 x 32 image, 144 numbers. The assignment's own
# code counts only gradients that point into one half plane; here both halves count, as in the paper.
COURSE = Hog(block=1, sharing="none", window=None, difference="forward", channels="luma", norm="none")


def hog(images: Tensor, options: Hog = DALAL_TRIGGS) -> Tensor:
    """[B, C, H, W] -> [B, rows, columns, block, block, orientations]: blocks, the cells in each, directions.

    Bin k of n is centred on the direction (k + 1/2) / n of the half (or whole) circle, measured from the x axis
    towards the y axis (downwards). Rows and columns of pixels beyond the last whole cell do not count, except for the
    gradient. Differentiable, but for the choice of the bin and of the channel. Raises UserError when no block fits.
    """
    rows, columns = options.blocks(*images.shape[-2:])
    part = max(1, _PIXELS // (images.shape[-2] * images.shape[-1]))
    if len(images) > part:
        return torch.cat([hog(some, options) for some in images.split(part)])
    height, width = (images.shape[axis] // options.cell * options.cell for axis in (-2, -1))
    across, down = (part[:, :height, :width] for part in gradients(images, options))
    magnitudes = (across.square() + down.square()).clamp(min=_TINY).sqrt()
    turns = torch.atan2(down, across) * ((0.5 if options.signed else 1) / math.pi) % 1
    votes = _votes(magnitudes, turns, options)  # [B, O, H, W]
    if options.sharing == "all" or options.window is not None:
        blocks = _weighted(votes, options, rows, columns)
    else:
        cells = F.avg_pool2d(votes, options.cell)  # [B, O, cells down, cells across]
        blocks = cells.unfold(2, options.block, 1).unfold(3, options.block, 1).permute(0, 2, 3, 4, 5, 1)
    return normalised(blocks.contiguous(), options)


def gradients(images: Tensor, options: Hog = DALAL_TRIGGS) -> tuple[Tensor, Tensor]:
    """[B, C, H, W] -> differences across and down, [B, H, W] each, of one channel for each pixel."""
    if options.square_root:
        images = images.clamp(min=0).sqrt()
    if options.channels == "luma" and images.shape[1] == 3:
        images = (images * images.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
    across, down = torch.zeros_like(images), torch.zeros_like(images)
    if options.difference == "centred":
        across[..., 1:-1] = images[..., 2:] - images[..., :-2]
        down[..., 1:-1, :] = images[..., 2:, :] - images[..., :-2, :]
    else:
        across[..., :-1] = images[..., 1:] - images[..., :-1]
        down[..., :-1, :] = images[..., 1:, :] - images[..., :-1, :]
    x, y = across[:, 0], down[:, 0]
    most = x.square() + y.square() if images.shape[1] > 1 else x
    for channel in range(1, images.shape[1]):  # of channels alike the first
        strength = across[:, channel].square() + down[:, channel].square()
        stronger = strength > most
        x, y = torch.where(stronger, across[:, channel], x), torch.where(stronger, down[:, channel], y)
        most = torch.maximum(most, strength)
    return x, y


def _votes(magnitudes: Tensor, turns: Tensor, options: Hog) -> Tensor:
    """[B, H, W], and directions in [0, 1) of the circle -> [B, O, H, W]: what each pixel gives to each direction."""
    count = options.orientations
    empty = magnitudes.new_zeros(magnitudes.shape[0], count, *magnitudes.shape[1:])
    if options.sharing == "none":
        bins = (turns * count).long().clamp_(max=count - 1)
        return empty.scatter(1, bins[:, None], magnitudes[:, None])
    place = turns * count - 0.5
    below = place.floor()
    share = place - below
    bins = below.long()
    first, second = bins % count, (bins + 1) % count
    return empty.scatter_add(1, first[:, None], (magnitudes * (1 - share))[:, None]).scatter_add(
        1, second[:, None], (magnitudes * share)[:, None])


def _weights(options: Hog, side: int, count: int, like: Tensor) -> Tensor:
    """[side, count * block]: of each pixel along an axis, in each cell of each of `count` blocks."""
    width = options.block * options.cell
    steps = torch.arange(count, dtype=like.dtype, device=like.device) * options.cell
    line = torch.arange(side, dtype=like.dtype, device=like.device)
    places = line[:, None] + 0.5 - steps - width / 2  # [side, count], from the middle of the block
    centres = (torch.arange(options.block, dtype=like.dtype, device=like.device) + 0.5) * options.cell - width / 2
    apart = (places[:, :, None] - centres).abs() / options.cell  # [side, count, block]
    weights = (1 - apart).clamp(min=0) if options.sharing == "all" else (apart < 0.5).to(like.dtype)
    weights = weights * (places.abs() < width / 2)[:, :, None]
    if options.window is not None:
        weights = weights * torch.exp(-0.5 * (places / (options.window * width)) ** 2)[:, :, None]
    return weights.flatten(1) / options.cell


def _weighted(votes: Tensor, options: Hog, rows: int, columns: int) -> Tensor:
    """[B, O, H, W] -> [B, rows, columns, block, block, O]: sums over the pixels of each block, one axis after the
    other."""
    height, width = votes.shape[-2:]
    sums = votes @ _weights(options, width, columns, votes)  # [B, O, H, columns * block]
    sums = _weights(options, height, rows, votes).T @ sums  # [B, O, rows * block, columns * block]
    sums = sums.unflatten(3, (columns, options.block)).unflatten(2, (rows, options.block))
    return sums.permute(0, 2, 4, 3, 5, 1)


def normalised(blocks: Tensor, options: Hog) -> Tensor:
    """[B, rows, columns, block, block, O], each block scaled (section 6.4)."""
    if options.norm == "none":
        return blocks
    rows = blocks.flatten(3)
    if options.norm in ("l1", "l1_sqrt"):
        rows = rows / (rows.sum(3, keepdim=True) + options.epsilon)
        rows = rows.clamp(min=_TINY).sqrt() if options.norm == "l1_sqrt" else rows
    else:
        rows = rows / (rows.square().sum(3, keepdim=True) + options.epsilon**2).sqrt()
        if options.norm == "l2_hys":
            rows = rows.clamp(max=options.clip)
            rows = rows / (rows.square().sum(3, keepdim=True) + options.epsilon**2).sqrt()
    return rows.view_as(blocks)
