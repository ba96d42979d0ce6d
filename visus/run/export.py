"""visus export: a run's model as one artifact that carries its preprocessing and proves that it computes the same."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch

from visus.deploy.artifact import FORMAT, MODEL, ONNX, seal
from visus.deploy.onnx_file import write_onnx
from visus.deploy.program import Program
from visus.run.bundle import load_model


def export(run: str | os.PathLike[str], to: str = "bundle", out: str | os.PathLike[str] | None = None) -> Path:
    """The path of what was written."""
    trained = load_model(run)
    folder = Path(out) if out is not None else Path(os.fspath(run)) / "export" / "bundle"
    folder.mkdir(parents=True, exist_ok=True)
    program = Program(trained.model, trained.preprocessing, trained.task, trained.about.get("calibration"))
    example = torch.zeros((2, *trained.preprocessing.size, trained.preprocessing.channels), dtype=torch.uint8)
    about = {"format": FORMAT, "model": trained.name, "task": trained.task,
             "preprocessing": trained.preprocessing.to_dict(), "calibration": trained.about.get("calibration"),
             "precision": "float32"}
    write_onnx(program, example, folder / ONNX, about)
    shutil.copytree(Path(os.fspath(run)) / "model", folder / MODEL, dirs_exist_ok=True)
    seal(folder, about)
    return folder
