"""Augmentation: batched tensor operations whose every draw is a function of (seed, epoch, sample).

A batch is augmented the same in whatever order, worker or batch its samples come. Each transform is a frozen dataclass
in a file of this package, registered at its end.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from visus.core.errors import RecipeError, did_you_mean
from visus.core.registry import Registry
from visus.core.seeds import uniform

if TYPE_CHECKING:
    from torch import Tensor

    from visus.data.transforms.crop import RandomResizedCrop, SimpleRandomCrop
    from visus.data.transforms.scene import Scene

augmentations = Registry("augmentation", "visus.data.transforms")
DECODE_CROPS = ("random_resized_crop", "simple_random_crop")  # boxes of the full image, cut while it is decoded


@dataclass(frozen=True, slots=True)
class Draws:
    """The random numbers of one transform for one batch. index: int64 [B], positions of the samples in the set."""

    index: np.ndarray
    seed: int
    epoch: int
    stream: str

    def uniform(self, count: int) -> np.ndarray:
        """float64 [B, count] in [0, 1)."""
        return uniform(self.index, self.seed, self.epoch, self.stream, draws=count)

    def of(self, i: int) -> Draws:
        """Those of the batch's image i alone."""
        return Draws(self.index[i:i + 1], self.seed, self.epoch, self.stream)

    def each(self) -> list[Draws]:
        """Those of each image alone, drawn together."""
        known: dict[int, np.ndarray] = {}
        return [_Part(self.index[i:i + 1], self.seed, self.epoch, self.stream, self, i, known)
                for i in range(len(self.index))]


@dataclass(frozen=True, slots=True)
class _Part(Draws):
    """The draws of image `position` of `whole`. known: what was drawn for all."""

    whole: Draws
    position: int
    known: dict[int, np.ndarray]

    def uniform(self, count: int) -> np.ndarray:
        if count not in self.known:
            self.known[count] = self.whole.uniform(count)
        return self.known[count][self.position:self.position + 1]


class Transform(Protocol):
    """images [B, C, H, W] -> images of the same type. `any_dtype`: takes uint8 as it is, else float in [0, 1]."""

    any_dtype: bool

    def __call__(self, images: Tensor, draws: Draws) -> Tensor: ...


@dataclass(frozen=True)
class Augmentation:
    """Transforms in order. (name, transform) pairs in `steps`."""

    steps: tuple[tuple[str, Transform], ...]

    @property
    def decode_crop(self) -> RandomResizedCrop | SimpleRandomCrop | None:
        """The first step when it is one of `DECODE_CROPS`: done on the full image where there is one."""
        if self.steps and self.steps[0][0] in DECODE_CROPS:
            return self.steps[0][1]  # type: ignore[return-value]
        return None

    def draws(self, position: int, index: np.ndarray, seed: int, epoch: int) -> Draws:
        return Draws(np.asarray(index), seed, epoch, f"{position} {self.steps[position][0]}")

    def __call__(self, images: Tensor, index: np.ndarray, seed: int, epoch: int, *, cropped: bool = False) -> Tensor:
        """uint8 or float in [0, 1] [B, C, H, W] -> the same, or float where a step needs it.

        index: int64 [B]. cropped: `decode_crop` was done while decoding.
        """
        first = 1 if cropped and self.decode_crop is not None else 0
        for run in self._runs(first):
            transform = self.steps[run[0]][1]
            if not all(self.steps[position][1].any_dtype for position in run):
                images = to_unit(images)
            draws = [self.draws(position, index, seed, epoch) for position in run]
            if len(run) == 1:
                images = transform(images, draws[0])
            else:
                from visus.data.transforms.warp import moved_together

                images = moved_together(images, [self.steps[position][1] for position in run], draws)  # type: ignore[misc]
        return images

    def idle(self, position: int) -> bool:
        """Whether a step never does anything: its probability is 0. It costs nothing."""
        return getattr(self.steps[position][1], "probability", 1) == 0

    def _runs(self, first: int) -> Iterator[list[int]]:
        """The positions from `first` on, without idle ones; neighbours that are to be one warp together."""
        live = [position for position in range(first, len(self.steps)) if not self.idle(position)]
        end = 0
        while (start := end) < len(live):
            end = start + 1
            if not hasattr(self.steps[live[start]][1], "resamples"):
                yield [live[start]]
                continue
            while end < len(live) and hasattr(self.steps[live[end]][1], "resamples"):
                end += 1
            run = live[start:end]
            moves: list[Any] = [self.steps[position][1] for position in run]
            if sum(move.resamples for move in moves) > 1 or (len(run) > 1 and any(move.varies for move in moves)):
                yield run
            else:
                yield from ([position] for position in run)

    def scene(self, scene: Scene, index: int, seed: int, epoch: int,
              others: Callable[[int], Scene] | None = None) -> Scene:
        """One image with its boxes, outlines, keypoints and label map, augmented as the batch's image `index` is.

        Geometric steps move all of them, the others change the image alone. others: any whole number of at least 0 ->
        a scene of the training set (the caller takes the number modulo their count), for mosaic and copy-paste.
        """
        from visus.data.transforms.scene import augmented

        return augmented(self, scene, index, seed, epoch, others)


def to_unit(images: Tensor) -> Tensor:
    """uint8 in 0..255 -> float32 in [0, 1]; float stays as it is."""
    import torch

    return images.to(torch.float32).div_(255) if images.dtype == torch.uint8 else images


def build_augmentation(steps: Sequence[Mapping[str, Any]]) -> Augmentation | None:
    """[{'name': 'horizontal_flip', 'probability': 0.5}, ...] -> Augmentation; None for an empty list.

    Raises RecipeError naming the step: unknown name or field (with the nearest), value out of range, a crop of the full
    image that is not the first step.
    """
    built = []
    for position, step in enumerate(steps):
        where = f"augmentation[{position}]"
        values = dict(step)
        name = values.pop("name", None)
        if not isinstance(name, str):
            raise RecipeError("a step has no name", where=f"{where}={dict(step)}",
                              remedy="Write steps as {name: horizontal_flip}")
        known = augmentations.names()
        if name not in known:
            known = sorted(augmentations.fresh_index())
        if name not in known:
            raise RecipeError("there is no such augmentation", where=f"{where}.name={name!r}",
                              remedy=did_you_mean(name, known))
        entry = augmentations.get(name)  # its file alone is imported: unused transforms cost nothing
        fields = [p for p in inspect.signature(entry.build).parameters if p != "any_dtype"]
        for field in values:
            if field not in fields:
                raise RecipeError(f"{name} has no such field", where=f"{where}.{field}={values[field]!r}",
                                  remedy=did_you_mean(field, fields))
        if name in DECODE_CROPS and position:
            raise RecipeError(f"{name} must be the first step", where=where,
                              remedy="It is done while the image is decoded: move it to the front")
        plain = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        built.append((name, entry.build(**{**entry.variant, **plain})))
    return Augmentation(tuple(built)) if built else None


def check_range(transform: object, field: str, value: object, low: float, high: float) -> None:
    """RecipeError unless `value` is a number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise RecipeError(f"must be a number from {low:g} to {high:g}",
                          where=f"augmentation.{type(transform).__name__}.{field}={value!r}")


def check_interval(transform: object, field: str, value: object, low: float, high: float) -> None:
    """RecipeError unless `value` is a pair of rising numbers in [low, high]."""
    numbers = isinstance(value, tuple) and len(value) == 2 and all(
        isinstance(v, int | float) and not isinstance(v, bool) for v in value)
    if not numbers or not low <= value[0] <= value[1] <= high:  # type: ignore[index]
        raise RecipeError(f"must be two rising numbers from {low:g} to {high:g}",
                          where=f"augmentation.{type(transform).__name__}.{field}={value!r}")
