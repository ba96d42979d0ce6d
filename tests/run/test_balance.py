"""What a training does against classes of different sizes is done, recorded and drawn."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

import visus
from tests.report.page_reader import PageReader
from visus.core.preprocessing import Preprocessing
from visus.data.opening import open_samples
from visus.data.split import split_samples
from visus.doctor.image_set import ImageSet
from visus.doctor.images.imbalance import imbalance
from visus.run.balance import balance_record
from visus.run.build import build_loader, build_task
from visus.run.recipe import Recipe

COUNTS = (60, 30, 6)
VALUES = {"model.name": "softmax_regression", "data.image_size": 4, "data.channels": 1, "train.epochs": 1,
          "train.batch_size": 16, "augmentation": [], "train.threads": 1, "train.layout": "contiguous",
          "report.budget_s": 0, "doctor.watch": False}


@pytest.fixture
def uneven(tmp_path):
    labels = np.repeat([0, 1, 2], COUNTS)
    images = np.random.default_rng(0).integers(0, 255, (96, 4, 4, 1)).astype(np.uint8)
    path = tmp_path / "uneven.npz"
    np.savez(path, images=images, labels=labels)
    return path


def test_counts_before_and_after_and_weights_are_on_the_page(uneven, tmp_path):
    values = VALUES | {"data.sampling": "weighted", "loss.class_weights": "balanced"}
    run = visus.train(uneven, values=values, out=tmp_path / "run", progress=False)
    rows = json.loads((run.path / "data.json").read_text())["balance"]["classes"]
    images = [row["images"] for row in rows]
    assert [row["draws"] for row in rows] == pytest.approx([sum(images) / 3] * 3, abs=0.1)
    assert [row["weight"] for row in rows] == pytest.approx([sum(images) / (3 * n) for n in images], abs=1e-3)
    text = PageReader(run.report.read_text()).text("main")
    assert "Images are drawn with replacement, every class equally often (q = 1); classes weighed by 1" in text
    assert "Draws an epoch" in text and "Weight in the loss" in text


def test_nothing_done_is_nothing_said(uneven, tmp_path):
    run = visus.train(uneven, values=VALUES, out=tmp_path / "run", progress=False)
    assert json.loads((run.path / "data.json").read_text())["balance"] is None
    assert "Draws an epoch" not in run.report.read_text()


@pytest.mark.parametrize("values, words", [
    ({"loss.name": "focal"}, "focal loss, gamma 2"),
    ({"loss.name": "class_balanced", "loss.beta": 0.99}, "effective number of images, beta 0.99"),
    ({"loss.name": "logit_adjusted"}, "logits adjusted by the class shares, tau 1"),
    ({"loss.class_weights": "effective"}, "1 / effective number of images, beta 0.999"),
    ({"data.sampling": "sqrt"}, "by the root of its size"),
])
def test_each_remedy_has_its_sentence_and_reaches_loader_and_loss(uneven, values, words):
    recipe = Recipe().with_values({**VALUES, "loss.name": "cross_entropy", "task": "classification", **values})
    samples = open_samples(uneven)
    train = split_samples(samples)["train"]
    record = balance_record(samples, train, recipe)
    assert words in f"{record['sampling']}; {record['loss']}"
    plain = Preprocessing(size=(4, 4), channels=1, mean=(0.0,), std=(1.0,), labels=samples.classes)
    recipe = recipe.with_values({"data.workers": 0, "data.cache": False})
    import torch

    loader = build_loader(recipe, samples, train, plain, training=True, device=torch.device("cpu"), cache=None)
    assert (loader.sampling is not None) == ("data.sampling" in values)
    loss = build_task(recipe, plain, samples.class_counts(train)).loss_function
    logits, targets = torch.randn(6, 3), torch.tensor([0, 0, 0, 1, 1, 2])
    plain_loss = torch.nn.functional.cross_entropy(logits, targets)
    assert (loss(logits, targets) == plain_loss) == ("data.sampling" in values)


def test_validation_is_never_drawn_anew(uneven):
    import torch

    recipe = Recipe().with_values({**VALUES, "data.sampling": "weighted", "data.workers": 0, "data.cache": False})
    samples = open_samples(uneven)
    val = split_samples(samples)["val"]
    plain = Preprocessing(size=(4, 4), channels=1, mean=(0.0,), std=(1.0,), labels=samples.classes)
    loader = build_loader(recipe, samples, val, plain, training=False, device=torch.device("cpu"), cache=None)
    assert np.concatenate([batch.index.numpy() for batch in loader.epoch(0)]).tolist() == val.tolist()


def test_the_doctors_remedy_names_fields_and_values_that_there_are():
    labels = np.repeat([0, 1], [220, 10])
    images = ImageSet(read=lambda i: np.zeros((4, 4), np.uint8), labels=labels, split=np.full(230, "train"),
                      sources=tuple(map(str, range(230))), classes=("a", "b"))
    remedy = next(iter(imbalance(images))).remedy
    fields = dict(re.findall(r"((?:data|loss)\.\w+)=(\w+)", remedy))
    assert fields.keys() == {"data.sampling", "loss.class_weights", "loss.name"}
    Recipe().with_values(fields)
    for name in ("focal", "logit_adjusted"):
        assert name in remedy
