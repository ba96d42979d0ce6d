"""Where a geometric transform puts each point of an image: stated once, followed by pixels, boxes and points alike.

Coordinates are those of `visus.data.objects`: x to the right, y down, the pixel in column x covers [x, x + 1].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from visus.core.errors import RecipeError
from visus.data.transforms import Draws

if TYPE_CHECKING:
    from torch import Tensor

Outside = Literal["fill", "border", "reflect", "symmetric"]
MIN_VISIBLE = 0.1  # below a tenth, what is left of an object seldom shows what it is, and its box only misleads
_IDENTITY = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
_TOLERANCE = 1e-9  # of entries of a matrix that stand for whole numbers


@dataclass(frozen=True, eq=False, kw_only=True)
class Placement:
    """One move of an image of any size to one of `height` x `width` pixels.

    matrix: float64 [3, 3], from input to output pixel coordinates, projective. field: float64 [height, width, 2], or
    None: the output shows at a point q what the matrix alone would put at q + field(q), (x, y) in pixels, bilinear
    between the centres of pixels. outside: what is shown beyond the input: 'fill' (the colour `fill`, one number or one
    per channel in [0, 1]; labels 255), 'border' (the last pixel goes on), 'reflect' (mirrored at the centre of the last
    pixel, so that it is not doubled) or 'symmetric' (mirrored at its outer edge). min_visible: an object is dropped
    when less than this share of its area stays in the image. by_centre: instead, when the centre of its box does not.
    """

    matrix: np.ndarray
    height: int
    width: int
    field: np.ndarray | None = None
    outside: Outside = "fill"
    fill: tuple[float, ...] = (0.0,)
    min_visible: float = MIN_VISIBLE
    by_centre: bool = False

    @cached_property
    def aligned(self) -> bool:
        """Whether lines along the axes stay so: moves, mirrors and scales alone."""
        (_, b, _), (d, _, _), (g, h, _) = self.matrix.tolist()
        return self.field is None and not (b or d or g or h)

    @cached_property
    def exact(self) -> bool:
        """Whether each output pixel is one input pixel: flips, crops and pads by whole pixels."""
        (a, _, x), (_, e, y), _ = self.matrix.tolist()
        return (self.aligned and abs(a) == abs(e) == 1 and abs(x - round(x)) < _TOLERANCE
                and abs(y - round(y)) < _TOLERANCE)

    @property
    def mirrors(self) -> bool:
        """Whether left and right change hands."""
        return bool(np.linalg.det(self.matrix) < 0)

    def keeps(self, height: int, width: int) -> bool:
        """Whether an image of `height` x `width` stays as it is."""
        return ((self.height, self.width) == (height, width) and self.field is None
                and self.matrix.tolist() == _IDENTITY)

    def forward(self, points: np.ndarray) -> np.ndarray:
        """float64 [..., 2] (x, y) of the input -> of the output. NaN for points that a perspective puts behind."""
        moved = projected(self.matrix, points)
        return moved if self.field is None else _before(self.field, moved)

    def backward(self, points: np.ndarray) -> np.ndarray:
        """float64 [..., 2] (x, y) of the output -> of the input. NaN as in `forward`."""
        if self.field is not None:
            points = points + field_at(self.field, points)
        return projected(np.linalg.inv(self.matrix), points)


class Geometric(ABC):
    """A transform that moves pixels. Subclasses are frozen dataclasses and state `placements`; the rest follows.

    resamples: whether it can mix neighbouring pixels; two such steps in a row are done as one. varies: whether the size
    that comes out can differ from image to image; in a batch it is done as one with the steps around it.
    """

    any_dtype: ClassVar[bool] = False
    resamples: ClassVar[bool] = True
    varies: ClassVar[bool] = False

    @abstractmethod
    def placements(self, height: int, width: int, draws: Draws, boxes: np.ndarray | None = None
                   ) -> tuple[Placement, ...]:
        """The moves, in order, of the one image of `draws`; () for none. boxes: float64 [M, 4] of its objects."""

    def of_batch(self, height: int, width: int, draws: Draws) -> list[tuple[Placement, ...]]:
        """The moves of each image of a batch without boxes."""
        return [self.placements(height, width, drawn) for drawn in draws.each()]

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        from visus.data.transforms.warp import moved_batch

        height, width = images.shape[-2:]
        return moved_batch(images, self.of_batch(height, width, draws), type(self).__name__)


def identity(height: int, width: int) -> Placement:
    """Nothing moves."""
    return Placement(matrix=np.eye(3), height=height, width=width)


def resizing(height: int, width: int, new_height: int, new_width: int) -> Placement:
    """The whole image in another size."""
    return Placement(matrix=scaling(new_width / width, new_height / height), height=new_height, width=new_width)


def window(top: int, left: int, height: int, width: int, *, outside: Outside = "fill",
           fill: tuple[float, ...] = (0.0,), min_visible: float = MIN_VISIBLE, by_centre: bool = False) -> Placement:
    """`height` x `width` pixels from (top, left) on: a crop, and beyond the image a pad."""
    return Placement(matrix=shifting(-left, -top), height=height, width=width, outside=outside, fill=fill,
                     min_visible=min_visible, by_centre=by_centre)


def shifting(x: float, y: float) -> np.ndarray:
    """float64 [3, 3]: by (x, y) pixels."""
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], np.float64)


def scaling(x: float, y: float) -> np.ndarray:
    """float64 [3, 3]: about the upper left corner."""
    return np.diag([x, y, 1.0])


def about_centre(linear: np.ndarray, height: int, width: int) -> np.ndarray:
    """float64 [3, 3]: a map [3, 3] of points about the centre of the image, as a map of pixel coordinates."""
    return shifting(width / 2, height / 2) @ linear @ shifting(-width / 2, -height / 2)


def projected(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """float64 [..., 2] mapped by a projective matrix [3, 3]; NaN where the third coordinate is not positive."""
    moved = points @ matrix[:2, :2].T + matrix[:2, 2]
    if not (matrix[2, 0] or matrix[2, 1]):
        return moved / matrix[2, 2]
    depth = points @ matrix[2, :2] + matrix[2, 2]
    return moved / np.where(depth > 0, depth, np.nan)[..., None]


def field_at(field: np.ndarray, points: np.ndarray) -> np.ndarray:
    """float64 [..., 2]: a field [H, W, 2], given at the centres of pixels, at `points`; beyond them its border."""
    height, width = field.shape[:2]
    place = np.clip(np.nan_to_num(points) - 0.5, 0, [width - 1, height - 1])
    corner = np.minimum(place.astype(np.int64), [max(width - 2, 0), max(height - 2, 0)])
    share = place - corner
    x, y = corner[..., 0], corner[..., 1]
    right, below = np.minimum(x + 1, width - 1), np.minimum(y + 1, height - 1)
    along, down = share[..., :1], share[..., 1:]
    return ((field[y, x] * (1 - along) + field[y, right] * along) * (1 - down)
            + (field[below, x] * (1 - along) + field[below, right] * along) * down)


def check_fill(transform: object, fill: object) -> tuple[float, ...]:
    """A colour as Placement has it. RecipeError unless it is a number in [0, 1], or one or three of them."""
    values = fill if isinstance(fill, tuple) else (fill,)
    if len(values) not in (1, 3) or not all(
            isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v <= 1 for v in values):
        raise RecipeError("must be a number from 0 to 1, or three of them",
                          where=f"augmentation.{type(transform).__name__}.fill={fill!r}")
    return tuple(float(v) for v in values)


def check_sizes(transform: object, field: str, size: object) -> tuple[int, int]:
    """(height, width) of one whole number or two. RecipeError unless each is from 1 to 16384."""
    values = size if isinstance(size, tuple) else (size, size)
    if len(values) != 2 or not all(isinstance(v, int) and not isinstance(v, bool) and 1 <= v <= 16384 for v in values):
        raise RecipeError("must be a whole number of pixels from 1 to 16384, or height and width",
                          where=f"augmentation.{type(transform).__name__}.{field}={size!r}")
    return values[0], values[1]


def _before(field: np.ndarray, moved: np.ndarray, tolerance: float = 1e-7) -> np.ndarray:
    """q [..., 2] with q + field(q) = moved: Newton's method, then, where the kinks between pixels keep it from the
    place, halved steps of fixed-point iteration. Where the field folds, one of the places, or the last that was tried.
    """
    target = np.nan_to_num(moved.reshape(-1, 2))
    q = target - field_at(field, target)
    open_ = np.arange(len(q))
    for step in range(60):
        rest = q[open_] + field_at(field, q[open_]) - target[open_]
        far = np.abs(rest).max(1, initial=0.0) > tolerance
        open_, rest = open_[far], rest[far]
        if not len(open_):
            break
        if step < 20:
            here = q[open_]
            along, down = (field_at(field, here + half) - field_at(field, here - half) for half in np.eye(2) / 2)
            a, b, c, d = 1 + along[:, 0], down[:, 0], along[:, 1], 1 + down[:, 1]  # [[a, b], [c, d]], of q + field(q)
            size = a * d - b * c
            size = np.where(np.abs(size) < 0.05, 0.05, size)
            rest = np.stack([d * rest[:, 0] - b * rest[:, 1], a * rest[:, 1] - c * rest[:, 0]], 1) / size[:, None]
            q[open_] -= rest.clip(-8, 8)
        else:
            q[open_] -= rest / 2
    return np.where(np.isnan(moved), np.nan, q.reshape(moved.shape))
