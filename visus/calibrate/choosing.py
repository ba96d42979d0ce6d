"""Which correction, if any: fitted on validation predictions alone, refused when cross-validation says it is worse."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from visus.calibrate.isotonic import Isotonic, fit_isotonic
from visus.calibrate.scaling import (
    MatrixScaling,
    Temperature,
    VectorScaling,
    fit_matrix,
    fit_temperature,
    fit_vector,
)
from visus.core.errors import CheckpointError, DataError
from visus.core.seeds import hash64
from visus.core.validate import one_of
from visus.metrics.calibration import negative_log_likelihoods

FOLDS = 5
FEWEST = 4 * FOLDS           # validation samples
MOST_MATRIX_CLASSES = 50     # a matrix of more is neither asked for nor well determined
MOST_CELLS = 20_000_000      # samples times classes; above, 'auto' tries the temperature alone: the rest takes memory


class Calibrator(Protocol):
    """Probabilities [N, C] -> probabilities [N, C]; what it is in plain numbers; what it does in a sentence."""

    name: ClassVar[str]

    def __call__(self, probs: np.ndarray) -> np.ndarray: ...
    def to_dict(self) -> dict[str, Any]: ...
    @property
    def sentence(self) -> str: ...


Fit = Callable[[np.ndarray, np.ndarray], Calibrator]
FITS: dict[str, Fit] = {"temperature": fit_temperature, "vector": fit_vector, "matrix": fit_matrix,
                        "isotonic": fit_isotonic}  # from few numbers to many
METHODS = ("auto", *FITS)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One method in cross-validation. nll: mean over validation samples, each judged by a fit that did not see it;
    gain: by how much it is lower than without correction, with its standard error; accepted: whether gain > 0."""

    method: str
    nll: float
    gain: float
    standard_error: float
    accepted: bool


@dataclass(frozen=True, kw_only=True)
class Choice:
    """calibrator: fitted on all validation samples; None where nothing helps. nll: mean without correction."""

    calibrator: Calibrator | None
    trials: tuple[Trial, ...]
    nll: float
    sentence: str


def choose(probs: np.ndarray, targets: np.ndarray, method: str = "auto", seed: int = 0) -> Choice:
    """Fit `method`, or the best of all, on validation predictions. probs: [N, C]. targets: integers [N].

    A method is refused when its cross-validated NLL (5 folds, stratified) is not below that of the probabilities as
    they are. 'auto' goes from few fitted numbers to many and takes the next one only where it is better by more than
    two standard errors of the paired difference (above 50 classes without the matrix, above 20 million probabilities
    the temperature alone). Raises DataError below 20 samples.
    """
    one_of(METHODS, method=method)
    if len(probs) < FEWEST:
        raise DataError(f"{len(probs)} validation images are too few to calibrate on", where="validation split",
                        remedy=f"Train with at least {FEWEST}: --set data.val=0.2, or more images")
    names = [method]
    if method == "auto":
        names = [name for name in FITS if name != "matrix" or probs.shape[1] <= MOST_MATRIX_CLASSES]
        names = names[:1] if probs.size > MOST_CELLS else names
    plain = negative_log_likelihoods(probs, targets)
    trials, best, lowest = [], None, plain
    for name in names:
        values = cross_validated(FITS[name], probs, targets, seed=seed)
        gain = plain - values
        accepted = bool(gain.mean() > 0)
        trials.append(Trial(method=name, nll=float(values.mean()), gain=float(gain.mean()),
                            standard_error=_standard_error(gain), accepted=accepted))
        ahead = lowest - values
        if accepted and (best is None or ahead.mean() > 2 * _standard_error(ahead)):
            best, lowest = name, values
    before = float(plain.mean())
    if best is None:
        lowest_trial = min(trials, key=lambda trial: trial.nll)
        what = f"{method} scaling" if method in ("temperature", "vector", "matrix") else \
            "isotonic regression" if method == "isotonic" else "every method"
        return Choice(calibrator=None, trials=tuple(trials), nll=before, sentence=(
            f"refused: {what} worsens the cross-validated NLL on validation ({before:.4f} -> {lowest_trial.nll:.4f}); "
            "the probabilities stay as they are"))
    calibrator = FITS[best](probs, targets)
    return Choice(calibrator=calibrator, trials=tuple(trials), nll=before, sentence=(
        f"{best}: {calibrator.sentence} (cross-validated NLL on validation {before:.4f} -> {lowest.mean():.4f})"))


def cross_validated(fit: Fit, probs: np.ndarray, targets: np.ndarray, folds: int = FOLDS, seed: int = 0) -> np.ndarray:
    """float64 [N]: the NLL of each sample under a fit on the other folds."""
    fold = stratified_folds(targets, folds, seed)
    values = np.empty(len(probs))
    for k in range(folds):
        away = fold == k
        values[away] = negative_log_likelihoods(fit(probs[~away], targets[~away])(probs[away]), targets[away])
    return values


def stratified_folds(targets: np.ndarray, folds: int = FOLDS, seed: int = 0) -> np.ndarray:
    """int64 [N] in [0, folds): every class is dealt out in a seeded order, going on where the last class ended."""
    order = np.lexsort((hash64(np.arange(len(targets)), seed, "folds"), np.asarray(targets)))
    fold = np.empty(len(targets), np.int64)
    fold[order] = np.arange(len(targets)) % folds
    return fold


def to_record(calibrator: Calibrator) -> dict[str, Any]:
    """What is written to disk: {"method": ..., its numbers}."""
    return {"method": calibrator.name, **calibrator.to_dict()}


def from_record(record: Any, num_classes: int, where: object = None) -> Calibrator:
    """The calibrator of a record. Raises CheckpointError for one that is not ours or is of another number of
    classes."""
    try:
        found, numbers = _built(record)
        probe = found(np.full((1, num_classes), 1 / num_classes))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError):
        probe = np.full((1, 1), np.nan)
        numbers = []
    if probe.shape != (1, num_classes) or not np.isfinite(probe).all() \
            or not all(np.isfinite(row).all() for row in numbers):
        raise CheckpointError(f"the calibration is not one for {num_classes} classes", where=where,
                              remedy="Fit it again: visus calibrate RUN")
    return found


def _built(record: Mapping[str, Any]) -> tuple[Calibrator, Sequence[np.ndarray]]:
    kind = record["method"]
    if kind == "temperature":
        temperature = float(record["temperature"])
        if not temperature > 0:
            raise ValueError(temperature)
        return Temperature(temperature=temperature), [np.array(temperature)]
    if kind == "isotonic":
        knots, values = (tuple(tuple(map(float, row)) for row in record[name]) for name in ("knots", "values"))
        rows = [np.array(row) for row in (*knots, *values)]
        if [len(k) for k in knots] != [len(v) for v in values] or any((np.diff(k) < 0).any() for k in rows):
            raise ValueError("knots")
        return Isotonic(knots=knots, values=values, floor=float(record["floor"])), rows
    offsets = tuple(map(float, record["offsets"]))
    if kind == "vector":
        weights = tuple(map(float, record["weights"]))
        return VectorScaling(weights=weights, offsets=offsets), [np.array(weights), np.array(offsets)]
    if kind == "matrix":
        table = tuple(tuple(map(float, row)) for row in record["weights"])
        return MatrixScaling(weights=table, offsets=offsets), [np.array(table), np.array(offsets)]
    raise ValueError(kind)


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))
