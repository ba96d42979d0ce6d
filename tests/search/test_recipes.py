"""The two scripts of recipes/nas: they say what they do, and what they have written down adds up."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from visus.search.design_space import SPACES, Stages, distance, edf
from visus.search.one_shot import kendall

FOLDER = Path(__file__).resolve().parents[2] / "recipes" / "nas"


def script(name: str, *arguments: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(FOLDER.parents[1])}
    return subprocess.run([sys.executable, str(FOLDER / name), *arguments], capture_output=True, text=True, check=True,
                          env=environment).stdout


@pytest.fixture(scope="module")
def results() -> dict:
    return json.loads((FOLDER / "results.json").read_text())


@pytest.mark.parametrize(("name", "flags"), [("search.py", ("--method", "--data", "--budget", "--log")),
                                             ("edf.py", ("--spaces", "--count", "--macs", "--log"))])
def test_help_names_the_flags(name, flags):
    text = script(name, "--help")
    assert all(flag in text for flag in flags)


@pytest.mark.parametrize(("name", "shows"), [("search.py", "Rank correlation (Kendall)"),
                                             ("edf.py", "largest distance of the two distributions")])
def test_the_last_results_are_shown(name, shows):
    assert shows in script(name, "--show")


def test_searches_had_equal_budgets_and_what_is_stated_follows(results):
    section = results["search"]
    for method, runs in section["methods"].items():
        assert len(runs) == section["seeds"]
        for run in runs:
            assert len(run["test"]) == section["final_seeds"] and run["best_so_far"] == list(
                itertools.accumulate(run["scores"], max))
            assert run["best_val"] == run["best_so_far"][-1] and run["trained"] in (0, len(run["best_so_far"]))
            if method in ("random", "controller"):
                assert run["trained"] == section["budget"]
    assert [run["best_val"] for run in section["methods"]["none"]] == [run["best_so_far"][0] for run in
                                                                       section["methods"]["random"]]
    rank = section["rank"]
    assert rank["kendall"] == round(kendall(rank["inherited"], rank["alone"]), 3)
    assert rank["kendall_of_two_seeds"] == round(kendall(rank["alone"], rank["alone_other_seed"]), 3)


def test_error_distributions_follow_from_the_errors(results):
    section = results["edf"]
    assert len(section["spaces"]) == 2
    for name, found in section["spaces"].items():
        assert edf(found["errors"], found["at"]).tolist() == found["edf"]
        assert all(a <= b <= c for a, b, c in zip(found["low"], found["edf"], found["high"], strict=True))
        for fields in found["stages"]:
            assert Stages(**{key: tuple(value) for key, value in fields.items()}) in SPACES[name]
    errors = [np.array(found["errors"]) for found in section["spaces"].values()]
    assert section["distance"] == round(distance(*errors), 4)


@pytest.mark.parametrize("name", ["search.svg", "edf.svg"])
def test_the_figures_are_whole_and_carry_their_style(name):
    text = (FOLDER / name).read_text()
    root = ElementTree.fromstring(text)
    assert root.tag.endswith("svg") and ".visus-chart" in text and len(re.findall("<polyline", text)) >= 2


def test_a_small_search_runs_resumes_and_draws(tmp_path):
    arguments = ("--method", "random", "--budget", "1", "--seeds", "1", "--epochs", "1", "--final-epochs", "1",
                 "--final-seeds", "1", "--nodes", "1", "--log", str(tmp_path / "log.jsonl"), "--out", str(tmp_path))
    first = script("search.py", *arguments)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert script("search.py", *arguments) == first and len(lines) == 2
    assert (tmp_path / "log.jsonl").read_text().splitlines() == lines and (tmp_path / "search.svg").exists()
    assert "random" in first and "Rank" not in first
