"""An exported model answers as the run does, without torch."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

import visus
from visus.core.errors import DataError, ImageError, RunError, UserError
from visus.deploy.predictor import open_predictor


def test_the_bundle_gives_the_runs_probabilities_on_real_images(digits_run, digits_bundle, digit_files):
    predictor = open_predictor(digits_bundle)
    for answer in visus.predict(digits_run, digit_files, top=10):
        probs = predictor.probs(predictor.prepared(predictor.read(answer.source).pixels))
        assert predictor.chosen(probs) == answer.chosen
        by_label = dict(zip(answer.labels, answer.probs, strict=True))
        expected = np.array([by_label[label] for label in predictor.bundle.labels])
        assert np.abs(probs - expected).max() < 1e-5


def test_predicting_by_a_bundle_gives_the_predictors_bits_in_any_company(digits_bundle, digit_files):
    predictor = open_predictor(digits_bundle)
    files = sorted(digit_files.iterdir())
    together = visus.predict(digits_bundle, files, top=3)
    for one, file in zip(together, files, strict=True):
        probs = predictor.probs(predictor.prepared(predictor.read(file).pixels))
        assert list(one.probs) == [prob for _, prob in predictor.top(probs, 3)]
        assert one == visus.predict(predictor, file, top=3)[0]
    from_bytes, from_array = visus.predict(digits_bundle, [files[0].read_bytes(), predictor.read(files[0]).pixels])
    assert from_bytes.probs == from_array.probs == visus.predict(digits_bundle, files[0])[0].probs


def test_the_lower_class_is_first_among_equals(digits_bundle):
    predictor = open_predictor(digits_bundle)
    probs = np.array([0.1, 0.3, 0.05, 0.3, 0.05, 0.05, 0.05, 0.05, 0.05, 0.0], np.float32)
    assert [k for k, _ in predictor.top(probs, 4)] == [1, 3, 0, 2]
    assert predictor.chosen(probs) == ("1",)


def test_neither_the_function_nor_the_command_imports_torch(digits_bundle, digit_files):
    code = ("import sys, visus; from visus.cli.main import main\n"
            f"assert visus.predict({str(digits_bundle)!r}, {str(digit_files / '001.png')!r})[0].chosen\n"
            f"assert main(['predict', {str(digits_bundle)!r}, {str(digit_files)!r}, '--output', 'jsonl']) == 0\n"
            "heavy = {'torch', 'rich', 'pydantic', 'yaml', 'onnx', 'openvino'} & set(sys.modules)\n"
            "assert not heavy, heavy")
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert len(ran.stdout.splitlines()) == 40


def test_the_commands_output_has_the_same_form_for_runs_and_bundles(digits_run, digits_bundle, digit_files, capsys,
                                                                    tmp_path):
    from visus.cli.main import main

    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    for form in ("jsonl", "csv", "table"):
        shown = []
        for source in (digits_run, digits_bundle):
            assert main(["predict", str(source), str(digit_files / "003.png"), str(bad), "--top", "2",
                         "--output", form, "--annotate", str(tmp_path / form)]) == 2
            shown.append(capsys.readouterr())
        run, bundle = shown
        assert run.err == bundle.err and "bad.png" in run.err
        if form == "jsonl":
            first, second = (json.loads(one.out.splitlines()[0]) for one in shown)
            assert first["predicted"] == second["predicted"] and len(second["top"]) == 2
        else:
            end = ": " if form == "table" else ","
            assert run.out.split(end)[0] == bundle.out.split(end)[0]
            assert len(run.out.splitlines()) == len(bundle.out.splitlines())
        assert len(list((tmp_path / form).glob("*.png"))) == 1


def test_bad_images_stop_or_are_named(digits_bundle, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"\xff\xd8\xff" + b"\0" * 40)
    with pytest.raises(ImageError):
        visus.predict(digits_bundle, bad)
    assert visus.predict(digits_bundle, bad, on_bad_image="skip")[0].error
    with pytest.raises(DataError):
        visus.predict(digits_bundle, tmp_path / "none.jpg")


def test_what_a_bundle_cannot_do_is_said(digits_bundle, digit_files, capsys):
    with pytest.raises(UserError, match="calibration"):
        visus.predict(digits_bundle, digit_files, calibrated=True)
    with pytest.raises(UserError, match="processor"):
        visus.predict(digits_bundle, digit_files, device="cuda")
    with pytest.raises(RunError, match="visus export wrote"):
        visus.load(digits_bundle)


def test_calibrated_is_said_to_be_inside_already(digits_bundle, digit_files, capsys, monkeypatch):
    from visus.cli.main import main
    from visus.deploy.artifact import Bundle

    monkeypatch.setattr(Bundle, "calibrated", property(lambda self: True))
    assert main(["predict", str(digits_bundle), str(digit_files / "000.png"), "--calibrated"]) == 0
    assert "by itself" in capsys.readouterr().err
