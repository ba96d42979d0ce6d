"""One way to ask an exported model: uint8 images in, probabilities out, whatever runtime computes. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from visus.core.errors import MissingExtra, UserError, did_you_mean
from visus.deploy.onnx_file import open_graph

Session = Callable[[np.ndarray], np.ndarray]  # uint8 [B, H, W, C] -> float32 [B, K]; may be called from several threads


def open_session(path: Path, backend: str = "onnxruntime", threads: int = 1) -> Session:
    """The .onnx file in a runtime, ready to answer from several threads at once; each call computes on `threads`.

    Raises UserError for an unknown backend, MissingExtra for one that is not installed, CheckpointError for a file
    that cannot be run.
    """
    if backend not in BACKENDS:
        raise UserError("is not a backend", where=f"backend {backend!r}", remedy=did_you_mean(backend, BACKENDS))
    return BACKENDS[backend](path, threads)


def _onnxruntime(path: Path, threads: int) -> Session:
    graph = open_graph(path, threads)
    name = graph.get_inputs()[0].name
    outputs = [graph.get_outputs()[0].name]
    return lambda images: graph.run(outputs, {name: images})[0]


def _openvino(path: Path, threads: int) -> Session:
    open_graph_checked(path)
    try:
        import openvino
    except ImportError:
        raise MissingExtra("The OpenVINO backend", "openvino") from None
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(path), "CPU", {
        "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"})
    local: dict[int, Any] = {}

    def answer(images: np.ndarray) -> np.ndarray:
        import threading

        request = local.setdefault(threading.get_ident(), None) or compiled.create_infer_request()
        local[threading.get_ident()] = request
        return np.array(request.infer([images])[compiled.output(0)])

    return answer


def open_graph_checked(path: Path) -> None:
    """Raises CheckpointError for a file that takes tensors from other files."""
    from visus.deploy.onnx_file import refuse_other_files

    refuse_other_files(path.read_bytes(), path)


BACKENDS: dict[str, Callable[[Path, int], Session]] = {"onnxruntime": _onnxruntime, "openvino": _openvino}
