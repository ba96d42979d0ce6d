"""What an optimizer begins with where the recipe says nothing, and where it cannot serve."""

from __future__ import annotations

import math

import torch

from visus.core.errors import RecipeError
from visus.optim.build import OPTIMIZERS, WITH_CLOSURE
from visus.optim.kept import KeptWeights
from visus.run.display import Display
from visus.run.recipe import Recipe

# Rates at a batch of 128. Those of the SGD family grow with the batch (Goyal et al. 2017), those of the others with its
# root; those of the last row are lengths that no batch changes.
LINEAR = {"sgd": 0.1, "lars": 0.1, "asgd": 0.5}
ROOT = {"lion": 2e-4, "muon": 4e-3, "muon_sgd": 0.02, "muon_unit": 0.1, "adagrad": 0.01, "adadelta": 1.0}
FIXED = {"lbfgs": 1.0, "newton": 1.0, "diagonal_lm": 0.01, "rprop": 1e-3, "random_search": 1.0, "local_search": 0.05}
USUAL = 1e-3  # all others, with the root
WITHOUT_NORMS = 0.1  # nets without batch norm diverge at such rates: a tenth, as their papers have it (Krizhevsky 2012)
DECAYS = {"sgd": 5e-4, "lars": 5e-4, "asgd": 5e-4, "lbfgs": 5e-4, "newton": 5e-4, "diagonal_lm": 5e-4}
LION = 3.0  # its decay against AdamW's, its rates being smaller
WHOLE_BATCH = WITH_CLOSURE | {"rprop"}  # what compares one gradient or loss with the next: the same images each time
MOST_AT_ONCE = 2048


def first_rate(optimizer: str, batch: int, plain: bool) -> float:
    """batch: images per update. plain: a net without normalisation."""
    if optimizer in FIXED:
        return FIXED[optimizer]
    if optimizer in LINEAR:
        return LINEAR[optimizer] * (WITHOUT_NORMS if plain else 1.0) * batch / 128
    return ROOT.get(optimizer, USUAL) * math.sqrt(batch / 128)


def first_decay(optimizer: str, adaptive: bool) -> float:
    """adaptive: a net that is usually trained with AdamW."""
    if optimizer in OPTIMIZERS and not OPTIMIZERS[optimizer].decays:
        return 0.0
    return DECAYS.get(optimizer, round((0.05 if adaptive else 1e-2) * (LION if optimizer == "lion" else 1.0), 4))


def first_batch(optimizer: str, images: int) -> int:
    """A fortieth of the training images, 8 to 128; all of them, up to 2048, for what compares evaluations."""
    if optimizer in WHOLE_BATCH:
        return min(images, MOST_AT_ONCE)
    return 2 ** round(math.log2(max(8, min(128, images / 40))))


def check_optimizer(recipe: Recipe) -> None:
    """Raises RecipeError for what contradicts the optimizer. Fields that are still `auto` contradict nothing."""
    settings = recipe.optimizer
    decay = settings.weight_decay
    if settings.name in OPTIMIZERS and not OPTIMIZERS[settings.name].decays and decay != "auto" and decay > 0:
        raise RecipeError(f"{settings.name} has no weight decay", where=f"optimizer.weight_decay={decay}",
                          remedy="Set it to 0, or leave it out")
    if settings.sam_adaptive and not settings.sam:
        raise RecipeError("there is no radius to adapt", where="optimizer.sam_adaptive=True",
                          remedy="Set optimizer.sam too: 0.5 is usual here, 0.05 without sam_adaptive")
    if recipe.train.precision == "fp16" and (settings.sam or settings.name in WITH_CLOSURE):
        what = f"optimizer.sam={settings.sam}" if settings.sam else f"optimizer.name={settings.name}"
        raise RecipeError("several evaluations in one update do not go with loss scaling",
                          where=f"train.precision=fp16 with {what}", remedy="Set train.precision=bf16 or fp32")
    if settings.name in WITH_CLOSURE and torch.distributed.is_available() and torch.distributed.is_initialized() \
            and torch.distributed.get_world_size() > 1:
        raise RecipeError("compares losses, of which each process would see its own",
                          where=f"optimizer.name={settings.name}", remedy="Train in one process")


def kept_weights(optimizer: torch.optim.Optimizer, display: Display) -> KeptWeights | None:
    """Where an optimizer keeps other weights than those that it moves, they are what is evaluated and saved."""
    if not hasattr(optimizer, "keeps"):
        return None
    what = {"slow": "the slow weights of lookahead", "average": "the mean weights"}[str(optimizer.keeps)]
    display.say("average", f"{what} are evaluated and kept (train.ema or train.average_from would take their place)")
    return KeptWeights(optimizer)
