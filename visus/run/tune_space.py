"""The space of a search: what the person asks for, checked against the recipe before anything is trained, or the
default one, which follows Bengio, Practical recommendations for gradient-based training of deep architectures, 2012
(arXiv:1206.5533):

- The learning rate matters most; if one thing is tuned, it is this. It is searched by its logarithm,
  two powers of ten below and one above the rate that the recipe would take: the best rate is often the largest that
  does not diverge, which lies above a cautious default less often than below it.
- The weight decay (L2) is searched by its logarithm as well: 1e-6 to 1e-2 for SGD, 1e-3 to 0.5 for
  decoupled decay, which the optimizer multiplies by the rate.
- The number of epochs is never searched: early stopping gives it for free; trials are judged by their
  best epoch.
- Batch size, momentum and schedule matter less and interact with the rate: they stay as the
  recipe has them.
- Chance instead of a grid where more than two things vary (Bergstra and Bengio 2012), many layers of one
  size, and a second, finer search around the best (a best value at the border asks for a wider range).
- The strength of the augmentation is the regulariser of images, and stands beside the decay: none, as chosen, strong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from visus.core.errors import RecipeError, UserError, did_you_mean
from visus.run.choose import choose
from visus.run.display import Display
from visus.run.prepare import Prepared, try_out
from visus.run.recipe import Recipe, read_yaml
from visus.run.survey import facts_for_choice
from visus.search.space import Dimension, parse_dimension

# What decides on which images a trial is trained and judged: trials that differ in it cannot be compared.
FIXED = ("description", "task", "device", "data.path", "data.format", "data.class_names", "data.val", "data.test",
         "data.split_seed", "data.groups", "data.split", "data.folds", "data.fold", "data.fold_repeats",
         "data.fold_kind", "data.on_bad_image", "train.epochs", "train.checkpoint_steps", "train.checkpoint_seconds",
         "report.budget_s", "doctor.before", "doctor.watch", "doctor.budget_s", "evaluate.tta")
RATE_BELOW, RATE_ABOVE = 100.0, 10.0
DECAY = (1e-6, 1e-2)
DECOUPLED_DECAY = (1e-3, 0.5)
COUPLED = ("sgd", "adam", "nadam", "rmsprop", "adagrad", "adadelta", "lars", "asgd", "lbfgs", "sfo")
STRONG = ({"name": "random_erasing"},)


def given_space(search: str | Path | Mapping[str, Any] | None, vary: Sequence[str]) -> list[Dimension]:
    """The dimensions of a file or mapping (field: range) and of texts such as 'optimizer.lr=log:1e-4..1e-1', the texts
    over the file. Raises RecipeError naming what is wrong."""
    found: dict[str, Any] = {}
    if isinstance(search, str | Path):
        found |= read_yaml(search)
    elif search is not None:
        found |= dict(search)
    for text in vary:
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise RecipeError("is not of the form field=range", where=f"--vary {text}",
                              remedy="For example: --vary optimizer.lr=log:1e-4..1e-1")
        found[name.strip()] = value.strip()
    known = Recipe.fields()
    space = []
    for name, value in found.items():
        if name in FIXED:
            raise RecipeError("cannot be searched: all trials are trained and judged on the same images, as long as "
                              "each other", where=f"{name}={value!r}", remedy="Set it once with --set")
        if name not in known and not name.startswith("model.config."):
            raise RecipeError("there is no such field", where=f"{name}={value!r}", remedy=did_you_mean(name, known))
        space.append(parse_dimension(name, value))
    return space


def default_space(prepared: Prepared) -> tuple[list[Dimension], list[str]]:
    """The default dimensions for a whole recipe, and a sentence on each."""
    recipe = prepared.recipe
    rate = float(recipe.optimizer.lr)
    low, high = (float(f"{v:.2g}") for v in (rate / RATE_BELOW, rate * RATE_ABOVE))
    decay = DECAY if recipe.optimizer.name in COUPLED else DECOUPLED_DECAY
    assert recipe.augmentation != "auto", "chosen before"
    chosen = [dict(step) for step in recipe.augmentation]
    space = [Dimension("optimizer.lr", "log", low, high), Dimension("optimizer.weight_decay", "log", *decay)]
    said = [f"optimizer.lr, log {low:g} to {high:g}: it matters most; two powers of ten below the {rate:g} that this "
            "recipe takes, and one above",
            f"optimizer.weight_decay, log {decay[0]:g} to {decay[1]:g}"]
    if chosen:
        names = {step.get("name") for step in chosen}
        strong = [*chosen, *(step for step in STRONG if step["name"] not in names)]
        space.append(Dimension("augmentation", "choice", choices=([], chosen, strong),
                               labels=("none", "as chosen", "strong")))
        said.append(f"augmentation: none, as chosen ({', '.join(str(n) for n in sorted(map(str, names)))}), or with "
                    "random erasing too")
    return space, said


def check_space(space: Sequence[Dimension], prepared: Prepared, base: Recipe) -> None:
    """Both ends of each range and every choice, tried in the recipe: whatever it refuses ends here. base: before its
    `auto` was chosen. Raises RecipeError (or what building raises) naming the field."""
    if not space:
        raise UserError("nothing is varied", where="--vary", remedy="For example: --vary optimizer.lr=log:1e-4..1e-1")
    for d in space:
        values = [d.plain(v) for v in (d.labels if d.kind == "choice" else (d.value(0.0), d.value(1.0)))]
        for value in values:
            recipe = base.with_values({d.name: value}, where="--vary")
            chosen, _ = choose(recipe, facts(prepared))
            if d.kind == "choice":
                try_out(chosen.with_values({"train.precision": prepared.recipe.train.precision}),
                        replace_size(prepared, chosen), len(prepared.samples.classes), Display(show=False))


def allowed(d: Dimension, base: Recipe) -> Dimension:
    """The dimension where the recipe takes both of its ends, else the range drawn back by halves until it does."""
    for _ in range(20):
        refused = [_refuses(d, base, end) for end in (d.low, d.high)]
        if not any(refused):
            return d
        middle = (d.low * d.high) ** 0.5 if d.is_log else (d.low + d.high) / 2
        if d.is_whole:
            middle = round(middle)
        d = replace(d, low=middle if refused[0] else d.low, high=middle if refused[1] else d.high)
    return d


def _refuses(d: Dimension, base: Recipe, end: float) -> bool:
    try:
        base.with_values({d.name: d.plain(end)})
    except RecipeError:
        return True
    return False


def facts(prepared: Prepared) -> Any:
    return facts_for_choice(prepared.samples, prepared.splits["train"], prepared.device)


def replace_size(prepared: Prepared, recipe: Recipe) -> Any:
    """The preprocessing of the study's recipe with another one's size and channels: enough to build a model."""
    given = recipe.data.image_size
    assert given != "auto", "chosen before"
    size = (given, given) if isinstance(given, int) else given
    channels = int(recipe.data.channels)
    old = prepared.preprocessing
    same = channels == old.channels
    return replace(old, size=size, channels=channels, mean=old.mean if same else (0.0,) * channels,
                   std=old.std if same else (1.0,) * channels)
