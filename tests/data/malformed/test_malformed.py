"""Every row of the list is refused by name, place, value and remedy, and no byte, name or time of the folder changes.

Rows of reliability.md 2.1 that are tested elsewhere: 1 to 28 (images) in tests/core/test_images.py, 29, 30 and 61
(class folders, names) in tests/data/test_formats.py, 49 (archives that are unpacked) with tests/core/test_download.py,
51 and 52 (recipes) in tests/run/test_recipe.py, 53 to 60 (weights) in tests/core/test_weights.py.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.data.malformed import array_cases, box_cases, coco_cases, healthy
from tests.data.malformed.case import Case
from tests.image_zoo import tree_state
from visus.cli.main import main
from visus.core.errors import DataError
from visus.data.opening import open_samples

CASES = [*coco_cases.CASES, *box_cases.CASES, *array_cases.CASES]
FORMATS = ("coco", "voc", "yolo", "masks", "table", "npz", "idx", "cifar", "shards", "parquet")
NAMED = {"masks": "mask_folder"}


def made(case: Case, tmp_path: Path) -> Path:
    if case.format == "parquet":
        pytest.importorskip("pyarrow")
    (tmp_path / "data").mkdir()
    return case.make(tmp_path / "data")


def test_the_list_is_as_long_as_promised_and_names_each_case_once():
    assert len(CASES) >= 60 and max(Counter(case.name for case in CASES).values()) == 1
    assert {case.format for case in CASES} == set(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_the_set_that_the_cases_are_made_from_is_healthy(name, tmp_path):
    if name == "parquet":
        pytest.importorskip("pyarrow")
    samples = open_samples(getattr(healthy, name)(tmp_path))
    assert samples.format == NAMED.get(name, name) and len(samples) >= 4


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_malformed_set_is_refused_and_not_touched(case: Case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = made(case, tmp_path)
    before = tree_state(tmp_path)
    with pytest.raises(DataError) as caught:
        open_samples(path)
    error = caught.value
    message = "" if error.where is None else f"{error.where}: {error.problem}"
    assert re.search(case.message, message, re.DOTALL | re.IGNORECASE), message
    assert error.remedy and re.search(case.remedy, error.remedy)
    assert "np." not in message
    assert len(str(error)) < 3_000 and "the secret" not in str(error)
    assert tree_state(tmp_path) == before and not (tmp_path / "owned").exists()


@pytest.mark.parametrize("case", CASES[::7], ids=lambda case: case.name)
def test_the_command_line_says_it_without_a_traceback(case: Case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = made(case, tmp_path)
    before = tree_state(tmp_path)
    assert main(["data", "show", str(path)]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and "\n  -> " in said.err and "Traceback" not in said.err and not said.out
    assert tree_state(tmp_path) == before


@pytest.mark.parametrize("verb", [["data", "show"], pytest.param(["train"], marks=pytest.mark.slow),
                                  pytest.param(["doctor", "data"], marks=pytest.mark.slow)], ids="-".join)
def test_the_real_command_ends_with_2(verb, tmp_path):
    case = next(case for case in CASES if case.name == "yolo: a word")
    path = made(case, tmp_path)
    before = tree_state(tmp_path)
    done = subprocess.run([sys.executable, "-m", "visus", *verb, str(path)], capture_output=True, text=True,
                          cwd=tmp_path)
    assert done.returncode == 2 and "labels/train/0.txt:2" in done.stderr and "Traceback" not in done.stderr
    assert tree_state(tmp_path) == before


def test_a_message_is_bounded_whatever_a_file_holds(tmp_path):
    """A table whose header has a name of 100,000 characters; a copy of the error through a pipe is the same."""
    import pickle

    path = healthy.table(tmp_path, "path," + "x" * 100_000 + "\nimages/0.png,cat\n")
    with pytest.raises(DataError) as caught:
        open_samples(path)
    assert len(str(caught.value)) < 12_100 and "characters)" in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
