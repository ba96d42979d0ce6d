"""The recipes that ship: files of the folder recipes/, found by name."""

from __future__ import annotations

from pathlib import Path

from visus.core.errors import RecipeError, did_you_mean


def recipes_folder() -> Path:
    """recipes/ inside an installed package, or beside the package in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def shipped_recipes() -> dict[str, Path]:
    """Name -> file, sorted by name."""
    return {path.stem: path for path in sorted(recipes_folder().glob("*.yaml"))}


def find_recipe(name: str | Path) -> Path:
    """The file for a path or the name of a shipped recipe. Raises RecipeError with the nearest names."""
    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if str(name) in shipped:
        return shipped[str(name)]
    raise RecipeError("there is no such recipe", where=name, remedy=did_you_mean(str(name), shipped))
