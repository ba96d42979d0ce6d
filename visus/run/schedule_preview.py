"""What a recipe's learning rates will do, before a run: for each group of parameters, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visus.core.errors import RecipeError, UserError
from visus.core.files import write_text
from visus.report.schedule import preview_table, render_preview, schedule_chart
from visus.run.recipe import Recipe
from visus.run.recipes import find_recipe
from visus.run.schedule import choose_schedule, has_own_warmup, rate_factor, snapshot_epochs

__all__ = ["preview_schedule", "preview_table"]

DRAWN = 300  # points of a line, about
MOST_UPDATES = 100  # per epoch: how many a real one has is known with the data


def preview_schedule(recipe: str | Path | Recipe, out: str | Path | None = None, *,
                     values: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The record of a recipe's learning rates, drawn into `out`, an .svg or .html file, where it is given.

    recipe: a Recipe, a file, or the name of a shipped one. values: dotted fields to change. -> name, epochs,
    updates_per_epoch (that are drawn), relative (rates are shares of the peak: optimizer.lr is auto), points [epoch,
    factor], groups of name, lr, weight_decay, tensors, weights (None: the model is not known yet), warmup_epochs,
    snapshots (epochs after which they are taken), sizes [epoch, share of the side], average_from (epoch or None),
    notes.
    Raises RecipeError where the number of epochs, or the model that layer-wise rates are for, is left to the data.
    """
    name = "recipe" if isinstance(recipe, Recipe) else Path(recipe).stem
    recipe = recipe if isinstance(recipe, Recipe) else Recipe.load(find_recipe(recipe))
    suffix = None if out is None else Path(out).suffix.lower()
    if suffix not in (None, ".svg", ".html"):
        raise UserError("is drawn as .svg or .html", where=f"--preview {out}", remedy="For example: preview.svg")
    recipe, notes = _resolved(recipe.with_values(values or {}))
    epochs = int(recipe.train.epochs)
    updates = max(1, min(MOST_UPDATES, round(DRAWN / epochs)))
    factor = rate_factor(recipe, updates)
    settings = recipe.train
    record = {
        "name": name, "epochs": epochs, "updates_per_epoch": updates, "relative": recipe.optimizer.lr == "auto",
        "schedule": recipe.schedule.name, "optimizer": recipe.optimizer.name,
        "points": [[step / updates, factor(step)] for step in range(epochs * updates)],
        "groups": _groups(recipe), "warmup_epochs": float(recipe.schedule.warmup_epochs),
        "warmup": "rise" if has_own_warmup(recipe.schedule) else "warm-up",
        "snapshots": sorted(epoch + 1 for epoch in snapshot_epochs(recipe)),
        "sizes": [[start * epochs, share] for start, share in settings.sizes],
        "average_from": None if settings.average_from is None else settings.average_from * epochs, "notes": notes,
    }
    if out is not None:
        write_text(out, schedule_chart(record) if suffix == ".svg" else render_preview(record))
    return record


def _resolved(recipe: Recipe) -> tuple[Recipe, list[str]]:
    """The recipe with what its rates depend on, and one sentence for each thing that only the data will tell."""
    if recipe.train.epochs == "auto":
        raise RecipeError("depends on the data, so that there is nothing to draw yet", where="train.epochs=auto",
                          remedy="Say how many: --set train.epochs=30")
    chosen, notes = choose_schedule(recipe, recipe.train.epochs)
    recipe = recipe.with_values(chosen)
    optimizer = recipe.optimizer
    if optimizer.lr == "auto":
        notes.append("optimizer.lr=auto: rates are shares of the peak, which is chosen with the data")
    elif optimizer.lr_batch is not None:
        notes.append(f"optimizer.lr={optimizer.lr:g} is for {optimizer.lr_batch} images per update: another batch "
                     "scales all rates")
    if recipe.schedule.name == "inverse_time" and recipe.schedule.decay_rate == "bottou":
        notes.append(f"schedule.decay_rate=bottou falls by the update: drawn for {MOST_UPDATES} or fewer in an epoch")
    return recipe, notes


def _groups(recipe: Recipe) -> list[dict[str, Any]]:
    """The groups of parameters of the recipe's model, which is built without memory; without a model, both plain ones.
    lr: the peak, or 1 times the group's factor where it is auto."""
    optimizer = recipe.optimizer
    lr = 1.0 if optimizer.lr == "auto" else optimizer.lr
    decay = optimizer.weight_decay
    if recipe.model.name == "auto":
        if optimizer.layer_decay is not None or optimizer.head_lr != 1:
            raise RecipeError("layers of a model that is chosen with the data are not known yet",
                              where=f"model.name=auto, optimizer.layer_decay={optimizer.layer_decay}, "
                              f"optimizer.head_lr={optimizer.head_lr}", remedy="For example: --set model.name=resnet18")
        return [{"name": name, "lr": lr, "weight_decay": rate, "tensors": None, "weights": None}
                for name, rate in (("decay", decay), ("no_decay", 0.0))]
    from visus.core.meta import on_meta
    from visus.run.freezing import freeze
    from visus.run.models import create_model
    from visus.run.schedule_groups import make_groups

    with on_meta():
        model = create_model(recipe.model.name, **recipe.model.config)
        freeze(model, recipe.model.freeze)
        groups = make_groups(recipe.with_values({"optimizer.lr": lr, "optimizer.weight_decay": 1.0}), model)
    return [{"name": group["name"], "lr": group.get("lr", lr), "weight_decay": decay if group["weight_decay"] else 0.0,
             "tensors": len(group["params"]), "weights": sum(p.numel() for p in group["params"])}
            for group in sorted(groups, key=lambda group: group.get("lr", lr))]
