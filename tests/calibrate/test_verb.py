"""visus calibrate: what it writes, what predict does with it, and how it refuses."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import visus
from visus.calibrate.scaling import Temperature, fit_temperature, softmax
from visus.cli.main import main
from visus.core.errors import RunError, UserError
from visus.metrics.calibration import negative_log_likelihoods
from visus.run.bundle import load_model
from visus.run.calibrate import FOLDER, measures, saved_predictions

COUNT = 150


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """150 pictures of three classes with a column that says which are hard."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    rows = ["path,label,difficulty,odd"]
    for i in range(COUNT):
        hard = rng.random() < 0.5
        picture = rng.normal(110, 40, (8, 8, 3))
        picture[..., i % 3] += 3 if hard else 60
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
        rows.append(f"{i}.png,{'abc'[i % 3]},{'<b>hard' if hard else 'easy'},{'' if i == 3 else i % 2}")
    (folder / "data.csv").write_text("\n".join(rows) + "\n")
    return folder / "data.csv"


@pytest.fixture(scope="module")
def trained(table, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    visus.train(str(table), out=str(out), progress=False, values={
        "model.name": "mlp", "model.config.hidden_dims": (16,), "model.config.dropout": 0.2, "data.image_size": 8,
        "data.val": 0.3, "data.test": 0.3, "train.epochs": 6, "train.batch_size": 8, "optimizer.lr": 0.01,
        "train.threads": 1, "train.layout": "contiguous"})
    return out


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


def with_predictions(run: Path, temperature: float, seed: int = 0) -> None:
    """Saved predictions of a model that is `temperature` times too sure of itself."""
    for number, split in enumerate(("val", "test")):
        index = saved_predictions(visus.load(run).folder, split).index
        rng = np.random.default_rng(seed + number)
        logits = 2 * rng.normal(size=(len(index), 3))
        targets = (softmax(logits).cumsum(1) < rng.random((len(index), 1))).sum(1).clip(max=2)
        np.savez_compressed(run / "evaluation" / f"{split}.npz", index=index, targets=targets,
                            probs=softmax(temperature * logits).astype(np.float32))


def test_an_overconfident_run_is_corrected_and_predict_uses_it(run, table, capsys):
    with_predictions(run, 8.0)
    assert main(["calibrate", str(run), "--method", "temperature", "--ood", "none"]) == 0
    said = capsys.readouterr().out
    val = saved_predictions(visus.load(run).folder, "val")
    fitted = fit_temperature(val.probs, val.targets)
    assert fitted.temperature > 2 and f"logits divided by {fitted.temperature:.3f}" in said
    assert json.loads((run / "calibration.json").read_text())["temperature"] == fitted.temperature
    about = json.loads((run / "model" / "model.json").read_text())
    assert about["calibration"] == {"method": "temperature", "temperature": fitted.temperature}
    assert load_model(run).calibrator == Temperature(temperature=fitted.temperature)
    results = json.loads((run / FOLDER / "results.json").read_text())
    test = saved_predictions(visus.load(run).folder, "test")
    assert results["before"] == pytest.approx(measures(test.probs, test.targets))
    assert results["after"] == pytest.approx(measures(fitted(test.probs), test.targets))
    assert results["differences"]["nll"]["high"] < 0 and results["after"]["nll"] < results["before"]["nll"]
    assert results["differences"]["accuracy"] == {"value": 0, "low": 0, "high": 0, "p": 1}
    for name in ("reliability_before.svg", "reliability_after.svg", "risk_coverage.svg"):
        assert ET.parse(run / FOLDER / name).getroot().tag.endswith("svg"), name
    assert f"logits divided by {fitted.temperature:.3f}" in (run / "report.html").read_text()
    picture = str(table.parent / "0.png")
    plain, corrected = visus.predict(run, picture, top=3), visus.predict(run, picture, top=3, calibrated=True)
    assert plain[0].labels == corrected[0].labels
    np.testing.assert_allclose(corrected[0].probs, fitted(np.array([plain[0].probs]))[0], rtol=1e-5)
    assert main(["predict", str(run), picture, "--calibrated", "--output", "jsonl"]) == 0
    assert json.loads(capsys.readouterr().out)["top"][0]["prob"] == pytest.approx(corrected[0].probs[0], rel=1e-6)


def test_what_makes_it_worse_is_refused_and_an_earlier_correction_goes(run, table, capsys):
    with_predictions(run, 8.0)
    visus.calibrate(run, "temperature", ood="none")
    with_predictions(run, 1.0, seed=5)
    assert main(["calibrate", str(run), "--method", "isotonic", "--ood", "none"]) == 0
    assert "refused: isotonic regression worsens" in capsys.readouterr().out
    assert "calibration" not in json.loads((run / "model" / "model.json").read_text())
    assert json.loads((run / "calibration.json").read_text())["method"] is None
    assert not (run / FOLDER / "reliability_after.svg").exists()
    assert main(["predict", str(run), str(table.parent / "0.png"), "--calibrated"]) == 2
    assert "visus calibrate RUN" in capsys.readouterr().err


def test_what_is_fitted_depends_on_validation_alone(run):
    first = visus.calibrate(run, "auto", ood="none").record["choice"]
    with np.load(run / "evaluation" / "test.npz") as arrays:
        changed = {name: arrays[name] for name in arrays.files}
    changed["probs"] = changed["probs"][::-1]
    np.savez_compressed(run / "evaluation" / "test.npz", **changed)
    assert visus.calibrate(run, "auto", ood="none").record["choice"] == first


def test_groups_sets_dropout_and_strangers_are_measured(run, table, tmp_path, capsys):
    found = visus.calibrate(run, group="difficulty", dropout=4, ood=table.parent, alpha=0.2).record
    rows = {row["group"]: row for row in found["groups"]["rows"]}
    test = saved_predictions(visus.load(run).folder, "test")
    assert set(rows) == {"<b>hard", "easy"} and sum(row["count"] for row in rows.values()) == len(test.index)
    assert rows["easy"]["accuracy"] > rows["<b>hard"]["accuracy"] and found["groups"]["accuracy_gap"]["value"] > 0.1
    cells = [line.split(",")[2] for line in table.read_text().splitlines()[1:]]
    hard = np.array([cells[i] == "<b>hard" for i in test.index])
    assert rows["<b>hard"]["accuracy"] == pytest.approx((test.probs.argmax(1) == test.targets)[hard].mean())
    assert [row["method"] for row in found["conformal"]] == ["lac", "aps", "raps"]
    assert all(row["expected_low"] - 0.1 < row["coverage"] < row["expected_high"] + 0.1 for row in found["conformal"])
    assert found["dropout"]["passes"] == 4 and found["dropout"]["disagreement"] > 0
    scores = {row["score"]: row["auroc"] for row in found["ood"]["rows"]}
    assert set(scores) == {"max_softmax", "max_logit", "energy", "mahalanobis", "knn"}
    assert all(0.2 < value < 0.8 for value in scores.values())  # the same pictures: nothing to tell apart
    nlls = negative_log_likelihoods(test.probs, test.targets)
    assert found["before"]["nll"] == pytest.approx(nlls.mean())
    assert main(["calibrate", str(run), "--group", "odd"]) == 0
    said = capsys.readouterr().out
    assert "By odd" in said and "(few)" in said and "shuffled tiles" in said


def test_runs_on_the_same_test_images_are_averaged(run, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    found = visus.calibrate(run, ensemble=[other], ood="none").record["ensemble"]
    single, again, average = found["rows"]
    assert average["nll"] == pytest.approx(single["nll"]) == pytest.approx(again["nll"])
    assert found["disagreement"] == 0 and len(found["runs"]) == 2
    data = json.loads((other / "data.json").read_text())
    (other / "data.json").write_text(json.dumps(data | {"digest": "another"}))
    with pytest.raises(RunError, match="was trained on other images, labels or splits"):
        visus.calibrate(run, ensemble=[other], ood="none")


def test_without_its_images_a_run_is_calibrated_all_the_same(run, table, tmp_path):
    recipe = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(recipe.replace(str(table), str(tmp_path / "gone.csv")))
    found = visus.calibrate(run).record
    assert "ood" not in found and found["left_out"][0]["section"] == "ood" and "gone.csv" in found["left_out"][0]["why"]
    with pytest.raises(UserError, match=r"gone\.csv"):
        visus.calibrate(run, group="difficulty")


@pytest.mark.parametrize("arguments, words", [
    (["--method", "platt"], ["method='platt'", "temperature"]), (["--alpha", "1.5"], ["alpha=1.5", "between 0 and 1"]),
    (["--group", "dificulty"], ["no column 'dificulty'", "difficulty"]), (["--dropout", "-1"], ["dropout=-1"]),
    (["--dropout", "1"], ["dropout=1", "at least 2"]), (["--ood", "nowhere"], ["nowhere"]),
    (["--with", "nowhere"], ["nowhere", "no such run folder"])])
def test_wrong_options_are_named(run, capsys, arguments, words):
    assert main(["calibrate", str(run), *arguments, *(["--ood", "none"] if "--ood" not in arguments else [])]) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words), message
    assert "calibration" not in json.loads((run / "model" / "model.json").read_text())


def test_several_labels_are_refused(run, capsys):
    path = run / "model" / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"task": "multilabel"}))
    assert main(["calibrate", str(run)]) == 2
    assert "task=multilabel" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["missing", "cut", "not arrays", "lengths"])
def test_damaged_predictions_are_named(run, capsys, damage):
    path = run / "evaluation" / "val.npz"
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:200])
    elif damage == "not arrays":
        path.write_bytes(b"hello")
    else:
        np.savez(path, probs=np.ones((4, 3)), targets=np.ones(3), index=np.ones(4))
    assert main(["calibrate", str(run)]) == 2
    assert "val.npz" in capsys.readouterr().err


def test_a_damaged_calibration_is_named_and_only_when_asked_for(run, table, capsys):
    path = run / "model" / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"calibration": {"method": "temperature"}}))
    picture = str(table.parent / "0.png")
    assert main(["predict", str(run), picture]) == 0
    capsys.readouterr()
    assert main(["predict", str(run), picture, "--calibrated"]) == 2
    assert "the calibration is not one for 3 classes" in capsys.readouterr().err
