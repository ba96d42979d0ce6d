"""The bundle: a folder that holds all that an answer needs, from the decoder to the licence. Read without torch.

    bundle.json       what it is, and the SHA-256 of the files below
    model.onnx        uint8 [B, H, W, C] -> calibrated probabilities [B, K]
    model/            the torch model, for explanations and attacks: model.safetensors, model.json
    golden.npz        real images as the network takes them, and the probabilities that the original gave
    reference.json    statistics of the training images, for `visus monitor`
    passport.json     the evidence about the architecture; card.json: the run's own figures
    LICENSE.txt       the licence of the weights, as stated at the export
    choices.json      what `visus optimize` found fastest, machine by machine; the one file that changes later
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visus.core.errors import CheckpointError
from visus.core.files import child, read_json, sha256, write_json
from visus.core.preprocessing import Preprocessing
from visus.deploy.onnx_file import read_about

FORMAT = 1
NAME = "bundle.json"
ONNX, MODEL, GOLDEN, REFERENCE, CHOICES = "model.onnx", "model", "golden.npz", "reference.json", "choices.json"
OPENVINO = ("model.xml", "model.bin")
PASSPORT, CARD, LICENCE = "passport.json", "card.json", "LICENSE.txt"


@dataclass(frozen=True)
class Bundle:
    """path: the folder, or a single .onnx file of ours. about: what bundle.json (or the file's metadata) says.

    about has: format, model, task ('classification' or 'multilabel'), preprocessing, thresholds (a probability for
    each label from which on it is given; for 'multilabel'), calibration (the record or None), precision ('float32',
    'float16', 'int8'), licence, version (of visus), created, run (id), golden (the comparison's figures), runtime
    ('onnxruntime' or 'openvino'), batch (of so many images, where that is fixed) and, of a folder, files
    {name: SHA-256}.
    """

    path: Path
    about: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.about["model"])

    @property
    def task(self) -> str:
        return str(self.about["task"])

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing.from_dict(self.about["preprocessing"])

    @property
    def labels(self) -> tuple[str, ...]:
        return self.preprocessing.labels

    @property
    def thresholds(self) -> tuple[float, ...]:
        return tuple(self.about.get("thresholds") or (0.5,) * len(self.labels))

    @property
    def calibrated(self) -> bool:
        return self.about.get("calibration") is not None

    @property
    def onnx(self) -> Path:
        return self.path if self.path.is_file() else self.path / ONNX

    @property
    def graph(self) -> Path:
        """The file that is computed: model.onnx, or the model.xml of an OpenVINO folder."""
        return self.path / OPENVINO[0] if self.runtime == "openvino" else self.onnx

    @property
    def runtime(self) -> str:
        return str(self.about.get("runtime", "onnxruntime"))

    @property
    def model_folder(self) -> Path | None:
        """Where the torch model lies, for what needs gradients; None of a single file."""
        folder = self.path / MODEL
        return folder if (folder / "model.json").is_file() else None

    @property
    def identity(self) -> str:
        """SHA-256 of the graph: equal for bundles that compute the same."""
        files = self.about.get("files") or {}
        return str(files[self.graph.name]) if self.graph.name in files else sha256(self.graph)


def is_bundle(path: str | os.PathLike[str]) -> bool:
    """Whether the path is a bundle's folder or an .onnx file. Opens nothing."""
    path = Path(os.fspath(path))
    return path.suffix.lower() == ".onnx" or (path / NAME).is_file()


def read_bundle(path: str | os.PathLike[str], verify: bool = True) -> Bundle:
    """The bundle, all its files compared with their SHA-256 (`verify`). Raises CheckpointError for one that is missing,
    damaged or newer."""
    path = Path(os.fspath(path))
    if path.suffix.lower() == ".onnx":
        about, where = read_about(path), path
    else:
        where = path / NAME
        about = read_json(where, error=CheckpointError)
    if not isinstance(about, dict) or not {"format", "model", "task", "preprocessing"} <= about.keys():
        raise CheckpointError("is not the description of a bundle", where=where, remedy="Write one: visus export RUN")
    if not isinstance(about["format"], int) or about["format"] > FORMAT:
        raise CheckpointError(f"was written by a newer version of visus (format {about['format']})", where=where,
                              remedy="Upgrade: pip install -U visus")
    bundle = Bundle(path, about)
    try:
        if min(len(bundle.labels), len(bundle.preprocessing.size)) < 1 or len(bundle.thresholds) != len(bundle.labels):
            raise ValueError("labels, sizes or thresholds do not fit together")
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"does not describe a model: {error}", where=where,
                              remedy="Copy the bundle again, or export the run once more") from None
    if verify:
        verify_files(bundle)
    return bundle


def verify_files(bundle: Bundle, names: Iterable[str] | None = None) -> None:
    """Compare files of the folder (None: all) with the SHA-256 in bundle.json. Raises CheckpointError for one that is
    missing, damaged or not named there."""
    if not bundle.path.is_dir():
        return
    files = bundle.about.get("files") or {}
    if not isinstance(files, dict) or not files:
        raise CheckpointError("does not name the files of the bundle", where=bundle.path / NAME,
                              remedy="Copy the bundle again, or export the run once more")
    for name in files if names is None else names:
        file = child(bundle.path, name)
        if not file.is_file():
            raise CheckpointError("is missing from the bundle", where=file, remedy="Copy the bundle again, whole")
        if sha256(file) != files.get(name):
            raise CheckpointError("is damaged: its SHA-256 is not the one in bundle.json", where=file,
                                  remedy="Copy the bundle again, or export the run once more")


def seal(path: Path, about: Mapping[str, Any]) -> Bundle:
    """Write bundle.json, with the SHA-256 of every file that lies there: the bundle is complete when this is done."""
    files = {str(file.relative_to(path)): sha256(file) for file in sorted(path.rglob("*"))
             if file.is_file() and file.name not in (NAME, CHOICES) and not file.name.startswith(".")}
    written = {"format": FORMAT, **about, "files": files}
    write_json(path / NAME, written)
    return Bundle(path, written)
