"""Numbers, names and times as words for the page."""

from __future__ import annotations

import math
import unicodedata
from typing import Any

MISSING = "\u2013"

_LABELS = {
    "accuracy": "Accuracy",
    "top5_accuracy": "Top-5 accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "subset_accuracy": "Exact-match accuracy",
    "macro_f1": "F1 (mean over classes)",
    "micro_f1": "F1 (over all decisions)",
    "weighted_f1": "F1 (weighted by class)",
    "macro_precision": "Precision (mean over classes)",
    "macro_recall": "Recall (mean over classes)",
    "roc_auc": "ROC-AUC",
    "average_precision": "Average precision",
    "mean_average_precision": "Mean average precision",
    "nll": "Negative log-likelihood",
    "brier": "Brier score",
    "ece": "Expected calibration error",
    "adaptive_ece": "Adaptive ECE",
    "classwise_ece": "Classwise ECE",
    "hamming_loss": "Hamming loss",
    "loss": "Loss",
}
_JOINERS = "\u200c\u200d"  # needed to write Persian, Indic scripts and many emoji


def metric_label(name: str) -> str:
    """The reader's words for a recorded metric: 'macro_f1' -> 'F1 (mean over classes)'."""
    return _LABELS.get(name) or legible(name.replace("_", " ").strip() or name)


def is_percentage(name: str) -> bool:
    """Accuracies are shown in percent, every other metric as recorded."""
    return name.endswith("accuracy")


def number(value: Any) -> float | None:
    """A finite float, or None for whatever is not one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        result = float(value)
    except OverflowError:
        return None
    return result if math.isfinite(result) else None


def metric_text(name: str, value: Any) -> str:
    """'98.42 %' for accuracies, '0.0312' otherwise, a dash where there is no number."""
    x = number(value)
    if x is None:
        return MISSING
    return f"{100 * x:.2f}\u202f%" if is_percentage(name) else decimal(x)


def decimal(value: Any) -> str:
    """Four significant digits at the most three of them after a zero: '0.9874', '12.3', '3.2e-06'."""
    x = number(value)
    if x is None:
        return MISSING
    if x == 0:
        return "0"
    size = abs(x)
    if size < 1e-3 or size >= 1e6:
        return f"{x:.3g}"
    return f"{x:.{4 if size < 1 else 3 if size < 10 else 2 if size < 100 else 1}f}"


def axis_number(value: float) -> str:
    """The shortest form of a tick: '0.5', '1e-5', '20k', '3e14'."""
    size = abs(value)
    if value == 0:
        return "0"
    if 1e6 <= size < 1e9:
        return f"{value / 1e6:g}M"
    if 1e4 <= size < 1e6:
        return f"{value / 1e3:g}k"
    if size < 1e-4 or size >= 1e9:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.6g}"


def integer(value: Any) -> str:
    x = number(value)
    return MISSING if x is None else f"{round(x):,}"


def plural(count: int, singular: str, several: str | None = None) -> str:
    return f"{count:,} {singular if count == 1 else several or singular + 's'}"


def three_digits(x: float) -> str:
    """A size without an exponent: '0.0123', '4.09', '167', '1,785'."""
    return f"{x:,.0f}" if abs(x) >= 999.5 else f"{x:.3g}"


def magnitude(value: Any) -> str:
    """A count in three digits: '272 k', '25.6 M'."""
    x = number(value)
    if x is None:
        return MISSING
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(x) >= size:
            return f"{x / size:.3g}\u202f{unit}"
    return f"{x:g}"


def duration(seconds: Any) -> str:
    """'8.4 s', '3 min 12 s', '2 h 05 min'."""
    x = number(seconds)
    if x is None or x < 0:
        return MISSING
    if x < 60:
        return f"{x:.1f} s" if x < 10 else f"{x:.0f} s"
    minutes, rest = divmod(round(x), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02d} min"


def file_size(count: Any) -> str:
    x = number(count)
    if x is None:
        return MISSING
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if x >= size:
            return f"{x / size:.3g} {unit}"
    return f"{x:.0f} bytes"


def legible(value: Any) -> str:
    """The value as text in which nothing can hide: control and direction-changing characters, and undecodable
    bytes, are shown as escapes."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(
        c
        if c.isprintable() or c in _JOINERS or unicodedata.category(c) == "Zs"
        else c.encode("unicode_escape", "surrogatepass").decode("ascii")
        for c in text
    )


def legible_lines(text: str) -> str:
    """`legible` for each line, with tabs as spaces: for blocks of preformatted text."""
    return "\n".join(legible(line.expandtabs(4)) for line in text.split("\n"))


def shorten(value: Any, limit: int = 40) -> str:
    """At most `limit` characters: the beginning and the end, an ellipsis between them."""
    text = legible(value)
    if len(text) <= limit:
        return text
    tail = limit // 3
    return f"{text[: limit - tail - 1].rstrip()}\u2026{text[-tail:].lstrip()}"
