"""visus compress from the command line: the table, JSON, and errors with exit code 2."""

import json

import pytest

import visus
from visus.cli.main import main

FAST = ["--epochs", "0", "--set", "report.budget_s=0", "--set", "train.threads=1"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    out = tmp_path_factory.mktemp("compress") / "run"
    visus.train("digits", out=str(out), progress=False, values={
        "model.name": "resnet20", "model.config.depth": 1, "train.epochs": 1, "train.threads": 1,
        "train.layout": "contiguous", "report.budget_s": 0, "report.ladder_s": 0, "doctor.budget_s": 0})
    return out


def test_the_table_compares_before_and_after(source, tmp_path, capsys):
    assert main(["compress", str(source), "--method", "channels", "--amount", "0.25", "0.5", "--out",
                 str(tmp_path / "out"), *FAST]) == 0
    printed = capsys.readouterr().out
    for text in ("before", "channels 0.25", "channels 0.5", "parameters", "MMACs", "CPU ms", "amount-0.25"):
        assert text in printed


def test_json_is_the_record(source, tmp_path, capsys):
    assert main(["compress", str(source), "--method", "deep", "--amount", "0.5", "--json", "--out",
                 str(tmp_path / "out"), *FAST]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record == json.loads((tmp_path / "out" / "compress.json").read_text())
    assert [row["name"] for row in record["rows"]] == ["before", "deep 0.5"]


@pytest.mark.parametrize("arguments", [["--method", "smaller"], ["--method", "magnitude", "--amount", "2"],
                                       ["--method", "qat", "--bits", "40"], ["--method", "distil"]])
def test_a_wrong_option_is_said_and_ends_with_2(source, tmp_path, capsys, arguments):
    assert main(["compress", str(source), *arguments, "--out", str(tmp_path / "out"), *FAST]) == 2
    assert "error" in capsys.readouterr().err and not (tmp_path / "out").exists()
