"""Fetch a standard data set: licence and size are shown before, the download is resumed and checked, then unpacked.

  visus data get --list                     the sets there are cards of
  visus data get cifar10                    shows the card, asks, fetches into data/cifar10
  visus data get mnist --to /data --yes     does not ask
  visus data get cifar10 --check PATH       compares what you have with the published counts"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="a name of --list")
    parser.add_argument("--list", action="store_true", help="the table of all sets")
    parser.add_argument("--to", default="data", metavar="DIR", help="folder in which NAME/ is made (default: data)")
    parser.add_argument("--yes", action="store_true", help="fetch without asking")
    parser.add_argument("--check", metavar="PATH", help="fetch nothing: compare the data at PATH with the card")


def run(arguments: argparse.Namespace) -> int:
    import sys

    from rich.console import Console

    from visus.core.errors import UserError
    from visus.run.get_data import card_lines, check_data, is_fetched, named_card

    console = Console(highlight=False)
    if arguments.list:
        _print_table(console)
        return 0
    if arguments.name is None:
        raise UserError("no name given", remedy="See the names: visus data get --list")
    card = named_card(arguments.name)
    for heading, text in card_lines(card):
        console.print(f"{heading:<9}{text}", markup=False, soft_wrap=True)
    if arguments.check is not None:
        problems = check_data(card, arguments.check)
        for line in problems or ["all counts are as published"]:
            console.print(f"{'counts':<9}{line}", markup=False)
        return 2 if problems else 0
    if card.fetchable and not arguments.yes and not is_fetched(card, arguments.to):
        if not sys.stdin.isatty():
            raise UserError("nobody is there to agree to the licence", where=card.name,
                            remedy="Give --yes if you agree")
        if console.input("Fetch it? [y/N] ").strip().lower() not in ("y", "yes"):
            return 0
    path = _fetched(console, card.name, arguments.to)
    if card.check and card.format:
        for line in check_data(card, path) or ["all counts are as published"]:
            console.print(f"{'counts':<9}{line}", markup=False)
    console.print(f"{'ready':<9}visus train {path}" if card.format else f"{'ready':<9}{path}", markup=False,
                  soft_wrap=True)
    return 0


def _fetched(console: Console, name: str, to: str) -> Path:
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

    from visus.run.get_data import get_data

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}

        def told(what: str, so_far: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=so_far, total=total)

        return get_data(name, to, progress=told)


def _print_table(console: Console) -> None:
    from visus.run.get_data import all_cards

    rows = [("NAME", "MB", "BY", "FORMAT", "CHECKED", "SET")]
    rows += [(card.name, "" if card.megabytes is None else f"{card.megabytes:,.0f}",
              "visus" if card.fetchable else "hand", card.format or "-", card.verified if card.files else "-",
              card.title) for card in all_cards()]
    name, size, by, kind, checked = (max(len(row[i]) for row in rows) for i in range(5))
    for row in rows:
        console.print(f"{row[0]:<{name}}  {row[1]:>{size}}  {row[2]:<{by}}  {row[3]:<{kind}}  {row[4]:<{checked}}  "
                      f"{row[5]}", markup=False, soft_wrap=True)
