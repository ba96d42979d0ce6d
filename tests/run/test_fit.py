"""Classical models through `visus train`: the same verbs, run folder and report as networks."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

import visus
from visus.core.errors import CheckpointError, RecipeError, UserError
from visus.run.registered import entry_of, is_fitted

QUICK = {"model.name": "nearest_mean", "report.budget_s": 0}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return visus.train("digits", values=QUICK, out=tmp_path_factory.mktemp("fit") / "run", progress=False)


def test_a_fitted_model_leaves_a_whole_run_with_report_and_portable_model(run):
    assert run.status == "finished" and run.metrics["accuracy"] > 0.8
    page = run.report.read_text()
    assert "fitted to all images at once" in page and "No step was logged" not in page
    again = visus.load(run.path).model
    assert torch.equal(again.means, run.model.means)


def test_a_fitted_model_is_explained_attacked_and_calibrated(run, tmp_path):
    from visus.run.trust import renew

    copy = shutil.copytree(run.path, tmp_path / "copy")
    renew(copy, 600)
    trust = json.loads((copy / "trust.json").read_text())
    assert {"calibration", "explanations", "robustness"} <= trust["sections"].keys(), trust["left_out"]
    assert trust["sections"]["explanations"]["method"] == "occlusion"


def test_the_fit_is_the_mean_of_the_training_split_alone(run):
    from visus.run.evaluate import own_splits

    samples, splits = own_splits(run.folder, run.recipe)
    images = torch.stack([run.preprocessing.resized(samples.read(int(i), (255, 255, 255))) for i in splits["train"]])
    flat = run.preprocessing.normalise(images.float() / 255).flatten(1)
    targets = np.asarray(samples.targets)[splits["train"]]
    for number in range(10):
        torch.testing.assert_close(run.model.means[number], flat[targets == number].mean(0), atol=1e-4, rtol=1e-4)


def test_the_recipe_that_a_fit_leaves_behind_fits_the_same_again(run, tmp_path):
    again = visus.train(recipe=run.path / "recipe.yaml", values={"report.budget_s": 0}, out=tmp_path / "again",
                        progress=False)
    assert torch.equal(again.model.means, run.model.means) and again.metrics == run.metrics


@pytest.mark.parametrize(("field", "value"), [
    ("train.epochs", 3), ("optimizer.lr", 0.1), ("mix.mixup", 0.2), ("loss.label_smoothing", 0.1), ("train.ema", 0.9),
    ("model.init", "zeros"), ("augmentation", [{"name": "horizontal_flip"}])])
def test_a_field_that_a_fit_would_ignore_is_refused_by_name(field, value, tmp_path):
    with pytest.raises(RecipeError) as caught:
        visus.train("digits", values=QUICK | {field: value}, out=tmp_path / "run", progress=False)
    assert field.split(".")[0] in str(caught.value.where) and not (tmp_path / "run").exists()


def test_a_fit_is_interrupted_between_batches_and_resumed_from_the_beginning(tmp_path, monkeypatch, run):
    from visus.classical.nearest_mean import NearestMean
    from visus.core.errors import Interrupted

    fit = NearestMean.fit

    def killed(self, examples):
        import os
        import signal

        os.kill(os.getpid(), signal.SIGINT)
        return fit(self, examples)

    monkeypatch.setattr(NearestMean, "fit", killed)
    with pytest.raises(Interrupted):
        visus.train("digits", values=QUICK, out=tmp_path / "run", progress=False)
    monkeypatch.setattr(NearestMean, "fit", fit)
    resumed = visus.resume(tmp_path / "run", progress=False)
    assert resumed.status == "finished" and torch.equal(resumed.model.means, run.model.means)


def test_a_damaged_fitted_model_is_refused(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "copy")
    file = tmp_path / "copy" / "model" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(CheckpointError):
        visus.load(tmp_path / "copy").predict([np.zeros((8, 8, 3), np.uint8)])


def test_names_of_networks_and_of_fitted_models_are_one_list():
    from visus import classical
    from visus.models import registry

    assert not set(classical.registry.names()) & set(registry.names())
    assert is_fitted("nearest_mean") and not is_fitted("resnet20")
    with pytest.raises(UserError, match="nearest_mean"):
        entry_of("nearest_meen")


def test_the_index_of_classical_models_is_fresh():
    from visus import classical

    assert classical.registry.fresh_index() == json.loads(classical.registry.index_path.read_text())


def test_a_model_without_a_gradient_is_attacked_by_questions(tmp_path):
    from visus.run.trust import _has_gradient

    images = torch.rand(1, 1, 4, 4)
    assert _has_gradient(lambda x: x.flatten(1)[:, :3] * 2, images)
    assert not _has_gradient(lambda x: torch.ones(1, 3), images)
    assert not _has_gradient(lambda x: (x.flatten(1)[:, :3] > 0.5).float(), images)
    assert not _has_gradient(lambda x: x.flatten(1)[:, :3] * 0, images)
