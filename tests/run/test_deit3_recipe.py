"""DeiT III's recipe: what it names, and that a run with it trains, on any model."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import visus
from visus.core.errors import RunError
from visus.core.preprocessing import Preprocessing
from visus.data.transforms import build_augmentation
from visus.optim.lamb import Lamb
from visus.run.build import build_mixing, build_model, build_task, make_optimizer
from visus.run.recipe import Recipe
from visus.run.recipes import find_recipe
from visus.run.train import _refuse_changes

RECIPE = Recipe.load(find_recipe("deit3-small-16"))
SMALL = {"train.epochs": 1, "train.batch_size": 20, "train.accumulate": 2, "data.image_size": 16,
         "schedule.warmup_epochs": 0.0, "train.threads": 1, "train.layout": "contiguous", "optimizer.lr": 0.01}


def test_it_names_every_part_of_table_1():
    assert [step["name"] for step in RECIPE.augmentation] == ["random_resized_crop", "horizontal_flip",
                                                              "three_augment", "color_jitter"]
    assert build_augmentation(list(RECIPE.augmentation)) is not None
    mixing = build_mixing(RECIPE, training=True)
    assert mixing is not None and (mixing.mixup, mixing.cutmix) == (0.8, 1.0)
    assert (RECIPE.loss.name, RECIPE.loss.label_smoothing) == ("binary_cross_entropy", 0.0)
    assert RECIPE.train.batch_size * RECIPE.train.accumulate == 2048 and RECIPE.train.clip_norm == 1.0
    model = build_model(RECIPE.with_values({"model.config.depth": 2}), Preprocessing(size=(224, 224)), 1000)
    assert isinstance(make_optimizer(RECIPE, model), Lamb)
    scales = [p for name, p in model.named_parameters() if name.endswith("gamma")]
    assert len(scales) == 4 and all(bool((p == 1e-4).all()) for p in scales), "LayerScale"
    task = build_task(RECIPE, Preprocessing(size=(224, 224), labels=tuple("abc")))
    logits, mixed = torch.tensor([[0.0, 2.0, -1.0]]), torch.tensor([[0.3, 0.7, 0.0]])
    expected = -(mixed * logits.sigmoid().log() + (1 - mixed) * (1 - logits.sigmoid()).log()).mean()
    torch.testing.assert_close(task.loss_function(logits, mixed), expected)


@pytest.mark.parametrize("model", [{"model.config.patch_size": 4, "model.config.dim": 32, "model.config.depth": 2,
                                    "model.config.num_heads": 2},
                                   {"model.name": "resnet20", "model.config": {"depth": 1}}], ids=["deit3", "resnet"])
def test_a_run_with_it_learns_on_any_model(tmp_path, model):
    generator = np.random.Generator(np.random.PCG64(0))
    labels = np.arange(240) % 3
    images = generator.integers(0, 80, (240, 16, 16, 3)) + 80 * labels[:, None, None, None]
    np.savez(tmp_path / "set.npz", images=images.astype(np.uint8), labels=labels)
    run = visus.train(tmp_path / "set.npz", recipe=RECIPE, values={**SMALL, **model}, out=tmp_path / "run",
                      progress=False)
    assert run.status == "finished" and run.recipe.optimizer.name == "lamb" and run.recipe.mix.cutmix == 1.0
    losses = [event["loss"] for event in run.log if event["event"] == "step"]
    assert np.isfinite(losses).all()
    assert losses[0] == pytest.approx(np.log(2), rel=0.5), "binary cross-entropy of a net that knows nothing"
    assert json.loads((tmp_path / "run/metrics.json").read_text())["splits"]["test"]["count"] == 36


def test_a_run_that_is_older_than_a_field_of_the_recipe_can_be_resumed(tmp_path):
    said = Recipe().model_dump(mode="json")
    del said["mix"]  # as a run of before mixing has it
    folder = SimpleNamespace(about={"recipe": said}, path=tmp_path, read=lambda *_: {})
    _refuse_changes(folder, Recipe(), fine=False)
    with pytest.raises(RunError, match=r"mix\.mixup: 0\.0 became 0\.2"):
        _refuse_changes(folder, Recipe().with_values({"mix.mixup": 0.2}), fine=False)
