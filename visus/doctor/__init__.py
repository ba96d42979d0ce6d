"""Checks of images, of a model before training, of a run while and after it: evidence first, then the remedy.

A check is one file in the room of its stage: its docstring says the rule and why, `THRESHOLDS` in thresholds.py what
counts as too much and where that number is from, one `add` at the end says what it costs and how far it points.
Importing this package loads none of them, and no torch.

    images/   an `ImageSet` -> findings        before a net exists
    before/   a `Patient` -> findings          seconds, one forward or backward pass, at most a few hundred on one batch
    deep/     a `Patient` -> findings          controls that train: minutes, on demand
    during/   a `Look` at a step -> findings   one object a run, it may remember
    after/    a `History` -> findings          the curves of a run
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from visus.core.registry import Registry

registry = Registry("check", "visus.doctor")

Stage = Literal["images", "before", "deep", "during", "after"]


def add(check: Callable[..., Any], name: str, *, stage: Stage, rank: int, rule: str, cost: str, course: str,
        symptom: bool = False) -> None:
    """Register a check under the name that its findings carry.

    check: of the stages images, before, deep, after a function that yields findings; of during a class, built once a
    run. rank: 1 for a finding that names one cause, up to 9 for one that many causes have. symptom: it says that
    something is wrong and not what: never put before a finding that says what. rule, cost, course: for the reader.
    """
    registry.add(check, {name: {}}, stage=stage, rank=rank, rule=rule, cost=cost, course=course, symptom=symptom)  # type: ignore[arg-type]
