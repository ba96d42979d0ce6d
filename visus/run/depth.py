"""visus doctor PATH --depth: activations and gradients by depth, under each rule for the first weights."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visus.core.errors import UserError
from visus.core.files import write_text
from visus.doctor.depth import DepthRow, depth_profile
from visus.layers.initialise import INITS
from visus.report.depth_chart import depth_chart
from visus.run.build import build_loader, build_model, build_task
from visus.run.display import Display
from visus.run.prepare import given_recipe, prepare
from visus.run.recipe import Recipe
from visus.run.recipes import shipped_recipes

COMPARED = ("auto", "small", "xavier", "kaiming", "orthogonal", "lsuv")


@dataclass(frozen=True)
class Depth:
    """model: its name. images: of the batch. rows: rule -> layers in the order of the forward pass. page: the drawing,
    where one was asked for."""

    model: str
    images: int
    rows: Mapping[str, tuple[DepthRow, ...]]
    page: Path | None = None

    def __str__(self) -> str:
        lines = []
        for rule, rows in self.rows.items():
            lines += [f"init={rule}", f"  {'layer':<28} {'mean':>9} {'std':>9} {'gradient':>9} {'zeros in':>9} "
                      f"{'dead':>6} {'saturated':>9}"]
            lines += [f"  {row.name[-28:]:<28} {row.mean:>9.2g} {row.std:>9.2g} {_number(row.gradient):>9} "
                      f"{_share(row.zeros):>9} {_share(row.dead):>6} {_share(row.saturated):>9}" for row in rows]
        return "\n".join(lines)


def depth(subject: str | os.PathLike[str], *, recipe: str | Path | Recipe | None = None,
          values: Mapping[str, Any] | None = None, inits: Sequence[str] = COMPARED, out: str | Path | None = None,
          progress: bool = False) -> Depth:
    """Measure, for each rule of `inits`, what every layer of the model that `visus train` would begin with gives for
    its first batch, and the gradient that comes back to it.

    subject: images, a recipe file or a shipped name. inits: values of model.init. out: an SVG to write. Raises
    UserError for an unknown rule and for what cannot be opened.
    """
    wrong = [name for name in inits if name not in ("auto", *INITS)]
    if wrong or not inits:
        raise UserError("is no rule for first weights", where=f"inits={', '.join(wrong) or inits!r}",
                        remedy=f"Use some of auto, {', '.join(INITS)}")
    named = Path(subject).suffix in (".yaml", ".yml") or str(subject) in shipped_recipes()
    display = Display(progress)
    whole = given_recipe(str(subject) if named else recipe, None if named else str(subject), values)
    prepared = prepare(whole, display)
    whole, samples, preprocessing = prepared.recipe, prepared.samples, prepared.preprocessing
    train = build_loader(whole, samples, prepared.splits["train"], preprocessing, training=True,
                         device=prepared.device, cache=None)
    loss = build_task(whole, preprocessing, samples.class_counts(prepared.splits["train"])).loss_function
    batch = next(iter(train.epoch(0)))
    images, targets = preprocessing.normalise(batch.images).to(prepared.device), batch.targets.to(prepared.device)
    rows = {}
    with display.steps("depth", len(inits)) as advance:
        for name in inits:
            begun = whole.with_values({"model.init": name})
            model = build_model(begun, preprocessing, len(samples.classes), first=train)
            rows[name] = tuple(depth_profile(model.to(prepared.device), images, targets, loss))
            advance()
    if out is not None:
        write_text(out, depth_chart(rows, f"{whole.model.name} at its first weights, {len(images)} images"))
    return Depth(whole.model.name, len(images), rows, None if out is None else Path(out))


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"
