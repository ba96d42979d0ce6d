"""A finished (or running) run as a Python object."""

from __future__ import annotations

import html
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visus.core.errors import RunError
from visus.core.preprocessing import Preprocessing
from visus.core.record import Evaluation, Finding, RunFolder
from visus.deploy.artifact import is_bundle
from visus.run.bundle import TrainedModel, load_model
from visus.run.evaluate import evaluate
from visus.run.predict import Prediction, predict
from visus.run.recipe import Recipe
from visus.run.report import run_summary_html

if TYPE_CHECKING:
    from torch import nn


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

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def recipe(self) -> Recipe:
        return Recipe.load(self.path / "recipe.yaml")

    @property
    def status(self) -> str:
        return str(self.folder.about.get("status"))

    @property
    def metrics(self) -> dict[str, float | None]:
        """The metrics by name of the split that the run is judged by: test, or all held out images of a
        cross-validation pooled; empty before the end."""
        recorded = self.folder.read("metrics.json") or {}
        splits = recorded.get("splits", {})
        measured = splits.get(recorded.get("headline", {}).get("split")) or splits.get("val") or {"metrics": {}}
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
        """Class probabilities of images: paths, folders, globs, bytes or arrays; see `visus.predict`."""
        return predict(self.trained, images, top=top)

    def evaluate(self, path: str | Path | None = None, split: str = "test") -> Evaluation:
        """Metrics on the run's own split, or on the labelled images at `path`; see `visus.evaluate`."""
        return evaluate(self, path, split=split)

    def __repr__(self) -> str:
        shown = ", ".join(f"{k}={v:.4f}" for k, v in list(self.metrics.items())[:3] if v is not None)
        return f"Run({str(self.path)!r}, {self.status}{', ' + shown if shown else ''})"

    def _repr_html_(self) -> str:
        return run_summary_html(self.folder) + f"<p>{html.escape(str(self.report))}</p>"


def load(path: str | Path) -> Run:
    """Open a run folder. Raises RunError when it is not one, or of a newer version."""
    if is_bundle(path):
        raise RunError("is what visus export wrote, not a run", where=path,
                       remedy="Ask it with visus.predict, or load the run that it was exported from")
    return Run(RunFolder.open(path))
