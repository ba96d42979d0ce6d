"""Fewer bits are believed where held-out images allow it, and declined where they do not."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from visus.core.errors import UserError

onnx = pytest.importorskip("onnx", reason="the extra export is not installed")
pytest.importorskip("onnxruntime", reason="the extra export is not installed")

from visus.core.files import sha256  # noqa: E402
from visus.deploy.artifact import read_bundle  # noqa: E402
from visus.run import held_out, precision  # noqa: E402
from visus.run.precision import lower_precision  # noqa: E402

SMALL = {"model.name": "resnet20", "model.config.depth": 1, "train.threads": 1, "train.layout": "contiguous"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(run, bundle) of a small net on digits."""
    import visus
    from visus.run.export import export

    out = tmp_path_factory.mktemp("precision")
    visus.train("digits", out=str(out / "run"), progress=False, values={"train.epochs": 2, **SMALL})
    export(out / "run", out=out / "bundle")
    return out / "run", out / "bundle"


@pytest.fixture
def bundle(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "SECONDS", 0.5)
    monkeypatch.setattr(held_out, "CALIBRATION", 48)
    return shutil.copytree(trained[1], tmp_path / "bundle")


def test_int8_takes_the_place_of_the_model_and_the_bundle_is_whole(bundle, trained):
    before = bundle.joinpath("model.onnx").stat().st_size
    report = lower_precision(bundle, "int8", run=trained[0], most_loss=0.05, least_agreement=0.9)
    assert report.accepted and report.sentence.startswith("accepted")
    found = read_bundle(bundle)  # compares the SHA-256 of every file
    assert found.about["precision"] == "int8"
    assert found.about["lower_precision"]["agreement"][0] == report.agreement[0]
    assert report.bytes_after == (bundle / "model.onnx").stat().st_size < 0.5 * before == 0.5 * report.bytes_before
    low, high = report.loss[1:]
    assert low <= report.loss[0] <= high
    assert report.loss[0] == pytest.approx(report.accuracy_before[0] - report.accuracy_after[0])
    assert report.calibration_images == 48 and report.speed[1] <= report.speed[0] <= report.speed[2]
    with pytest.raises(UserError, match="precision int8 already"):
        lower_precision(bundle, "half", run=trained[0])


def test_the_accuracy_before_is_that_of_the_run(bundle, trained):
    from visus.core.files import read_json

    report = lower_precision(bundle, "half", run=trained[0])
    stated = read_json(trained[0] / "metrics.json")["splits"]["test"]["metrics"]["accuracy"]["value"]
    assert report.accuracy_before[0] == pytest.approx(stated, abs=1e-9)
    assert report.accepted and report.agreement[0] > 0.99 and report.largest_difference < 0.01
    assert read_bundle(bundle).about["precision"] == "float16" and report.half_speed is not None


def test_what_loses_too_much_is_declined_and_nothing_changes(bundle, trained, monkeypatch):
    def careless(source, target, images, **_):
        """Every class answered as the next one."""
        model = onnx.load(source)
        last = next(node for node in reversed(model.graph.node) if node.op_type in ("Gemm", "MatMul"))
        for tensor in model.graph.initializer:
            if tensor.name in last.input[1:]:
                values = onnx.numpy_helper.to_array(tensor)
                axis = list(values.shape).index(10)
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.roll(values, 1, axis), tensor.name))
        target.write_bytes(model.SerializeToString())
        return type("Result", (), {"kept_float": ()})()

    monkeypatch.setattr(precision, "quantised", careless)
    digest = sha256(bundle / "model.onnx")
    report = lower_precision(bundle, "int8", run=trained[0])
    assert not report.accepted and report.sentence.startswith("declined, float32 stays")
    assert "of the answers stay" in report.sentence and "the accuracy falls by" in report.sentence
    assert report.agreement[0] < 0.2 and report.loss[0] > 0.5
    assert sha256(bundle / "model.onnx") == digest and read_bundle(bundle).about["precision"] == "float32"


def test_a_folder_without_labels_judges_by_agreement_alone(bundle, digit_folder, tmp_path):
    report = lower_precision(bundle, "int8", images=digit_folder, out=tmp_path / "new" / "int8.onnx",
                             least_agreement=0.8)
    assert report.accuracy_before is report.loss is None
    assert report.calibration_images == 20 and report.held_out_images == 20
    assert "20 images tell little" in report.sentence
    assert read_bundle(tmp_path / "new" / "int8.onnx").about["precision"] == "int8"
    assert read_bundle(bundle).about["precision"] == "float32"


@pytest.fixture
def digit_folder(tmp_path):
    from pathlib import Path

    from PIL import Image

    import visus.data.builtin

    images = np.load(Path(visus.data.builtin.__file__).parent / "digits.npz")["images"]
    folder = tmp_path / "digits"
    folder.mkdir()
    for number in range(40):
        Image.fromarray(np.asarray(images[number], np.uint8).squeeze()).save(folder / f"{number:03d}.png")
    return folder


def test_images_that_calibrate_do_not_judge(trained):
    held = held_out.of_run(trained[0], 2000)
    assert not set(held.calibration) & set(held.held_out) and len(held.calibration) == 1000
    counts = np.bincount(np.asarray(held.samples.targets)[held.calibration])
    assert counts.max() - counts.min() <= 1  # of every class alike


def test_options_are_checked(bundle, trained):
    with pytest.raises(UserError, match="kind='int4'"):
        lower_precision(bundle, "int4", run=trained[0])
    with pytest.raises(UserError, match="either a run or images"):
        lower_precision(bundle, "int8")
    with pytest.raises(UserError, match="most_loss"):
        lower_precision(bundle, "int8", run=trained[0], most_loss=2)
