"""A trained model as a plain function of images, for distillation: it sees what the student sees, by its own eyes."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from visus.core.errors import RecipeError, did_you_mean
from visus.core.files import sha256
from visus.core.preprocessing import Preprocessing
from visus.models import registry
from visus.ops.resample import resize
from visus.run.bundle import load_model
from visus.run.models import create_model
from visus.run.pretrained import is_origin, preprocessing_of
from visus.run.recipe import Recipe

_PUBLIC = re.compile(r"(?P<name>\w+):(?P<origin>\w+)")
_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as visus.ops.resample.to_channels has it for whole numbers


@dataclass(frozen=True, eq=False)
class Teacher:
    """model: in eval mode. order: the positions of the student's classes in its logits, None where they
    are the same. source: where it comes from, in words. digest: SHA-256 of its weights, None for public ones."""

    model: nn.Module
    name: str
    preprocessing: Preprocessing
    source: str
    order: tuple[int, ...] | None = None
    digest: str | None = None

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """[B, C, H, W] in [0, 1], of any size and of 1 or 3 channels -> logits float32 [B, K] in the student's order of
        classes."""
        logits = self.model(self.prepared(images)).float()
        return logits if self.order is None else logits[:, self._index.to(logits.device)]

    def prepared(self, images: Tensor) -> Tensor:
        """The student's images in [0, 1] as the teacher's network takes them: its channels, size, mean and std. The
        network moves to where they are."""
        self.model.to(images.device)
        channels = self.preprocessing.channels
        if images.shape[1] < channels:
            images = images.expand(-1, channels, -1, -1)
        elif images.shape[1] > channels:
            weights = torch.tensor(_LUMA, dtype=images.dtype, device=images.device)
            images = (images * weights.view(1, 3, 1, 1)).sum(1, keepdim=True)
        how = self.preprocessing.interpolation
        images = resize(images.contiguous(), self.preprocessing.size, how)
        return self.preprocessing.normalise(images.clamp(0, 1) if how == "bicubic" else images)

    @cached_property
    def _index(self) -> Tensor:
        assert self.order is not None
        return torch.tensor(self.order)


def load_teacher(recipe: Recipe, student: Preprocessing) -> Teacher | None:
    """The recipe's teacher; None where it names none. student: preprocessing of the student.

    Raises RecipeError for a teacher that is not there, is of another task, or knows other classes.
    """
    given = recipe.distill.teacher
    if given is None:
        return None
    where = f"distill.teacher={given}"
    teacher = _public(given, student, where) or _trained(given, student, where)
    teacher.model.eval().requires_grad_(False)
    return teacher


def named_teacher(given: str) -> str:
    """The teacher as the recipe keeps it: a path that holds from any folder, or NAME:ORIGIN."""
    return given if _PUBLIC.fullmatch(given) and not Path(given).exists() else str(Path(given).resolve())


def _trained(given: str, student: Preprocessing, where: str) -> Teacher:
    if not Path(given).is_dir():
        raise RecipeError("there is no such run folder", where=where,
                          remedy="Give a finished run, or a model with public weights as NAME:ORIGIN, such as "
                          "resnet50:torchvision")
    trained = load_model(given)
    if trained.task != "classification":
        raise RecipeError(f"the teacher answers another question: {trained.task}", where=where,
                          remedy="Distillation is for one label per image")
    strangers = set(student.labels) ^ set(trained.labels)
    if strangers:
        raise RecipeError(f"the teacher knows other classes: {len(trained.labels)}, the student {len(student.labels)}; "
                          f"not in both: {', '.join(sorted(strangers)[:5])}{', ...' if len(strangers) > 5 else ''}",
                          where=where, remedy="Train the teacher on these classes")
    order = tuple(trained.labels.index(label) for label in student.labels)
    weights = [path for path in (Path(given) / "model.safetensors", Path(given) / "model/model.safetensors")
               if path.is_file()]
    return Teacher(trained.model, trained.name, trained.preprocessing, given,
                   None if order == tuple(range(len(order))) else order, sha256(weights[0]) if weights else None)


def _public(given: str, student: Preprocessing, where: str) -> Teacher | None:
    found = _PUBLIC.fullmatch(given)
    if found is None or Path(given).exists():
        return None
    name, origin = found["name"], found["origin"]
    if not is_origin(name, origin):
        raise RecipeError(f"{name} has no public weights of this origin", where=where,
                          remedy=did_you_mean(origin, sorted(registry.get(name).weights)))
    model = create_model(name, weights=origin)
    count = int(getattr(model.config, "num_classes", 0))
    if count != len(student.labels):
        raise RecipeError(f"the teacher knows other classes: {count}, the student {len(student.labels)}", where=where,
                          remedy="Fine-tune it on these images first, and give that run as the teacher")
    return Teacher(model, name, replace(Preprocessing(**preprocessing_of(name, origin)), labels=student.labels),
                   f"{given}, whose classes are taken to be in this order")
