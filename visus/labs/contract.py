"""What a lab is made of. A checks file holds one `LAB = Lab(...)`; all else here is what goes into it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Inputs = dict[str, Any]  # by name, in the order in which the function takes them
Answer = Callable[..., Any]  # the inputs by position -> what the function must give
Points = list[tuple[float, float]]
Module = Any  # the person's file, run: its functions are attributes


@dataclass(frozen=True)
class Case:
    """A situation in which a function is tried. says: in words; make: a generator -> the inputs, float64 where they are
    numbers; counts: what a factor may be mistaken for, in words, such as {5: "the number of images"}."""

    says: str
    make: Callable[[np.random.Generator], Inputs]
    counts: Mapping[float, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Mistake:
    """A typical mistake as the computation that it is. compute: the inputs -> the same outputs as the right answer,
    None for those that it does not touch. An output of the person's that equals it, and not the right one, is
    diagnosed."""

    says: str
    compute: Answer


@dataclass(frozen=True)
class Pace:
    """What the function is timed on. make: as in Case, larger; against: the slow way, a function of the same exercise
    by its name or any callable; at_least: how many times as fast the function should be (0: only told)."""

    make: Callable[[np.random.Generator], Inputs]
    against: str | Answer | None = None
    at_least: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Part:
    """One function of the exercise.

    outputs: the names of what it gives. right: the answer, by other code than the person's. forward: the function whose
    cache it takes; it is then called as name(dout, cache), and its inputs are those of `forward`, and dout last.
    cached: it gives its outputs and a cache, which is its own affair. call: any other way to use it, (module,
    inputs...) -> outputs. whole: outputs are whole numbers and must be equal. hint: said where no typical mistake fits.
    """

    name: str
    outputs: tuple[str, ...]
    right: Answer
    cases: tuple[Case, ...]
    mistakes: tuple[Mistake, ...] = ()
    forward: str | None = None
    cached: bool = False
    call: Callable[..., Any] | None = None
    tolerance: float = 1e-7
    whole: bool = False
    may_share: bool = False
    pace: Pace | None = None
    hint: str = ""

    def used(self, module: Module, inputs: Sequence[Any]) -> Any:
        """What the person's function gives for the inputs."""
        if self.call is not None:
            return self.call(module, *inputs)
        if self.forward is not None:
            return through(getattr(module, self.forward), getattr(module, self.name))(*inputs)
        return getattr(module, self.name)(*inputs)


def through(forward: Answer, backward: Answer) -> Answer:
    """The two halves of a layer as one function: inputs, dout last -> gradients. forward gives (out..., cache)."""
    def gradients(*inputs: Any) -> Any:
        return backward(inputs[-1], forward(*inputs[:-1])[-1])

    return gradients


def without_cache(forward: Answer) -> Answer:
    """A forward function of the foundations as what it must give: all but its cache."""
    def outputs(*inputs: Any) -> Any:
        found = forward(*inputs)[:-1]
        return found[0] if len(found) == 1 else found

    return outputs


# ---------------------------------------------------------------- what `visus lab show` draws


@dataclass(frozen=True)
class Lines:
    """Up to four lines over a common x: name -> points."""

    title: str
    caption: str
    x_label: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    percentage: bool = False
    kind: Literal["lines"] = "lines"


@dataclass(frozen=True)
class Tiles:
    """Pictures side by side, each [H, W] or [H, W, 3] of any numbers, with a word below each; each is stretched over
    its own values, or around zero (signed: blue below, red above). across: how many in a row."""

    title: str
    caption: str
    pictures: Sequence[tuple[str, np.ndarray]]
    signed: bool = False
    grey: bool = False
    across: int = 6
    kind: Literal["tiles"] = "tiles"


@dataclass(frozen=True)
class Fact:
    """A number that the person's code gave, and what is usual."""

    claim: str
    found: str
    expected: str
    holds: bool


@dataclass(frozen=True)
class Shown:
    """What the person's code does. words: a paragraph."""

    words: str
    figures: Sequence[Lines | Tiles] = ()
    facts: Sequence[Fact] = ()


@dataclass(frozen=True)
class Digits:
    """The built-in digits, split by a fixed permutation. images: float64 [N, 8, 8] in [0, 1]; labels: int64 [N]."""

    train: tuple[np.ndarray, np.ndarray]
    val: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]

    @classmethod
    def of(cls, images: np.ndarray, labels: np.ndarray) -> Digits:
        """images: [1797, 8, 8] whole numbers. 1,200 train, 300 val, the rest test."""
        order = np.random.Generator(np.random.PCG64(0)).permutation(len(images))
        x, y = images[order].astype(np.float64) / max(1.0, float(images.max())), labels[order].astype(np.int64)
        return cls((x[:1200], y[:1200]), (x[1200:1500], y[1200:1500]), (x[1500:], y[1500:]))


@dataclass(frozen=True, kw_only=True)
class Lab:
    """number: its place in the list; teaches: one line for it; source: course, paper or page; parts in the order of the
    file; draw: (the person's module, digits) -> what the page shows."""

    name: str
    number: int
    title: str
    teaches: str
    source: str
    parts: tuple[Part, ...]
    draw: Callable[[Module, Digits], Shown]
