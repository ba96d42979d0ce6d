"""The recipes that ship with visus, one of them as YAML, or every field that a recipe can have."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="print this recipe")
    parser.add_argument("--fields", action="store_true", help="list every field with its meaning")
    parser.add_argument("--schema", action="store_true", help="print the JSON schema, for editors")


def run(arguments: argparse.Namespace) -> int:
    import json

    from rich.console import Console
    from rich.table import Table

    from visus.run.recipe import Recipe
    from visus.run.recipes import find_recipe, shipped_recipes

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
