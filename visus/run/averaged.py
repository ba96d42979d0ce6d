"""Several models as one, which answers with the mean of their answers: a cross-validation's folds, an ensemble.

Hansen and Salamon, Neural Network Ensembles, IEEE PAMI 1990 (votes); Lakshminarayanan et al., NIPS 2017,
arXiv:1612.01474, section 2.4 (the mean of the probabilities).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from visus.core.errors import CheckpointError, RunError
from visus.core.preprocessing import Preprocessing
from visus.core.record import RunFolder
from visus.run.bundle import TrainedModel, load_model

OF = ("probs", "logits", "votes")
TIE = 1e-4  # share of the mean probabilities in a vote: less than any vote, and it decides between equal counts


class Averaged(nn.Module):
    """images [B, C, H, W] in [0, 1], not normalised -> logits [B, K] of all models together (`combine`).

    Each model normalises by the statistics of the images it was trained on, and sees its own views. With of='probs' the
    softmax (sigmoid, for several labels) of what comes out is the mean of the models' softmaxes (sigmoids).
    """

    def __init__(self, models: Sequence[nn.Module], preprocessings: Sequence[Preprocessing], several: bool,
                 of: str = "probs"):
        super().__init__()
        self.models = nn.ModuleList(models)
        self.preprocessings, self.several, self.of = tuple(preprocessings), several, of

    def forward(self, images: Tensor) -> Tensor:
        logits = [preprocessing.answers(model, images).float()
                  for model, preprocessing in zip(self.models, self.preprocessings, strict=True)]
        return combine(torch.stack(logits), self.of, self.several)


def combine(logits: Tensor, of: str = "probs", several: bool = False) -> Tensor:
    """Logits [M, B, K] of M members -> [B, K], whose softmax (sigmoid where an image has several labels) is

    probs: the mean of the members' probabilities; logits: that of their mean logits, which is the geometric mean of
    the probabilities, scaled to a sum of 1; votes: the share of the members that answer with the class (for several
    labels: that give the label at least 0.5), equal shares decided by the mean probability.
    """
    if of == "logits":
        return logits.mean(0)
    probs = logits.sigmoid() if several else logits.softmax(-1)
    mean = probs.mean(0)
    if of == "votes":
        votes = (probs >= 0.5).to(probs) if several else torch.zeros_like(probs).scatter_(
            -1, probs.argmax(-1, keepdim=True), 1.0)
        mean = torch.lerp(votes.mean(0), mean, TIE)
    mean = mean.clamp(1e-12, 1.0)
    return mean.logit(eps=1e-7) if several else mean.log()


def load_averaged(folder: RunFolder) -> TrainedModel:
    """The models of a finished cross-validation as one, in eval mode on the CPU. Raises RunError naming the folds that
    have no model yet."""
    count = int(folder.about.get("folds") or 0)
    paths = [folder.path / f"fold-{k}" for k in range(1, count + 1)]
    missing = [path.name for path in paths if not Path(path / "model" / "model.json").is_file()]
    if missing:
        raise RunError(f"of its folds {', '.join(missing)} have no model yet", where=folder.path,
                       remedy=f"Finish it: visus train --resume {folder.path}, or give the folder of one fold")
    trained = [load_model(path) for path in paths]
    first = trained[0]
    if any(one.labels != first.labels for one in trained):
        raise RunError("its folds have other labels: they are not of one cross-validation", where=folder.path)
    about = {"trained_on": first.about.get("trained_on"), "folds": count}
    return averaged(trained, f"{first.name} x {count}", about)


def load_members(folder: Path, about: Mapping[str, Any]) -> TrainedModel:
    """The model of an ensemble, whose members lie in folders beside its model.json (`about`). Raises CheckpointError
    for a description that is not one of ours."""
    names, of = about["members"], about.get("of")
    if not isinstance(names, list) or not names or of not in OF or any(
            not isinstance(name, str) or name.startswith(".") or Path(name).name != name for name in names):
        raise CheckpointError("does not describe an ensemble of ours", where=folder / "model.json",
                              remedy="Copy the run again, or make it anew: visus ensemble RUN RUN")
    trained = [load_model(folder / name) for name in names]
    if any(one.labels != trained[0].labels or one.task != about["task"] for one in trained):
        raise CheckpointError("its members have other labels or tasks", where=folder / "model.json",
                              remedy="Make it anew: visus ensemble RUN RUN")
    return averaged(trained, str(about["name"]), dict(about), of)


def averaged(trained: Sequence[TrainedModel], name: str, about: dict[str, Any], of: str = "probs") -> TrainedModel:
    """Models that differ in nothing of their preprocessing but mean, standard deviation and views, as one in eval
    mode."""
    first = trained[0]
    model = Averaged([one.model for one in trained], [one.preprocessing for one in trained],
                     first.task == "multilabel", of).eval()
    return TrainedModel(model, name, first.task, unnormalised(first.preprocessing), about)


def unnormalised(preprocessing: Preprocessing) -> Preprocessing:
    """The same with mean 0, standard deviation 1 and one view: for models that see to these by themselves."""
    channels = preprocessing.channels
    return replace(preprocessing, mean=(0.0,) * channels, std=(1.0,) * channels, views="none")
