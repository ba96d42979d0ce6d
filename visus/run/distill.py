"""A student learns from a teacher: the recipe's section `distill` as the training loss, and what is chosen for it.

Methods: `logits` (Hinton et al. 2015), `mimic` (Ba and Caruana 2014), `hints` (FitNets, Romero et al. 2015: the first
phase is visus.run.hints, the second is `logits` with a share of the teacher that falls) and `hard` (DeiT, Touvron et
al. 2021). The loss is (1 - w) times that of the labels plus w times that of the teacher (visus.losses.distillation),
w = distill.weight; a model with a distillation token answers the labels with its class token and the teacher with the
other. FitNets' sum H(labels) + lambda H(teacher) is that with w = lambda / (1 + lambda): lambda falls linearly over the
epochs from w / (1 - w) to 1, in the authors' runs from 4.

The teacher sees the images that the student sees, augmented and mixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from visus.core.batch import ClassPredictions, ImageBatch
from visus.core.errors import RecipeError, RunError, UserError
from visus.core.preprocessing import Preprocessing
from visus.core.record import RunFolder
from visus.data.loader import Loader
from visus.data.samples import Samples, counted
from visus.losses import distillation
from visus.run.baselines import Baseline
from visus.run.recipe import Distill, Recipe
from visus.run.teacher import Teacher, load_teacher
from visus.tasks.classification import Classification, Loss, MultiLabel, TrainingLoss
from visus.train.contracts import BatchSource

WEIGHTS = {"logits": 0.9, "mimic": 1.0, "hints": 0.8, "hard": 0.5}  # hints: lambda = 4; hard: DeiT's equation 3
RECORD = "teacher.json"
LAST_LAMBDA = 1.0  # FitNets: labels and teacher count alike in the end


class Distillation:
    """Stands in for the training loss of a classifier (visus.tasks.classification). teacher: images [B, C, H, W] in
    [0, 1] -> logits [B, K]. weight: its share. falls_over: epochs in which its lambda falls to 1, or None."""

    def __init__(self, teacher: Callable[[Tensor], Tensor], loss: Loss, *, weight: float, preprocessing: Preprocessing,
                 loss_function: Loss, falls_over: int | None = None):
        self.teacher, self.loss = teacher, loss
        self.weight = self.first_weight = weight
        self.preprocessing, self.loss_function = preprocessing, loss_function
        self.falls_over = falls_over

    def begin_epoch(self, epoch: int) -> None:
        """epoch: from 0. The share is a function of it alone, so that a resumed run has the same."""
        if self.falls_over is not None:
            first = self.first_weight / (1 - self.first_weight)
            part = min(1.0, epoch / max(1, self.falls_over - 1))
            now = first + (min(first, LAST_LAMBDA) - first) * part
            self.weight = now / (1 + now)

    def __call__(self, plain: TrainingLoss, model: nn.Module, batch: ImageBatch) -> tuple[Tensor, Tensor]:
        """(the loss, a scalar; detached logits [B, K]). plain is not asked: its logits have no graph."""
        wanted = self.teacher(batch.images)
        for_labels, for_teacher, others = _answers(model, self.preprocessing.normalise(batch.images))
        for_labels, for_teacher = for_labels.float(), for_teacher.float()
        by_labels = self.loss_function(for_labels, batch.targets)
        for share, auxiliary in others:
            by_labels = by_labels + share * self.loss_function(auxiliary.float(), batch.targets)
        loss = (1 - self.weight) * by_labels + self.weight * self.loss(for_teacher, wanted)
        return loss, ((for_labels + for_teacher) / 2).detach()


class Announced:
    """A source of batches that says which epoch begins."""

    def __init__(self, source: BatchSource, begin_epoch: Callable[[int], None]):
        self.source, self.begin_epoch = source, begin_epoch

    def __len__(self) -> int:
        return len(self.source)

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[ImageBatch]:
        self.begin_epoch(epoch)
        return self.source.epoch(epoch, start_batch)


def make_distillation(recipe: Recipe, teacher: Teacher | None, preprocessing: Preprocessing,
                      loss_function: Loss) -> Distillation | None:
    """recipe: resolved. None without a teacher."""
    if teacher is None:
        return None
    settings = recipe.distill
    loss: Loss = {"mimic": distillation.mimic, "hard": distillation.hard}.get(
        settings.method, partial(distillation.softened, temperature=settings.temperature))
    return Distillation(teacher, loss, weight=float(settings.weight), preprocessing=preprocessing,
                        loss_function=loss_function,
                        falls_over=int(recipe.train.epochs) if settings.method == "hints" else None)


def announced(source: BatchSource, task: Classification | MultiLabel) -> BatchSource:
    """The source, which tells a distillation whose weights change when an epoch begins."""
    distils = isinstance(task.defence, Distillation) and task.defence.falls_over is not None
    return Announced(source, task.defence.begin_epoch) if distils else source  # type: ignore[union-attr]


def teacher_of(folder: RunFolder, recipe: Recipe, preprocessing: Preprocessing) -> Teacher | None:
    """The run's teacher, noted in RUN/teacher.json when the run begins. Raises RunError on a resume where another model
    has taken its place, and as `load_teacher`."""
    teacher = load_teacher(recipe, preprocessing)
    if teacher is None:
        return None
    now = {"name": teacher.name, "source": teacher.source, "sha256": teacher.digest}
    before = folder.read(RECORD)
    if before is not None and before != now:
        raise RunError("the teacher has changed since the run began", where=recipe.distill.teacher,
                       remedy="Put the old one back, or train a new run")
    folder.write(RECORD, now)
    return teacher


def teacher_row(recipe: Recipe, samples: Samples, splits: dict[str, np.ndarray], preprocessing: Preprocessing,
                task: Classification | MultiLabel, device: torch.device) -> list[Baseline]:
    """The teacher on the test split, by its own preprocessing, for the table of the report; none where there is none
    (any more)."""
    try:
        teacher = load_teacher(recipe, preprocessing)
    except UserError:
        return []
    if teacher is None:
        return []
    loader = Loader(samples, splits["test"], teacher.preprocessing, batch_size=int(recipe.train.batch_size),
                    on_bad_image=recipe.data.on_bad_image)
    parts = []
    for batch in loader.epoch(0):
        batch = batch.to(device)
        parts.append(task.predictions(teacher(batch.images), batch))
    found = ClassPredictions(torch.cat([p.probs for p in parts]), torch.cat([p.targets for p in parts]),
                             torch.cat([p.index for p in parts]))
    return [Baseline(f"teacher, {teacher.name}", f"{teacher.source}, from which this model learnt",
                     task.evaluate(found, samples.classes, "test").metrics)]


def choose_distillation(recipe: Recipe, values: dict[str, Any], reasons: list[str]) -> None:
    """Fills the `auto` of recipe.distill into values, but for the layers of hints, which need the models. Raises
    RecipeError for fields that contradict each other."""
    settings = recipe.distill
    if settings.teacher is None:
        if settings != Distill():
            changed = next(name for name in Distill.model_fields if getattr(settings, name) != getattr(Distill(), name))
            raise RecipeError("nothing is distilled without a teacher",
                              where=f"distill.{changed}={getattr(settings, changed)}",
                              remedy="Name one: --distill runs/teacher")
        return
    if values.get("task", recipe.task) != "classification":
        raise RecipeError("distillation is for one label per image", where=f"distill.teacher={settings.teacher}",
                          remedy="Train without a teacher")
    if recipe.defend.method != "none":
        raise RecipeError("a defence and a teacher each have a training loss of their own",
                          where=f"defend.method={recipe.defend.method}", remedy="Choose one of the two")
    if settings.method != "hints" and (settings.hint_layer, settings.guided_layer, settings.hint_epochs) != (
            "auto", "auto", "auto"):
        raise RecipeError(f"the method {settings.method} reads no hidden layer", where="distill.hint_layer, "
                          "guided_layer or hint_epochs", remedy="Set distill.method=hints, or leave them out")
    weight = settings.weight
    if weight == "auto":
        weight = values["distill.weight"] = WEIGHTS[settings.method]
    if settings.method == "hints" and weight == 1:
        raise RecipeError("the share of the teacher falls until labels count as much, and cannot begin at 1",
                          where="distill.weight=1", remedy="Use 0.8, as FitNets do, or distill.method=logits")
    soft = f" at temperature {settings.temperature:g}" if settings.method in ("logits", "hints") else ""
    text = f"distilled by {settings.method}{soft}: the teacher counts {weight:g} of the loss, the labels " \
           f"{1 - weight:g}"
    if settings.method == "hints":
        epochs = values.get("train.epochs", recipe.train.epochs)
        hint_epochs = settings.hint_epochs
        if hint_epochs == "auto":
            hint_epochs = values["distill.hint_epochs"] = max(1, round(epochs / 3))
        text += f" at first, alike in the end; {counted(hint_epochs, 'epoch')} before, in which a hidden layer " \
                "imitates the teacher's"
    reasons.append(text)


def _answers(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor, tuple[tuple[float, Tensor], ...]]:
    """(logits for the labels, logits for the teacher, (weight, logits) of auxiliary classifiers)."""
    if getattr(getattr(model, "config", None), "distilled", False):
        for_labels, for_teacher = model.distillation_logits(images)  # type: ignore[operator]
        return for_labels, for_teacher, ()
    with_auxiliaries = getattr(model, "training_logits", None)
    if with_auxiliaries is not None:
        logits, auxiliaries = with_auxiliaries(images)
        return logits, logits, auxiliaries
    logits = model(images)
    return logits, logits, ()
