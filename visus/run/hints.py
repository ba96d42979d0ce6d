"""The first phase of FitNets: a hidden layer of the student learns to give what one of the teacher's gives.

Romero et al., ICLR 2015, arXiv:1412.6550, section 2.2: the student up to its guided layer, and a regressor behind it,
are trained on the squared difference from the teacher's hint layer; the regressor is then thrown away. The phase has
checkpoints of its own in RUN/hints, so that a run that is killed in it goes on to the same bits; the training proper
begins with the weights of its best epoch on the validation split.

Departure: Adam in place of RMSProp; those of the regressor are with it (visus.run.hint_layers).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from visus.core.batch import ImageBatch
from visus.core.errors import RecipeError, ResourceError
from visus.core.files import write_json
from visus.core.preprocessing import Preprocessing
from visus.core.record import Finding, RunFolder
from visus.core.weights import read_state_dict
from visus.data.loader import Loader
from visus.data.samples import counted
from visus.losses.distillation import hint
from visus.optim.build import build_optimizer
from visus.optim.parameter_groups import parameter_groups
from visus.optim.schedules import Schedule, schedule
from visus.run.display import Display, TrainingDisplay
from visus.run.hint_layers import Regressor, layer_output, maps_first
from visus.run.recipe import Recipe
from visus.run.teacher import Teacher
from visus.train.checkpoint import BEST, CheckpointStore, seed_generators
from visus.train.contracts import BatchSource
from visus.train.stop import StopRequest
from visus.train.trainer import EpochReport, Settings, StepReport, Trainer

FOLDER = "hints"
CURVE = "epochs.json"  # in FOLDER: [{"epoch", "train_loss", "val_loss"}]
RATE = 1e-3


class Guided(nn.Module):
    """The student up to its guided layer, and the regressor: normalised images -> an imitation of the hint."""

    def __init__(self, student: nn.Module, layer: str, regressor: Regressor):
        super().__init__()
        self.student, self.regressor, self.layer = student, regressor, layer

    def forward(self, images: Tensor) -> Tensor:
        imitation: Tensor = self.regressor(maps_first(layer_output(self.student, self.layer, images)))
        return imitation


@dataclass(frozen=True, eq=False)
class HintTask:
    """The task of the phase. model: a `Guided`. Headline: the loss on the validation split."""

    teacher: Teacher
    hint_layer: str
    preprocessing: Preprocessing
    headline: ClassVar[str] = "hint_loss"
    higher_is_better: ClassVar[bool] = False

    def loss(self, model: nn.Module, batch: ImageBatch) -> tuple[Tensor, Tensor]:
        """(the mean of half the squared difference, a scalar; the imitation, detached)."""
        assert isinstance(model, Guided)
        with torch.no_grad():
            found = layer_output(self.teacher.model, self.hint_layer, self.teacher.prepared(batch.images))
            wanted = model.regressor.target(maps_first(found)).float()
        imitation = model(self.preprocessing.normalise(batch.images)).float()
        return hint(imitation, wanted), imitation.detach()


def learn_hints(folder: RunFolder, recipe: Recipe, student: nn.Module, teacher: Teacher | None,
                preprocessing: Preprocessing, train: BatchSource, val: Loader, device: torch.device, display: Display,
                stop: StopRequest) -> None:
    """Give the student the weights of the phase, made now, gone on with, or as an earlier start left them. Nothing for
    other methods, and where the training proper has begun. recipe: with its layers. Raises as the Trainer does."""
    if teacher is None or recipe.distill.method != "hints" or CheckpointStore(folder.path / "checkpoints").steps():
        return
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        raise RecipeError("the first phase of hints runs in one process", where="distill.method=hints",
                          remedy="Run it without torchrun, or use distill.method=logits")
    settings, task = recipe.train, HintTask(teacher, recipe.distill.hint_layer, preprocessing)
    epochs, guided_layer = int(recipe.distill.hint_epochs), recipe.distill.guided_layer
    seed_generators(settings.seed)
    batch = next(iter(val.epoch(0))).to(device)
    with torch.no_grad():
        student.eval()
        guided = maps_first(layer_output(student, guided_layer, preprocessing.normalise(batch.images[:1])))
        wanted = maps_first(layer_output(teacher.model, task.hint_layer, teacher.prepared(batch.images[:1])))
    model = Guided(student, guided_layer, Regressor(tuple(guided.shape[1:]), tuple(wanted.shape[1:])).to(device))
    optimizer = build_optimizer("adamw", parameter_groups(model, 0.0), lr=RATE, momentum=0.9, nesterov=False,
                                betas=(0.9, 0.999), eps=None)
    steps = -(-len(train) // settings.accumulate)
    store = CheckpointStore(folder.path / FOLDER)
    shown = TrainingDisplay(display, epochs, steps, task.headline)

    def find(finding: Finding) -> None:
        folder.find(finding)
        display.finding(finding)

    trainer = Trainer(
        model, task, train, optimizer, Schedule(optimizer, schedule("cosine", epochs * steps, 0)),
        Settings(epochs=epochs, accumulate=settings.accumulate, precision=settings.precision,
                 channels_last=settings.layout == "channels_last", checkpoint_steps=settings.checkpoint_steps,
                 checkpoint_seconds=settings.checkpoint_seconds),
        device=device, store=store, observers=[shown, _Curve(folder)], stop=stop, find=find,
        validate=_validation(model, task, val, device, stop))
    if store.steps():
        step, state, _ = store.load()
        trainer.load_state(state)
        if trainer.position.epoch < epochs:
            display.say("hints", f"go on from step {step}, epoch {trainer.position.epoch + 1} of {epochs}")
    else:
        display.say("hints", f"first phase, {counted(epochs, 'epoch')}: {guided_layer} of the student "
                    f"{list(guided.shape[1:])} imitates {task.hint_layer} of the teacher {list(wanted.shape[1:])}; "
                    "then the training proper")
    with shown:
        trainer.run()
    best = {name.removeprefix("student."): tensor for name, tensor in read_state_dict(store.folder / BEST).items()
            if name.startswith("student.")}
    student.load_state_dict(best, strict=True)


def _validation(model: Guided, task: HintTask, val: Loader, device: torch.device,
                stop: StopRequest) -> Callable[[], dict[str, float]]:
    @torch.no_grad()
    def validate() -> dict[str, float]:
        total, count = 0.0, 0
        for batch in val.epoch(0):
            if stop.requested:
                raise StopIteration
            total, count = total + float(task.loss(model, batch.to(device))[0]) * len(batch), count + len(batch)
        return {"loss": total / count, task.headline: total / count}

    return validate


class _Curve:
    """The losses of each epoch in RUN/hints/epochs.json. An epoch that is done again after a kill takes its place."""

    def __init__(self, folder: RunFolder):
        self.folder = folder

    def on_step(self, report: StepReport) -> None:
        pass

    def on_epoch(self, report: EpochReport) -> None:
        rows = self.folder.read(f"{FOLDER}/{CURVE}", [])[:report.epoch]
        row = {"epoch": report.epoch, "train_loss": report.train_loss, "val_loss": report.metrics["loss"]}
        try:
            write_json(self.folder.path / FOLDER / CURVE, [*rows, row])
        except ResourceError:  # the curve has a gap, the checkpoints tell
            pass
