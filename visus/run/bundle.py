"""The portable model: weights as safetensors, everything else that it needs as JSON beside them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visus.core.errors import CheckpointError, RunError
from visus.core.files import finite, read_json, sha256, write_json
from visus.core.preprocessing import Preprocessing
from visus.core.record import RunFolder

if TYPE_CHECKING:
    from torch import Tensor, nn

    from visus.calibrate.choosing import Calibrator

MODEL_FORMAT = 1
FOLDS = "folds"  # the kind of a run folder that joins the trainings of a cross-validation
ENSEMBLE = "ensemble"  # of one that was made of the models of others: it has a model, and no training


@dataclass(frozen=True)
class TrainedModel:
    """A model with all that it needs to be used: preprocessing (with labels), task, where it came from, and the
    correction of its probabilities that `visus calibrate` fitted, where there is one."""

    model: nn.Module
    name: str
    task: str
    preprocessing: Preprocessing
    about: dict[str, Any]

    @property
    def labels(self) -> tuple[str, ...]:
        return self.preprocessing.labels

    @property
    def calibrator(self) -> Calibrator | None:
        """Probabilities [N, C] -> corrected ones. Raises CheckpointError where the record of it is damaged."""
        from visus.calibrate.choosing import from_record

        record = self.about.get("calibration")
        return None if record is None else from_record(record, len(self.labels), where="model.json")


def one_training(folder: RunFolder) -> RunFolder:
    """The folder, where it is of one training. Raises RunError for one that joins the folds of a cross-validation, and
    for an ensemble."""
    if folder.about.get("kind") == ENSEMBLE:
        raise RunError("is an ensemble: it was not trained itself", where=folder.path,
                       remedy="Give one of the runs that it was made of; its report.html names them")
    return one_model(folder)


def one_model(folder: RunFolder) -> RunFolder:
    """The folder, where it has a model and predictions of its own: of a training or an ensemble. Raises RunError for
    one that joins the folds of a cross-validation."""
    if folder.about.get("kind") == FOLDS:
        raise RunError("joins the trainings of a cross-validation", where=folder.path,
                       remedy=f"Give the folder of one of them, such as {folder.path / 'fold-1'}")
    return folder


def save_model(folder: Path, weights: dict[str, Tensor], *, name: str, config: dict[str, Any], task: str,
               preprocessing: Preprocessing, about: dict[str, Any]) -> None:
    """model.safetensors, then model.json, which holds its SHA-256: the pair is complete when model.json fits."""
    from visus.core.weights import write_state_dict

    write_state_dict(folder / "model.safetensors", weights)
    write_json(folder / "model.json", {
        "format": MODEL_FORMAT, "name": name, "config": finite(config), "task": task,
        "preprocessing": preprocessing.to_dict(), "sha256": sha256(folder / "model.safetensors"), **about})


def load_model(folder: str | os.PathLike[str]) -> TrainedModel:
    """The model of a run folder or of its model/ folder, in eval mode on the CPU; of a cross-validation the models of
    its folds, and of an ensemble its members, as one that averages their answers.

    Raises CheckpointError when a file is missing, damaged or of a newer version. Nothing in them is executed.
    """
    import torch

    from visus.core.weights import read_state_dict
    from visus.run.models import create_model

    folder = Path(os.fspath(folder))
    if (folder / "model" / "model.json").is_file():
        folder = folder / "model"
    path = folder / "model.json"
    if not path.is_file():
        if (folder / "run.json").is_file() and RunFolder.open(folder).about.get("kind") == FOLDS:
            from visus.run.averaged import load_averaged

            return load_averaged(RunFolder.open(folder))
        if (folder / "run.json").is_file():
            raise RunError("this run has no model yet: it did not come to its end", where=folder,
                           remedy=f"Finish it: visus train --resume {folder}")
        problem = "holds no model.json" if folder.exists() else "there is no such run folder"
        raise CheckpointError(problem, where=folder, remedy="Give a run folder that `visus train` made")
    about = read_json(path, error=CheckpointError)
    if not isinstance(about, dict) or not {"format", "name", "config", "task", "preprocessing"} <= about.keys():
        raise CheckpointError("is not a model description of ours", where=path)
    if not isinstance(about["format"], int) or about["format"] > MODEL_FORMAT:
        raise CheckpointError(f"was written by a newer version of visus (format {about['format']})", where=path,
                              remedy="Upgrade: pip install -U visus")
    if "members" in about:
        from visus.run.averaged import load_members

        return load_members(folder, about)
    weights = folder / "model.safetensors"
    if weights.is_file() and sha256(weights) != about.get("sha256"):
        raise CheckpointError("is damaged: its SHA-256 is not the one in model.json", where=weights,
                              remedy="Copy the run again, or resume it to write the model anew")
    tensors = read_state_dict(weights)
    config: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in about["config"].items()}
    with torch.random.fork_rng(devices=[]):  # building draws initial weights: the caller's generator stays as it is
        model = create_model(about["name"], **config)
    try:
        model.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"does not fit the model {about['name']}: {error}", where=weights) from None
    return TrainedModel(model.eval(), about["name"], about["task"], Preprocessing.from_dict(about["preprocessing"]),
                        about)
