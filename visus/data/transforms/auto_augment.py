"""AutoAugment: the policies that its search found on ImageNet, CIFAR-10 and SVHN."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from visus.core.errors import RecipeError
from visus.data.transforms import Draws, augmentations
from visus.data.transforms.operations import PUBLISHED, Interpolation
from visus.data.transforms.policies import Policy, drawn_magnitudes

_STEPS = 9  # magnitudes are 0 to 9


class Part(NamedTuple):
    """An operation, done with `probability`, at `magnitude` of 9 (0 where the operation has none)."""

    name: str
    probability: float
    magnitude: int


# Cubuk et al. 2019, tables 7 to 9: of each operation its name, probability and magnitude (- for none)
_IMAGENET = """
    posterize .4 8 rotate .6 9; solarize .6 5 autocontrast .6 -; equalize .8 - equalize .6 -
    posterize .6 7 posterize .6 6; equalize .4 - solarize .2 4; equalize .4 - rotate .8 8; solarize .6 3 equalize .6 -
    posterize .8 5 equalize 1 -; rotate .2 3 solarize .6 8; equalize .6 - posterize .4 6; rotate .8 8 color .4 0
    rotate .4 9 equalize .6 -; equalize 0 - equalize .8 -; invert .6 - equalize 1 -; color .6 4 contrast 1 8
    rotate .8 8 color 1 2; color .8 8 solarize .8 7; sharpness .4 7 invert .6 -; shear_x .6 5 equalize 1 -
    color .4 0 equalize .6 -; equalize .4 - solarize .2 4; solarize .6 5 autocontrast .6 -; invert .6 - equalize 1 -
    color .6 4 contrast 1 8; equalize .8 - equalize .6 -"""
_CIFAR10 = """
    invert .1 - contrast .2 6; rotate .7 2 translate_x .3 9; sharpness .8 1 sharpness .9 3
    shear_y .5 8 translate_y .7 9; autocontrast .5 - equalize .9 -; shear_y .2 7 posterize .3 7
    color .4 3 brightness .6 7; sharpness .3 9 brightness .7 9; equalize .6 - equalize .5 -
    contrast .6 7 sharpness .6 5; color .7 7 translate_x .5 8; equalize .3 - autocontrast .4 -
    translate_y .4 3 sharpness .2 6; brightness .9 6 color .2 8; solarize .5 2 invert 0 -
    equalize .2 - autocontrast .6 -; equalize .2 - equalize .6 -; color .9 9 equalize .6 -
    autocontrast .8 - solarize .2 8; brightness .1 3 color .7 0; solarize .4 5 autocontrast .9 -
    translate_y .9 9 translate_y .7 9; autocontrast .9 - solarize .8 3; equalize .8 - invert .1 -
    translate_y .7 9 autocontrast .9 -"""
_SVHN = """
    shear_x .9 4 invert .2 -; shear_y .9 8 invert .7 -; equalize .6 - solarize .6 6; invert .9 - equalize .6 -
    equalize .6 - rotate .9 3; shear_x .9 4 autocontrast .8 -; shear_y .9 8 invert .4 -; shear_y .9 5 solarize .2 6
    invert .9 - autocontrast .8 -; equalize .6 - rotate .9 3; shear_x .9 4 solarize .3 3; shear_y .8 8 invert .7 -
    equalize .9 - translate_y .6 6; invert .9 - equalize .6 -; contrast .3 3 rotate .8 4; invert .8 - translate_y 0 2
    shear_y .7 6 solarize .4 8; invert .6 - rotate .8 4; shear_y .3 7 translate_x .9 3; shear_x .1 6 invert .6 -
    solarize .7 2 translate_y .6 7; shear_y .8 4 invert .8 -; shear_x .7 9 translate_y .8 3
    shear_y .8 5 autocontrast .7 -; shear_x .7 2 invert .1 -"""


@dataclass(frozen=True)
class AutoAugment(Policy):
    """One of the 25 pairs of operations of a published policy, each operation with its own probability and strength
    (Cubuk et al. 2019, "AutoAugment: learning augmentation strategies from data", appendix A).

    policy: 'imagenet', 'cifar10' or 'svhn'. fill: what lies beyond a moved image. interpolation: of one,
    'nearest' or 'bilinear'.
    """

    policy: Literal["imagenet", "cifar10", "svhn"] = "imagenet"
    fill: float = 0.5
    interpolation: Interpolation = "nearest"

    def __post_init__(self) -> None:
        self._check()
        if self.policy not in POLICIES:
            raise RecipeError("must be " + " or ".join(map(repr, POLICIES)),
                              where=f"augmentation.AutoAugment.policy={self.policy!r}")

    def rounds(self, draws: Draws, height: int, width: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        pairs = POLICIES[self.policy]
        u = draws.uniform(5)
        pair = np.floor(u[:, 0] * len(pairs)).astype(np.int64)
        for place in range(2):
            parts = [both[place] for both in pairs]
            done = u[:, 1 + place] < np.array([part.probability for part in parts])[pair]
            names = np.where(done, np.array([part.name for part in parts])[pair], "")
            strength = np.array([part.magnitude / _STEPS for part in parts])[pair]
            yield names, drawn_magnitudes(names, strength, u[:, 3 + place], PUBLISHED, height, width)


def _pairs(text: str) -> tuple[tuple[Part, Part], ...]:
    rows = [row.split() for row in text.replace("\n", ";").split(";") if row.strip()]
    parts = [[Part(row[i], float(row[i + 1]), 0 if row[i + 2] == "-" else int(row[i + 2])) for i in (0, 3)]
             for row in rows]
    return tuple((first, second) for first, second in parts)


POLICIES: Mapping[str, tuple[tuple[Part, Part], ...]] = {
    "imagenet": _pairs(_IMAGENET), "cifar10": _pairs(_CIFAR10), "svhn": _pairs(_SVHN)}

augmentations.add(AutoAugment, {"auto_augment": {}})
