"""visus export: every kind answers as the run does, or is refused and leaves nothing behind."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch

import visus
from visus.core.errors import CheckpointError, RunError, UserError
from visus.core.preprocessing import Preprocessing
from visus.core.record import RunFolder
from visus.deploy.artifact import read_bundle
from visus.deploy.golden import read_golden
from visus.deploy.predictor import open_predictor
from visus.run import export as verb
from visus.run.bundle import save_model
from visus.run.export import check, export
from visus.run.models import create_model, model_config

LABELS = tuple("0123456789")
KINDS = {"bundle": None, "onnx": None, "torch-export": None, "safetensors": None, "openvino": "openvino"}


def saved(folder, name="softmax_regression", task="classification", seed=0, views="none", **about):
    """A model's folder, of random weights large enough that answers differ."""
    torch.manual_seed(seed)
    model = create_model(name, num_classes=10, in_channels=1, image_size=8)
    weights = {key: torch.randn_like(tensor) if tensor.is_floating_point() else tensor
               for key, tensor in model.state_dict().items()}
    rules = Preprocessing(size=(8, 8), channels=1, mean=(0.3,), std=(0.4,), labels=LABELS, views=views)
    save_model(folder / "model", weights, name=name, config=model_config(model), task=task, about=about,
               preprocessing=rules)
    return folder


def answers(source, files, **options):
    return [dict(zip(one.labels, one.probs, strict=True)) for one in visus.predict(source, files, top=10, **options)]


def apart(first, second):
    return max(abs(a[label] - b[label]) for a, b in zip(first, second, strict=True) for label in a)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_a_run_is_written_and_compared_on_its_test_images(digits_run, tmp_path, kind, digit_files):
    if KINDS[kind]:
        pytest.importorskip(KINDS[kind])
    out = tmp_path / ("model.onnx" if kind == "onnx" else "model.pt2" if kind == "torch-export" else kind)
    assert export(digits_run, kind, out, licence="CC-BY-4.0") == out
    if kind == "torch-export":
        from visus.deploy.torch_export import open_torch_export

        ask, about = open_torch_export(out)
        assert ask(np.zeros((3, 16, 16, 1), np.uint8)).shape == (3, 10)
    elif kind == "safetensors":
        about = json.loads((out / "model.json").read_text())
        assert apart(answers(digits_run, digit_files), answers(out, digit_files)) == 0
    else:
        about = read_bundle(out).about
        assert apart(answers(digits_run, digit_files), answers(out, digit_files)) < 1e-5
    assert about["golden"]["images"] == 64 and about["golden"]["largest"] <= 1e-5 and not about["golden"]["changed"]
    assert about["golden"]["from"] == "test split" and about["licence"] == "CC-BY-4.0"
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_the_bundle_holds_the_evidence(digits_bundle):
    card = json.loads((digits_bundle / "card.json").read_text())
    assert card["classes"] == list(LABELS) and card["metrics"]["accuracy"]["value"] > 0.7
    assert card["seeds"] == {"train": 0, "split": 0} and "digits" in card["intended_use"]
    assert json.loads((digits_bundle / "passport.json").read_text())["name"] == "resnet20"
    assert "No licence is stated" in (digits_bundle / "LICENSE.txt").read_text()
    golden = read_golden(digits_bundle / "golden.npz")
    assert golden.images.shape == (64, 16, 16, 1) and golden.probs.shape == (64, 10)
    assert visus.predict(digits_bundle / "model", golden.images[0])[0].probs[0] == pytest.approx(golden.probs[0].max())


def test_a_bundle_can_be_checked_again(digits_bundle, tmp_path):
    assert check(digits_bundle).largest < 1e-5
    with pytest.raises(CheckpointError, match="golden"):
        check(digits_bundle / "model.onnx")


@pytest.mark.parametrize("about", [
    {"calibration": {"method": "temperature", "temperature": 2.5}},
    {"calibration": {"method": "isotonic", "knots": [[0.0, 0.2, 1.0]] * 10, "values": [[0.1, 0.3, 0.9]] * 10,
                     "floor": 0.01}},
    {"views": "flip_shift"}])
def test_calibration_and_views_are_inside(tmp_path, digit_files, about):
    run = saved(tmp_path / "run", **about)
    out = export(run, "onnx", tmp_path / "net.onnx", images=digit_files)
    given = answers(out, digit_files)
    assert apart(given, answers(run, digit_files, calibrated="calibration" in about)) < 1e-5
    if "calibration" in about:
        assert apart(given, answers(run, digit_files)) > 1e-2


def test_several_labels_have_thresholds(tmp_path, digit_files):
    run = saved(tmp_path / "run", task="multilabel")
    limits = tmp_path / "limits.json"
    limits.write_text(json.dumps({"3": 0.9, "7": 0.1}))
    out = export(run, "onnx", tmp_path / "net.onnx", images=digit_files, thresholds=str(limits))
    assert open_predictor(out).bundle.thresholds == (0.5, 0.5, 0.5, 0.9, 0.5, 0.5, 0.5, 0.1, 0.5, 0.5)
    for one, probs in zip(visus.predict(out, digit_files), answers(run, digit_files), strict=True):
        least = {label: 0.9 if label == "3" else 0.1 if label == "7" else 0.5 for label in LABELS}
        assert set(one.chosen) == {label for label in LABELS if probs[label] >= least[label]}
    for wrong in ("1.5", "-1", 2.0, {"x": 0.5}, str(digit_files)):
        with pytest.raises(UserError):
            export(run, "onnx", tmp_path / "other.onnx", images=digit_files, thresholds=wrong)
    with pytest.raises(UserError, match="one class"):
        export(saved(tmp_path / "single"), "onnx", tmp_path / "other.onnx", images=digit_files, thresholds=0.4)


def test_an_ensemble_and_the_folds_of_a_cross_validation_are_one_artifact(tmp_path, digit_files):
    folds = RunFolder.create(tmp_path / "folds", kind="folds", folds=2, task="classification")
    for k in (1, 2):
        saved(folds.path / f"fold-{k}", seed=k)
    out = export(folds.path, "bundle", tmp_path / "bundle", images=digit_files)
    expected = answers(folds.path, digit_files)
    assert apart(answers(out, digit_files), expected) < 1e-5
    assert apart(answers(out / "model", digit_files), expected) == 0
    again = export(out / "model", "safetensors", tmp_path / "portable", images=digit_files)
    assert apart(answers(again, digit_files), expected) == 0


def test_a_fixed_batch_answers_one_image_as_well(tmp_path, digit_files):
    run = saved(tmp_path / "run")
    out = export(run, "onnx", tmp_path / "net.onnx", images=digit_files, fixed_batch=3)
    assert apart(answers(out, digit_files), answers(run, digit_files)) < 1e-5


def test_another_size_is_let_through_only_where_the_net_takes_it(tmp_path, digit_files, digits_run):
    with pytest.raises(UserError, match="only"):
        export(saved(tmp_path / "run"), "onnx", tmp_path / "net.onnx", images=digit_files, dynamic_size=True)
    assert not (tmp_path / "net.onnx").exists()
    out = export(digits_run, "onnx", tmp_path / "net.onnx", dynamic_size=True)
    assert open_predictor(out).session(np.zeros((1, 40, 24, 1), np.uint8)).shape == (1, 10)


def test_answers_beyond_the_tolerance_are_refused_and_nothing_is_left(tmp_path, digit_files):
    run, out = saved(tmp_path / "run"), tmp_path / "out" / "net.onnx"
    with pytest.raises(UserError, match="differently") as caught:
        export(run, "onnx", out, images=digit_files, tolerance=1e-12)
    assert "40 real images" in str(caught.value) and "--tolerance" in caught.value.remedy
    assert not list(out.parent.iterdir())


def test_what_is_there_is_replaced_only_when_asked_and_only_when_ours(tmp_path, digit_files):
    run, out = saved(tmp_path / "run"), tmp_path / "portable"
    export(run, "safetensors", out, images=digit_files)
    with pytest.raises(UserError, match="there already"):
        export(run, "safetensors", out, images=digit_files)
    (out / "old").touch()
    export(run, "safetensors", out, images=digit_files, force=True)
    assert not (out / "old").exists()
    other = tmp_path / "precious"
    other.mkdir()
    (other / "thesis.txt").touch()
    os.symlink(out, tmp_path / "link")
    for target in (other, run, tmp_path / "link"):
        with pytest.raises(UserError, match="not an artifact of ours"):
            export(run, "safetensors", target, images=digit_files, force=True)
    assert (other / "thesis.txt").exists() and (run / "model" / "model.json").exists()


def test_a_failure_in_the_middle_leaves_the_old_artifact_whole(tmp_path, digit_files, monkeypatch):
    run, out = saved(tmp_path / "run"), tmp_path / "portable"
    export(run, "safetensors", out, images=digit_files)
    before = (out / "model.json").read_bytes()
    monkeypatch.setattr(verb, "_write_evidence", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError):
        export(run, "safetensors", out, images=digit_files, force=True)
    assert (out / "model.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["portable", "run"]


def test_a_classical_model_is_exported_or_told_what_works(tmp_path, digit_files):
    run = saved(tmp_path / "run", name="logistic_regression")
    out = export(run, "onnx", tmp_path / "net.onnx", images=digit_files)
    assert apart(answers(out, digit_files), answers(run, digit_files)) < 1e-5


def test_without_images_it_says_which_option_gives_some(tmp_path):
    with pytest.raises(RunError) as caught:
        export(saved(tmp_path / "run"))
    assert "--images" in caught.value.remedy


@pytest.mark.parametrize("options", [
    {"to": "coreml"}, {"tolerance": 0}, {"half": True, "int8": True}, {"to": "safetensors", "int8": True},
    {"fixed_batch": 0}, {"to": "safetensors", "dynamic_size": True}, {"to": "onnx", "out": "model.bin"}])
def test_options_that_do_not_fit_are_refused_before_anything_is_read(digits_run, tmp_path, options, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError):
        export(digits_run, **{"out": "bundle"} | options)
    assert not list(tmp_path.iterdir())


