"""visus tune at the command line: what is refused, with which words and which exit code."""

from __future__ import annotations

import sys

import pytest

from tests.run.kill_harness import make_data
from tests.run.test_tune import RATE, VALUES
from visus.cli.main import main


@pytest.mark.parametrize(("words", "said"), [
    ([], "no images given"),
    (["--recipe", "course"], "no images given"),
    (["digits", "--vary", "optimizer.lr"], "not of the form field=range"),
    (["digits", "--vary", "optimiser.lr=log:1e-4..1e-1"], "Did you mean 'optimizer.lr'"),
    (["digits", "--vary", "optimizer.lr=log:0..1"], "begins above 0"),
    (["digits", "--method", "bayes"], "no such method"),
    (["digits", "--pruner", "halve"], "Did you mean 'halving'"),
    (["digits", "--epochs", "1,two"], "whole numbers"),
    (["digits", "--search", "no/such.yaml"], "cannot be read"),
    (["digits", "--storage", "mysql://me:secret@host/db", "--model", "mlp"], "neither SQLite nor PostgreSQL"),
    (["--resume", "no/such/study"], "no such folder"),
    (["digits", "--resume", "study"], "takes|study's own"),
])
def test_a_wrong_wish_is_one_message_and_exit_code_2(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["tune", *words]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error and "secret" not in error
    assert any(part in error for part in said.split("|")), error


def test_a_quiet_search_prints_its_result_alone_and_hides_what_is_in_a_url(tmp_path, capsys, monkeypatch):
    data = make_data(tmp_path, files=False)
    sets = [word for name, value in VALUES.items() for word in ("--set", f"{name}={value}")]
    words = ["tune", str(data), "--vary", RATE[0], "--trials", "2", "--epochs", "1", "--method", "random", "--quiet",
             "--no-train-best", "--out", str(tmp_path / "s"), "--storage", f"sqlite:///{tmp_path / 'trials.db'}", *sets]
    monkeypatch.setattr(sys, "argv", ["visus", "tune", "--storage", "postgresql://me:secret@host/db"])
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert shown.split() == ["report", str(tmp_path / "s" / "report.html")]
    assert (tmp_path / "trials.db").exists() and not (tmp_path / "s" / "study.db").exists()
    assert "secret" not in " ".join(sys.argv) and "secret" not in (tmp_path / "s" / "study.json").read_text()
    assert main(["tune", "--resume", str(tmp_path / "s"), "--trials", "3", "--quiet"]) == 0
    assert len((tmp_path / "s" / "trials.csv").read_text().splitlines()) == 4
