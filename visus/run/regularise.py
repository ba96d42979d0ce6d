"""The recipe's regularisers and averages of weights, as the Trainer takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from visus.core.errors import RecipeError
from visus.layers.dropconnect import DropConnectLinear, drop_connections
from visus.optim.averaging import WeightAverage
from visus.optim.ema import EMA
from visus.optim.regularise import WeightRegulariser
from visus.run.display import Display
from visus.run.recipe import Recipe
from visus.tasks.classification import Classification, MultiLabel
from visus.train.contracts import Averager, BatchSource

MOST_MASKS = 1 << 29  # weights in the masks of one batch: 2 GiB in float32


def make_regulariser(recipe: Recipe) -> WeightRegulariser | None:
    """What the recipe's section regularise asks for; None where it asks for nothing that acts on the weights."""
    settings = recipe.regularise
    if not settings.l1 and settings.max_norm is None:
        return None
    return WeightRegulariser(l1=settings.l1, max_norm=settings.max_norm)


def leave_out_connections(recipe: Recipe, model: nn.Module, display: Display) -> None:
    """DropConnect on the model's linear layers, in place, where the recipe asks for it; said aloud.

    Raises RecipeError for a model without a plain linear layer that trains, and where the masks, one for each sample,
    would not fit into memory.
    """
    share = recipe.regularise.dropconnect
    if not share:
        return
    where = f"regularise.dropconnect={share}"
    names = drop_connections(model, share)
    if not names:
        raise RecipeError(f"{recipe.model.name} has no plain linear layer that trains", where=where,
                          remedy="Set it to 0")
    weights = sum(m.weight.numel() for m in model.modules() if isinstance(m, DropConnectLinear))
    batch = int(recipe.train.batch_size)
    if weights * batch > MOST_MASKS:
        raise RecipeError(f"a mask for each of {batch} images over the {weights:,} weights of {len(names)} linear "
                          f"layers takes {4 * weights * batch / 2**30:.1f} GiB", where=where,
                          remedy="Use a smaller --batch-size with train.accumulate, or dropout")
    display.say("regularise", f"DropConnect: {100 * share:g} % of the weights of {', '.join(names[:4])}"
                f"{' and more' if len(names) > 4 else ''} left out for each image (Wan et al. 2013); inference by the "
                "mean, as a plain layer")


def make_averager(recipe: Recipe, model: nn.Module, source: BatchSource, steps_per_epoch: int,
                  task: Classification | MultiLabel, device: torch.device, display: Display) -> Averager | None:
    """The exponential average, the plain one, or None. source: the training batches, each once per epoch, over which
    batch norms are measured. steps_per_epoch: updates."""
    settings = recipe.train
    if settings.ema is not None:
        return EMA(model, decay=settings.ema)
    if settings.average_from is None:
        return None
    epochs = int(settings.epochs)
    by_epoch = settings.average_every == "epoch"
    if by_epoch:
        first = min(round(settings.average_from * epochs), epochs - 1)
        start, every = first * steps_per_epoch, steps_per_epoch
        text = f"of the weights at the end of each epoch from epoch {first + 1} on (Izmailov et al. 2018)"
    else:
        start = min(round(settings.average_from * epochs * steps_per_epoch), epochs * steps_per_epoch - 1)
        every = 1
        text = f"of the weights of each update from update {start + 1} on (Polyak and Juditsky 1992)"
    display.say("average", f"{text}; batch norms are measured for "
                "it over the training batches; of all epochs the best on validation is kept")
    return WeightAverage(model, start=start, every=every, batches=_inputs(recipe, source, task, device))


def _inputs(recipe: Recipe, source: BatchSource, task: Classification | MultiLabel,
            device: torch.device) -> Callable[[], Iterator[Tensor]]:
    def batches() -> Iterator[Tensor]:
        for batch in source.epoch(0):
            batch = batch.to(device, non_blocking=True, channels_last=recipe.train.layout == "channels_last")
            yield task.preprocessing.normalise(batch.images)

    return batches
