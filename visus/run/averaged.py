"""The models of a cross-validation as one: the mean of their probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from visus.core.errors import RunError
from visus.core.preprocessing import Preprocessing
from visus.core.record import RunFolder
from visus.run.bundle import TrainedModel, load_model


class Averaged(nn.Module):
    """images [B, C, H, W] in [0, 1], not normalised -> logits [B, K] of the mean probabilities.

    Each model normalises by its own statistics, which are those of the images it was trained on. The softmax (sigmoid,
    for several labels) of what comes out is the mean of the models' softmaxes (sigmoids).
    """

    def __init__(self, models: Sequence[nn.Module], preprocessings: Sequence[Preprocessing], several: bool):
        super().__init__()
        self.models = nn.ModuleList(models)
        self.preprocessings, self.several = tuple(preprocessings), several

    def forward(self, images: Tensor) -> Tensor:
        total: Tensor | float = 0.0
        for model, preprocessing in zip(self.models, self.preprocessings, strict=True):
            logits = model(preprocessing.normalise(images)).float()
            total = total + (logits.sigmoid() if self.several else logits.softmax(1))
        assert isinstance(total, Tensor)
        mean = (total / len(self.models)).clamp(1e-12, 1.0)
        return mean.logit(eps=1e-7) if self.several else mean.log()


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
    size = len(first.preprocessing.mean)
    plain = replace(first.preprocessing, mean=(0.0,) * size, std=(1.0,) * size)
    model = Averaged([one.model for one in trained], [one.preprocessing for one in trained],
                     first.task == "multilabel").eval()
    if any(one.labels != first.labels for one in trained):
        raise RunError("its folds have other labels: they are not of one cross-validation", where=folder.path)
    about = {"trained_on": first.about.get("trained_on"), "folds": count}
    return TrainedModel(model, f"{first.name} x {count}", first.task, plain, about)
