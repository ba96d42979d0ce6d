"""The golden batch: real images through the original and the exported model, and how far their answers lie apart.

No torch: the probabilities of the original come from the caller, and lie in the bundle, so that it can be checked again
on another machine.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from visus.core.errors import CheckpointError
from visus.core.files import atomic

COUNT = 64         # images of a golden batch
TOLERANCE = 1e-4   # of a probability, in float32
ROUNDED_TOLERANCE = 0.05  # of nets that round inside
MOST_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """images: compared. largest, mean: difference of a probability. changed: images with another decision: the class,
    or for several labels the labels that reach their threshold."""

    images: int
    largest: float
    mean: float
    changed: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def sentence(self) -> str:
        return (f"{self.images} real images: largest difference of a probability {self.largest:.2g}, mean "
                f"{self.mean:.2g}, {self.changed} decision{'' if self.changed == 1 else 's'} changed")


@dataclass(frozen=True, eq=False)
class Golden:
    """images: uint8 [N, height, width, channels], as the network takes them. probs: float32 [N, K], what the original
    gave. sources: where each came from."""

    images: np.ndarray
    probs: np.ndarray
    sources: tuple[str, ...] = ()


def decisions(probs: np.ndarray, task: str, thresholds: Sequence[float] = ()) -> np.ndarray:
    """float [N, K] -> what is answered, bool [N, K]: the likeliest class, the lowest among equals, or the labels that
    reach their threshold (0.5 where none are given)."""
    if task == "multilabel":
        least = np.asarray(thresholds, np.float64) if len(thresholds) else np.full(probs.shape[1], 0.5)
        return np.asarray(probs >= least)
    return np.asarray(np.arange(probs.shape[1]) == probs.argmax(1)[:, None])


def right(answers: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """float64 [N]: whether each of the `decisions` is right; of several labels, the share of the labels that are.
    targets: integers [N], or [N, K] of 0 and 1."""
    if targets.ndim == 1:
        return np.asarray(answers[np.arange(len(targets)), targets], np.float64)
    return np.asarray((answers == (targets > 0)).mean(1), np.float64)


def compare(original: np.ndarray, exported: np.ndarray, task: str = "classification",
            thresholds: Sequence[float] = ()) -> Agreement:
    """Probabilities [N, K] of the same images, twice. A NaN on either side counts as a difference of 1."""
    if original.shape != exported.shape:
        return Agreement(images=len(original), largest=1.0, mean=1.0, changed=len(original))
    apart = np.abs(original.astype(np.float64) - exported.astype(np.float64))
    apart[np.isnan(apart)] = 1.0
    changed = (decisions(original, task, thresholds) != decisions(exported, task, thresholds)).any(1)
    return Agreement(images=len(original), largest=float(apart.max(initial=0)), mean=float(apart.mean()),
                     changed=int(changed.sum()))


def draw(targets: np.ndarray, count: int = COUNT, seed: int = 0) -> np.ndarray:
    """Positions of up to `count` images: every class in turn, its images in a random order. targets: integers [N], or
    [N, K] of 0 and 1, where an image stands for its rarest label."""
    targets = np.asarray(targets)
    if targets.ndim == 2:
        often = targets.sum(0)
        targets = np.where(targets > 0, often, np.inf).argmin(1)
    shuffled = np.random.default_rng(seed).permutation(len(targets))
    turn: dict[int, int] = {}
    rounds = np.empty(len(targets), np.int64)  # how many of its class were drawn before
    for place in shuffled:
        label = int(targets[place])
        rounds[place] = turn.get(label, 0)
        turn[label] = rounds[place] + 1
    order = shuffled[np.argsort(rounds[shuffled], kind="stable")]
    return np.asarray(order[:count])


def write_golden(path: str | os.PathLike[str], golden: Golden) -> None:
    with atomic(Path(path)) as file:
        np.savez_compressed(file, images=golden.images, probs=golden.probs,
                            sources=np.array(golden.sources, dtype=np.str_))


def read_golden(path: str | os.PathLike[str]) -> Golden:
    """Raises CheckpointError for a file that is missing, damaged, too large or of other shapes."""
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as held:
            if sum(entry.file_size for entry in held.infolist()) > MOST_BYTES:
                raise CheckpointError(f"would unpack to more than {MOST_BYTES >> 20} MiB", where=path)
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as held:
            images, probs, sources = held["images"], held["probs"], tuple(str(s) for s in held["sources"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"is not a golden batch: {error}", where=path,
                              remedy="Export the run once more: visus export RUN --force") from None
    if images.dtype != np.uint8 or images.ndim != 4 or probs.ndim != 2 or len(images) != len(probs) or not len(images):
        raise CheckpointError("is not a golden batch: its arrays have other shapes", where=path,
                              remedy="Export the run once more: visus export RUN --force")
    return Golden(images, probs.astype(np.float32), sources)
