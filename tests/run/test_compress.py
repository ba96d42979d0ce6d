"""A compressed run is a run: it predicts and measures like any other, and the one that it came from is untouched."""

import hashlib
import json
import signal

import numpy as np
import pytest
import torch

import visus
from tests.deployed import SMALL
from visus.core.errors import Interrupted, MissingExtra, RunError, UserError
from visus.deploy.artifact import read_bundle
from visus.deploy.deep_file import read_deep
from visus.deploy.quantise_aware import Quantised
from visus.explain.feature_layer import last_maps
from visus.run import compress as compression
from visus.run.bundle import load_model
from visus.run.compress import Options, compress
from visus.run.export import check, export

QUICK = {"report.budget_s": 0, "train.threads": 1}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    out = tmp_path_factory.mktemp("compress") / "run"
    visus.train("digits", out=str(out), progress=False, values={"train.epochs": 2, **SMALL, **QUICK,
                                                                "report.ladder_s": 0, "doctor.budget_s": 0})
    return out


@pytest.fixture
def made(source, tmp_path):
    def make(method, **given):
        return compress(source, method, out=tmp_path / method, values=QUICK, **given)

    return make


def digest(folder):
    return {path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file()}


def weights(run):
    return load_model(run.path).model.state_dict()


def test_pruned_weights_are_zero_after_learning_on_and_nothing_happens_to_the_source(source, made):
    before = digest(source)
    found = made("magnitude", amount=0.6, epochs=2, options=Options(rounds=2))
    assert digest(source) == before
    first, row = found.record["rows"]
    assert row["parameters"] == first["parameters"] and row["macs"] == first["macs"]
    model = load_model(found.out).model
    kernels = [p for p in model.parameters() if p.ndim > 1]
    zeros = sum(int((p == 0).sum()) for p in kernels) / sum(p.numel() for p in kernels)
    assert zeros == pytest.approx(0.6, abs=1e-3)
    assert row["nonzero"] == pytest.approx(first["parameters"] - 0.6 * sum(p.numel() for p in kernels), abs=5)
    after = weights(visus.load(found.out))
    assert not torch.equal(after["fc.bias"], weights(visus.load(source))["fc.bias"])  # it learnt on
    assert row["value"] > 0.5
    epochs = [event["epoch"] for event in visus.load(found.out).log if event["event"] == "epoch"]
    assert epochs == [0, 1]


def test_a_run_with_fewer_channels_does_all_that_a_run_does(source, made, tmp_path):
    found = made("channels", amount=[0.25, 0.5], epochs=1)
    first, *rows = found.record["rows"]
    assert [row["name"] for row in rows] == ["channels 0.25", "channels 0.5"]
    assert first["parameters"] > rows[0]["parameters"] > rows[1]["parameters"]
    assert first["macs"] > rows[0]["macs"] > rows[1]["macs"]
    assert first["bytes"] > rows[0]["bytes"] > rows[1]["bytes"]
    run = found.runs[1]
    assert run.path == found.out / "amount-0.5" and run.report.is_file() and run.status == "finished"
    assert run.evaluate().metrics["accuracy"].value == pytest.approx(rows[1]["value"])
    pictures = [np.full((20, 20), grey, np.uint8) for grey in (0, 90, 255)]
    assert all(abs(sum(answer.probs) - 1) < 1e-5 for answer in run.predict(pictures, top=10))
    again = compress(run, "low-rank", amount=0.3, epochs=0, out=tmp_path / "again", values=QUICK,
                     options=Options(layers=("channel",)))
    assert again.record["rows"][1]["parameters"] < rows[1]["parameters"]
    assert load_model(again.out).model(torch.zeros(1, 1, 16, 16)).shape == (1, 10)
    assert visus.load(again.out).evaluate().metrics["accuracy"].value == again.record["rows"][1]["value"]
    recorded = json.loads((found.out / "compress.json").read_text())
    assert recorded["rows"] == json.loads(json.dumps(found.record["rows"]))
    assert (found.out / "compress.svg").read_text().startswith("<svg")


def test_what_was_interrupted_says_so_and_names_no_way_to_resume(source, made, tmp_path, monkeypatch):
    def stopped(net, source, recipe, folder, display, stop, *rest):
        stop.request(signal.SIGTERM)
        raise stop.interrupted(True, folder.path)

    monkeypatch.setattr(compression, "train_on", stopped)
    with pytest.raises(Interrupted, match="stopped by SIGTERM") as caught:
        made("magnitude", epochs=1)
    assert caught.value.exit_code == 143 and "--resume" not in caught.value.remedy
    assert "visus compress" in caught.value.remedy
    assert visus.load(tmp_path / "magnitude").status == "interrupted"


def test_deep_compression_comes_back_from_its_file(made):
    found = made("deep", amount=0.7, epochs=1, options=Options(convolution_bits=4, full_bits=3))
    row = found.record["rows"][1]
    decoded, kept = read_deep(found.out / "model" / "model.deep"), weights(found.runs[0])
    assert decoded.keys() == kept.keys()
    assert all(np.array_equal(decoded[name], kept[name].numpy()) for name in kept)
    kernels = {name: tensor for name, tensor in kept.items() if tensor.ndim > 1}
    assert all(len(tensor[tensor != 0].unique()) <= (7 if tensor.ndim == 2 else 15) for tensor in kernels.values())
    stages = row["notes"]["deep"]["total"]
    assert stages["plain"] > stages["pruned"] > stages["shared"] > stages["huffman"]
    assert row["bytes"] == (found.out / "model" / "model.deep").stat().st_size == row["notes"]["deep"]["file"]
    assert row["bytes"] < 0.2 * found.record["rows"][0]["bytes"]


def test_quantisation_aware_training_rounds_and_comes_back(made):
    found = made("qat", epochs=1)
    trained = load_model(found.out)
    layers = [module for module in trained.model.modules() if isinstance(module, Quantised)]
    assert len(layers) == 8 and all(float(layer.high) > 0 for layer in layers)
    assert found.record["rows"][1]["latency_ms"] is None
    assert found.record["rows"][1]["value"] > found.record["rows"][0]["value"] - 0.1
    images = torch.rand(1, 1, 16, 16, requires_grad=True)
    trained.model(images)[0, 0].backward()
    assert images.grad.abs().sum() > 0  # for explanations and attacks
    assert last_maps(trained.model, images.detach()).maps.isfinite().all()  # for Grad-CAM
    bundle = export(found.out)
    golden = read_bundle(bundle).about["golden"]
    assert golden["tolerance"] == 0.05 and golden["largest"] < 0.05 and golden["changed"] == 0
    assert check(bundle).largest <= 0.05


def test_learning_with_few_bits_wins_back_what_rounding_to_them_lost(source, tmp_path, monkeypatch):
    def unwritten(*_):
        raise MissingExtra("Writing ONNX", "export")

    monkeypatch.setattr(compression, "write_onnx", unwritten)  # a run without the file is whole too, and sooner there
    rounded, learnt = (compress(source, "qat", epochs=epochs, out=tmp_path / f"epochs-{epochs}", values=QUICK,
                                options=Options(weight_bits=3)).record["rows"][1]["value"] for epochs in (0, 2))
    assert learnt > rounded + 0.1


def test_the_net_is_never_worse_on_val_than_before_it_learnt_on(source, tmp_path):
    made = compress(source, "magnitude", amount=0.01, epochs=1, out=tmp_path / "out",
                    values=QUICK | {"optimizer.lr": 50.0, "train.clip_norm": 0.1})
    assert made.record["rows"][1]["value"] > 0.5


def test_a_student_learns_from_the_run(source, tmp_path):
    made = compress(source, "distil", epochs=1, out=tmp_path / "student", options=Options(student="mlp"),
                    values=QUICK | {"report.ladder_s": 0, "doctor.budget_s": 0})
    assert made.runs[0].recipe.distill.teacher == str(source.resolve())
    assert made.record["rows"][1]["parameters"] == sum(p.numel() for p in made.runs[0].model.parameters())


@pytest.mark.parametrize(("method", "given"), [
    ("tiny", {}), ("magnitude", {"amount": 1.0}), ("magnitude", {"amount": [0.5, 0.5]}), ("qat", {"amount": 0.5}),
    ("channels", {"options": Options(criterion="l9")}), ("magnitude", {"options": Options(scope="row")}),
    ("low-rank", {"amount": 0.5, "options": Options(energy=0.9)}), ("magnitude", {"epochs": -1}),
    ("low-rank", {"options": Options(layers=("rows",))}), ("distil", {}),
    ("magnitude", {"options": Options(rounds=0)})])
def test_what_does_not_fit_is_refused_and_leaves_nothing(source, tmp_path, method, given):
    with pytest.raises(UserError):
        compress(source, method, out=tmp_path / "out", values=QUICK, **given)
    assert not (tmp_path / "out").exists()


def test_what_cannot_learn_on_and_a_folder_that_is_taken_are_refused(source, tmp_path):
    with pytest.raises(RunError):
        compress(tmp_path, "magnitude")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(UserError, match="exists already"):
        compress(source, "magnitude", out=tmp_path / "taken")
