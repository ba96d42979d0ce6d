"""Look at a data set: what it is recognised as, class counts, sizes, problems, and pictures of it.

  visus data show photos/                   facts, and photos-sheet.png in the current folder
  visus data show digits --sheet digits.png
  visus data show coco/ --page coco.html    boxes, outlines, keypoints and label maps drawn on their images
  visus data show photos/ --augment auto    also what the augmentation of `visus train` makes of a few images

The sheet has images of each class, images with all that is marked in them, and charts: classes, sizes of images and
boxes, where the boxes lie. Nothing in the data changes."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="a folder, file or built-in name, as for `visus train`")
    parser.add_argument("--format", default="auto", metavar="NAME", help="of the data (default: recognised)")
    parser.add_argument("--sheet", metavar="FILE", help="sheet of pictures to write (default: NAME-sheet.png, unless "
                        "there is a page; - for none)")
    parser.add_argument("--page", metavar="FILE.html", help="the same as one page, which needs no other file")
    parser.add_argument("--augment", metavar="RECIPE", help="also draw what this recipe's augmentation does: a file, a "
                        "shipped name, or auto for what `visus train` would choose")
    parser.add_argument("--json", action="store_true", help="print the facts as JSON")


def run(arguments: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict
    from pathlib import Path

    from rich.console import Console
    from rich.table import Table

    from visus.core.errors import printable
    from visus.core.files import finite
    from visus.run.display import Display
    from visus.run.inspect_data import show_data

    sheet = None if arguments.sheet == "-" or (arguments.json and not arguments.sheet) else arguments.sheet
    if arguments.sheet is None and not arguments.page and not arguments.json:
        sheet = f"{Path(arguments.path).resolve().name}-sheet.png"
    with Display().reading() as reading:
        facts = show_data(arguments.path, arguments.format, sheet, page=arguments.page, augment=arguments.augment,
                          reading=reading)
    if arguments.json:
        print(json.dumps(finite(asdict(facts)), indent=2))
        return 0
    console = Console(highlight=False)
    console.print(facts.recognised, markup=False)
    columns = facts.columns()
    if columns:
        table = Table("class", *columns, box=None, pad_edge=False, header_style="bold")
        for column in table.columns[1:]:
            column.justify = "right"
        for name in facts.classes[:60]:
            table.add_row(printable(name)[:48], *(f"{counts.get(name, 0):,}" for counts in columns.values()))
        console.print(table)
        if len(facts.classes) > 60:
            console.print(f"... and {len(facts.classes) - 60} more classes: --json has them all")
    for title, lines in (("note", facts.notes), ("problem", facts.problem_lines())):
        for line in lines:
            console.print(f"{title:<9}{printable(line)}", markup=False, soft_wrap=True)
    for line in (facts.sizes_sentence(), *facts.marks_lines()):
        console.print(printable(line), markup=False, soft_wrap=True)
    for title, path in (("sheet", sheet), ("page", arguments.page)):
        if path:
            console.print(f"{title:<9}{path}", markup=False, soft_wrap=True)
    return 0
