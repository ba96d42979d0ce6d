"""OpenVINO's own format: model.xml and model.bin beside the bundle's description. Imports no torch."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from visus.core.errors import CheckpointError, UserError
from visus.deploy.artifact import OPENVINO
from visus.deploy.onnx_file import read_graph
from visus.deploy.openvino_package import openvino_to_compute, openvino_to_write
from visus.deploy.session import Session


def write_openvino(onnx: str | os.PathLike[str], folder: str | os.PathLike[str], half: bool = False) -> Path:
    """An .onnx file of ours as model.xml and model.bin in `folder`; -> the former. half: weights are kept in 16 bits.
    Raises MissingExtra, UserError for a graph that OpenVINO does not know."""
    openvino = openvino_to_write("Writing OpenVINO's format")
    try:
        model = openvino.Core().read_model(read_graph(onnx), b"")
        openvino.save_model(model, str(Path(folder) / OPENVINO[0]), compress_to_fp16=half)
    except RuntimeError as error:
        raise UserError(f"cannot be written for OpenVINO: {_last_line(error)}", where=str(onnx),
                        remedy="Export it with --to onnx") from error
    return Path(folder) / OPENVINO[0]


def open_openvino(path: str | os.PathLike[str], threads: int = 1) -> Session:
    """The model.xml (its weights lie in the model.bin beside it), computed in float32 on the CPU, ready to answer from
    several threads. Raises MissingExtra, CheckpointError."""
    openvino = openvino_to_compute("Running OpenVINO's format")
    path = Path(path)
    try:
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(path, path.with_suffix(".bin")), "CPU", {
            "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"})
    except RuntimeError as error:
        raise CheckpointError(f"is not a model that OpenVINO can run: {_last_line(error)}", where=path,
                              remedy="Export it again: visus export RUN --to openvino") from None
    output, size = compiled.output(0), compiled.input(0).partial_shape[0]
    batch = 0 if size.is_dynamic else size.get_length()

    def answer(images: np.ndarray) -> np.ndarray:
        count = len(images)
        if batch and count < batch:  # a graph of a fixed batch is filled up with copies
            images = np.concatenate([images, np.repeat(images[-1:], batch - count, 0)])
        return np.array(compiled.create_infer_request().infer([images])[output])[:count]

    return answer


def _last_line(error: Exception) -> str:
    """Its first lines name source files of the runtime."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
