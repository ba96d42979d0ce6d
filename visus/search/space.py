"""What a search may vary: ranges and choices by the name of a recipe's field, drawn, laid out on a grid.

Every dimension maps its values onto [0, 1], a logarithmic one by the logarithm: rates and decays act by their ratio, so
that a search on a straight scale spends nine tenths of its trials in the last decade (Bengio 2012; Bergstra and Bengio
2012). The same map serves chance, the grid, the surrogate and the check of the edges.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np

from visus.core.errors import RecipeError

Kind = Literal["uniform", "log", "int", "logint", "choice"]
KINDS = ("log", "uniform", "logint", "int", "choice")
_RANGE = re.compile(r"^\s*(?P<low>[^.\s][^\s]*?)\s*\.\.\s*(?P<high>\S+)\s*$")
_FIGURE = re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$")
_REMEDY = "For example: log:1e-4..1e-1, uniform:0..0.5, int:1..8, logint:16..256, or choices: sgd,adamw"


@dataclass(frozen=True, slots=True)
class Dimension:
    """name: a recipe's field. kind: 'uniform', 'log' (both ends above 0), 'int', 'logint' or 'choice'. low, high: ends
    of the range, both part of it. choices: what is chosen from, any plain values. labels: a name for each choice."""

    name: str
    kind: Kind
    low: float = 0.0
    high: float = 1.0
    choices: tuple[Any, ...] = ()
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind == "choice":
            labels = self.labels or tuple(c if isinstance(c, str) else json.dumps(c) for c in self.choices)
            object.__setattr__(self, "labels", labels)
            if not self.choices or len(labels) != len(self.choices) or len(set(labels)) != len(labels):
                raise RecipeError(f"{len(set(labels))} different choices", where=f"{self.name}={list(labels)}",
                                  remedy="Name each choice once")
        elif not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise RecipeError("the range is empty: its ends must be numbers, the lower one first",
                              where=f"{self.name}={self.text()}", remedy=_REMEDY)
        elif self.is_log and self.low <= 0:
            raise RecipeError("a logarithmic range begins above 0", where=f"{self.name}={self.text()}", remedy=_REMEDY)
        elif self.is_whole and (self.low != round(self.low) or self.high != round(self.high)):
            raise RecipeError("the ends of a range of whole numbers are whole", where=f"{self.name}={self.text()}",
                              remedy=_REMEDY)

    @property
    def is_log(self) -> bool:
        return self.kind in ("log", "logint")

    @property
    def is_whole(self) -> bool:
        return self.kind in ("int", "logint")

    def value(self, unit: float) -> Any:
        """The value at `unit` of [0, 1]: for choices a label, for whole numbers the nearest one."""
        if self.kind == "choice":
            return self.labels[min(len(self.labels) - 1, int(unit * len(self.labels)))]
        if self.is_whole:  # each whole number has an equal share of its scale
            low, high = self.low - 0.5, self.high + 0.5
            found = math.exp(math.log(low) + unit * math.log(high / low)) if self.is_log else low + unit * (high - low)
            return int(min(self.high, max(self.low, math.floor(found + 0.5))))
        found = self.low * (self.high / self.low) ** unit if self.is_log else self.low + unit * (self.high - self.low)
        return min(self.high, max(self.low, found))

    def unit(self, value: Any) -> float:
        """Where a value (a label for choices) lies in [0, 1]; outside of it for a value outside of the range."""
        if self.kind == "choice":
            return (self.labels.index(value) + 0.5) / len(self.labels)
        low, high = (self.low - 0.5, self.high + 0.5) if self.is_whole else (self.low, self.high)
        if self.is_log:
            return math.log(max(float(value), 1e-300) / low) / math.log(high / low)
        return (float(value) - low) / (high - low)

    def plain(self, value: Any) -> Any:
        """What goes into the recipe: the choice behind a label, a number with six digits."""
        if self.kind == "choice":
            return self.choices[self.labels.index(value)]
        return int(value) if self.is_whole else float(f"{float(value):.6g}")

    def points(self, count: int) -> list[Any]:
        """Values of a grid: all choices, or `count` values from end to end, evenly on the dimension's scale."""
        if self.kind == "choice":
            return list(self.labels)
        ends = [0.5] if count == 1 else [k / (count - 1) for k in range(count)]
        return list(dict.fromkeys(self.value(unit) for unit in ends))

    def text(self) -> str:
        """As it is written on the command line."""
        if self.kind == "choice":
            return ",".join(self.labels)
        return f"{self.kind}:{self.low:g}..{self.high:g}"

    def to_dict(self) -> dict[str, Any]:
        if self.kind == "choice":
            return {"name": self.name, "kind": "choice", "choices": list(self.choices), "labels": list(self.labels)}
        return {"name": self.name, "kind": self.kind, "low": self.low, "high": self.high}


def from_dict(row: Mapping[str, Any]) -> Dimension:
    """The dimension of `to_dict`."""
    return Dimension(str(row["name"]), row["kind"], float(row.get("low", 0)), float(row.get("high", 1)),
                     tuple(row.get("choices", ())), tuple(row.get("labels", ())))


def parse_dimension(name: str, given: Any) -> Dimension:
    """From 'log:1e-4..1e-1', 'uniform:0..0.5', '0..0.5', 'int:1..8', 'sgd,adamw', a list of choices, or a mapping such
    as {log: [1e-4, 1e-1]}. Raises RecipeError naming the field and what it was given."""
    where = f"{name}={given!r}"
    if isinstance(given, list | tuple):
        return Dimension(name, "choice", choices=tuple(_figure(value) for value in given))
    if isinstance(given, Mapping):
        if len(given) != 1 or next(iter(given)) not in KINDS:
            raise RecipeError(f"is none of {', '.join(KINDS)}", where=where, remedy="For example: {log: [1e-4, 1e-1]}")
        kind, ends = next(iter(given.items()))
        if not isinstance(ends, list | tuple) or (kind != "choice" and len(ends) != 2):
            raise RecipeError("is not [low, high]", where=where, remedy="For example: {log: [1e-4, 1e-1]}")
        if kind == "choice":
            return Dimension(name, "choice", choices=tuple(_figure(value) for value in ends))
        return Dimension(name, kind, _number(ends[0], where), _number(ends[1], where))
    if not isinstance(given, str):
        return Dimension(name, "choice", choices=(given,))
    kind, colon, rest = given.partition(":")
    kind = kind.strip()
    if colon and kind in KINDS and kind != "choice":
        found = _RANGE.match(rest)
        if not found:
            raise RecipeError("is not a range LOW..HIGH", where=where, remedy=_REMEDY)
        return Dimension(name, kind, _number(found["low"], where), _number(found["high"], where))  # type: ignore[arg-type]
    if colon and kind != "choice" and re.fullmatch(r"[a-z_]+", kind) and ".." in rest:
        raise RecipeError(f"{kind!r} is no kind of range", where=where, remedy=_REMEDY)
    text = rest if colon and kind == "choice" else given
    found = _RANGE.match(text) if text is given else None
    if found:
        return Dimension(name, "uniform", _number(found["low"], where), _number(found["high"], where))
    parts = [_plain(part) for part in _split(text)]
    if len(parts) == 1 and isinstance(parts[0], list):  # '[a, b]' is a and b
        return Dimension(name, "choice", choices=tuple(_figure(value) for value in parts[0]))
    return Dimension(name, "choice", choices=tuple(parts))


def _split(text: str) -> list[str]:
    """At the commas that stand in no bracket."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{(") - (letter in "]})")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _plain(text: str) -> Any:
    import yaml

    try:
        return _figure(yaml.safe_load(text))
    except yaml.YAMLError:
        return text


def _figure(value: Any) -> Any:
    """YAML 1.1 takes 1e-3 for a word."""
    return float(value) if isinstance(value, str) and _FIGURE.match(value) else value


def _number(value: Any, where: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise RecipeError(f"{value!r} is not a number", where=where, remedy=_REMEDY) from None


# -- spaces --------------------------------------------------------------------------------------------------------


def grid(space: Sequence[Dimension], points: int = 3) -> list[dict[str, Any]]:
    """Every combination, the last dimension fastest. points: of each range."""
    return [dict(zip((d.name for d in space), row, strict=True)) for row in product(*(d.points(points) for d in space))]


def draw(space: Sequence[Dimension], rng: np.random.Generator) -> dict[str, Any]:
    """One configuration by chance: even on each dimension's scale, so log-uniform on a logarithmic one."""
    return {d.name: d.value(float(rng.random())) for d in space}


def spread(space: Sequence[Dimension], index: int, seed: int = 0) -> dict[str, Any]:
    """Configuration `index` of a sequence that fills the space evenly from its first members on: multiples of powers
    of the generalised golden ratio, modulo 1 (Roberts 2018; a Korobov sequence), from a start drawn by `seed`."""
    ratio = 2.0
    for _ in range(40):  # the root of x^(D + 1) = x + 1
        ratio = (1.0 + ratio) ** (1.0 / (len(space) + 1))
    shift = np.random.Generator(np.random.PCG64(seed)).random(len(space))
    return {d.name: d.value(float((shift[k] + (index + 1) / ratio ** (k + 1)) % 1.0)) for k, d in enumerate(space)}


def encode(space: Sequence[Dimension], values: Mapping[str, Any]) -> np.ndarray:
    """float64 [D]: each range as one number in [0, 1], a choice of K as K numbers, one of them 1 / sqrt 2: two
    different choices are one length of the scale apart."""
    row: list[float] = []
    for d in space:
        if d.kind == "choice":
            row += [math.sqrt(0.5) * (label == values[d.name]) for label in d.labels]
        else:
            row.append(d.unit(values[d.name]))
    return np.array(row)


def columns(space: Sequence[Dimension]) -> list[int]:
    """The number of the dimension behind each column of `encode`."""
    return [k for k, d in enumerate(space) for _ in range(len(d.labels) or 1)]
