"""The courses' assignments: write a function, have it checked against the right answer, see what it does.

  visus lab list                     every lab, and how far you are in this folder
  visus lab start svm                svm.py, with the functions to write; their docstrings say what and how
  visus lab check svm.py             right, wrong, slow or not written, function by function
  visus lab show svm.py              svm.html: what your own code does on the built-in digits

A check runs your file in a process of its own and compares numbers in double precision. Where something is wrong it
says which output or gradient, at which index, what it is and what it should be, and the mistake that gives just these
numbers. Exit code 0: all right; 1: something is wrong, slow or unfinished; 2: the file cannot be run.

The exercises need NumPy only. Their order is that of the list; each stands for itself."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from visus.run.lab import Verdict


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", title="actions", required=True)

    def action(name: str, summary: str) -> argparse.ArgumentParser:
        one: argparse.ArgumentParser = actions.add_parser(name, help=summary, description=summary)
        one.add_argument("--debug", action="store_true", default=argparse.SUPPRESS,
                         help="show Python's traceback for an error")
        return one

    action("list", "every lab, and how far you are in this folder")
    start = action("start", "write the exercise NAME.py")
    start.add_argument("name", metavar="NAME", help="one that `visus lab list` names")
    start.add_argument("--out", default=".", metavar="DIR", help="the folder (default: this one)")
    start.add_argument("--overwrite", action="store_true", help="also where the file is there already")
    check = action("check", "compare every function of an exercise with the right answer")
    check.add_argument("file", metavar="FILE", help="the exercise, or the name of its lab")
    check.add_argument("--limit", type=float, default=30.0, metavar="SECONDS", help="for one function (default: 30)")
    show = action("show", "draw what your code does as one page")
    show.add_argument("file", metavar="FILE", help="the exercise, or the name of its lab")
    show.add_argument("--out", metavar="FILE.html", help="the page (default: beside the exercise)")


def run(arguments: argparse.Namespace) -> int:
    return {"list": _list, "start": _start, "check": _check, "show": _show}[arguments.action](arguments)


def _list(arguments: argparse.Namespace) -> int:
    from visus.run.lab import list_labs

    rows = list_labs()
    width = max(len(row.name) for row in rows)
    finished = 0
    for row in rows:
        if row.file is None:
            state = "-"
        elif row.right is None:
            state = "started"
        else:
            state = f"{row.right} of {row.functions} right" + (", changed since" if row.changed else "")
            finished += row.right == row.functions and not row.changed
        print(f"{row.name:<{width}}  {state:<14}  {row.title}: {row.teaches}")
    print(f"\n{finished} of {len(rows)} finished in this folder. Begin one: visus lab start NAME")
    return 0


def _start(arguments: argparse.Namespace) -> int:
    from visus.run.lab import start_lab

    path = start_lab(arguments.name, arguments.out, overwrite=arguments.overwrite)
    print(f"{path}  read it from the top, write its functions, then: visus lab check {path}")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from visus.run.lab import check_lab

    found = check_lab(arguments.file, limit_s=arguments.limit, tell=_print)
    if found.printed:
        print("your code printed (the last lines):")
        for line in found.printed:
            print(f"  {line}")
    right = sum(verdict.verdict == "right" for verdict in found.verdicts)
    print(f"{right} of {len(found.verdicts)} right" + (f"; see what it does: visus lab show {found.file}"
                                                       if found.right else ""))
    return 0 if found.right else 1


def _print(verdict: Verdict) -> None:
    from visus.core.errors import printable

    facts = []
    if verdict.verdict == "right":
        facts = [f"largest relative error {verdict.error or 0:.1e}", _time(verdict.seconds), verdict.pace]
    elif verdict.verdict == "not written":
        facts = [verdict.words]
    print(f"{verdict.verdict:<12} {verdict.name:<26} {', '.join(fact for fact in facts if fact)}".rstrip(), flush=True)
    if verdict.verdict in ("wrong", "stopped", "slow"):
        print(f"    {printable(verdict.words)}")
        if verdict.diagnosis:
            print(f"    -> {printable(verdict.diagnosis)}", flush=True)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{1e3 * seconds:.3g} ms" if seconds >= 1e-3 else f"{1e6 * seconds:.3g} us"


def _show(arguments: argparse.Namespace) -> int:
    from visus.run.lab import show_lab

    page, shown = show_lab(arguments.file, arguments.out)
    for fact in shown["facts"]:
        print(f"{fact['claim']}: {fact['found']} ({fact['expected']})" + ("" if fact["holds"] else "  DOES NOT HOLD"))
    print(f"page  {page}")
    return 0
