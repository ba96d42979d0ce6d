"""What optimizers do: each one's equation, its paths over known loss surfaces, the unit tests of Schaul et al. 2014.

  visus optimizers                                   every optimizer in a line, with the fields that it takes
  visus optimizers surfaces --optimizer sgd --optimizer adam --out paths.html
  visus optimizers surfaces --on rosenbrock --steps 500
  visus optimizers tests --out tests.html            linear, bowl, cliff, ... with noise, rotation, drift: a colour each

Surfaces: a ravine, the same turned, a saddle, a plateau, Rosenbrock's, Himmelblau's, Beale's, a kink. Every optimizer
has the same rates to choose from and the same steps; the page shows its best rate, and how many of the rates arrive. In
the tests every optimizer runs at every rate, ten times each, and is measured against the best plain SGD of 34 rates.
Optimizers that tie all parameters together (lbfgs, newton, sam, the searches) take minutes there, and run only when
they are named. All optimizers on all surfaces take some minutes too."""

from __future__ import annotations

import argparse

WHAT = ("list", "surfaces", "tests")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="?", default="list", metavar="WHAT",
                        help="list, surfaces or tests (default: list)")
    parser.add_argument("--optimizer", action="append", default=[], metavar="NAME", dest="optimizers",
                        help="one of those that are listed, or momentum, nesterov; may be repeated (default: all)")
    parser.add_argument("--on", action="append", default=[], metavar="NAME", dest="subjects",
                        help="a surface, or a word in the names of the tests; may be repeated (default: all)")
    parser.add_argument("--steps", type=int, metavar="N", help="of each descent (default: surfaces 200, tests 100)")
    parser.add_argument("--out", metavar="FILE.html", help="the page (default: surfaces.html, tests.html; - for none)")
    parser.add_argument("--json", action="store_true", help="print what the page shows as JSON")


def run(arguments: argparse.Namespace) -> int:
    import json

    from visus.core.errors import UserError, did_you_mean

    if arguments.what not in WHAT:
        raise UserError(f"there is no {arguments.what!r} of optimizers", remedy=did_you_mean(arguments.what, WHAT))
    if arguments.what == "list":
        return _list(arguments)
    from visus.core.files import finite
    from visus.run.optimizer_tests import watch_tests
    from visus.run.optimizers import watch_surfaces

    out = None if arguments.out == "-" else arguments.out or f"{arguments.what}.html"
    steps = {} if arguments.steps is None else {"steps": arguments.steps}
    watch = watch_surfaces if arguments.what == "surfaces" else watch_tests
    record = watch(arguments.optimizers, arguments.subjects, out=out, progress=not arguments.json, **steps)
    if arguments.json:
        print(json.dumps(finite(record)))
    else:
        (_surfaces if arguments.what == "surfaces" else _tests)(record)
    return 0


def _list(arguments: argparse.Namespace) -> int:
    import json

    from rich.console import Console
    from rich.table import Table

    from visus.core.errors import UserError
    from visus.run.optimizers import list_optimizers

    for given, flag in ((arguments.subjects, "--on"), (arguments.out, "--out"), (arguments.steps, "--steps")):
        if given:
            raise UserError(f"{flag} means nothing to the list", remedy="Say what to draw: surfaces or tests")
    found = list_optimizers(arguments.optimizers)
    if arguments.json:
        print(json.dumps(found, indent=2))
        return 0
    console = Console(highlight=False)
    table = Table("optimizer", "rule", "takes", "source", box=None, pad_edge=False, header_style="bold",
                  row_styles=["", "dim"])
    for row in found:
        table.add_row(row["name"], row["equation"], row["takes"], row["paper"])
    console.print(table)
    console.print("\nx: weights, g: gradient, m and v: decaying averages of g and g^2. Use one: "
                  "visus train PATH --set optimizer.name=NAME --set optimizer.lr=RATE")
    return 0


def _surfaces(record: dict) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print(f"Steps until within {100 * record['near']:g} % of the start's distance, at the best rate:")
    table = Table("optimizer", box=None, pad_edge=False, header_style="bold")
    for surface in record["surfaces"]:
        table.add_column(surface["name"], justify="right")
    for rows in zip(*(surface["rows"] for surface in record["surfaces"]), strict=True):
        table.add_row(rows[0]["label"], *("-" if row["arrived"] is None else str(row["arrived"]) for row in rows))
    console.print(table)


def _tests(record: dict) -> None:
    from rich.console import Console
    from rich.table import Table

    total = len(record["tests"])
    console = Console(highlight=False)
    console.print(f"Good or better in {total} tests:")
    table = Table("optimizer", box=None, pad_edge=False, header_style="bold")
    for name in ("best rate", "there", "over all rates", "solved at some rate"):
        table.add_column(name, justify="right")
    for row in record["summary"]:
        table.add_row(row["label"], f"{row['rate']:g}", f"{row['good']} of {total}", f"{100 * row['overall']:.0f} %",
                      f"{row['solved']} of {total}")
    console.print(table)
