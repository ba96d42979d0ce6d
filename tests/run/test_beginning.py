"""model.init, model.norm and model.weight_norm of a recipe: what is trained is what is loaded, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import visus
from visus.core.errors import UserError
from visus.core.preprocessing import Preprocessing
from visus.layers.initialise import weight_layers
from visus.layers.normalise import StandardisedConv2d, normalisation_of
from visus.run.build import build_model
from visus.run.recipe import Recipe

SMALL = {"model.name": "resnet20", "model.config.depth": 1, "data.image_size": 8, "train.epochs": 1,
         "train.batch_size": 128, "train.threads": 1, "train.layout": "contiguous", "report.budget_s": 0,
         "augmentation": []}
PIXELS = Preprocessing(size=(8, 8), channels=1, mean=(0.5,), std=(0.5,), labels=tuple("abc"))


class _Display:
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, topic: str, text: str) -> None:
        self.said.append(f"{topic}: {text}")

    def download(self):
        from contextlib import nullcontext

        return nullcontext()


def _model(display=None, first=None, **values) -> nn.Module:
    fields = {"model.name": "resnet20", "model.config.depth": 1}
    fields |= {name.replace("__", "."): value for name, value in values.items()}
    return build_model(Recipe().with_values(fields), PIXELS, 3, display, first)


@pytest.mark.parametrize("values", [
    {"model.norm": "group", "model.weight_norm": "weight_standardisation", "model.init": "lsuv"},
    {"model.weight_norm": "weight_norm", "model.norm": "none", "model.init": "orthogonal"},
    {"model.init": "fixup"}], ids=lambda values: values["model.init"])
def test_a_trained_model_is_loaded_as_it_was_trained(values, tmp_path):
    run = visus.train("digits", values=SMALL | values, out=tmp_path / "run", progress=False)
    model = run.model
    wanted = normalisation_of(model)
    assert wanted.norm == ("fixup" if values["model.init"] == "fixup" else values["model.norm"])
    assert wanted.weight_norm == values.get("model.weight_norm", "none")
    assert any(isinstance(m, StandardisedConv2d) for m in model.modules()) == ("standard" in wanted.weight_norm)
    again = visus.evaluate(tmp_path / "run")
    assert again.metrics["accuracy"].value == run.metrics["accuracy"]
    kept = np.load(tmp_path / "run" / "evaluation" / "test.npz")
    image = (np.arange(64).reshape(8, 8) * 4).astype(np.uint8)
    assert len(visus.predict(tmp_path / "run", [image], top=10)[0].labels) == 10 and len(kept["probs"]) == again.count
    visus.explain(tmp_path / "run", [image], "grad_cam", out=tmp_path / "explained")
    assert (tmp_path / "explained" / "index.html").exists()


def test_lsuv_takes_the_first_batch_that_the_training_takes():
    from visus.data.loader import Loader
    from visus.data.opening import open_samples

    samples = open_samples("digits", "auto")
    loader = Loader(samples, np.arange(100), PIXELS, batch_size=64, shuffle=True, seed=0)
    display = _Display()
    model = _model(display, loader, model__init="lsuv")
    assert display.said == ["model: lsuv: 8 of 8 layers scaled to outputs of variance 1 on 64 images"]
    images = PIXELS.normalise(next(iter(loader.epoch(0))).images)
    seen = []
    for _, layer in weight_layers(model):
        layer.register_forward_hook(lambda m, a, out: seen.append(float(out.var(correction=0))))
    with torch.no_grad():
        model.train()(images)
    assert len(seen) == 8 and all(abs(variance - 1) < 1e-3 for variance in seen)


def test_what_was_chosen_is_said_and_follows_the_seed_of_the_training():
    display = _Display()
    first = _model(display, model__init="kaiming", model__norm="group", model__weight_norm="weight_norm")
    assert display.said == ["model: group norm in the place of each batch norm",
                            "model: weight norm in all convolutions and linear layers",
                            "model: kaiming: 8 layers drawn by seed 0"]
    again, other = _model(model__init="kaiming"), _model(model__init="kaiming", train__seed=1)
    torch.testing.assert_close(first.conv1.weight, again.conv1.weight.data)
    assert not torch.equal(again.conv1.weight, other.conv1.weight)
    small = _model(model__init="small", model__init_scale=0.3)
    assert float(small.conv1.weight.detach().std()) == pytest.approx(0.3, rel=0.2)


def test_the_random_numbers_after_building_do_not_depend_on_the_rule():
    states = []
    for how in ("auto", "kaiming", "sparse", "lsuv"):
        _model(model__init=how)
        states.append(torch.get_rng_state())
    assert all(torch.equal(states[0], state) for state in states)


def test_weights_of_ones_own_run_are_loaded_into_the_same_normalisation_and_no_rule_draws_over_them(tmp_path):
    from visus.core.weights import write_state_dict

    trained = _model(model__norm="group")
    with torch.no_grad():
        trained.conv1.weight.fill_(0.125)
    write_state_dict(tmp_path / "model.safetensors", trained.state_dict())
    display = _Display()
    again = _model(display, model__norm="group", model__init="kaiming",
                   model__weights=str(tmp_path / "model.safetensors"))
    assert (again.conv1.weight == 0.125).all()
    assert "model: the weights are loaded: model.init=kaiming draws none" in display.said


@pytest.mark.parametrize("values, words", [
    ({"model.init": "fixup", "model.norm": "group"}, "model.init=fixup, model.norm=group"),
    ({"model.init": "fixup", "model.name": "plain20"}, "residual"),
    ({"model.init": "fixup", "model.weight_norm": "weight_norm"}, "weight_norm"),
    ({"model.norm": "group", "model.name": "mlp"}, "model.norm=group"),
    ({"model.norm": "instance", "model.name": "resnet18"}, "model.norm=instance.*one place"),
    ({"model.norm": "group", "model.name": "resnet18", "model.weights": "torchvision", "model.origin": "torchvision"},
     "model.norm=group"),
    ({"model.init_scale": 0}, "model.init_scale"), ({"model.init": "he"}, "model.init")])
def test_what_cannot_be_is_refused_by_the_name_of_its_field(values, words):
    with pytest.raises(UserError, match=words):
        build_model(Recipe().with_values({"model.name": "resnet20"} | values), PIXELS, 3)
