"""Scale space, and the keypoints in it: places that stand out from their surroundings at one particular scale.

Paper: Lowe, Distinctive Image Features from Scale-Invariant Keypoints, IJCV 60, 2004, sections 3 to 5. The image,
doubled, is blurred more and more; extrema of the differences of neighbouring blurs, in place and in scale, are fitted
with a parabola, dropped where contrast is low or where they lie on an edge, and get the prevailing directions of the
gradients around them. Departures: the contrast below which a keypoint is dropped is OpenCV's 0.04 / 3, not 0.03; the
histogram of directions is smoothed, as in Lowe's own program.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from visus.core.validate import boolean, natural, positive, require

BLUR = 1.6  # sigma at the bottom of each octave, in its own pixels (section 3.3)
CAMERA_BLUR = 0.5  # what an image is taken to have before (section 3.3)
DIRECTIONS = 36  # bins of the histogram of gradients around a keypoint (section 5)
NEAR_PEAK = 0.8  # further directions are keypoints of their own from this share of the highest peak (section 5)
_SMALLEST = 12  # px of the shorter side of an octave
_BORDER = 4  # px at the border of an octave without keypoints
_MOVES = 5  # steps to the pixel that an extremum belongs to
_AT_ONCE = 1024  # keypoints


@dataclass(frozen=True, kw_only=True)
class Detector:
    """scales: blurs of an octave that are searched. contrast: least |difference| at the extremum, of images in [0, 1].
    edge: largest ratio of the two curvatures. doubled: whether the image is enlarged first, for the smallest
    keypoints. most: keypoints of an image, the strongest first; 0 = all."""

    scales: int = 3
    contrast: float = 0.04 / 3
    edge: float = 10.0
    doubled: bool = True
    most: int = 0

    def __post_init__(self) -> None:
        positive(scales=self.scales)
        natural(most=self.most)
        boolean(doubled=self.doubled)
        require(self.contrast >= 0, "contrast", self.contrast, "be at least 0")
        require(self.edge >= 1, "edge", self.edge, "be at least 1")


@dataclass(frozen=True)
class Octave:
    """blurred: [B, scales + 3, H, W], of sigma BLUR * 2^(i / scales) in own pixels. pixel: side of an own pixel in
    pixels of the image."""

    blurred: Tensor
    pixel: float

    def places(self, own: Tensor, first: float) -> Tensor:
        """Own pixels -> px of the image, both counted from the centre of the first pixel. first: `pixel` of the
        lowest octave, whose first pixel all octaves share."""
        return own * self.pixel + (first - 1) / 2


@dataclass(frozen=True)
class Found:
    """Keypoints of an octave: image, level (of `blurred`) int64 [N]; x, y, sigma in own pixels; angle in radians from
    the x axis towards the y axis (downwards); strength |difference|; [N] each."""

    image: Tensor
    level: Tensor
    x: Tensor
    y: Tensor
    sigma: Tensor
    angle: Tensor
    strength: Tensor

    def at(self, index: Tensor) -> Found:
        return Found(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


def blur(images: Tensor, sigma: float) -> Tensor:
    """[B, C, H, W] convolved with a Gaussian, cut off at 4 sigma; the border is repeated."""
    radius = max(1, math.ceil(4 * sigma))
    weights = [math.exp(-0.5 * (step / sigma) ** 2) for step in range(radius + 1)]
    total = 2 * sum(weights) - weights[0]
    for axis, margin in ((3, (radius, radius, 0, 0)), (2, (0, 0, radius, radius))):
        side = images.shape[axis]
        padded = F.pad(images, margin, mode="replicate")
        images = padded.narrow(axis, radius, side) * (weights[0] / total)
        for step in range(1, radius + 1):  # several times faster than a convolution
            pair = padded.narrow(axis, radius - step, side) + padded.narrow(axis, radius + step, side)
            images.add_(pair, alpha=weights[step] / total)
    return images


def scale_space(images: Tensor, options: Detector) -> list[Octave]:
    """[B, 1, H, W] in [0, 1] -> octaves, from the finest."""
    pixel = 0.5 if options.doubled else 1.0
    if options.doubled:
        images = F.interpolate(images, scale_factor=2, mode="bilinear", align_corners=False)
    images = blur(images, math.sqrt(BLUR**2 - (CAMERA_BLUR / pixel) ** 2))
    factor = 2 ** (1 / options.scales)
    octaves: list[Octave] = []
    while min(images.shape[-2:]) >= _SMALLEST or not octaves:
        levels = [images]
        for level in range(options.scales + 2):
            levels.append(blur(levels[-1], BLUR * factor**level * math.sqrt(factor**2 - 1)))
        octaves.append(Octave(torch.cat(levels, dim=1), pixel))
        images, pixel = levels[options.scales][..., ::2, ::2], 2 * pixel
    return octaves


def keypoints(octave: Octave, options: Detector) -> Found:
    """The keypoints of an octave, each with one direction: those with several occur several times."""
    differences = octave.blurred[:, 1:] - octave.blurred[:, :-1]  # [B, scales + 2, H, W]
    found = _refined(differences, _extrema(differences, options), options)
    parts = [_directed(octave, found.at(index)) for index in
             torch.arange(len(found.x), device=found.x.device).split(_AT_ONCE)]
    if not parts:
        return found
    return Found(*(torch.cat([getattr(part, name) for part in parts]) for name in Found.__dataclass_fields__))


def _extrema(differences: Tensor, options: Detector) -> Tensor:
    """Image, level, row and column of what is above or below all 26 neighbours, int64 [4, N]."""
    core, masks = differences[:, 1:-1, _BORDER:-_BORDER, _BORDER:-_BORDER], []
    for farthest, sign in ((torch.maximum, 1), (torch.minimum, -1)):
        most = differences[..., _BORDER - 1:differences.shape[-2] - _BORDER + 1,
                           _BORDER - 1:differences.shape[-1] - _BORDER + 1]
        for axis in (3, 2, 1):  # one axis after the other
            count = most.shape[axis] - 2
            low, middle, high = (most.narrow(axis, start, count) for start in range(3))
            most = farthest(farthest(low, middle), high)
        masks.append((core == most) & (sign * core > 0.5 * options.contrast))
    image, level, row, column = (masks[0] | masks[1]).nonzero().unbind(1)
    return torch.stack([image, level + 1, row + _BORDER, column + _BORDER])


def _refined(differences: Tensor, at: Tensor, options: Detector) -> Found:
    """Section 4: the extremum of the parabola through the neighbours, followed to the pixel that it lies in."""
    levels, height, width = differences.shape[1:]
    flat, strides = differences.flatten(), (levels * height * width, height * width, width, 1)
    alive = torch.ones_like(at[0], dtype=torch.bool)
    for move in range(_MOVES):
        values = _neighbours(flat, at, strides)
        gradient, hessian = _derivatives(values)
        offset, failed = torch.linalg.solve_ex(hessian, -gradient)  # [N, 3]: level, row, column
        offset = torch.where((failed == 0)[:, None] & offset.isfinite(), offset, torch.full_like(offset, 9.0))
        far = (offset.abs() > 0.5).any(1)
        if move == _MOVES - 1 or not far.any():
            break
        steps = torch.where((offset.abs() > 0.5) & (offset.abs() < 5), offset.sign(), torch.zeros_like(offset)).long().T
        moved = at.clone()
        moved[1:] += steps
        alive &= ((moved[1] >= 1) & (moved[1] <= levels - 2) & (moved[2] >= _BORDER) & (moved[3] >= _BORDER)
                  & (moved[2] < height - _BORDER) & (moved[3] < width - _BORDER))
        at = torch.where(alive, moved, at)
    strength = (values[:, 1, 1, 1] + 0.5 * (gradient * offset).sum(1)).abs()
    trace = hessian[:, 1, 1] + hessian[:, 2, 2]
    det = hessian[:, 1, 1] * hessian[:, 2, 2] - hessian[:, 1, 2] ** 2
    good = (alive & ~far & (strength >= options.contrast) & (det > 0)
            & (trace**2 * options.edge < (options.edge + 1) ** 2 * det))
    at, offset = at[:, good], offset[good]
    sigma = BLUR * 2 ** ((at[1] + offset[:, 0]) / options.scales)
    found = Found(at[0], at[1], at[3] + offset[:, 2], at[2] + offset[:, 1], sigma, torch.zeros_like(sigma),
                  strength[good])
    cell = (at[0] * levels + at[1]) * height * width + at[2] * width + at[3]  # two starts may end in one place
    order = torch.argsort(cell, stable=True)
    new = torch.ones_like(order, dtype=torch.bool)
    new[1:] = cell[order][1:] != cell[order][:-1]
    return found.at(order[new])


def _neighbours(flat: Tensor, at: Tensor, strides: tuple[int, ...]) -> Tensor:
    """[N, 3, 3, 3]: level, row, column."""
    centre = sum(part * stride for part, stride in zip(at, strides, strict=True))
    steps = torch.arange(-1, 2, device=at.device)
    around = (steps[:, None, None] * strides[1] + steps[:, None] * strides[2] + steps * strides[3]).flatten()
    return flat[centre[:, None] + around].view(-1, 3, 3, 3)


def _derivatives(values: Tensor) -> tuple[Tensor, Tensor]:
    """Of the function through 27 values [N, 3, 3, 3] at the middle: gradient [N, 3], Hessian [N, 3, 3]."""
    middle, gradient, hessian = values[:, 1, 1, 1], [], []
    for axis in range(3):
        index = [[2 if other == axis else 1 for other in range(3)], [0 if other == axis else 1 for other in range(3)]]
        above, below = (values[:, a, b, c] for a, b, c in index)
        gradient.append((above - below) / 2)
        row = []
        for other in range(3):
            if other == axis:
                row.append(above + below - 2 * middle)
            else:
                corners = []
                for one, two in ((2, 2), (0, 0), (2, 0), (0, 2)):
                    place = [1, 1, 1]
                    place[axis], place[other] = one, two
                    corners.append(values[:, place[0], place[1], place[2]])
                row.append((corners[0] + corners[1] - corners[2] - corners[3]) / 4)
        hessian.append(torch.stack(row, dim=1))
    return torch.stack(gradient, dim=1), torch.stack(hessian, dim=1)


def central_differences(images: Tensor) -> Tensor:
    """[..., H, W] -> half the differences across and down, 0 at the border, [..., H, W, 2]."""
    found = images.new_zeros(*images.shape, 2)
    found[..., :, 1:-1, 0] = (images[..., :, 2:] - images[..., :, :-2]) / 2
    found[..., 1:-1, :, 1] = (images[..., 2:, :] - images[..., :-2, :]) / 2
    return found


def _directed(octave: Octave, found: Found) -> Found:
    """Section 5: the peaks of the histogram of gradients around each keypoint, weighted by 1.5 sigma."""
    batch, levels, height, width = octave.blurred.shape
    radius = math.ceil(3 * 1.5 * float(found.sigma.max())) if len(found.x) else 0
    steps = torch.arange(-radius, radius + 1, device=found.x.device)
    rows, columns = (part.round().long()[:, None] + steps for part in (found.y, found.x))  # [N, side]
    inside = ((rows > 0) & (rows < height - 1))[:, :, None] & ((columns > 0) & (columns < width - 1))[:, None]
    start = ((found.image * levels + found.level) * height)[:, None, None] * width
    rows, columns = rows.clamp(1, height - 2), columns.clamp(1, width - 2)
    index, flat = start + rows[:, :, None] * width + columns[:, None], octave.blurred.flatten()
    across, down = flat[index + 1] - flat[index - 1], flat[index + width] - flat[index - width]  # [N, side, side]
    spread = (1.5 * found.sigma)[:, None]
    near_y, near_x = (torch.exp(-0.5 * ((line - place[:, None]) / spread) ** 2)
                      for line, place in ((rows, found.y), (columns, found.x)))
    weights = torch.hypot(across, down) * near_y[:, :, None] * near_x[:, None] * inside
    bins = (torch.atan2(down, across) * (DIRECTIONS / (2 * math.pi))).round().long() % DIRECTIONS
    histogram = weights.new_zeros(len(index), DIRECTIONS).scatter_add_(1, bins.flatten(1), weights.flatten(1))
    wrapped = F.pad(histogram[:, None], (2, 2), mode="circular")
    histogram = F.conv1d(wrapped, histogram.new_tensor([1, 4, 6, 4, 1]).view(1, 1, 5) / 16)[:, 0]
    before, after = histogram.roll(1, 1), histogram.roll(-1, 1)
    peaks = (histogram > before) & (histogram >= after) & (histogram >= NEAR_PEAK * histogram.amax(1, keepdim=True))
    which, place = peaks.nonzero().unbind(1)
    low, middle, high = (part[which, place] for part in (before, histogram, after))
    exact = place + 0.5 * (low - high) / (low - 2 * middle + high)
    several = found.at(which)
    return Found(several.image, several.level, several.x, several.y, several.sigma,
                 exact % DIRECTIONS * (2 * math.pi / DIRECTIONS), several.strength)
