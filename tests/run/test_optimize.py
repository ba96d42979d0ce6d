"""visus.optimize: a choice that is remembered and used, and a drop-in for any module."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from torch import nn

import visus
from visus.core.errors import UserError
from visus.core.files import sha256
from visus.deploy import machine, predictor
from visus.deploy.artifact import CHOICES, ONNX, read_bundle
from visus.run import optimize as verb


@pytest.fixture
def bundle(digits_bundle, tmp_path):
    shutil.copytree(digits_bundle, tmp_path / "bundle", ignore=shutil.ignore_patterns(CHOICES))
    return tmp_path / "bundle"


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Hardswish(), nn.AdaptiveAvgPool2d(1),
                        nn.Flatten(), nn.Linear(8, 5))
    net(torch.randn(16, 3, 12, 12))  # statistics that folding must respect
    return net.eval()


def test_the_choice_is_remembered_and_what_predict_uses(bundle, monkeypatch):
    found = visus.optimize(bundle, threads=1, seconds=2)
    assert found.remembered and (bundle / CHOICES).is_file()
    assert {row.candidate for row in found.table} >= {"torch", "torch-channels-last", "torch-folded", "torch-compile",
                                                      "onnxruntime", "openvino"}
    held = machine.chosen(read_bundle(bundle), with_torch=True)
    assert (held["backend"], held["threads"]) == (found.choice.candidate, found.choice.threads)
    opened: list[tuple[str, int]] = []
    real = predictor.open_session

    def spy(path, backend, threads, **options):
        opened.append((backend, threads))
        return real(path, backend, threads, **options)

    monkeypatch.setattr(predictor, "open_session", spy)
    free = machine.chosen(read_bundle(bundle))
    asked = predictor.open_predictor(bundle)
    assert opened == [(free["backend"], free["threads"])]
    image = verb.golden_images(read_bundle(bundle), 1)
    assert np.abs(asked.probs(image[0]) - found(image)[0]).max() < 1e-5


def test_an_explicit_choice_and_another_machines_are_not_used(bundle, monkeypatch):
    own = machine.machine()
    opened: list[tuple[str, int]] = []
    monkeypatch.setattr(predictor, "open_session",
                        lambda path, backend, threads, **_: opened.append((backend, threads)))
    given = {"backend": "onnxruntime-spinning", "threads": 1}
    machine.remember(read_bundle(bundle), 1, {"fastest": given, "without_torch": given})
    predictor.open_predictor(bundle)
    predictor.open_predictor(bundle, backend="openvino", threads=2)
    monkeypatch.setattr(machine, "machine", lambda: own | {"cpu": "another"})
    predictor.open_predictor(bundle)
    assert opened == [("onnxruntime-spinning", 1), ("openvino", 2), ("onnxruntime", 1)]


def test_a_damaged_graph_is_refused_by_every_runtime_and_torch_is_kept(bundle):
    """A graph whose last bias is another one: quick, and wrong."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load_model(bundle / ONNX)
    for tensor in model.graph.initializer:
        if list(tensor.dims) == [10]:
            changed = onnx.numpy_helper.to_array(tensor).copy()
            changed[3] += 0.5
            tensor.CopyFrom(onnx.numpy_helper.from_array(changed, tensor.name))
    (bundle / ONNX).write_bytes(model.SerializeToString())
    about = json.loads((bundle / "bundle.json").read_text())
    about["files"][ONNX] = verb.sha256(bundle / ONNX)
    (bundle / "bundle.json").write_text(json.dumps(about))
    found = visus.optimize(bundle, threads=1, seconds=1)
    rows = {row.candidate: row for row in found.table}
    assert rows["onnxruntime"].verdict == "refused" and "differs by" in rows["onnxruntime"].reason
    assert found.choice.candidate.startswith("torch")
    assert machine.chosen(read_bundle(bundle)) == {}  # nothing that predict could use without torch


def test_int8_is_tried_when_asked_and_its_file_is_remembered(bundle):
    found = visus.optimize(bundle, threads=1, int8=True, seconds=2)
    rows = {row.candidate: row for row in found.table if "int8" in row.candidate}
    assert set(rows) == {"onnxruntime int8", "openvino int8"}
    assert all(row.verdict in ("fastest", "equal", "slower", "refused", "skipped") for row in rows.values()), rows
    kept = {path.name for path in bundle.glob("model.int8*")}
    held = machine.chosen(read_bundle(bundle))
    assert kept == ({held["file"]} if "file" in held else set())
    predictor.open_predictor(bundle)


def test_a_new_int8_graph_leaves_one_that_another_choice_names(bundle):
    older, forgotten = bundle / "model.int8-0123456789ab.onnx", bundle / "model.int8-ba9876543210.onnx"
    for file in (older, forgotten):
        shutil.copy(bundle / ONNX, file)
    machine.remember(read_bundle(bundle), 3, {"without_torch": {
        "backend": "onnxruntime", "threads": 1, "file": older.name, "sha256": sha256(older)}})
    visus.optimize(bundle, threads=1, int8=True, seconds=1)
    assert older.is_file() and not forgotten.exists()
    assert machine.chosen(read_bundle(bundle), 3)["file"] == older.name


def test_int8_of_a_run_is_judged_on_its_test_images(digits_run, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(digits_run, run, ignore=shutil.ignore_patterns("export", "checkpoints"))
    judged = []
    real = verb.Sample.judged

    def judge(self, found):
        judged.append((len(found), self.targets is not None, real(self, found)))
        return judged[-1][2]

    monkeypatch.setattr(verb.Sample, "judged", judge)
    visus.optimize(run, threads=1, int8=True, seconds=1)
    with np.load(run / "evaluation" / "test.npz") as file:
        assert judged[0][:2] == (min(verb.JUDGED, len(file["probs"])), True)
    assert judged[0][2][0] < 0.05


def test_a_run_is_exported_when_needed_only(digits_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(digits_run, run, ignore=shutil.ignore_patterns("export", "checkpoints"))
    visus.optimize(run, threads=1, seconds=1)
    bundle, first = run / "export" / "bundle", (run / "export" / "bundle" / ONNX).stat().st_mtime_ns
    visus.optimize(run, threads=1, seconds=1)
    assert (bundle / ONNX).stat().st_mtime_ns == first
    about = json.loads((run / "model" / "model.json").read_text())
    about["calibration"] = {"method": "temperature", "temperature": 2.0}
    (run / "model" / "model.json").write_text(json.dumps(about))
    visus.optimize(run, threads=1, seconds=1)
    assert read_bundle(bundle).calibrated


def test_a_module_becomes_a_drop_in_that_computes_the_same():
    model, example = small(), torch.rand(2, 3, 12, 12)
    found = visus.optimize(model, example, threads=1, seconds=1)
    with torch.inference_mode():
        for images in (example, torch.rand(2, 3, 12, 12)):
            given = found(images)
            assert isinstance(given, torch.Tensor) and given.dtype == torch.float32 and not given.requires_grad
            torch.testing.assert_close(given, model(images), rtol=1e-5, atol=1e-6)
        other = torch.rand(3, 3, 20, 8)  # another shape: the module itself answers
        assert torch.equal(found(other), model(other))
    assert not model.training and model[0].weight.requires_grad, "the module stays as it was"
    assert "Optimised(" in repr(found) and found.choice.verdict == "fastest" and found.bundle is None


def test_the_way_back_to_torch_stays_where_no_runtime_is_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "openvino", None)
    found = visus.optimize(small(), torch.rand(1, 3, 12, 12), threads=1, seconds=1)
    rows = {row.candidate: row for row in found.table}
    assert rows["onnxruntime"].reason == "pip install 'visus[export]'"
    assert rows["openvino"].reason == "pip install 'visus[openvino]'"
    assert found.choice.candidate.startswith("torch")


def test_a_graph_with_the_examples_answer_built_in_is_refused():
    class Net(nn.Module):
        def forward(self, images):  # NumPy's part is a constant to whoever traces it
            return images.mean((2, 3)) + torch.from_numpy(images.detach().numpy().sum((2, 3)))

    found = visus.optimize(Net().eval(), torch.rand(1, 3, 8, 8), threads=1, seconds=1)
    verdicts = {row.verdict for row in found.table if row.candidate in ("onnxruntime", "openvino")}
    assert verdicts <= {"refused", "failed", "missing"}, found.table
    assert found.choice.candidate.startswith("torch")


@pytest.mark.parametrize("options, message", [
    ({"model": small().train(), "example": torch.rand(1, 3, 12, 12)}, "training mode"),
    ({"model": small()}, "is needed with a module"),
    ({"model": small(), "example": torch.rand(1, 3, 12, 12), "int8": True}, "needs real images"),
    ({"model": small(), "example": torch.rand(1, 3, 12, 12), "threads": 0}, "must be auto or at least 1"),
    ({"model": small(), "example": torch.rand(1, 3, 12, 12), "threads": 10_000}, "is more than the .* processors"),
    ({"model": nn.LSTM(4, 4).eval(), "example": torch.rand(2, 3, 4)}, "not one tensor"),
    ({"model": "no/such/run"}, "no such run"),
    ({"model": small(), "example": torch.rand(1, 3, 12, 12), "batch": 0}, "at least 1"),
    ({"model": small(), "example": torch.rand(1, 3, 12, 12), "seconds": 0}, "above 0"),
])
def test_wrong_values_are_named(options, message):
    with pytest.raises(UserError, match=message):
        visus.optimize(**options)
