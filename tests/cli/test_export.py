"""The command: what it prints, how it refuses."""

from __future__ import annotations

import pytest

from tests.deploy.test_export import saved
from visus.cli import export as cli
from visus.cli.main import main
from visus.run.export import KINDS


def test_the_commands_kinds_are_the_functions():
    assert tuple(KINDS) == cli.KINDS


@pytest.mark.parametrize("precision", [None, "--half"])
def test_it_prints_the_comparison_and_where_the_artifact_lies(digits_run, tmp_path, capsys, precision):
    out = tmp_path / "bundle"
    words = ["export", str(digits_run), "--out", str(out), "--licence", "MIT"] + ([precision] if precision else [])
    assert main(words) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "64 real images: largest difference of a probability" in shown and str(out) in shown.replace(" ", "")
    assert ("held-out images" in shown) == bool(precision)
    assert main(["export", "--check", str(out)]) == 0
    assert "64 real images" in capsys.readouterr().out
    assert main(words) == 2
    assert "--force" in capsys.readouterr().err


def test_a_difference_beyond_the_tolerance_is_exit_code_2(tmp_path, digit_files, capsys):
    run = saved(tmp_path / "run")
    assert main(["export", str(run), "--to", "onnx", "--out", str(tmp_path / "net.onnx"), "--images",
                 str(digit_files), "--tolerance", "1e-12"]) == 2
    shown = capsys.readouterr().err
    assert "differently" in shown and "--to safetensors" in shown and not (tmp_path / "net.onnx").exists()
