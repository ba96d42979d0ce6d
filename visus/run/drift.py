"""What moved between a reference and recent images: tests, effect sizes, and what it means in a sentence.

Every statistic gives one p-value; all of them are corrected together by Benjamini and Hochberg (1995). A small p-value
alone moves nobody: with enough images any difference has one. A statistic has `moved` when its p-value is below alpha
and its distance is above `LEAST_DISTANCE`; below that it is `slight`. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from visus.deploy.drift import OF_ANSWERS, OF_FEATURES, SCALES, Observed, Scale, Sketch
from visus.deploy.statistics_file import FeatureSketch, Reference
from visus.metrics.two_samples import (
    benjamini_hochberg,
    chi_squared,
    cohens_d,
    frechet_distance,
    kolmogorov_smirnov,
    label_shift,
    mean_discrepancy,
    stability_index,
    thresholded_accuracy,
    visible_shift,
)

LEAST_DISTANCE = 0.1  # of two distribution functions, or half the sum of differences of class shares
LEAST_IMAGES = 5      # of each side for a statistic to be tested
CLASSES, CLOUD = "classes", "features"
MOST_D = 99.0         # of Cohen's d, where a statistic never varied
SAMPLE = 500          # images of each side for the mean discrepancy
PERMUTATIONS = 4999   # so that its p-value stays below alpha after the correction
MAX_SHIFT_CLASSES = 200
NAMED_CLASSES = 3
LEAST_LABEL_SHIFT = 1.3  # or its inverse: the factor from which on a class is named

_WORDS = {  # (where the mean rose, where it fell)
    "brightness": ("images are brighter", "images are darker"),
    "contrast": ("contrast is higher", "contrast is lower"),
    "saturation": ("colours are stronger", "colours are paler"),
    "red": ("there is more red", "there is less red"),
    "green": ("there is more green", "there is less green"),
    "blue": ("there is more blue", "there is less blue"),
    "sharpness": ("images are sharper or noisier", "images are blurred"),
    "entropy": ("grey values are spread more evenly", "grey values are fewer"),
    "width": ("images are wider", "images are narrower"),
    "height": ("images are taller", "images are less tall"),
    "aspect": ("images are wider for their height", "images are taller for their width"),
    "confidence": ("confidence rose", "confidence fell"),
    "uncertainty": ("answers are less decided", "answers are more decided"),
    "distance": ("features lie farther from the training's", "features lie nearer to the training's middle"),
}


@dataclass(frozen=True, eq=False)
class Compared:
    """rows: one per statistic (see `compare`); record: everything in plain values, rows included."""

    record: dict[str, Any]

    @property
    def moved(self) -> bool:
        return bool(self.record["moved"])

    @property
    def sentence(self) -> str:
        return str(self.record["sentence"])


def compare(reference: Reference, recent: Observed, alpha: float = 0.01, coordinates: np.ndarray | None = None,
            notes: Sequence[str] = ()) -> Compared:
    """Compare recent statistics with a reference.

    coordinates: [N, R + 1] of recent features (`FeatureSketch.coordinates`). The record has rows {name, title, group
    ('images', 'features', 'answers'), state ('moved', 'slight', 'same'), p, p_adjusted, distance, psi, d, reference and
    recent {count, mean, std}, words}, power, classes, accuracy, sentence, moved, notes.
    """
    rows = [_row(name, reference, recent) for name in SCALES if _comparable(name, reference, recent)]
    if coordinates is not None and reference.features is not None and len(coordinates) >= LEAST_IMAGES:
        rows.append(_cloud(reference.features, coordinates))
    known = int(reference.held_out.predicted.sum()) >= LEAST_IMAGES
    if known and int(recent.predicted.sum()) >= LEAST_IMAGES:
        rows.append(_classes(reference.held_out.predicted, recent.predicted))
    for row, adjusted in zip(rows, benjamini_hochberg(np.array([row["p"] for row in rows])), strict=True):
        far = row["distance"] >= LEAST_DISTANCE
        row["p_adjusted"] = float(adjusted)
        row["state"] = "same" if adjusted >= alpha else "moved" if far else "slight"
    classes = _class_rows(reference, recent, rows)
    accuracy = _accuracy(reference, recent)
    record = {"alpha": alpha, "images": {"reference": reference.images.count, "held_out": reference.held_out.count,
                                         "recent": recent.count},
              "moved": any(row["state"] == "moved" for row in rows), "rows": rows, "classes": classes,
              "accuracy": accuracy, "power": _power(reference, recent, alpha, len(rows)),
              "notes": [*reference.notes, *notes]}
    record["sentence"] = _sentence(record, reference)
    return Compared(record)


def _base(name: str, reference: Reference) -> Observed:
    return reference.held_out if name in OF_ANSWERS + OF_FEATURES else reference.images


def _comparable(name: str, reference: Reference, recent: Observed) -> bool:
    sketches = (_base(name, reference).sketches.get(name), recent.sketches.get(name))
    return all(sketch is not None and sketch.count >= LEAST_IMAGES for sketch in sketches)


def _row(name: str, reference: Reference, recent: Observed) -> dict[str, Any]:
    scale, before, after = SCALES[name], _base(name, reference).sketches[name], recent.sketches[name]
    distance, p = kolmogorov_smirnov(before.counts, after.counts)
    rose = after.mean > before.mean
    group = "answers" if name in OF_ANSWERS else "features" if name in OF_FEATURES else "images"
    return {"name": name, "title": scale.title, "group": group, "test": "Kolmogorov-Smirnov", "p": p,
            "distance": distance, "psi": stability_index(before.counts, after.counts),
            "d": min(MOST_D, max(-MOST_D, cohens_d(before.mean, before.std, before.count,
                                                   after.mean, after.std, after.count))),
            "reference": _summary(scale, before), "recent": _summary(scale, after),
            "words": f"{_WORDS[name][0 if rose else 1]}: "
                     f"{'typical' if scale.kind == 'log' else 'mean'} {scale.title} "
                     f"{said(name, after.mean)} instead of {said(name, before.mean)}"}


def _summary(scale: Scale, sketch: Sketch) -> dict[str, Any]:
    """Means on a 'log' scale are geometric, and the deviation is then that of the decimal logarithm."""
    return {"count": sketch.count, "mean": 10**sketch.mean if scale.kind == "log" else sketch.mean, "std": sketch.std}


def said(name: str, mean: float) -> str:
    """A mean (on a 'log' scale of logarithms) in the digits that its statistic deserves."""
    value = 10**mean if SCALES[name].kind == "log" else mean
    return f"{value:,.0f} px" if name in ("width", "height") else f"{value:.2g}" if value < 0.1 else f"{value:.2f}"


def _cloud(known: FeatureSketch, coordinates: np.ndarray) -> dict[str, Any]:
    """One row for all directions of the features: the mean discrepancy judges, the Frechet distance tells how far."""
    before, after = known.sample[:SAMPLE].astype(np.float64), coordinates[_spread(len(coordinates), SAMPLE)]
    discrepancy, p = mean_discrepancy(before, after, PERMUTATIONS)
    apart = [_two_sample_distance(before[:, k], after[:, k]) for k in range(before.shape[1])]
    worst = int(np.argmax(apart))
    frechet = frechet_distance(before, after)
    return {"name": CLOUD, "title": "features", "group": "features", "test": "mean discrepancy, permutations", "p": p,
            "distance": apart[worst], "psi": None, "d": None, "mmd2": discrepancy, "frechet": frechet,
            "direction": worst, "reference": {"count": len(before), "mean": None, "std": None},
            "recent": {"count": len(after), "mean": None, "std": None},
            "words": f"the network sees other things: Frechet distance of its features {frechet:.2f}, in the direction "
                     f"that moved most the distributions are {apart[worst]:.2f} apart"}


def _two_sample_distance(a: np.ndarray, b: np.ndarray) -> float:
    """The Kolmogorov-Smirnov statistic of values, without bins."""
    a, b = np.sort(a), np.sort(b)
    everyone = np.concatenate([a, b])
    return float(np.abs(np.searchsorted(a, everyone, "right") / len(a)
                        - np.searchsorted(b, everyone, "right") / len(b)).max())


def _spread(count: int, most: int) -> np.ndarray:
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)


# -- classes ---------------------------------------------------------------------------------------------------------


def _classes(before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    statistic, p = chi_squared(before, after)
    variation = float(np.abs(before / before.sum() - after / after.sum()).sum()) / 2
    return {"name": CLASSES, "title": "classes given", "group": "answers", "test": "chi-squared", "p": p,
            "distance": variation, "psi": None, "d": None, "statistic": statistic,
            "reference": {"count": int(before.sum()), "mean": None, "std": None},
            "recent": {"count": int(after.sum()), "mean": None, "std": None},
            "words": f"the classes have other shares: {variation:.0%} of the answers would have to change"}


def _class_rows(reference: Reference, recent: Observed, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """{label, reference, recent: shares of the answers, ratio, z, and, where it can be told, estimated, low, high: the
    share of images that really are of the class} for every class; empty where no answers were counted."""
    if not any(row["name"] == CLASSES for row in rows):
        return []
    before, after = reference.held_out.predicted, recent.predicted
    n, m = int(before.sum()), int(after.sum())
    shift = None
    if reference.confusion is not None and len(reference.labels) <= MAX_SHIFT_CLASSES:
        shift = label_shift(reference.confusion, after)
    found = []
    for k, label in enumerate(reference.labels):
        p, q = before[k] / n, after[k] / m
        pooled = (before[k] + after[k]) / (n + m)
        spread = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
        row = {"label": label, "reference": float(p), "recent": float(q),
               "ratio": float((after[k] + 0.5) / (m + 1) / ((before[k] + 0.5) / (n + 1))),
               "z": 0.0 if spread == 0 else float((q - p) / spread)}
        if shift is not None:
            row |= {"estimated": float(shift.shares[k]), "low": float(shift.low[k]), "high": float(shift.high[k])}
        found.append(row)
    return found


# -- accuracy without labels -------------------------------------------------------------------------------------------


def _accuracy(reference: Reference, recent: Observed) -> dict[str, Any] | None:
    """{reference, by_threshold (Garg et al. 2022), by_confidence (Guillory et al. 2021), margin: half a 95 % interval
    of both sides' chance}, or None where answers are missing."""
    before, after = (seen.sketches.get("confidence") for seen in (reference.held_out, recent))
    if reference.accuracy is None or before is None or after is None or not before.count or not after.count:
        return None
    threshold = thresholded_accuracy(before.counts, after.counts, reference.accuracy)
    by_confidence = min(1.0, max(0.0, reference.accuracy + after.mean - before.mean))
    spread = sum(share * (1 - share) / count for share, count in
                 ((reference.accuracy, before.count), (threshold, after.count)))
    return {"reference": reference.accuracy, "by_threshold": threshold, "by_confidence": by_confidence,
            "margin": 1.96 * math.sqrt(spread)}


def _power(reference: Reference, recent: Observed, alpha: float, tests: int) -> dict[str, Any] | None:
    """Which shift of a mean, in standard deviations, would have been found 4 times of 5, every test alone at alpha by
    the number of tests: the cautious end."""
    n = max((sketch.count for sketch in reference.images.sketches.values()), default=reference.held_out.count)
    if not n or not recent.count or not tests:
        return None
    shift = visible_shift(n, recent.count, alpha / tests)
    return {"shift": shift, "power": 0.8, "enough": shift <= 0.5,
            "images_for_half": _images_for(n, alpha / tests, 0.5)}


def _images_for(n: int, level: float, shift: float) -> int | None:
    """So many recent images make `shift` visible; None where the reference is too small for it."""
    if visible_shift(n, 10**9, level) > shift:
        return None
    low, high = 1, 10**6
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if visible_shift(n, middle, level) <= shift else (middle + 1, high)
    return low


# -- words -------------------------------------------------------------------------------------------------------------


def _sentence(record: dict[str, Any], reference: Reference) -> str:
    if not record["rows"]:
        return (f"Nothing could be compared: {record['images']['recent']:,} recent images, at least {LEAST_IMAGES} are "
                "needed.")
    power = record["power"]
    moved = sorted((row for row in record["rows"] if row["state"] == "moved"), key=lambda row: -row["distance"])
    if not moved:
        slight = [row["title"] for row in record["rows"] if row["state"] == "slight"]
        text = "No drift: recent images look like those of the training"
        text += f", but for small differences in {_listed(slight)}." if slight else "."
        if power is not None and not power["enough"]:
            text += (f" But {record['images']['recent']:,} images show only shifts above {power['shift']:.1f} standard "
                     "deviations.")
        return text
    named = [row for row in moved if row["name"] not in (CLASSES, CLOUD, "uncertainty", "distance")]
    shown = _without_echoes(named)[:4]
    parts = [row["words"] for row in shown]
    other_classes = any(row["name"] == CLASSES for row in moved)
    if other_classes:
        parts += _class_words(record["classes"])
    elif not any(row["group"] == "images" for row in shown):
        parts += [row["words"] for row in moved if row["name"] in (CLOUD, "distance")][:1]
    if not parts:
        parts = [moved[0]["words"]]
    accuracy = record["accuracy"]
    if accuracy is not None:
        low, high = sorted((accuracy["by_threshold"], accuracy["by_confidence"]))
        between = f"{low:.2f}" if round(high - low, 2) < 0.01 else f"{low:.2f} to {high:.2f}"
        parts.append(f"accuracy on such images is estimated at {between} instead of {accuracy['reference']:.2f}")
    text = "; ".join(parts) + "."
    return text[0].upper() + text[1:]


def _without_echoes(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Colours that move with the brightness, and one of two sizes, say the same twice."""
    names = {row["name"] for row in rows}
    echoes = {"red", "green", "blue"} if "brightness" in names else set()
    echoes |= {"height"} if "width" in names else set()
    return [row for row in rows if row["name"] not in echoes]


def _class_words(classes: Sequence[dict[str, Any]]) -> list[str]:
    """'cat is given 3.1 times as often' for the classes that moved most."""
    told = [row for row in classes
            if abs(row["z"]) > 3 and abs(math.log(row["ratio"])) > math.log(LEAST_LABEL_SHIFT)]
    words = []
    for row in sorted(told, key=lambda row: -abs(row["z"]))[:NAMED_CLASSES]:
        often = f"{row['ratio']:.1f} times as often" if row["ratio"] >= 1 else "never" if row["recent"] == 0 else \
            f"{1 / row['ratio']:.1f} times less often"
        words.append(f"the class {row['label']} is given {often} ({row['recent']:.1%} instead of "
                     f"{row['reference']:.1%})")
    return words or ["the classes have other shares"]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
