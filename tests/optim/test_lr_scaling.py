"""The rate for another batch, by hand and as a recipe resolves it."""

from __future__ import annotations

import math

import pytest

from visus.core.errors import RecipeError
from visus.optim.build import OPTIMIZERS
from visus.optim.lr_scaling import scaled_lr, scaling_rule
from visus.run.choose import Facts, choose
from visus.run.recipe import Recipe

FACTS = Facts(train_images=5000, num_classes=10, multi_label=False, median_size=(28, 28), channels=1, in_memory=True,
              device="cpu")


def test_goyals_8192_images_on_256_gpus_take_a_rate_of_3_2():
    lr, words = scaled_lr(0.1, 8192, 256, "sgd")
    assert lr == pytest.approx(3.2)
    assert all(part in words for part in ("0.1", "256", "8192", "3.2", "linear", "Goyal"))


@pytest.mark.parametrize("name", ["adam", "adamw", "lamb", "lion", "rmsprop"])
def test_rules_whose_step_does_not_grow_with_the_gradient_scale_by_the_root(name):
    assert name in OPTIMIZERS and scaling_rule(name) == "square root"
    lr, words = scaled_lr(1e-3, 512, 128, name)
    assert lr == pytest.approx(2e-3) and "Malladi" in words


def test_the_root_keeps_adams_drift_and_noise_as_the_stochastic_equation_has_them():
    """Malladi et al. 2022: of a gradient that is noise alone, the variance of a path of fixed length in epochs, so many
    updates of size lr, does not depend on the batch."""
    for batch in (64, 256, 1024):
        lr = scaled_lr(1e-3, batch, 256, "adam")[0]
        assert (65536 / batch) * lr**2 == pytest.approx(256 * 1e-6)


def resolved(**values):
    return choose(Recipe().with_values({name.replace("__", "."): value for name, value in values.items()}), FACTS)


@pytest.mark.parametrize("optimizer, lr", [("sgd", 0.4), ("adamw", 0.1 * math.sqrt(4))])
def test_the_global_batch_counts_accumulated_batches_and_both_numbers_are_said(optimizer, lr):
    recipe, reasons = resolved(optimizer__name=optimizer, optimizer__lr=0.1, optimizer__lr_batch=64,
                               train__batch_size=128, train__accumulate=2)
    assert recipe.optimizer.lr == pytest.approx(lr)
    said = next(reason for reason in reasons if "scaling rule" in reason)
    assert "batches of 64" in said and "256 per update" in said
    again, more = choose(recipe, FACTS)
    assert again.optimizer.lr == recipe.optimizer.lr and not any("scaling rule" in reason for reason in more)


def test_a_rate_that_fits_its_batch_is_left_alone():
    recipe, reasons = resolved(optimizer__lr=0.1, optimizer__lr_batch=32, train__batch_size=32)
    assert recipe.optimizer.lr == 0.1 and not any("scaling" in reason for reason in reasons)


@pytest.mark.parametrize("values, field", [
    ({"optimizer__lr_batch": 64}, "optimizer.lr_batch=64"),
    ({"optimizer__name": "lbfgs", "optimizer__lr": 1.0, "optimizer__lr_batch": 64}, "lbfgs"),
])
def test_what_cannot_be_scaled_is_refused_by_name(values, field):
    with pytest.raises(RecipeError, match=field):
        resolved(**values)
