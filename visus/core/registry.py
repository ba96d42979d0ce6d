"""Names -> things. A file adds its variants with one call at its end; looking a name up imports that one file."""

from __future__ import annotations

import importlib
import importlib.util
import json
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from visus.core.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Entry:
    """One registered variant: `build` is the class, `variant` its row of numbers, `weights` its public origins."""

    name: str
    build: Any
    module: str
    variant: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)


class Registry:
    """Things of one kind, in the modules of `package`.

    index.json in the package maps each name to its module so that a look-up imports one file; `index_is_stale` tells
    when it must be written again (a test does). A name that the index lacks is searched in all modules.
    """

    def __init__(self, kind: str, package: str):
        self.kind = kind
        self.package = package
        self._entries: dict[str, Entry] = {}
        self._index: dict[str, str] | None = None

    def add(self, build: type, variants: Mapping[str, Mapping[str, Any]],
            weights: Mapping[str, Any] | None = None, **about: Any) -> None:
        """Register `build` under each key of `variants`; `weights[name]` describes public checkpoints of a variant."""
        for name, variant in variants.items():
            known = self._entries.get(name)
            if known is not None and known.module != build.__module__:
                raise ValueError(f"{self.kind} {name!r} is registered by {known.module} and {build.__module__}")
            self._entries[name] = Entry(name, build, build.__module__, dict(variant),
                                        (weights or {}).get(name, {}), about)

    def get(self, name: str) -> Entry:
        """The entry. Raises UserError with the nearest names when there is none."""
        if name not in self._entries:
            module = self.index().get(name)
            if module is not None:
                importlib.import_module(module)
        if name not in self._entries:
            self.load_all()
        if name not in self._entries:
            raise UserError(f"there is no {self.kind} {name!r}", remedy=did_you_mean(name, sorted(self._entries)))
        return self._entries[name]

    def names(self) -> list[str]:
        """All names, without importing anything when the index is there."""
        if not self.index():
            self.load_all()
        return list(self.index() or self._entries)

    def entries(self) -> list[Entry]:
        self.load_all()
        return list(self._entries.values())

    def registered(self) -> list[Entry]:
        """What the modules imported so far have added."""
        return list(self._entries.values())

    def of(self, build: type) -> list[Entry]:
        """The variants of one class. Imports nothing: a class that exists has registered itself."""
        return [entry for entry in self._entries.values() if entry.build is build]

    def index(self) -> dict[str, str]:
        if self._index is None:
            path = self.index_path
            self._index = json.loads(path.read_text()) if path.is_file() else {}
        return self._index

    @property
    def index_path(self) -> Path:
        spec = importlib.util.find_spec(self.package)
        assert spec is not None and spec.submodule_search_locations
        return Path(spec.submodule_search_locations[0]) / "index.json"

    def fresh_index(self) -> dict[str, str]:
        """What index.json must hold."""
        self.load_all()
        return {name: entry.module for name, entry in self._entries.items()}

    def load_all(self) -> None:
        for module in self._modules():
            importlib.import_module(module)

    def _modules(self) -> Iterator[str]:
        package = importlib.import_module(self.package)
        for info in sorted(pkgutil.walk_packages(package.__path__, self.package + "."), key=lambda i: i.name):
            if not info.ispkg and not info.name.rsplit(".", 1)[-1].startswith("_"):
                yield info.name
