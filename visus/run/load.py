"""A finished (or running) run as a Python object, and the portable model inside it."""

from __future__ import annotations

import hashlib
import html
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visus.core.errors import CheckpointError, RunError
from visus.core.files import finite, read_json, sha256, write_bytes, write_json
from visus.core.preprocessing import Preprocessing
from visus.core.record import Finding, RunFolder

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

    from visus.core.record import Evaluation
    from visus.run.predict import Prediction

MODEL_FORMAT = 1


@dataclass(frozen=True)
class TrainedModel:
    """A model with all that it needs to be used: preprocessing (with labels), task, where it came from."""

    model: nn.Module
    name: str
    task: str
    preprocessing: Preprocessing
    about: dict[str, Any]

    @property
    def labels(self) -> tuple[str, ...]:
        return self.preprocessing.labels


def save_model(folder: Path, weights: dict[str, Tensor], *, name: str, config: dict[str, Any], task: str,
               preprocessing: Preprocessing, about: dict[str, Any]) -> None:
    """model.safetensors, then model.json, which holds its SHA-256: the pair is complete when model.json fits."""
    from safetensors.torch import save

    data = save({k: v.detach().cpu().contiguous() for k, v in weights.items()}, {"format": "visus"})
    write_bytes(folder / "model.safetensors", data)
    write_json(folder / "model.json", {
        "format": MODEL_FORMAT, "name": name, "config": finite(config), "task": task,
        "preprocessing": preprocessing.to_dict(), "sha256": hashlib.sha256(data).hexdigest(), **about})


def load_model(folder: str | Path) -> TrainedModel:
    """The model of a run folder or of its model/ folder, in eval mode on the CPU.

    Raises CheckpointError when a file is missing, damaged or of a newer version. Nothing in them is executed.
    """
    import torch

    from visus.core.weights import read_state_dict
    from visus.run.models import create_model

    folder = Path(folder)
    if (folder / "model" / "model.json").is_file():
        folder = folder / "model"
    path = folder / "model.json"
    if not path.is_file():
        if (folder / "run.json").is_file():
            raise RunError("this run has no model yet: it did not come to its end", where=folder,
                           remedy=f"Finish it: visus train --resume {folder}")
        raise CheckpointError("holds no model.json", where=folder, remedy="Give a run folder that `visus train` made")
    about = read_json(path, error=CheckpointError)
    if not isinstance(about, dict) or not {"format", "name", "config", "task", "preprocessing"} <= about.keys():
        raise CheckpointError("is not a model description of ours", where=path)
    if not isinstance(about["format"], int) or about["format"] > MODEL_FORMAT:
        raise CheckpointError(f"was written by a newer version of visus (format {about['format']})", where=path,
                              remedy="Upgrade: pip install -U visus")
    weights = folder / "model.safetensors"
    if weights.is_file() and sha256(weights) != about.get("sha256"):
        raise CheckpointError("is damaged: its SHA-256 is not the one in model.json", where=weights,
                              remedy="Copy the run again, or resume it to write the model anew")
    tensors = read_state_dict(weights)
    config = {k: tuple(v) if isinstance(v, list) else v for k, v in about["config"].items()}
    with torch.random.fork_rng(devices=[]):  # building draws initial weights: the caller's generator stays as it is
        model = create_model(about["name"], **config)
    try:
        model.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"does not fit the model {about['name']}: {error}", where=weights) from None
    return TrainedModel(model.eval(), about["name"], about["task"], Preprocessing.from_dict(about["preprocessing"]),
                        about)


class Run:
    """A run folder: `run.metrics`, `run.findings`, `run.model`, `run.predict(...)`, `run.evaluate(...)`."""

    def __init__(self, folder: RunFolder):
        self.folder = folder

    @property
    def path(self) -> Path:
        return self.folder.path

    @property
    def report(self) -> Path:
        """The report page; exists when the run has come to its end."""
        return self.path / "report.html"

    @property
    def recipe(self):
        from visus.run.recipe import Recipe

        return Recipe.load(self.path / "recipe.yaml")

    @property
    def status(self) -> str:
        return str(self.folder.about.get("status"))

    @property
    def metrics(self) -> dict[str, float | None]:
        """The test split's metrics by name; empty before the end."""
        splits = (self.folder.read("metrics.json") or {}).get("splits", {})
        measured = splits.get("test") or splits.get("val") or {"metrics": {}}
        return {name: metric["value"] for name, metric in measured["metrics"].items()}

    @property
    def findings(self) -> list[Finding]:
        return self.folder.findings()

    @property
    def log(self) -> list[dict[str, Any]]:
        return list(self.folder.events())

    @cached_property
    def trained(self) -> TrainedModel:
        return load_model(self.path)

    @property
    def model(self) -> nn.Module:
        """The network with the best weights, in eval mode; it takes normalised images."""
        return self.trained.model

    @property
    def preprocessing(self) -> Preprocessing:
        return self.trained.preprocessing

    def predict(self, images: Iterable[Any], top: int = 5) -> list[Prediction]:
        from visus.run.predict import predict

        return predict(self, images, top=top)

    def evaluate(self, path: str | Path | None = None, split: str = "test") -> Evaluation:
        from visus.run.evaluate import evaluate

        return evaluate(self, path, split=split)

    def __repr__(self) -> str:
        shown = ", ".join(f"{k}={v:.4f}" for k, v in list(self.metrics.items())[:3] if v is not None)
        return f"Run({str(self.path)!r}, {self.status}{', ' + shown if shown else ''})"

    def _repr_html_(self) -> str:
        from visus.run.report import run_summary_html

        return run_summary_html(self.folder) + f"<p>{html.escape(str(self.report))}</p>"


def load(path: str | Path) -> Run:
    """Open a run folder. Raises RunError when it is not one, or of a newer version."""
    return Run(RunFolder.open(path))
