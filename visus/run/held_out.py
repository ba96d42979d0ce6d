"""Images by which fewer bits are judged: some to calibrate with, others to compare on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from visus.core.errors import DataError
from visus.core.preprocessing import Preprocessing
from visus.core.record import RunFolder
from visus.data.opening import open_samples
from visus.data.samples import Samples
from visus.deploy.artifact import Bundle
from visus.deploy.golden import draw
from visus.run.evaluate import match_labels, own_splits
from visus.run.predict import expand
from visus.run.recipe import Recipe

CALIBRATION = 1000  # images at most: of 256 no changed answer still leaves up to 1.2 % of them open


@dataclass(frozen=True)
class HeldOut:
    """calibration, held_out: positions in samples, without a common one. labelled: whether targets mean something."""

    samples: Samples
    calibration: np.ndarray
    held_out: np.ndarray
    labelled: bool


def of_run(path: Path, most: int) -> HeldOut:
    """Training images of a run to calibrate with, at most `most` of its test images to judge by, every class in turn.
    Raises DataError for a run without, RunError for changed data."""
    folder = RunFolder.open(path)
    samples, splits = own_splits(folder, Recipe.load(folder.path / "recipe.yaml"))
    train, test = splits["train"], splits["test"]
    if not len(train) or not len(test):
        raise DataError("has no training or no test images", where=path, remedy="Give images: a labelled folder")
    targets = np.asarray(samples.targets)
    return HeldOut(samples, train[draw(targets[train], CALIBRATION)], test[draw(targets[test], most)], True)


def of_images(path: str | os.PathLike[str], bundle: Bundle, most: int) -> HeldOut:
    """The images of a data set or folder: half of them, at most CALIBRATION, to calibrate with, the others, at most
    `most`, to judge by. Raises DataError for a single image."""
    try:
        samples = match_labels(open_samples(Path(os.fspath(path)), "auto"), bundle.labels, Path(os.fspath(path)))
        labelled = True
    except DataError:
        files = tuple(str(file) for file in expand(os.fspath(path)))
        samples = Samples(format="folder", classes=bundle.labels, targets=np.zeros(len(files), np.int64), paths=files,
                          root=None)
        labelled = False
    if len(samples) < 2:
        raise DataError("holds a single image: one part calibrates, the other judges", where=path,
                        remedy="Give some hundred images of the usual kind")
    order = draw(np.asarray(samples.targets), len(samples))
    calibration = order[:min(CALIBRATION, len(samples) // 2)]
    return HeldOut(samples, calibration, order[len(calibration):][:most], labelled)


def prepared(samples: Samples, index: np.ndarray, preprocessing: Preprocessing) -> Iterator[np.ndarray]:
    """uint8 [height, width, channels] of each, as the network takes it."""
    for i in index:
        yield preprocessing.resized_array(samples.read(int(i), preprocessing.background))
