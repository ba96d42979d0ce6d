"""Pixels through placements: exact copies where they can be, one resampling where they cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from visus.core.errors import RecipeError
from visus.data.objects import IGNORED
from visus.data.transforms import Draws
from visus.data.transforms.copies import aligned_sources, fill_colour, folded, moved_plainly, resampling
from visus.data.transforms.placement import Geometric, Placement, field_at
from visus.ops.resample import resize

# A warp that shrinks samples an image reduced to this many times its own density. Against an average over 36 samples a
# pixel, on photographs, that halves the error of sampling once at scales from 0.15 to 0.5; 1 blurs, 2 is no better.
_DENSITY = 1.5
_PIXELS_AT_ONCE = 1 << 16  # of a batch: what is in between then stays in the processor's cache


def moved_image(image: Tensor, chain: Sequence[Placement]) -> Tensor:
    """uint8 or float [C, H, W] after the moves, of the same type.

    Flips, crops and pads by whole pixels copy pixels. One move that resamples is done by itself, several as one. A
    plain change of size is torch's antialiased bilinear; a warp samples bilinearly, where it shrinks from the image
    reduced first.
    """
    image, left = moved_plainly(image, list(chain))
    while left:
        together = left if resampling(left) > 1 else left[:1]
        image, left = moved_plainly(_warped(image[None], [together])[0], left[len(together):])
    return image


def moved_labels(labels: Tensor, chain: Sequence[Placement]) -> Tensor:
    """Integer [H, W] after the moves, each pixel with the label that lies under its centre; 255 beyond the image."""
    height, width = labels.shape
    if all(placement.aligned for placement in chain):
        for axis, size in ((1, height), (0, width)):
            places, inside = aligned_sources(chain, axis, size)
            labels = labels.index_select(1 - axis, places.to(labels.device))
            if not inside.all():
                labels = labels.index_fill(1 - axis, (~inside).nonzero()[:, 0].to(labels.device), IGNORED)
        return labels
    x, y, covered, _ = _sources(_stages([chain], height, width, torch.float32), 0, torch.float32)
    column = x[0].floor().long().clamp_(0, width - 1)
    row = y[0].floor().long().clamp_(0, height - 1)
    found = labels.flatten()[(row * width + column).to(labels.device)]
    return found if covered is None else found.masked_fill((covered[0] < 0.5).to(labels.device), IGNORED)


def moved_batch(images: Tensor, chains: Sequence[Sequence[Placement]], name: str) -> Tensor:
    """[B, C, H, W], each image by its own moves. RecipeError naming the transform `name` where their sizes differ."""
    height, width = images.shape[-2:]
    chains = [needed(chain, height, width) for chain in chains]
    if not any(chains):
        return images
    sizes = {(chain[-1].height, chain[-1].width) if chain else (height, width) for chain in chains}
    if len(sizes) > 1:
        raise RecipeError("gives images of different sizes, and those of a batch have one",
                          where=f"augmentation.{name}", remedy="Put a step right behind it that ends in a fixed "
                          "size: {name: letterbox, size: 224}")
    done: dict[int, Tensor] = {}
    warps: dict[tuple[Any, ...], list[int]] = {}
    for i, chain in enumerate(chains):
        image, left = moved_plainly(images[i], list(chain))
        if left and image.shape != images.shape[1:]:  # a crop of its own is left to the warp: one for the batch
            image, left = images[i], list(chain)
        done[i] = image
        if left and (len(left) == 1 or resampling(left) > 1):
            chains[i] = left
            warps.setdefault((image.shape, *map(_kind, left)), []).append(i)
        elif left:
            done[i] = moved_image(image, left)
    for same in warps.values():
        together = max(1, _PIXELS_AT_ONCE // (chains[same[0]][-1].height * chains[same[0]][-1].width))
        for alike in (same[start:start + together] for start in range(0, len(same), together)):
            moved = _warped(torch.stack([done[i] for i in alike]), [chains[i] for i in alike])
            done.update(zip(alike, moved, strict=True))
    return torch.stack([done[i] for i in range(len(images))])


def moved_together(images: Tensor, transforms: Sequence[Geometric], draws: Sequence[Draws]) -> Tensor:
    """[B, C, H, W] after geometric steps in a row, each with its draws, as one."""
    height, width = images.shape[-2:]
    chains: list[list[Placement]] = [list(first) for first in transforms[0].of_batch(height, width, draws[0])]
    for transform, of_step in zip(transforms[1:], draws[1:], strict=True):
        for chain, drawn in zip(chains, of_step.each(), strict=True):
            size = (chain[-1].height, chain[-1].width) if chain else (height, width)
            chain += transform.placements(*size, drawn)
    return moved_batch(images, chains, " and ".join(type(transform).__name__ for transform in transforms))


def shrinks(linear: np.ndarray) -> np.ndarray:
    """bool [B]: which of the linear maps [B, 2, 2] `moved_image` antialiases."""
    steps = np.sqrt((np.linalg.inv(linear) ** 2).sum(-1))  # input pixels in x and y per output pixel
    return np.asarray((steps > _DENSITY).any(-1))


def needed(chain: Sequence[Placement], height: int, width: int) -> list[Placement]:
    """Those of the moves that change something in an image of `height` x `width`."""
    out = []
    for placement in chain:
        if not placement.keeps(height, width):
            out.append(placement)
        height, width = placement.height, placement.width
    return out


def _kind(placement: Placement) -> tuple[Any, ...]:
    """What placements share that can be done together."""
    shape = None if placement.field is None else placement.field.shape
    return shape, placement.outside, placement.fill


# -- warps -------------------------------------------------------------------------------------------------------------

@dataclass(frozen=True, eq=False)
class _Stage:
    """One move of B images. height, width: float [B, 1, 1], before it. back: float64 [B, 3, 3], from output to input.
    fields: float64 [B, h, w, 2] or None. The rest is alike, as that of `like`."""

    height: Tensor
    width: Tensor
    back: np.ndarray
    fields: np.ndarray | None
    like: Placement


def _stages(chains: Sequence[Sequence[Placement]], height: int, width: int, dtype: torch.dtype) -> list[_Stage]:
    stages = []
    sizes = torch.tensor([[height, width]], dtype=dtype)
    for of_images in zip(*chains, strict=True):
        like = of_images[0]
        fields = None if like.field is None else np.stack([p.field for p in of_images if p.field is not None])
        back = np.linalg.inv(np.stack([placement.matrix for placement in of_images]))
        stages.append(_Stage(sizes[:, :1, None], sizes[:, 1:, None], back, fields, like))
        sizes = torch.tensor([(placement.height, placement.width) for placement in of_images], dtype=dtype)
    return stages


def _warped(images: Tensor, chains: Sequence[Sequence[Placement]]) -> Tensor:
    """[B, C, H, W] of the same type, each image by its chain; all chains of one kind."""
    channels, height, width = images.shape[1:]
    stages = _stages(chains, height, width, torch.float32)
    reduced = _reduced_sizes(stages, height, width)
    if len(set(reduced)) > 1:
        parts = [torch.empty(0)] * len(images)
        for size in set(reduced):
            rows = [i for i, own in enumerate(reduced) if own == size]
            for i, part in zip(rows, _warped(images[rows], [chains[i] for i in rows]), strict=True):
                parts[i] = part
        return torch.stack(parts)
    x, y, covered, paint = _sources(stages, channels, torch.float32)
    pixels = images.to(torch.float32) if images.dtype == torch.uint8 else images
    if reduced[0] != (height, width):
        pixels = resize(pixels, reduced[0])
    grid = torch.stack(torch.broadcast_tensors(x * (2 / width) - 1, y * (2 / height) - 1), -1)
    beyond = "zeros" if stages[0].like.outside == "fill" and not any(stages[0].like.fill) else "border"
    out = F.grid_sample(pixels, grid.to(pixels).expand(len(pixels), -1, -1, -1), mode="bilinear", padding_mode=beyond,
                        align_corners=False)
    if covered is not None:
        out = out.mul_(covered[:, None].to(out))
    if paint is not None:
        out = out.add_(paint.to(out) if images.dtype != torch.uint8 else 255 * paint.to(out))
    return out.round_().clamp_(0, 255).to(torch.uint8) if images.dtype == torch.uint8 else out


def _sources(stages: Sequence[_Stage], channels: int, dtype: torch.dtype
             ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Where the centre of each output pixel comes from.

    x, y: pixel coordinates in the first stage's input, [B, h, w] or what broadcasts to it; beyond it where that is to
    be black. covered: share of the image in the output, None for 1 everywhere; the rest is `paint` [B, channels, h, w],
    None for 0. With channels 0 there is no paint, and `covered` is sharp, 0 or 1, as labels need it.
    """
    last = stages[-1].like
    x = torch.arange(last.width, dtype=dtype)[None, None, :] + 0.5
    y = torch.arange(last.height, dtype=dtype)[None, :, None] + 0.5
    covered: Tensor | None = None
    paint: Tensor | None = None
    for number, stage in reversed(list(enumerate(stages))):
        x, y, behind = _through(stage, x, y, pixels=number == len(stages) - 1)
        like = stage.like
        if like.outside != "fill":
            x, y = (folded(place - 0.5, size, like.outside) + 0.5
                    for place, size in ((x, stage.width), (y, stage.height)))
            continue
        if number == 0 and channels and not any(like.fill):
            x = x if behind is None else x.masked_fill(behind, -1e6)
            continue  # black beyond the image is what grid_sample gives
        share = _cover(x, stage.width, not channels) * _cover(y, stage.height, not channels)
        if behind is not None:
            share = share.masked_fill(behind, 0.0)
        if channels and any(like.fill):
            rest = (1 - share) if covered is None else covered * (1 - share)
            more = rest[:, None] * fill_colour(like.fill, channels).to(dtype)
            paint = more if paint is None else paint + more
        covered = share if covered is None else covered * share
        x = torch.minimum(x, stage.width - 0.5).clamp(min=0.5)
        y = torch.minimum(y, stage.height - 0.5).clamp(min=0.5)
    return x, y, covered, paint


def _through(stage: _Stage, x: Tensor, y: Tensor, pixels: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:
    """x, y of the output -> of the input, and where they lie behind, or None. pixels: they are the output's pixels."""
    if stage.fields is not None:
        fields = stage.fields
        if not pixels:
            across, down = torch.broadcast_tensors(x, y)
            points = torch.stack([across, down], -1).double().numpy()
            fields = np.stack([field_at(field, points[min(i, len(points) - 1)]) for i, field in enumerate(fields)])
        moves = torch.from_numpy(fields).to(x.dtype)
        x, y = x + moves[..., 0], y + moves[..., 1]
    (a, b, c), (d, e, f), (g, h, i) = torch.from_numpy(stage.back).to(x.dtype).permute(1, 2, 0)[..., None, None]
    flat = not stage.back[:, 2, :2].any()
    if flat and not stage.back[:, 0, 1].any() and not stage.back[:, 1, 0].any():
        return (a * x + c) / i, (e * y + f) / i, None
    across, down = a * x + b * y + c, d * x + e * y + f
    if flat:
        return across / i, down / i, None
    depth = g * x + h * y + i
    behind = depth <= 1e-6 * i.abs()
    depth = depth.masked_fill(behind, 1.0)
    return (across / depth).masked_fill(behind, 0.0), (down / depth).masked_fill(behind, 0.0), behind


def _cover(place: Tensor, size: Tensor, sharp: bool) -> Tensor:
    """Share of an axis of `size` pixels in a bilinear sample at `place`; sharp: whether the place lies in it."""
    if sharp:
        return ((place >= 0) & (place < size)).to(place.dtype)
    return torch.minimum(place + 0.5, size + 0.5 - place).clamp(0, 1)


def _reduced_sizes(stages: Sequence[_Stage], height: int, width: int) -> list[tuple[int, int]]:
    """The size to which each image is reduced, antialiased, before a warp that shrinks."""
    steps = _steps(stages)  # input pixels per output pixel
    return [(max(1, round(height * _DENSITY / down)) if down > _DENSITY else height,
             max(1, round(width * _DENSITY / along)) if along > _DENSITY else width) for along, down in steps]


def _steps(stages: Sequence[_Stage]) -> list[tuple[float, float]]:
    """How far apart, in x and in y, neighbouring output pixels lie in the input of each image: where that changes from
    place to place, the median over those inside the image."""
    if all(stage.fields is None and not stage.back[:, 2, :2].any() for stage in stages):
        linear = np.eye(2)
        for stage in stages:
            linear = linear @ (stage.back[:, :2, :2] / stage.back[:, 2:, 2:])
        return [(along, down) for along, down in np.sqrt((linear**2).sum(-1)).tolist()]
    height, width, last = stages[0].height, stages[0].width, stages[-1].like
    place = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    x = (place * last.width)[None, None, :] + torch.tensor([0.0, 1, 0], dtype=torch.float64).repeat(5)[None, :, None]
    y = (place * last.height).repeat_interleave(3)[None, :, None] + torch.tensor(
        [0.0, 0, 1], dtype=torch.float64).repeat(5)[None, :, None]  # [1, 15, 1]: each height three times
    for stage in reversed(stages):
        x, y, _ = _through(stage, x, y)
    x, y = (part.reshape(len(part), 5, 3, -1).expand(-1, 5, 3, 5) for part in torch.broadcast_tensors(x, y))
    beyond = (x[:, :, 0] < 0) | (x[:, :, 0] > width) | (y[:, :, 0] < 0) | (y[:, :, 0] > height)  # [B, 5, 5]
    apart = []
    for part in (x, y):
        squares = (part[:, :, 1] - part[:, :, 0]) ** 2 + (part[:, :, 2] - part[:, :, 0]) ** 2
        middle = squares.sqrt().masked_fill(beyond, torch.nan).flatten(1).nanmedian(1).values
        apart.append(middle.nan_to_num(1.0).expand(len(stages[0].back)).tolist())
    return list(zip(*apart, strict=True))
