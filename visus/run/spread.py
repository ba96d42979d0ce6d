"""How a training is spread over the processes of its job: which engine computes it, what is refused, what is said."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import numpy as np
import torch

from visus.core.batch import ClassPredictions
from visus.core.errors import RecipeError
from visus.run.display import Display
from visus.run.recipe import Recipe
from visus.train.engine import Copies, Engine
from visus.train.recompute import recompute_blocks
from visus.train.stop import StopRequest
from visus.train.sync_norm import share_batch_norms
from visus.train.world import World, here

if TYPE_CHECKING:
    from visus.run.build import Parts

BY_ELEMENT = ("sgd", "adam", "adamw", "rmsprop", "lion")  # optimizers that treat each weight by itself


def check_spread(recipe: Recipe, world: World) -> None:
    """Raises RecipeError for what several processes cannot do, or not as the recipe means it."""
    if world.size == 1:
        return
    if recipe.train.batch_size != "auto" and recipe.train.batch_size < world.size:
        raise RecipeError(f"{world.size} processes cannot share it",
                          where=f"train.batch_size={recipe.train.batch_size}",
                          remedy="It is the batch of all processes together: use a larger one, or fewer processes")
    if recipe.data.folds is not None and recipe.data.fold is None:
        raise RecipeError("trains one model after the other, each by one process",
                          where=f"data.folds={recipe.data.folds}",
                          remedy="Start it without torchrun, or one fold with data.fold")
    if recipe.defend.method == "free":
        raise RecipeError("carries what it adds to the images from one batch to the next, place by place, and a share "
                          "of a batch has other places", where="defend.method=free",
                          remedy="Use defend.method=fgsm, which costs about as much, or one process")
    if recipe.distill.teacher is not None and recipe.distill.method == "hints":
        raise RecipeError("is learnt by one process", where="distill.method=hints",
                          remedy="Use distill.method=logits, or one process")
    if recipe.train.average_from is not None:
        raise RecipeError("measures its batch norms over the batches of one process",
                          where=f"train.average_from={recipe.train.average_from}",
                          remedy="Use train.ema, or one process")
    if recipe.train.strategy == "fsdp":
        _check_sharded(recipe)


def _check_sharded(recipe: Recipe) -> None:
    optimizer = recipe.optimizer
    odd = [(optimizer.name not in BY_ELEMENT, f"optimizer.name={optimizer.name}", "one of " + ", ".join(BY_ELEMENT)),
           (optimizer.sam > 0, f"optimizer.sam={optimizer.sam}", "0"),
           (optimizer.lookahead > 0, f"optimizer.lookahead={optimizer.lookahead}", "0"),
           (recipe.train.clip_adaptive is not None, f"train.clip_adaptive={recipe.train.clip_adaptive}",
            "train.clip_norm"),
           (recipe.train.precision == "fp16", "train.precision=fp16", "bf16 or fp32"),
           (recipe.defend.method != "none", f"defend.method={recipe.defend.method}", "none"),
           (recipe.distill.teacher is not None, f"distill.teacher={recipe.distill.teacher}", "none"),
           (recipe.regularise.dropconnect > 0, f"regularise.dropconnect={recipe.regularise.dropconnect}", "0"),
           (recipe.regularise.max_norm is not None, f"regularise.max_norm={recipe.regularise.max_norm}", "none"),
           (recipe.train.compile, "train.compile=true", "false"),
           (recipe.model.weight_norm != "none", f"model.weight_norm={recipe.model.weight_norm}", "none")]
    for wrong, where, use in odd:
        if wrong:
            raise RecipeError("looks at whole tensors, and train.strategy=fsdp splits them", where=where,
                              remedy=f"Use {use}, or train.strategy=ddp")


def spread(recipe: Recipe, parts: Parts, world: World, device: torch.device, display: Display) -> Engine:
    """The engine of this training. parts: model, optimizer and average are changed in place where weights are split."""
    settings, model = recipe.train, parts.model
    if settings.checkpoint_activations:
        blocks = recompute_blocks(model)
        display.say("memory", f"the insides of {blocks} repeated blocks are computed again in the backward pass"
                    if blocks else
                    f"{recipe.model.name} repeats no blocks: train.checkpoint_activations has nothing to forget")
    if world.size == 1:
        return Engine(model, parts.task)
    synced = share_batch_norms(model) if settings.sync_batchnorm else 0
    norms = any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in model.modules())
    sharded = settings.strategy == "fsdp"
    display.say("processes", f"{world.size}, each with its share of every batch of {settings.batch_size}; "
                + ("weights, gradients and optimizer state split among them (FSDP2)" if sharded else
                   "whole copies of the weights, gradients averaged (DDP)"))
    if synced:
        display.say("batch norm", f"{synced} layers take their statistics from the batches of all processes")
    elif norms:
        own = int(settings.batch_size) // world.size
        display.say("batch norm", f"statistics of each process's own {own} images; the "
                    "first one's are kept for inference. For those of the whole batch: --set train.sync_batchnorm=true")
    if recipe.loss.name == "cross_entropy" and recipe.loss.class_weights != "none":
        display.say("loss", "its class weights are divided by their sum over each process's images, not over the batch")
    if not sharded:
        return Copies(model, parts.task, world)
    from visus.optim.ema import EMA
    from visus.train.sharded import Shards

    engine = Shards(model, parts.task, world, device)
    engine.take_over(parts.optimizer)
    if settings.ema is not None:
        parts.ema = EMA(engine.weights, decay=settings.ema)
    return engine


def stop_agreed(stop: StopRequest) -> bool:
    """Whether any process of the job was asked to stop; asked by all of them together."""
    number, = here().max([float(stop.received or 0)])
    if number:
        stop.agree(signal.Signals(int(number)))
    return bool(number)


def gathered(own: ClassPredictions, indices: np.ndarray) -> ClassPredictions:
    """The predictions of all processes, each sample once, in the order of `indices`."""
    parts = here().gather_tensors({"probs": own.probs, "targets": own.targets, "index": own.index})
    probs, targets, index = (torch.cat([part[name] for part in parts]) for name in ("probs", "targets", "index"))
    place = np.empty(int(indices.max()) + 1, np.int64)
    place[indices] = np.arange(len(indices))
    _, first = np.unique(place[index.numpy()], return_index=True)
    chosen = torch.from_numpy(first)
    return ClassPredictions(probs[chosen], targets[chosen], index[chosen])
