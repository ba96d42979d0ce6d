"""Sizes by rule: short side, long side, letterbox, squash, and a size drawn from several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from visus.core.errors import RecipeError
from visus.core.seeds import uniform
from visus.data.transforms import Draws, augmentations
from visus.data.transforms.placement import Geometric, Placement, check_fill, check_sizes, resizing, window

Rule = Literal["short", "long", "letterbox", "squash"]
_RULES = ("short", "long", "letterbox", "squash")
YOLO_SIZES = tuple(range(320, 609, 32))  # Redmon and Farhadi, CVPR 2017, section 2


@dataclass(frozen=True)
class Resize(Geometric):
    """Another size by a rule, antialiased.

    rule: 'short' gives the short side `size` pixels and keeps the aspect, but the long side at most `longest`; 'long'
    the long side; 'letterbox' fits the image into `size` (one number or height and width), keeps the aspect, and fills
    the rest with `fill`, half on each side; 'squash' makes it `size` whatever the aspect.
    """

    size: int | tuple[int, int] = 224
    rule: Rule = "short"
    longest: int | None = None
    fill: float | tuple[float, float, float] = 0.0
    any_dtype: ClassVar[bool] = True
    varies: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check(self, self.rule, self.longest)
        check_sizes(self, "size", self.size)
        if self.rule in ("short", "long") and not isinstance(self.size, int):
            raise RecipeError("must be one whole number for a rule of one side",
                              where=f"augmentation.Resize.size={self.size!r}",
                              remedy="Height and width go with letterbox and squash")
        check_fill(self, self.fill)

    def placements(self, height: int, width: int, draws: Draws, boxes: np.ndarray | None = None
                   ) -> tuple[Placement, ...]:
        rows, columns = check_sizes(self, "size", self.size)
        return _resized(height, width, rows, columns, self.rule, self.longest, check_fill(self, self.fill))


@dataclass(frozen=True)
class MultiScaleResize(Geometric):
    """A size drawn from `sizes`, all equally likely, then as `Resize` (Redmon and Farhadi, YOLO9000, CVPR 2017, section
    2, with its sizes; with the rule 'short', sizes from 480 to 800 and longest 1333, that of Carion et al., DETR, ECCV
    2020).

    rule, longest, fill: as of `Resize`. per: 'image', or 'epoch' for one size for all images of an epoch, so that they
    make batches.
    """

    sizes: tuple[int, ...] = YOLO_SIZES
    rule: Rule = "letterbox"
    longest: int | None = None
    fill: float | tuple[float, float, float] = 0.0
    per: Literal["image", "epoch"] = "image"
    any_dtype: ClassVar[bool] = True
    varies: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check(self, self.rule, self.longest)
        if not isinstance(self.sizes, tuple) or not self.sizes:
            raise RecipeError("must be a list of whole numbers",
                              where=f"augmentation.MultiScaleResize.sizes={self.sizes!r}")
        for size in self.sizes:
            check_sizes(self, "sizes", size)
        if self.per not in ("image", "epoch"):
            raise RecipeError("must be 'image' or 'epoch'", where=f"augmentation.MultiScaleResize.per={self.per!r}")
        check_fill(self, self.fill)

    def placements(self, height: int, width: int, draws: Draws, boxes: np.ndarray | None = None
                   ) -> tuple[Placement, ...]:
        u = (draws.uniform(1)[0, 0] if self.per == "image"
             else float(uniform(0, draws.seed, draws.epoch, draws.stream, "epoch")))
        rows, columns = check_sizes(self, "sizes", self.sizes[int(u * len(self.sizes))])
        return _resized(height, width, rows, columns, self.rule, self.longest, check_fill(self, self.fill))


def side_size(height: int, width: int, size: int, rule: Rule, longest: int | None = None) -> tuple[int, int]:
    """(height, width) whose short or long side is `size`, the other rounded down, as torchvision does."""
    long, short = max(height, width), min(height, width)
    if rule == "short":
        new_short, new_long = size, int(size * long / short)
        if longest is not None and new_long > longest:
            new_short, new_long = int(longest * short / long), longest
    else:
        new_short, new_long = int(size * short / long), size
    new_short, new_long = max(1, new_short), max(1, new_long)
    return (new_short, new_long) if height <= width else (new_long, new_short)


def fitted_size(height: int, width: int, rows: int, columns: int) -> tuple[int, int]:
    """(height, width) of the image enlarged or shrunk, aspect kept, until one side fills `rows` x `columns`."""
    scale = min(rows / height, columns / width)
    return min(rows, max(1, round(height * scale))), min(columns, max(1, round(width * scale)))


def _resized(height: int, width: int, rows: int, columns: int, rule: Rule, longest: int | None,
             fill: tuple[float, ...]) -> tuple[Placement, ...]:
    if rule == "squash":
        return (resizing(height, width, rows, columns),)
    if rule != "letterbox":
        return (resizing(height, width, *side_size(height, width, rows, rule, longest)),)
    new_height, new_width = fitted_size(height, width, rows, columns)
    top, left = (rows - new_height) // 2, (columns - new_width) // 2
    return resizing(height, width, new_height, new_width), window(-top, -left, rows, columns, fill=fill)


def _check(transform: object, rule: str, longest: int | None) -> None:
    name = type(transform).__name__
    if rule not in _RULES:
        raise RecipeError("must be 'short', 'long', 'letterbox' or 'squash'",
                          where=f"augmentation.{name}.rule={rule!r}")
    if longest is not None:
        check_sizes(transform, "longest", longest)
        if rule != "short":
            raise RecipeError("goes with the rule 'short' alone", where=f"augmentation.{name}.longest={longest!r}")


augmentations.add(Resize, {"resize": {}, "letterbox": {"rule": "letterbox"}})
augmentations.add(MultiScaleResize, {"multi_scale_resize": {}})
