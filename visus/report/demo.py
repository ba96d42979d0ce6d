"""A demo as one page: what it shows in words and drawings, and every claim beside what was measured for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from visus import __version__
from visus.report.page import asset, page_style, policy, shell_command, template


@dataclass(frozen=True)
class Drawing:
    """svg: one <svg> element with a viewBox, coloured by the classes of assets/charts.css and assets/demo.css (see
    report/sketch.py, report/charts.py). caption: a sentence or two. title: a few words above it, or none. wide: it
    takes the page's whole width, else half of it."""

    svg: Markup
    caption: str
    title: str = ""
    wide: bool = False


@dataclass(frozen=True)
class Table:
    """columns: their names; rows: as many texts or numbers each, the first of which names the row."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | float | int]]
    caption: str = ""


@dataclass(frozen=True)
class Fact:
    """A claim of the page and the evidence for it. found: what this run measured; expected: what the theory, a paper
    or an independent computation says; holds: the judgement. Build it with `same`, `near`, `below`, `above` or
    `shown`, which judge by themselves."""

    claim: str
    found: str
    expected: str
    holds: bool


@dataclass(frozen=True)
class Shown:
    """What a demo's `make` gives. title: a few words; words: paragraphs, blank lines between them."""

    title: str
    words: str
    figures: Sequence[Drawing] = ()
    facts: Sequence[Fact] = ()
    tables: Sequence[Table] = field(default=())


def same(claim: str, found: Any, expected: Any) -> Fact:
    """Holds where the two are equal: counts, shapes, names."""
    return Fact(claim, str(found), str(expected), bool(found == expected))


def near(claim: str, found: float, expected: float, tolerance: float) -> Fact:
    """Holds where the two numbers differ by at most `tolerance`, in their own units."""
    return Fact(claim, f"{found:.6g}", f"{expected:.6g}, within {tolerance:.2g}",
                bool(abs(found - expected) <= tolerance))


def below(claim: str, found: float, bound: float) -> Fact:
    """Holds where found <= bound: the largest difference of two computations, an error rate."""
    return Fact(claim, f"{found:.3g}", f"at most {bound:.3g}", bool(math.isfinite(found) and found <= bound))


def above(claim: str, found: float, bound: float) -> Fact:
    """Holds where found >= bound."""
    return Fact(claim, f"{found:.4g}", f"at least {bound:.3g}", bool(math.isfinite(found) and found >= bound))


def shown(claim: str, holds: bool, found: str, expected: str) -> Fact:
    """Any other judgement, with both sides in words."""
    return Fact(claim, found, expected, bool(holds))


def render_demo(shown: Shown, *, name: str, topic: str, source: str, code: str = "",
                command: Sequence[str] = ()) -> str:
    """The page's text: nothing else is needed, no file, no network. code: the Python that made it, for the reader."""
    style = f"{page_style()}\n{asset('demo.css')}"
    wrong = [fact for fact in shown.facts if not fact.holds]
    return template("demo.html").render(
        policy=policy(style, ""), style=Markup(style), version=__version__, name=name, topic=topic,
        title=shown.title, words=[part.strip() for part in shown.words.split("\n\n") if part.strip()],
        figures=shown.figures, facts=shown.facts, wrong=len(wrong), tables=shown.tables, source=source, code=code,
        command=shell_command(command))


def demo_record(shown: Shown) -> dict[str, Any]:
    """The same in plain values, without the drawings."""
    return {"title": shown.title, "words": shown.words,
            "facts": [{"claim": fact.claim, "found": fact.found, "expected": fact.expected, "holds": fact.holds}
                      for fact in shown.facts],
            "tables": [{"title": table.title, "columns": list(table.columns), "rows": [list(row) for row in table.rows]}
                       for table in shown.tables],
            "figures": [{"title": figure.title, "caption": figure.caption} for figure in shown.figures]}
