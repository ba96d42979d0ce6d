"""One image with all that is marked in it, through an augmentation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from visus.core.errors import RecipeError
from visus.data.objects import Objects
from visus.data.transforms import Draws, to_unit
from visus.data.transforms.carry import Carried
from visus.data.transforms.placement import Geometric, Placement
from visus.data.transforms.warp import moved_image, moved_labels, needed

if TYPE_CHECKING:
    from torch import Tensor

    from visus.data.transforms import Augmentation


@dataclass(frozen=True, eq=False, kw_only=True)
class Scene:
    """An image and its marks.

    image: uint8, or float in [0, 1], [C, H, W] with C 1 or 3. objects: of this one image, in pixels, or None.
    label_map: uint8 or int64 [H, W], 255 where nothing is claimed, or None.
    """

    image: Tensor
    objects: Objects | None = None
    label_map: Tensor | None = None

    def __post_init__(self) -> None:
        assert self.image.ndim == 3
        assert self.objects is None or (len(self.objects.start) == 2 and not self.objects.relative)
        assert self.label_map is None or self.label_map.shape == self.image.shape[1:]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return int(self.image.shape[1]), int(self.image.shape[2])


class SceneTransform(ABC):
    """A transform of whole scenes, which a batch of images alone cannot have. Subclasses state `on_scene`."""

    any_dtype = True

    @abstractmethod
    def on_scene(self, scene: Scene, draws: Draws, other: Callable[[int], Scene]) -> Scene:
        """other: a whole number of at least 0 -> another scene, which has been through the steps before this one."""

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        raise RecipeError("joins the marks of several images, which class labels do not have",
                          where=f"augmentation.{type(self).__name__}",
                          remedy="For class labels use mixup or CutMix: --set mix.cutmix=1")


def augmented(augmentation: Augmentation, scene: Scene, index: int, seed: int, epoch: int,
              others: Callable[[int], Scene] | None, steps: int | None = None) -> Scene:
    """The scene after the first `steps` steps (None: all). See `Augmentation.scene`."""
    count = len(augmentation.steps) if steps is None else steps
    live = [position for position in range(count) if not augmentation.idle(position)]
    for run in runs(live, [augmentation.steps[position][1] for position in live]):
        draws = [augmentation.draws(position, np.array([index]), seed, epoch) for position in run]
        first = augmentation.steps[run[0]][1]
        if isinstance(first, Geometric):
            moves: list[Any] = [augmentation.steps[position][1] for position in run]
            scene = _moved(scene, list(zip(moves, draws, strict=True)))
        elif isinstance(first, SceneTransform):
            scene = first.on_scene(scene, draws[0], _others(augmentation, run[0], seed, epoch, others))
        else:
            image = scene.image if first.any_dtype else to_unit(scene.image)
            scene = replace(scene, image=first(image[None], draws[0])[0])
    return scene


def after(scene: Scene, placements: Sequence[Placement]) -> Scene:
    """The scene after moves in a row: its pixels are taken once."""
    path = _Path(scene)
    path.follow(placements)
    return path.scene()


def runs(positions: list[int], transforms: list[Any]) -> Iterator[list[int]]:
    """The positions of the transforms, those of neighbouring geometric ones together."""
    run: list[int] = []
    together = False
    for position, transform in zip(positions, transforms, strict=True):
        geometric = isinstance(transform, Geometric)
        if run and not (geometric and together):
            yield run
            run = []
        run.append(position)
        together = geometric
    if run:
        yield run


def _moved(scene: Scene, steps: list[tuple[Geometric, Draws]]) -> Scene:
    """The scene after geometric steps in a row."""
    if not all(transform.any_dtype for transform, _ in steps):
        scene = replace(scene, image=to_unit(scene.image))
    path = _Path(scene)
    for transform, draws in steps:
        path.follow(transform.placements(*path.size, draws, path.boxes()))
    return path.scene()


class _Path:
    """A scene on its way through placements, of which the next may depend on where its boxes are."""

    def __init__(self, scene: Scene):
        self._from = scene
        self._chain: list[Placement] = []
        self._carried = None if scene.objects is None else Carried(scene.objects, *scene.size)
        self.size = scene.size

    def boxes(self) -> np.ndarray | None:
        return None if self._carried is None else self._carried.boxes()

    def follow(self, placements: Sequence[Placement]) -> None:
        for placement in needed(placements, *self.size):
            if self._carried is not None:
                self._carried.move(placement)
            self._chain.append(placement)
            self.size = (placement.height, placement.width)

    def scene(self) -> Scene:
        if not self._chain:
            return self._from
        labels = self._from.label_map
        return Scene(image=moved_image(self._from.image, self._chain),
                     objects=None if self._carried is None else self._carried.objects(),
                     label_map=None if labels is None else moved_labels(labels, self._chain))


def _others(augmentation: Augmentation, position: int, seed: int, epoch: int,
            others: Callable[[int], Scene] | None) -> Callable[[int], Scene]:
    """number -> the scene of that number after the steps before `position`."""
    def other(number: int) -> Scene:
        if others is None:
            raise RecipeError("needs other scenes of the set", where=f"augmentation[{position}]",
                              remedy="Give Augmentation.scene the function `others`")
        return augmented(augmentation, others(number), number, seed, epoch, others, position)

    return other
