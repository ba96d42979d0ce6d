"""train.compile: the same curve, weights under their names, and graph breaks told. The backend is aot_eager: no C++."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import visus
from visus.core.errors import RecipeError
from visus.core.weights import read_state_dict
from visus.run import compiled
from visus.run.recipe import Recipe


def train(folder, name, **values):
    generator = np.random.Generator(np.random.PCG64(0))
    labels = np.arange(60) % 3
    images = generator.integers(0, 128, (60, 8, 8, 3), dtype=np.uint8) + (40 * labels[:, None, None, None]).astype(
        np.uint8)
    np.savez(folder / "data.npz", images=images, labels=labels)
    return visus.train(folder / "data.npz", out=folder / name, progress=False, values={
        "train.epochs": 1, "train.batch_size": 14, "model.name": "mlp", "data.image_size": 8, "report.budget_s": 0,
        "model.config.hidden_dims": [8], "train.threads": 1, "train.layout": "contiguous", "train.precision": "fp32",
        "doctor.before": False, **values})


@pytest.mark.slow
def test_a_compiled_run_learns_the_same_and_keeps_the_names_of_its_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    train(tmp_path, "plain")
    train(tmp_path, "compiled", **{"train.compile": True})
    a, b = (read_state_dict(tmp_path / name / "model/model.safetensors") for name in ("plain", "compiled"))
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        torch.testing.assert_close(tensor, b[name], rtol=1e-5, atol=1e-6)


def test_graph_breaks_are_counted_and_told(monkeypatch):
    monkeypatch.setattr(compiled, "BACKEND", "eager")

    class Breaks(torch.nn.Module):
        def forward(self, x):
            x = x + 1
            torch._dynamo.graph_break()
            return x * 2

    told, found = [], []
    torch._dynamo.reset()
    model = Breaks()
    report = compiled.CompileReport(model, lambda topic, text: told.append(text), found.append)
    model(torch.ones(3))

    class Epoch:
        step = 1

    report.on_epoch(Epoch())
    report.on_epoch(Epoch())
    assert len(told) == 1 and "2 graphs, 1 graph break (eager)" in told[0]
    assert len(found) == 1 and found[0].check == "graph-breaks" and "1 times" in found[0].evidence


def test_without_a_compiler_it_is_refused_at_the_door(monkeypatch):
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    recipe = Recipe().with_values({"train.compile": True})
    with pytest.raises(RecipeError, match="no compiler"):
        compiled.check_compile(recipe, torch.device("cpu"))
