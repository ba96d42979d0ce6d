"""RandAugment and TrivialAugment: operations chosen at random. `auto_augment` has what a search chose."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from visus.core.errors import RecipeError
from visus.data.transforms import Draws, augmentations, check_range
from visus.data.transforms.carry import Carried
from visus.data.transforms.levels import as_levels
from visus.data.transforms.operations import OPERATIONS, PUBLISHED, WIDE, Interpolation, Range, apply_
from visus.data.transforms.placement import Placement
from visus.data.transforms.scene import Scene, SceneTransform
from visus.data.transforms.warp import moved_labels

_CHOICES = ("", *PUBLISHED)  # nothing is one of them


class Policy(SceneTransform):
    """What all policies share. Subclasses are frozen dataclasses with `fill` and `interpolation`, and state `rounds`.

    Boxes, outlines, keypoints and label maps of a scene follow the operations that move pixels.
    """

    fill: float
    interpolation: Interpolation

    @abstractmethod
    def rounds(self, draws: Draws, height: int, width: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Names ('' for none) and magnitudes [B] of the operations, one after the other."""

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        def work(levels: Tensor) -> Tensor:
            out = levels.clone()
            for names, magnitudes in self.rounds(draws, *levels.shape[-2:]):
                apply_(out, names, magnitudes, self.fill, self.interpolation)
            return out
        return as_levels(work)(images)

    def on_scene(self, scene: Scene, draws: Draws, other: Callable[[int], Scene]) -> Scene:
        height, width = scene.size
        chain = self._placements(list(self.rounds(draws, height, width)), height, width)
        scene = replace(scene, image=self(scene.image[None], draws)[0])
        if chain and scene.objects is not None:
            carried = Carried(scene.objects, height, width)
            for placement in chain:
                carried.move(placement)
            scene = replace(scene, objects=carried.objects())
        if chain and scene.label_map is not None:
            scene = replace(scene, label_map=moved_labels(scene.label_map, chain))
        return scene

    def _placements(self, rounds: Sequence[tuple[np.ndarray, np.ndarray]], height: int, width: int) -> list[Placement]:
        chain = []
        for names, magnitudes in rounds:
            matrix = OPERATIONS[names[0]].matrix if names[0] else None
            if matrix is not None:
                chain.append(Placement(matrix=matrix(magnitudes, height, width)[0], height=height, width=width,
                                       fill=(self.fill,)))
        return [placement for placement in chain if not placement.keeps(height, width)]

    def _check(self) -> None:
        check_range(self, "fill", self.fill, 0, 1)
        if self.interpolation not in ("nearest", "bilinear"):
            raise RecipeError("must be 'nearest' or 'bilinear'",
                              where=f"augmentation.{type(self).__name__}.interpolation={self.interpolation!r}")


@dataclass(frozen=True)
class RandAugment(Policy):
    """`operations` of 14 (one of which is none), each for itself, all of one strength: magnitude / steps (Cubuk et al.
    2020, "RandAugment: practical automated data augmentation with a reduced search space"; 2 at 9 are theirs for
    ResNet-50 on ImageNet). steps: where the scale ends; 30 as in torchvision, 10 is three times as strong. fill: what
    lies beyond a moved image. interpolation: of one, 'nearest' or 'bilinear'.
    """

    operations: int = 2
    magnitude: float = 9
    steps: int = 30
    fill: float = 0.5
    interpolation: Interpolation = "nearest"

    def __post_init__(self) -> None:
        self._check()
        for field, low, high in (("operations", 0, 100), ("steps", 1, 1000)):
            if not isinstance(getattr(self, field), int):
                raise RecipeError("must be a whole number",
                                  where=f"augmentation.RandAugment.{field}={getattr(self, field)!r}")
            check_range(self, field, getattr(self, field), low, high)
        check_range(self, "magnitude", self.magnitude, 0, self.steps)

    def rounds(self, draws: Draws, height: int, width: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        u = draws.uniform(2 * self.operations) if self.operations else np.zeros((len(draws.index), 0))
        strength = np.full(len(u), self.magnitude / self.steps)
        for place in range(self.operations):
            names = drawn_names(u[:, 2 * place], _CHOICES)
            yield names, drawn_magnitudes(names, strength, u[:, 2 * place + 1], PUBLISHED, height, width)


@dataclass(frozen=True)
class TrivialAugment(Policy):
    """One operation of 14 (one of which is none), of any strength (Mueller and Hutter 2021, "TrivialAugment:
    tuning-free yet state-of-the-art data augmentation", the 'Wide' ranges; 31 strengths). fill: what lies
    beyond a moved image. interpolation: of one, 'nearest' or 'bilinear'."""

    strengths: int = 31
    fill: float = 0.5
    interpolation: Interpolation = "nearest"

    def __post_init__(self) -> None:
        self._check()
        if not isinstance(self.strengths, int):
            raise RecipeError("must be a whole number",
                              where=f"augmentation.TrivialAugment.strengths={self.strengths!r}")
        check_range(self, "strengths", self.strengths, 2, 1000)

    def rounds(self, draws: Draws, height: int, width: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        u = draws.uniform(3)
        names = drawn_names(u[:, 0], _CHOICES)
        strength = np.floor(u[:, 1] * self.strengths) / (self.strengths - 1)
        yield names, drawn_magnitudes(names, strength, u[:, 2], WIDE, height, width)


def drawn_names(u: np.ndarray, choices: tuple[str, ...]) -> np.ndarray:
    """One of the choices, each as likely, for each of u [B] in [0, 1)."""
    return np.array(choices)[np.floor(u * len(choices)).astype(np.int64)]


def drawn_magnitudes(names: np.ndarray, strength: np.ndarray, u: np.ndarray, ranges: Mapping[str, Range],
                     height: int, width: int) -> np.ndarray:
    """float64 [B] for the operations `names` at strengths [B]; those of signed operations negative where u < 0.5."""
    out = np.zeros(len(names))
    for name in sorted(set(names.tolist())):
        if name in ranges:
            rows = names == name
            magnitude = ranges[name].magnitudes(strength[rows], height, width)
            sign = np.where(u[rows] < 0.5, -1, 1) if OPERATIONS[name].signed else 1
            out[rows] = magnitude * sign
    return out


augmentations.add(RandAugment, {"randaugment": {}})
augmentations.add(TrivialAugment, {"trivial_augment": {}})
