"""Regularisers, averages, snapshots and schedules from the recipe to the run folder."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import visus
from visus.core.errors import RecipeError
from visus.core.weights import read_state_dict
from visus.layers.dropconnect import DropConnectLinear
from visus.run.choose import Facts, choose
from visus.run.display import Display
from visus.run.recipe import Recipe
from visus.run.regularise import leave_out_connections
from visus.run.schedule import rate_factor, snapshot_epochs

FACTS = Facts(train_images=80, num_classes=3, multi_label=False, median_size=(8, 8), channels=1, in_memory=True,
              device="cpu")
BASE = {"model.name": "resnet20", "model.config.depth": 1, "data.image_size": 8, "train.epochs": 4,
        "train.batch_size": 32, "optimizer.lr": 0.05, "augmentation": [], "train.threads": 1,
        "train.layout": "contiguous", "train.precision": "fp32", "report.budget_s": 0, "doctor.watch": False}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 3
    pixels = rng.integers(0, 90, (120, 8, 8, 1)) + 50 * labels[:, None, None, None]
    path = tmp_path_factory.mktemp("tiny") / "tiny.npz"
    np.savez(path, images=pixels.astype(np.uint8), labels=labels)
    return path


def train(images, out, **values):
    return visus.train(images, out=out, progress=False, values=BASE | {
        name.replace("__", "."): value for name, value in values.items()})


def resolve(**values):
    return choose(Recipe().with_values(BASE | {name.replace("__", "."): v for name, v in values.items()}), FACTS)


def test_snapshots_lie_in_the_run_one_for_each_cycle_and_the_rate_falls_to_nothing_before_each(images, tmp_path):
    train(images, tmp_path / "run", train__snapshots=2)
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("snapshot-*"))
    assert kept == ["snapshot-0001.safetensors", "snapshot-0003.safetensors"]
    a, b = (read_state_dict(tmp_path / "run" / "checkpoints" / name) for name in kept)
    assert not torch.equal(a["fc.weight"], b["fc.weight"])
    recipe = Recipe.load(tmp_path / "run" / "recipe.yaml")
    assert (recipe.schedule.name, recipe.schedule.cycles) == ("cosine_restarts", 2)
    factor = rate_factor(recipe, 10)
    assert factor(19) < 0.01 and factor(20) == 1 and factor(39) < 0.01


def test_snapshot_epochs_end_the_cycles_and_the_choice_is_said():
    recipe, reasons = resolve(train__epochs=10, train__snapshots=3)
    assert snapshot_epochs(recipe) == {2, 6, 9}
    assert any("3, 7, 10" in reason and "Huang" in reason for reason in reasons)
    assert recipe.schedule.warmup_epochs < 1
    assert snapshot_epochs(resolve()[0]) == frozenset()


REFUSED = [
    ({"train__snapshots": 5}, "cycles=5"),
    ({"train__snapshots": 2, "schedule__name": "linear"}, r"snapshots=2, schedule\.name=linear"),
    ({"train__snapshots": 2, "schedule__cycles": 3}, r"schedule\.cycles=3"),
    ({"train__snapshots": 2, "train__patience": 1}, r"train\.patience=1"),
    ({"train__snapshots": 2, "train__average_from": 0.5}, r"average_from=0\.5"),
    ({"train__ema": 0.9, "train__average_from": 0.5}, r"train\.ema=0\.9, train\.average_from=0\.5"),
    ({"schedule__cycles": 2}, r"schedule\.cycles=2"),
    ({"schedule__name": "multistep"}, r"schedule\.milestones"),
    ({"schedule__name": "cosine_restarts", "schedule__cycles": 9}, r"cycles=9"),
]


@pytest.mark.parametrize("values, field", REFUSED, ids=lambda v: "-".join(v) if isinstance(v, dict) else "")
def test_fields_that_contradict_each_other_are_refused_by_name(values, field):
    with pytest.raises(RecipeError, match=field) as error:
        resolve(**values)
    assert error.value.remedy


def test_the_schedule_of_bottou_takes_its_constant_from_the_recipe():
    recipe, _ = resolve(schedule__name="inverse_time", schedule__decay_rate="bottou", schedule__warmup_epochs=0,
                        optimizer__weight_decay=0.1)
    factor = rate_factor(recipe, 5)
    assert [factor(t) for t in range(20)] == pytest.approx([1 / (1 + 0.1 * 0.05 * t) for t in range(20)])
    per_epoch = rate_factor(recipe.with_values({"schedule.decay_rate": 1.0}), 5)
    assert per_epoch(5) == pytest.approx(1 / 2) and per_epoch(15) == pytest.approx(1 / 4)


def test_a_triangle_has_its_peak_at_23_percent_unless_told():
    assert resolve(schedule__name="triangular", train__epochs=100)[0].schedule.warmup_epochs == 23


def test_the_averaged_model_is_measured_and_kept_and_a_price_makes_weights_smaller(images, tmp_path):
    plain = train(images, tmp_path / "plain", schedule__name="constant")
    held = train(images, tmp_path / "held", schedule__name="constant", train__average_from=0.25, regularise__l1=0.03,
                 regularise__max_norm=1.5)
    sizes = [sum(float(t.abs().sum()) for name, t in read_state_dict(run.folder.path / "model" / "model.safetensors")
                 .items() if t.ndim > 1) for run in (plain, held)]
    assert sizes[1] < 0.9 * sizes[0]
    state = read_state_dict(held.folder.path / "model" / "model.safetensors")
    assert max(float(t.flatten(1).norm(dim=1).max()) for t in state.values() if t.ndim > 1) <= 1.5 + 1e-5


def test_dropconnect_trains_and_leaves_a_plain_model(images, tmp_path):
    run = train(images, tmp_path / "run", regularise__dropconnect=0.5, train__epochs=2)
    model = visus.load(run.folder.path).model
    assert not any(isinstance(module, DropConnectLinear) for module in model.modules())


def test_a_model_without_linear_layers_and_masks_that_do_not_fit_are_refused():
    quiet = Display(show=False)
    recipe, _ = resolve(regularise__dropconnect=0.5)
    with pytest.raises(RecipeError, match=r"dropconnect=0\.5.*no plain linear layer"):
        leave_out_connections(recipe, torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3)), quiet)
    with pytest.raises(RecipeError, match=r"32 images over the 25,000,000 weights.*3\.0 GiB"):
        leave_out_connections(recipe, torch.nn.Sequential(torch.nn.Linear(5000, 5000, device="meta")), quiet)
