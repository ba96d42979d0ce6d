"""Every row of the course map resolves: the import, the command, the test that proves it."""

from __future__ import annotations

import ast
import csv
import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import course_map  # noqa: E402

ROWS = course_map.rows()


def test_functions(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


test_functions.__test__ = False  # type: ignore[attr-defined]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_row_resolves(row: str):
    entry = ROWS[row]
    assert set(entry) == {"where", "run", "test"}
    assert row in course_map.catalogue(), "not a row of the catalogue"
    module, _, name = entry["where"].partition(":")
    assert hasattr(importlib.import_module(module), name.split(".")[0]) if name else importlib.import_module(module)
    file, _, function = entry["test"].partition("::")
    assert function in test_functions(ROOT / file), f"{entry['test']} does not exist"
    assert entry["run"].startswith(("visus ", "python ", "torchrun ")) or "visus." in entry["run"]


def test_the_page_is_fresh():
    assert course_map.PAGE.read_text() == course_map.render()


def test_the_catalogue_is_the_shared_one():
    shared = ROOT.parent / "shared" / "catalogue.tsv"
    if not shared.exists():
        pytest.skip("../shared/catalogue.tsv is not there")
    with open(shared, newline="", encoding="utf-8") as file:
        names = {r["id"]: (r["section"], r["name"]) for r in csv.DictReader(file, delimiter="\t")}
    assert names == course_map.catalogue()
