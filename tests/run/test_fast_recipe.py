"""The recipe of the speed runs through the verb: what it promises is in the run, and a resume gives the same bits."""

from __future__ import annotations

import numpy as np
import torch

from visus.core.weights import read_state_dict
from visus.run.load import load
from visus.run.recipe import Recipe
from visus.run.recipes import find_recipe
from visus.run.train import train

SMALL = {"model.config": {"dims": [6, 8, 8]}, "train.epochs": 2, "train.batch_size": 12, "train.threads": 1,
         "train.layout": "contiguous", "data.workers": 0, "doctor.before": False, "report.budget_s": 0}


def colours(folder) -> str:
    """60 images of 16 px in two colours, as an .npz."""
    generator = np.random.Generator(np.random.PCG64(0))
    labels = np.arange(60) % 2
    images = generator.integers(0, 120, (60, 16, 16, 3), dtype=np.uint8)
    images[np.arange(60), :, :, labels] += 100
    np.savez(folder / "colours.npz", images=images, labels=labels)
    return str(folder / "colours.npz")


def test_the_recipe_names_the_know_how_and_trains(tmp_path, capsys):
    recipe = Recipe.load(find_recipe("fast"))
    assert (recipe.optimizer.name, recipe.schedule.name, recipe.evaluate.tta) == ("muon_unit", "triangular", "flip")
    assert [step["name"] for step in recipe.augmentation] == ["alternating_flip", "random_crop"]
    run = train(colours(tmp_path), recipe="fast", values=SMALL, out=tmp_path / "run")
    said = " ".join(capsys.readouterr().out.split())
    assert "the first filters whiten the patches of training images" in said
    assert run.preprocessing.views == "flip"
    stem = read_state_dict(tmp_path / "run/model/model.safetensors")["stem.weight"]  # [24, 3, 2, 2]
    assert torch.equal(stem[:12], -stem[12:]), "the whitening filters and their negatives, never trained"


def test_predictions_are_those_of_the_evaluation_with_its_views(tmp_path):
    data = colours(tmp_path)
    run = train(data, recipe="fast", values=SMALL, out=tmp_path / "run", progress=False)
    with np.load(tmp_path / "run/evaluation/test.npz") as saved:
        probs, index = saved["probs"], saved["index"]
    with np.load(data) as file:
        images = file["images"][index]
    again = [answer for image in images for answer in load(run.path).predict([image])]
    found = np.array([[dict(zip(a.labels, a.probs, strict=True))[name] for name in run.preprocessing.labels]
                      for a in again])
    assert np.allclose(found, probs, atol=1e-5)
