"""Draw report.html of a run again, from what the run folder holds. Nothing is computed anew."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="run folder, such as runs/digits-1")


def run(arguments: argparse.Namespace) -> int:
    from visus.core.record import RunFolder
    from visus.run.report import write_report

    print(write_report(RunFolder.open(arguments.run)))
    return 0
