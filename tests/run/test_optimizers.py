"""visus optimizers: the list, the surfaces and the unit tests, as records, pages and on the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest

from visus.cli.main import main
from visus.core.errors import UserError
from visus.optim.build import OPTIMIZERS
from visus.report.contours import contour_segments, even_levels
from visus.report.optimizers import VERDICTS
from visus.run.optimizer_tests import watch_tests
from visus.run.optimizers import list_optimizers, watch_surfaces


def test_the_list_names_every_optimizer_with_its_rule_and_its_fields(capsys):
    found = {row["name"]: row for row in list_optimizers()}
    assert set(found) == set(OPTIMIZERS) and all(row["equation"] and row["paper"] for row in found.values())
    assert found["sgd"]["takes"] == "lr, momentum, nesterov, weight_decay"
    assert "weight_decay" not in found["rprop"]["takes"]
    assert main(["optimizers"]) == 0
    assert "adagrad" in capsys.readouterr().out
    assert main(["optimizers", "list", "--optimizer", "nesterov", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ["sgd"]


def test_surfaces_tell_the_first_step_from_which_on_a_path_is_near(tmp_path):
    out = tmp_path / "paths.html"
    record = watch_surfaces(["momentum"], ["ravine"], steps=150, out=out, progress=False)
    (surface,), (row,) = record["surfaces"], record["surfaces"][0]["rows"]
    path = np.array(row["path"])
    share = np.hypot(*path.T) / np.hypot(*surface["start"])
    assert len(path) == 151 and share[-1] == pytest.approx(row["distance"], abs=1e-4)
    assert (share[row["arrived"]:] <= 0.0101).all() and share[row["arrived"] - 1] > 0.0099
    page = out.read_text()
    assert page.count("<polyline") == 1 and "momentum, " in page and "http-equiv=\"Content-Security-Policy\"" in page
    assert "src=" not in page and "url(http" not in page  # nothing from elsewhere


def test_a_path_that_never_arrives_is_said_to_and_the_nearest_rate_is_drawn():
    record = watch_surfaces(["adam"], ["rosenbrock"], steps=5, out=None, progress=False)
    (row,) = record["surfaces"][0]["rows"]
    assert row["arrived"] is None and row["rates_arrived"] == 0 and 0 < row["distance"] < 1


def test_the_tests_give_a_verdict_for_every_rate_and_a_page(tmp_path):
    out = tmp_path / "tests.html"
    record = watch_tests(["nesterov", "muon"], ["quad_bowl, exact", "quad_bowl, gauss 0.1"], steps=30, out=out,
                         progress=False)
    assert [test["name"] for test in record["tests"]] and len(record["tests"]) >= 2
    nesterov, muon = record["optimizers"]
    assert len(nesterov["rates"]) == 6 and len(muon["rates"]) == 4
    for one in (nesterov, muon):
        assert all(len(row) == len(record["tests"]) and set(row) <= set(VERDICTS) for row in one["verdicts"])
    best = record["summary"][0]
    assert best["good"] == max(sum(v in ("good", "excellent") for v in row) for row in nesterov["verdicts"])
    page = out.read_text()
    assert page.count('class="diverged"') >= 1 and "quad_bowl, gauss 0.1" in page


def test_the_verb_draws_and_prints_both(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["optimizers", "surfaces", "--optimizer", "adagrad", "--on", "kink", "--steps", "20"]) == 0
    assert (tmp_path / "surfaces.html").is_file() and "adagrad" in capsys.readouterr().out
    assert main(["optimizers", "tests", "--optimizer", "lion", "--on", "line, exact", "--steps", "10", "--out", "-",
                 "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["summary"][0]["label"] == "lion"
    assert not (tmp_path / "tests.html").exists()


@pytest.mark.parametrize("words", [["surfaces", "--on", "rosenbrok"], ["tests", "--on", "nothing"], ["draw"],
                                   ["surfaces", "--optimizer", "adm"], ["list", "--steps", "3"],
                                   ["tests", "--steps", "0"]])
def test_what_cannot_be_is_said_with_a_remedy(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["optimizers", *words]) == 2
    assert "error:" in capsys.readouterr().err and not list(tmp_path.iterdir())
    with pytest.raises(UserError):
        watch_surfaces(surfaces=["rosenbrok"])


def test_contours_are_where_the_height_is():
    y, x = np.mgrid[-2:2:41j, -2:2:41j]
    heights = x**2 + y**2
    ends = contour_segments(heights, 1.0) * 0.1 - 2
    assert len(ends) > 40 and abs(np.hypot(ends[..., 0], ends[..., 1]) - 1).max() < 0.01
    length = np.hypot(*(ends[:, 1] - ends[:, 0]).T).sum()
    assert length == pytest.approx(2 * np.pi, rel=0.01)  # the whole circle, once
    saddle = contour_segments(np.array([[1.0, 0.0], [0.0, 1.0]]), 0.5)
    assert len(saddle) == 2 and len(contour_segments(heights, 99.0)) == 0
    assert len(even_levels(heights, 5)) == 5
