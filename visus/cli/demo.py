"""One idea of the course at a time: computed here, drawn on one page, every claim beside what was measured.

  visus demo list                              what there is, by topic, a line each
  visus demo receptive_field                   demos/receptive_field.html, in seconds
  visus demo receptive_field --out field.html --seed 3
  visus demo receptive_field --json            the claims, the tables and what was found, as JSON; no page

A page holds drawings, the claims with what this run found and what was expected, the source, and the code that made it,
which is there to be read and changed. Nothing is downloaded and no data are needed. The same seed gives the same page.
A claim that does not hold is shown as such."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visus.run.demo import Demo


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", default="list", metavar="NAME", help="one that `visus demo list` names; or "
                        "list (default)")
    parser.add_argument("--out", metavar="FILE.html", help="the page (default: demos/NAME.html)")
    parser.add_argument("--seed", type=int, metavar="N", help="of everything random in it (default 0)")
    parser.add_argument("--topic", metavar="TOPIC", help="list those of one topic, such as convolution")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON; no page without --out")


def run(arguments: argparse.Namespace) -> int:
    return _list(arguments) if arguments.name == "list" else _show(arguments)


def _list(arguments: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict
    from itertools import groupby

    from visus.core.errors import UserError
    from visus.run.demo import list_demos

    for given, flag in ((arguments.out, "--out"), (arguments.seed, "--seed")):
        if given is not None:
            raise UserError(f"{flag} means nothing to the list", remedy="Name the demo to show: see `visus demo list`")
    found = list_demos(arguments.topic)
    if arguments.json:
        print(json.dumps([asdict(one) for one in found], indent=2))
        return 0
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    width = max((len(one.name) for one in found), default=0)
    for topic, group in groupby(found, key=lambda one: one.topic):
        table = Table(box=None, pad_edge=False, show_header=False, title=topic, title_justify="left",
                      title_style="bold")
        table.add_column(min_width=width + 2, no_wrap=True)
        table.add_column()
        for one in group:
            table.add_row(f"  {one.name}", one.summary)
        console.print(table)
    console.print("\nShow one: visus demo NAME", markup=False)
    return 0


def _show(arguments: argparse.Namespace) -> int:
    import json
    import sys

    from visus.core.errors import UserError
    from visus.core.files import finite
    from visus.run.demo import demo, find_demo

    if arguments.topic is not None:
        raise UserError("--topic means something to the list only", remedy="visus demo list --topic TOPIC")
    name = find_demo(arguments.name).name
    out = arguments.out or (None if arguments.json else f"demos/{name}.html")
    found = demo(name, seed=arguments.seed or 0, out=out, progress=not arguments.json,
                 command=["visus", *sys.argv[1:]])
    if arguments.json:
        print(json.dumps(finite(found.record), indent=2))
    else:
        _print(found)
    return 0


def _print(found: Demo) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print(found.shown.title, style="bold", markup=False)
    table = Table("claim", "measured", "expected", "", box=None, pad_edge=False, header_style="bold",
                  row_styles=["", "dim"])
    for fact in found.shown.facts:
        cells: list[Any] = [_plain(text) for text in (fact.claim, fact.found, fact.expected)]
        table.add_row(*cells, "holds" if fact.holds else "DOES NOT HOLD")
    console.print(table)
    console.print(f"\npage     {found.file}", markup=False, soft_wrap=True)


def _plain(text: str) -> Any:
    from rich.text import Text

    from visus.core.errors import printable

    return Text(printable(text))
