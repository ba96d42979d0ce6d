"""A file of the person's own, run as a module: what `visus check-grad FILE.py:NAME` and `visus lab` have in common."""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from visus.core.errors import UserError, printable


class _AsItIsNow(SourceFileLoader):
    """Compiles the file itself: Python takes code that it compiled before where the second and the size of a file are
    the same, as a quick edit leaves them."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def run_file(path: Path, where: str) -> ModuleType:
    """The file as a module. Raises UserError, naming `where`, when there is none or it stops while it is run."""
    if not path.is_file():
        raise UserError("there is no such file", where=where)
    spec = importlib.util.spec_from_file_location(path.stem, path, loader=_AsItIsNow(path.stem, str(path)))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"could not be run: {type(error).__name__}: {printable(str(error))}", where=where,
                        remedy="--debug shows where it stopped") from error
    return module
