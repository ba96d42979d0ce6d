"""Statistics as JSON: what a server kept (`write_statistics`), and the reference that they are compared with.

Both are counts, never images. A file is judged before it is believed: sizes, types and ranges, since a server writes it
where others may too. Imports no torch.
"""

from __future__ import annotations

import base64
import binascii
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from visus.core.errors import CheckpointError, DataError, UserError
from visus.core.files import read_json, write_json
from visus.deploy.drift import BINS, SCALES, Observed, Sketch

FORMAT = 1
STATISTICS, REFERENCE = "statistics of requests", "reference of a training"
MAX_BYTES = 64 << 20
MAX_WINDOWS = 10_000
MAX_CLASSES = 100_000
_MOST = 1 << 53
_REMEDY = "Give a file that the server wrote (its setting statistics)"


@dataclass(frozen=True, eq=False)
class FeatureSketch:
    """A low-rank picture of penultimate features. dims: int64 [D], which of the features. mean: [D]. basis: [R, D],
    orthonormal rows, the directions in which training features vary most. scale: [R + 1], standard deviations along
    them and of what they leave; rest: mean length of what they leave. sample: float32 [N, R + 1], held-out images in
    these coordinates."""

    dims: np.ndarray
    mean: np.ndarray
    basis: np.ndarray
    scale: np.ndarray
    rest: float
    sample: np.ndarray

    def coordinates(self, features: np.ndarray) -> np.ndarray:
        """float [N, all features] -> float64 [N, R + 1], each of about unit variance on the training images."""
        centred = features[:, self.dims].astype(np.float64) - self.mean
        along = centred @ self.basis.T
        left = np.sqrt(np.maximum((centred**2).sum(1) - (along**2).sum(1), 0)) - self.rest
        return np.concatenate([along, left[:, None]], 1) / self.scale

    @staticmethod
    def distances(coordinates: np.ndarray) -> np.ndarray:
        """[N, R + 1] -> [N]: the Mahalanobis distance by the root of R + 1; about 1 where an image belongs."""
        return np.sqrt((coordinates**2).mean(1))


@dataclass(frozen=True, eq=False)
class Reference:
    """model, labels, weights (SHA-256): of what it is. images: statistics of pixels and files of training and held-out
    images. held_out: of answers on images that the training did not use. accuracy: on those, None where it has no one
    meaning. confusion: int64 [K, K] on them, truth in rows, or None. notes: what is missing, and why."""

    model: str
    labels: tuple[str, ...]
    weights: str | None
    images: Observed
    held_out: Observed
    accuracy: float | None = None
    confusion: np.ndarray | None = None
    features: FeatureSketch | None = None
    notes: tuple[str, ...] = ()
    of: str = ""


def write_statistics(path: str | os.PathLike[str], windows: Sequence[Observed], about: Mapping[str, Any]) -> None:
    """Raises ResourceError when the disk refuses; the file that was there is then whole."""
    write_json(Path(path), {"format": FORMAT, "kind": STATISTICS, **about, "windows": [_packed(w) for w in windows]})


def read_statistics(path: str | os.PathLike[str], labels: Sequence[str] | None = None
                    ) -> tuple[list[Observed], Mapping[str, Any]]:
    """(windows, what the file says of itself). labels: the classes that it must have counted. Raises DataError for a
    file that is not one, is damaged, or counts another model's classes."""
    path = Path(path)
    value = _json(path, STATISTICS, DataError, _REMEDY)
    rows = value.get("windows")
    if not isinstance(rows, list) or len(rows) > MAX_WINDOWS:
        raise DataError(f"must hold a list of at most {MAX_WINDOWS:,} windows", where=f"{path}: windows",
                        remedy=_REMEDY)
    windows = [_unpacked(row, f"{path}: windows[{number}]", DataError) for number, row in enumerate(rows)]
    stated = value.get("labels")
    for window in windows:
        if labels is not None and (len(window.predicted) != len(labels)
                                   or (stated is not None and stated != list(labels))):
            raise DataError(f"counts the answers of a model with other classes ({len(window.predicted)} of them, "
                            f"here {len(labels)})", where=path, remedy="Give the run or bundle that was served")
    return windows, {name: value[name] for name in ("model", "weights") if isinstance(value.get(name), str)}


def write_reference_file(path: str | os.PathLike[str], reference: Reference) -> None:
    features = reference.features
    matrix = reference.confusion
    cells = None if matrix is None else [*(places.tolist() for places in np.nonzero(matrix)),
                                         matrix[np.nonzero(matrix)].tolist()]
    write_json(Path(path), {
        "format": FORMAT, "kind": REFERENCE, "model": reference.model, "labels": list(reference.labels),
        "weights": reference.weights, "of": reference.of, "notes": list(reference.notes),
        "images": _packed(reference.images), "held_out": _packed(reference.held_out), "accuracy": reference.accuracy,
        "confusion": cells,
        "features": None if features is None else {
            "dims": _text(features.dims, "<i4"), "mean": _text(features.mean, "<f4"),
            "basis": _text(features.basis, "<f4"), "scale": _text(features.scale, "<f4"), "rest": features.rest,
            "sample": _text(features.sample, "<f4")}})


def read_reference_file(path: str | os.PathLike[str]) -> Reference:
    """Raises CheckpointError for a file that is missing, damaged or not a reference."""
    path = Path(path)
    remedy = "Export the run once more: visus export RUN"
    value = _json(path, REFERENCE, CheckpointError, remedy)
    labels, model = value.get("labels"), value.get("model")
    if not isinstance(model, str) or not isinstance(labels, list) or not all(isinstance(name, str) for name in labels):
        raise CheckpointError("must hold the model's name and labels", where=path, remedy=remedy)
    images, held_out = (_unpacked(value.get(name), f"{path}: {name}", CheckpointError)
                        for name in ("images", "held_out"))
    accuracy, weights = value.get("accuracy"), value.get("weights")
    if len(held_out.predicted) != len(labels) or not (accuracy is None or _is_number(accuracy) and 0 <= accuracy <= 1):
        raise CheckpointError("has numbers that do not fit its labels", where=path, remedy=remedy)
    try:
        confusion = _confusion(value.get("confusion"), len(labels))
        features = _features(value.get("features"))
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, binascii.Error) as error:
        raise CheckpointError(f"is damaged ({error})", where=path, remedy=remedy) from None
    return Reference(model=model, labels=tuple(labels), weights=weights if isinstance(weights, str) else None,
                     images=images, held_out=held_out, accuracy=accuracy, confusion=confusion, features=features,
                     notes=tuple(str(note) for note in value.get("notes") or ()), of=str(value.get("of") or ""))


def _json(path: Path, kind: str, error: type[UserError], remedy: str) -> dict[str, Any]:
    try:
        value = read_json(path, error=error, max_bytes=MAX_BYTES)
    except ValueError as cause:  # a number of more digits than Python reads
        raise error(f"is not JSON: {cause}", where=path, remedy=remedy) from None
    if not isinstance(value, dict) or value.get("kind") != kind:
        raise error(f"is not a file of the {kind}", where=path, remedy=remedy)
    if not isinstance(value.get("format"), int) or value["format"] > FORMAT:
        raise error(f"was written by a newer version of visus (format {value.get('format')!r})", where=path,
                    remedy="Upgrade: pip install -U visus")
    return value


def _packed(seen: Observed) -> dict[str, Any]:
    """Counts as places and numbers: most bins are empty."""
    return {"count": seen.count, "start": seen.start, "end": seen.end, "predicted": _sparse(seen.predicted),
            "classes": len(seen.predicted),
            "statistics": {name: {**_sparse(sketch.counts), "total": sketch.total, "squares": sketch.squares}
                           for name, sketch in sorted(seen.sketches.items())}}


def _sparse(counts: np.ndarray) -> dict[str, list[int]]:
    held = np.flatnonzero(counts)
    return {"at": held.tolist(), "counts": counts[held].tolist()}


def _unpacked(row: Any, where: str, error: type[UserError]) -> Observed:
    try:
        num_classes, count = row["classes"], row["count"]
        if not _is_count(num_classes) or num_classes > MAX_CLASSES or not _is_count(count):
            raise ValueError("counts must be whole numbers")
        seen = Observed(_dense(row["predicted"], num_classes), count=count, start=_number(row["start"]),
                        end=_number(row["end"]))
        for name, stored in row["statistics"].items():
            if name not in SCALES:  # a newer version counts more
                continue
            sketch = Sketch(_dense(stored, BINS), _number(stored["total"]), _number(stored["squares"]))
            if sketch.count > count:
                raise ValueError(f"{name} counts {sketch.count} of {count} images")
            seen.sketches[name] = sketch
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as cause:
        raise error(f"is damaged ({type(cause).__name__}: {cause})", where=where, remedy="Delete it, or copy it again"
                    ) from None
    return seen


def _dense(stored: Any, length: int) -> np.ndarray:
    at, counts = stored["at"], stored["counts"]
    if not isinstance(at, list) or not isinstance(counts, list) or len(at) != len(counts) or len(at) > length:
        raise ValueError("places and counts do not fit")
    if not all(_is_count(v) for v in at + counts) or sum(counts) > _MOST or (at and max(at) >= length):
        raise ValueError("places and counts must be whole numbers in range")
    dense = np.zeros(length, np.int64)
    np.add.at(dense, np.array(at, np.int64), np.array(counts, np.int64))
    return dense


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _number(value: Any) -> float:
    if not _is_number(value):
        raise ValueError("must be a finite number")
    return float(value)


def _confusion(stored: Any, num_classes: int) -> np.ndarray | None:
    if stored is None:
        return None
    if num_classes > 2000:
        raise ValueError(f"a confusion matrix of {num_classes:,} classes")
    rows, columns, counts = stored
    if not len(rows) == len(columns) == len(counts) or not all(_is_count(v) for v in [*rows, *columns, *counts]):
        raise ValueError("the confusion matrix must hold counts")
    matrix = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(matrix, (np.array(rows, np.int64), np.array(columns, np.int64)), np.array(counts, np.int64))
    return matrix


def _features(stored: Any) -> FeatureSketch | None:
    if stored is None:
        return None
    dims = _array(stored["dims"], "<i4").astype(np.int64)
    mean, scale = (_array(stored[name], "<f4").astype(np.float64) for name in ("mean", "scale"))
    rank = len(scale) - 1
    basis = _array(stored["basis"], "<f4").astype(np.float64).reshape(rank, len(dims))
    sample = _array(stored["sample"], "<f4").reshape(-1, rank + 1)
    if len(mean) != len(dims) or not len(dims) or dims.min() < 0 or not (scale > 0).all():
        raise ValueError("the features' arrays do not fit")
    return FeatureSketch(dims, mean, basis, scale, _number(stored["rest"]), sample)


def _text(array: np.ndarray, kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(array).astype(kind).tobytes()).decode("ascii")


def _array(text: Any, kind: str) -> np.ndarray:
    if not isinstance(text, str):
        raise ValueError("an array must be base64")
    array = np.frombuffer(base64.b64decode(text, validate=True), kind)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError("an array must be finite")
    return array
