"""The recipes that ship with visus, one of them as YAML, or every field that a recipe can have.

    visus recipes cifar10-resnet20 --preview rates.svg     its learning rates, before a run
    visus recipes my.yaml --set train.epochs=30 --set optimizer.layer_decay=0.7 --preview rates.html
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="print this recipe: a name, or a file")
    parser.add_argument("--preview", metavar="FILE", help="draw the rate of each group of parameters by epoch, as .svg "
                        "or .html, instead of printing the recipe")
    parser.add_argument("--set", dest="assignments", metavar="NAME=VALUE", action="append", default=[],
                        help="for --preview: another value of a field")
    parser.add_argument("--fields", action="store_true", help="list every field with its meaning")
    parser.add_argument("--schema", action="store_true", help="print the JSON schema, for editors")


def run(arguments: argparse.Namespace) -> int:
    import json

    from rich.console import Console
    from rich.table import Table

    from visus.core.errors import UserError
    from visus.run.recipe import Recipe
    from visus.run.recipes import find_recipe, shipped_recipes

    if arguments.preview is not None and arguments.name is None:
        raise UserError("is of a recipe", where=f"--preview {arguments.preview}",
                        remedy="For example: visus recipes cifar10-resnet20 --preview rates.svg")
    if arguments.assignments and arguments.preview is None:
        raise UserError("changes what is drawn, and there is no --preview", where=f"--set {arguments.assignments[0]}",
                        remedy="Give --preview FILE, or set the field in visus train")
    if arguments.preview is not None:
        return _preview(arguments)
    if arguments.schema:
        print(json.dumps(Recipe.json_schema(), indent=2))
    elif arguments.fields:
        defaults = Recipe().model_dump(mode="json")
        table = Table("field", "default", "meaning", box=None, pad_edge=False)
        for name, meaning in Recipe.fields().items():
            value = defaults
            for part in name.split("."):
                value = value[part]
            table.add_row(name, str(value), meaning)
        Console().print(table)
    elif arguments.name:
        print(find_recipe(arguments.name).read_text(), end="")
    else:
        table = Table("recipe", "what it does", box=None, pad_edge=False)
        for name, path in shipped_recipes().items():
            table.add_row(name, Recipe.load(path).description.strip().split("\n")[0])
        Console().print(table)
        Console().print("\nUse one: visus train PATH --recipe NAME", highlight=False)
    return 0


def _preview(arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from visus.run.recipe import parse_assignments
    from visus.run.schedule_preview import preview_schedule, preview_table

    record = preview_schedule(arguments.name, arguments.preview, values=parse_assignments(arguments.assignments))
    table = Table("group", "peak rate", "weight decay", "tensors", "weights", box=None, pad_edge=False)
    for row in preview_table(record):
        table.add_row(*row)
    console = Console()
    console.print(table)
    for note in record["notes"]:
        console.print(note, highlight=False, markup=False)
    console.print(f"\ndrawn    {arguments.preview}", highlight=False, markup=False)
    return 0
