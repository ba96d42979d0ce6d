"""Templates of linear classifiers in their runs: which models have some, what is drawn; and a deep net under an SVM."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import visus
from visus.core.record import RunFolder
from visus.report import templates as shown
from visus.run.templates import draw_templates, templates_of

QUIET = {"report.budget_s": 0, "report.ladder_s": 0, "doctor.before": False, "doctor.watch": False}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of a network that is linear and of a fitted linear classifier."""
    out = tmp_path_factory.mktemp("runs")
    for name, values in {"softmax_regression": {"train.epochs": 1},
                         "logistic_regression": {"model.config.l2": 0.1}}.items():
        visus.train("digits", values={"model.name": name, **values, **QUIET}, out=out / name, progress=False)
    return out


@pytest.mark.parametrize("name", ["softmax_regression", "logistic_regression"])
def test_a_linear_model_shows_each_class(runs, name):
    folder = RunFolder.open(runs / name)
    rows = json.loads((runs / name / "templates.json").read_text())["rows"]
    assert [row["class"] for row in rows] == [str(k) for k in range(10)]
    view = shown.view(folder)
    assert view is not None and len(view["pictures"]) == 10 and view["left"] == 0
    text = (runs / name / "report.html").read_text()
    assert "What each class looks for" in text and 'id="templates"' in text


def test_templates_are_the_weights_about_grey(runs):
    model = visus.load(runs / "logistic_regression").model
    weights = templates_of(model, (1, 16, 16))
    assert weights is not None and torch.equal(weights, model.weight.reshape(10, 1, 16, 16))
    picture = np.asarray(Image.open(runs / "logistic_regression" / "images" / "template-03.png")).astype(float)
    template = weights[3, 0] / weights[3].abs().max()
    factor = len(picture) // 16
    np.testing.assert_allclose(picture[::factor, ::factor], 127.5 * (1 + template.numpy()), atol=0.51)


def test_other_models_have_none(tmp_path):
    net = visus.create_model("mlp", num_classes=10, in_channels=1, image_size=8)
    assert templates_of(net, (1, 8, 8)) is None
    folder = RunFolder(tmp_path)
    draw_templates(folder, net, (1, 8, 8), [str(k) for k in range(10)])
    assert not (tmp_path / "templates.json").exists() and shown.view(folder) is None


def test_an_svm_on_top_of_a_deep_net_learns(tmp_path):
    values = {"model.name": "mlp", "loss.name": "squared_hinge", "optimizer.name": "adam", "optimizer.lr": 1e-3,
              "optimizer.weight_decay": 1e-4, "train.epochs": 8, **QUIET}
    run = visus.train("digits", values=values, out=tmp_path / "dlsvm", progress=False)
    assert run.recipe.loss.name == "squared_hinge" and run.metrics["accuracy"] > 0.85
