"""Which rate, decay and batch each optimizer begins with, and what is refused at the door."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from visus.core.errors import RecipeError
from visus.optim.build import OPTIMIZERS
from visus.optim.lookahead import Lookahead
from visus.optim.muon import Muon
from visus.optim.sam import SAM
from visus.run.build import make_optimizer
from visus.run.choose import Facts, choose
from visus.run.first_rates import first_batch, first_decay, first_rate
from visus.run.recipe import Recipe

FACTS = Facts(train_images=1200, num_classes=10, multi_label=False, median_size=(8, 8), channels=1, in_memory=True,
              device="cpu")


def chosen(**values) -> Recipe:
    return choose(Recipe().with_values(values), FACTS)[0]


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 10))


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_every_optimizer_is_chosen_and_built_from_its_name_alone(name):
    recipe = chosen(**{"optimizer.name": name, "model.name": "resnet20"})
    assert recipe.optimizer.lr > 0
    optimizer = make_optimizer(recipe, net())
    assert {p for g in optimizer.param_groups for p in g["params"]} and optimizer.param_groups[0]["lr"] == \
        pytest.approx(recipe.optimizer.lr)


def test_what_compares_evaluations_sees_all_images_at_once_and_the_others_a_fortieth():
    assert first_batch("lbfgs", 1200) == first_batch("rprop", 1200) == 1200
    assert first_batch("lbfgs", 60000) == 2048
    assert first_batch("sgd", 1200) == 32 and first_batch("muon", 60000) == 128


def test_rates_of_the_sgd_family_grow_with_the_batch_those_of_the_others_with_its_root():
    assert first_rate("sgd", 128, False) == 0.1 and first_rate("sgd", 512, False) == pytest.approx(0.4)
    assert first_rate("sgd", 128, True) == pytest.approx(0.01)
    assert first_rate("muon", 512, False) == pytest.approx(8e-3)
    assert first_rate("adamw", 512, False) == pytest.approx(2e-3) == 2 * first_rate("adamw", 128, False)
    assert first_rate("lbfgs", 512, False) == 1.0
    assert first_decay("lion", True) == pytest.approx(0.15) and first_decay("random_search", True) == 0


def test_momentum_and_betas_are_the_optimizers_own_unless_given():
    assert make_optimizer(chosen(**{"optimizer.name": "muon"}), net()).param_groups[0]["momentum"] == 0.95
    assert make_optimizer(chosen(**{"optimizer.name": "lion"}), net()).param_groups[0]["betas"] == (0.9, 0.99)
    group = make_optimizer(chosen(), net()).param_groups[0]
    assert group["momentum"] == 0.9 and group["nesterov"]
    group = make_optimizer(chosen(**{"optimizer.momentum": 0.0}), net()).param_groups[0]
    assert group["momentum"] == 0.0 and not group["nesterov"]


def test_wrappers_come_from_the_recipe_and_the_head_is_no_matrix_of_muon():
    optimizer = make_optimizer(chosen(**{"optimizer.name": "muon", "optimizer.sam": 0.1, "optimizer.lookahead": 4,
                                         "optimizer.lookahead_alpha": 0.7}), net())
    assert isinstance(optimizer, Lookahead) and optimizer.every == 4 and optimizer.share == 0.7
    assert isinstance(optimizer.base, SAM) and optimizer.base.radius == 0.1 and optimizer.needs_closure
    assert isinstance(optimizer.base.base, Muon)
    assert [tuple(p.shape) for g in optimizer.param_groups if g["matrices"] for p in g["params"]] == [(4, 1, 3, 3)]


@pytest.mark.parametrize(("values", "field"), [
    ({"optimizer.sam": 0.05, "train.precision": "fp16"}, "train.precision=fp16 with optimizer.sam=0.05"),
    ({"optimizer.name": "lbfgs", "train.precision": "fp16"}, "train.precision=fp16 with optimizer.name=lbfgs"),
    ({"optimizer.sam_adaptive": True}, "optimizer.sam_adaptive=True"),
    ({"optimizer.name": "local_search", "optimizer.weight_decay": 0.1}, "optimizer.weight_decay=0.1"),
])
def test_what_contradicts_the_optimizer_is_refused_with_the_field(values, field):
    with pytest.raises(RecipeError) as caught:
        chosen(**values)
    assert field in str(caught.value)


def test_a_solver_with_sharpness_or_lookahead_around_it_is_refused():
    for more in ({"optimizer.sam": 0.05}, {"optimizer.lookahead": 5}):
        with pytest.raises(RecipeError, match="around"):
            make_optimizer(chosen(**{"optimizer.name": "lbfgs", **more}), net())
    assert torch.is_grad_enabled()
