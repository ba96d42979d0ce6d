"""Which labs there are: each file of checks/ is one."""

from __future__ import annotations

import importlib
from pathlib import Path

from visus.core.errors import UserError, did_you_mean
from visus.labs.contract import Lab

_HERE = Path(__file__).resolve().parent


def names() -> list[str]:
    """Of all labs, in the order of the alphabet; nothing is loaded."""
    return sorted(path.stem for path in (_HERE / "checks").glob("*.py") if path.stem != "__init__")


def get(name: str) -> Lab:
    """One lab. Raises UserError for a name that there is not."""
    if name not in names():
        raise UserError(f"there is no lab {name!r}", remedy=f"{did_you_mean(name, names())} (visus lab list)")
    lab = importlib.import_module(f"visus.labs.checks.{name}").LAB
    assert isinstance(lab, Lab) and lab.name == name, name
    return lab


def labs() -> list[Lab]:
    """All of them, in the order in which a person does them."""
    return sorted((get(name) for name in names()), key=lambda lab: (lab.number, lab.name))


def exercise(name: str) -> str:
    """The text of the file that a person gets."""
    return (_HERE / "exercises" / f"{get(name).name}.py").read_text("utf-8")
