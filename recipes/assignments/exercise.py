"""What an exercise of the course is: what is run, what the course states, what the numbers say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from recipes.assignments.images import Images

Row = dict[str, Any]  # numbers by name; "train", "val" and "test" are shares of right answers


@dataclass(frozen=True, slots=True)
class Exercise:
    """published: {row: what the course states for CIFAR-10, as text}. run(images) -> {row: numbers}. verdict({data set:
    rows}) -> (reproduced, what the numbers say), of both data sets."""

    title: str
    source: str
    words: str
    published: Mapping[str, str]
    run: Callable[[Images], dict[str, Row]]
    verdict: Callable[[Mapping[str, Mapping[str, Row]]], tuple[bool, str]]


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"
