"""Look at a data set: what it is recognised as, class counts, sizes, problems, and a contact sheet to look at.

  visus data show photos/                   facts, and photos-sheet.png in the current folder
  visus data show digits --sheet digits.png"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("show",), help="show: facts and a contact sheet")
    parser.add_argument("path", metavar="PATH", help="a folder, file or built-in name, as for `visus train`")
    parser.add_argument("--format", default="auto", metavar="NAME", help="folder, table, npz, idx, builtin")
    parser.add_argument("--sheet", metavar="FILE", help="contact sheet to write (default: NAME-sheet.png; - for none)")
    parser.add_argument("--json", action="store_true", help="print the facts as JSON")


def run(arguments: argparse.Namespace) -> int:
    import io
    import json
    from dataclasses import asdict
    from pathlib import Path

    from rich.console import Console
    from rich.table import Table

    from visus.core.errors import printable
    from visus.core.files import finite, write_bytes
    from visus.run.inspect_data import contact_sheet, show_data

    facts = show_data(arguments.path, format=arguments.format)
    if arguments.json:
        print(json.dumps(finite(asdict(facts)), indent=2))
        return 0
    console = Console(highlight=False)
    console.print(facts.recognised, markup=False)
    splits = list(facts.counts)
    table = Table("class", *splits, box=None, pad_edge=False, header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    for name in facts.classes[:60]:
        table.add_row(printable(name)[:48], *(f"{facts.counts[s].get(name, 0):,}" for s in splits))
    console.print(table)
    if len(facts.classes) > 60:
        console.print(f"... and {len(facts.classes) - 60} more classes: --json has them all")
    for title, lines in (("note", facts.notes), ("problem", facts.problem_lines())):
        for line in lines:
            console.print(f"{title:<9}{printable(line)}", markup=False, soft_wrap=True)
    console.print(facts.sizes_sentence(), markup=False)
    if arguments.sheet != "-":
        path = Path(arguments.sheet or f"{Path(arguments.path).resolve().name}-sheet.png")
        encoded = io.BytesIO()
        contact_sheet(arguments.path, format=arguments.format).save(encoded, "PNG")
        write_bytes(path, encoded.getvalue())
        console.print(f"sheet    {path}", markup=False)
    return 0
