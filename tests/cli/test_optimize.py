"""visus optimize: the table, JSON, wrong calls."""

from __future__ import annotations

import json
import shutil

import pytest

from visus.cli.main import main
from visus.deploy.artifact import CHOICES, ONNX


@pytest.fixture
def bundle(digits_bundle, tmp_path):
    shutil.copytree(digits_bundle, tmp_path / "bundle", ignore=shutil.ignore_patterns(CHOICES))
    return tmp_path / "bundle"


def test_the_table_names_every_way_and_the_choice(bundle, capsys):
    assert main(["optimize", str(bundle), "--threads", "1", "--seconds", "1"]) == 0
    out = capsys.readouterr().out
    for name in ("torch ", "onnxruntime ", "openvino", "torch-folded", "torch-channels-last", "torch-compile"):
        assert name in out, out
    assert "fastest: " in out and f"remembered in {bundle}" in out and "--compile tries it" in out


def test_json_has_a_row_for_each_and_the_machine(bundle, capsys):
    assert main(["optimize", str(bundle), "--threads", "1", "--seconds", "1", "--batch", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["batch"] == 2 and found["machine"]["cores"] >= 1 and found["remembered"]
    assert found["fastest"]["backend"] in {row["candidate"] for row in found["rows"]}
    assert all({"candidate", "threads", "verdict"} <= row.keys() for row in found["rows"])
    assert [row["verdict"] for row in found["rows"]].count("fastest") == 1


@pytest.mark.parametrize("words, said", [(["--threads", "many"], "auto or a number"), (["--batch", "0"], "at least 1"),
                                         (["--seconds", "-1"], "above 0")])
def test_wrong_values_exit_with_2(bundle, capsys, words, said):
    assert main(["optimize", str(bundle), *words]) == 2
    assert said in capsys.readouterr().err


def test_a_single_file_has_no_torch_model_to_compare_with(bundle, capsys):
    assert main(["optimize", str(bundle / ONNX)]) == 2
    assert "no torch model" in capsys.readouterr().err
    assert main(["optimize", str(bundle.parent / "nothing")]) == 2
