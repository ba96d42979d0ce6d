"""What there is to know of a classical model before it is fitted: its idea, its source, what it can be told."""

from __future__ import annotations

import inspect
import sys
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any

from visus import classical
from visus.core.errors import UserError
from visus.run.registered import entry_of, is_fitted

OF_THE_DATA = frozenset({"num_classes", "in_channels", "image_size"})


@dataclass(frozen=True, slots=True)
class FittedSummary:
    """words: the model's own description. options: name -> default, to be given as --set model.config.NAME=VALUE;
    meanings: what they say, where the model says it."""

    name: str
    family: str
    paper: str
    words: str
    options: dict[str, Any]
    meanings: str


def list_fitted(search: str | None = None) -> list[str]:
    """The names of classical models that contain `search` (any case). Loads none of them, and no torch."""
    return sorted(name for name in classical.registry.names() if (search or "").lower() in name)


def describe_fitted(name: str) -> FittedSummary:
    """Raises UserError for a name that is not of a classical model."""
    if not is_fitted(name):
        raise UserError("is not the name of a classical model", where=f"name={name!r}",
                        remedy="Those are: " + ", ".join(list_fitted()))
    entry = entry_of(name)
    config = entry.build.Config
    options = {one.name: entry.variant.get(one.name, None if one.default is MISSING else one.default)
               for one in fields(config) if one.name not in OF_THE_DATA}
    return FittedSummary(name, str(entry.about.get("family", "")), str(entry.about.get("paper", "")),
                         inspect.cleandoc(sys.modules[entry.module].__doc__ or ""), options,
                         "\n\n".join(_own_words(config)))


def _own_words(config: type) -> list[str]:
    """The docstrings of a config and of those that it extends; not the ones that `dataclass` makes up."""
    return [inspect.cleandoc(one.__doc__) for one in config.__mro__
            if is_dataclass(one) and one.__doc__ and not one.__doc__.startswith(f"{one.__name__}(")]
