"""Every lab: its solution is right, each typical mistake is named, and the exercise as handed out is not written."""

from __future__ import annotations

import ast
import copy
import importlib.util
import json
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from visus.labs import shelf
from visus.labs.contract import Digits
from visus.labs.diagnosing import equal
from visus.labs.judging import inputs_of, judge
from visus.labs.outputs import named, silent

HERE = Path(__file__).parent
NAMES = shelf.names()


def load(path: Path, name: str = "") -> ModuleType:
    spec = importlib.util.spec_from_file_location(name or path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def solution(name: str) -> str:
    return (HERE / "solutions" / f"{name}.py").read_text()


def rows() -> list[tuple[str, str, str, str, str]]:
    return [(name, *row) for name in NAMES for row in load(HERE / "wrong" / f"{name}.py").WRONG]


def verdicts(name: str, module: ModuleType, *, timed: bool = False) -> dict:
    lab, right, found = shelf.get(name), [], {}
    for part in lab.parts:
        found[part.name] = judge(lab, module, part, right, timed=timed)
        right += [part.name] if found[part.name].verdict in ("right", "slow") else []
    return found


def test_there_are_at_least_fourteen_labs_and_none_without_a_solution_and_three_wrong_versions():
    assert len(NAMES) >= 14
    for name in NAMES:
        assert (HERE / "solutions" / f"{name}.py").is_file(), name
        assert len(load(HERE / "wrong" / f"{name}.py").WRONG) >= 3, name
        assert (Path(shelf.__file__).parent / "exercises" / f"{name}.py").is_file(), name


@pytest.mark.parametrize("name", NAMES)
def test_the_solution_is_right_in_every_function(name: str):
    found = verdicts(name, load(HERE / "solutions" / f"{name}.py"), timed=True)
    assert {v.verdict for v in found.values()} == {"right"}, [v for v in found.values() if v.verdict != "right"]


@pytest.mark.parametrize("name", NAMES)
def test_the_exercise_as_handed_out_is_not_written_and_asks_for_the_same_functions(name: str, tmp_path: Path):
    path = tmp_path / f"{name}.py"
    path.write_text(shelf.exercise(name))
    found = verdicts(name, load(path))
    assert {v.verdict for v in found.values()} == {"not written"}, found
    lab, tree = shelf.get(name), ast.parse(shelf.exercise(name))
    given = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert {part.name for part in lab.parts} <= set(given)
    answer = {node.name: node for node in ast.parse(solution(name)).body if isinstance(node, ast.FunctionDef)}
    for part in lab.parts:
        assert ast.get_docstring(given[part.name]), part.name
        assert [a.arg for a in given[part.name].args.args] == [a.arg for a in answer[part.name].args.args], part.name
        assert len(given[part.name].body) == 2, f"{part.name} holds more than words"


@pytest.mark.parametrize("name", NAMES)
def test_every_typical_mistake_differs_from_the_right_answer_in_some_case(name: str):
    for part in shelf.get(name).parts:
        for mistake in part.mistakes:
            differs = False
            for number, case in enumerate(part.cases):
                inputs = inputs_of(case, number)
                right = named(silent(part.right, copy.deepcopy(inputs)), part.outputs)
                wrong = named(silent(mistake.compute, copy.deepcopy(inputs)), part.outputs, gaps=True)
                assert set(wrong) <= set(right), (part.name, mistake.says)
                differs |= any(not equal(wrong[key], right[key]) for key in wrong)
            assert differs, (part.name, mistake.says)


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row[0]}-{row[1]}-{row[4][:30]}")
def test_a_typical_mistake_isnamed(row, tmp_path: Path):
    name, function, old, new, words = row
    text = solution(name)
    whole = next(ast.get_source_segment(text, node) for node in ast.parse(text).body
                 if isinstance(node, ast.FunctionDef) and node.name == function)
    assert whole.count(old) == 1, f"{old!r} occurs {whole.count(old)} times in {function}"
    path = tmp_path / "mine.py"
    path.write_text(text.replace(whole, whole.replace(old, new)))
    found = verdicts(name, load(path), timed="loop is left" in words)[function]
    assert found.verdict in ("wrong", "stopped", "slow"), found
    assert words in found.diagnosis, found
    if found.verdict == "wrong":
        assert "expected" in found.words or "input" in found.words or "gives" in found.words or "holds" in found.words


@pytest.mark.parametrize("name", NAMES)
def test_what_a_lab_shows_of_the_solution_holds(name: str):
    with np.load(Path(shelf.__file__).parents[1] / "data/builtin/digits.npz") as sets:
        digits = Digits.of(sets["images"], sets["labels"])
    shown = shelf.get(name).draw(load(HERE / "solutions" / f"{name}.py"), digits)
    assert shown.words and shown.figures and shown.facts
    assert all(fact.holds for fact in shown.facts), [fact for fact in shown.facts if not fact.holds]


def test_what_a_verdict_says_is_plain_enough_for_json():
    lab = shelf.get("svm")
    found = judge(lab, load(HERE / "solutions/svm.py"), lab.parts[0], timed=False)
    assert json.loads(json.dumps(found.plain()))["verdict"] == "right"
