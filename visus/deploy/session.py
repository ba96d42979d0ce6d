"""One way to ask an exported model: uint8 images in, probabilities out, whatever runtime computes. Imports no torch.

onnxruntime              threads sleep while they wait: nothing is lost to other processes
onnxruntime-spinning     they wait busily inside of a call (not between calls): less latency with several threads where
                         the cores are free, a cliff where they are not
openvino                 other kernels and another scheduler
openvino-bf16, -f16      the same in 16 bits, on processors that compute them; other numbers, mostly the same answers
torch, torch-...         the original, see visus.deploy.backends_torch; they need the torch model
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from visus.core.errors import CheckpointError, ResourceError, UserError, did_you_mean
from visus.deploy.onnx_file import open_graph, open_graph_bytes, read_graph
from visus.deploy.openvino_package import openvino_to_compute

if TYPE_CHECKING:
    from torch import nn

Session = Callable[[np.ndarray], np.ndarray]  # uint8 [B, H, W, C] -> float32 [B, K]; may be called from several threads
EXACT = ("onnxruntime", "onnxruntime-spinning", "openvino")
HALF = {"openvino-bf16": "bfloat16", "openvino-f16": "float16"}
WITHOUT_TORCH = (*EXACT, *HALF)
WITH_TORCH = ("torch", "torch-channels-last", "torch-folded", "torch-folded-channels-last", "torch-compile")
BACKENDS = WITHOUT_TORCH + WITH_TORCH
_KINDS = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(double)": np.float64,
          "tensor(float16)": np.float16, "tensor(int64)": np.int64, "tensor(int32)": np.int32}


def open_session(path: Path, backend: str = "onnxruntime", threads: int = 1, *, batch: int | None = 1,
                 load: Callable[[], nn.Module] | None = None) -> Session:
    """The .onnx file in a runtime, ready to answer from several threads at once; each call computes on `threads`.

    batch: the graph is simplified for so many images at once; calls with another number are answered in parts of it,
    the last one filled up, so that an image's answer never depends on how many came with it. None: any number is
    computed at once. load: gives the program (visus.deploy.program) for the backends that are torch's.

    Raises UserError for an unknown backend or a torch one without `load`, MissingExtra for one that is not installed,
    CheckpointError for a file that cannot be run; the session raises UserError for images of another shape or type.
    """
    if backend not in BACKENDS:
        raise UserError("is not a backend", where=f"backend {backend!r}", remedy=did_you_mean(backend, BACKENDS))
    if threads < 1:
        raise UserError("must be at least 1", where=f"threads={threads}")
    if backend in WITH_TORCH:
        if load is None:
            raise UserError("needs the torch model, which was not given", where=f"backend {backend!r}",
                            remedy=f"Take one of {', '.join(WITHOUT_TORCH)}")
        from visus.deploy.backends_torch import torch_session

        return torch_session(load(), backend, threads)
    if backend.startswith("openvino"):
        return session_of_graph(read_graph(path), backend, threads, batch=batch, where=path)
    return _onnxruntime(open_graph(path, threads, backend == "onnxruntime-spinning", batch), batch)


def session_of_graph(data: bytes, backend: str, threads: int, *, batch: int | None = None,
                     where: object = "the exported model") -> Session:
    """As `open_session`, of a graph in memory with one input, of any type, and one output."""
    if backend.startswith("openvino"):
        return _openvino(data, backend.partition("-")[2] or "f32", threads, batch, where)
    return _onnxruntime(open_graph_bytes(data, threads, backend == "onnxruntime-spinning", batch, where), batch)


def _onnxruntime(graph: Any, batch: int | None) -> Session:
    given = graph.get_inputs()[0]
    outputs = [graph.get_outputs()[0].name]

    def compute(images: np.ndarray) -> np.ndarray:
        try:
            return np.asarray(graph.run(outputs, {given.name: images})[0])
        except Exception as error:  # onnxruntime raises classes of its own, without a common base
            raise _translated(error, images) from error

    shape = [size if isinstance(size, int) else None for size in given.shape]
    return _checked(compute, shape, _KINDS.get(given.type), batch)


def _openvino(data: bytes, precision: str, threads: int, batch: int | None, where: object) -> Session:
    openvino = openvino_to_compute("The OpenVINO backend")
    core = openvino.Core()
    able = {"bf16": "BF16", "f16": "FP16"}.get(precision)
    if able and able not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise ResourceError(f"this processor does not compute in {precision}", where=f"openvino-{precision}",
                            remedy="Use openvino")
    try:
        model = core.read_model(data, b"")
        given = model.input(0).partial_shape
        if batch is not None and given[0].is_dynamic:
            given[0] = batch
            model.reshape({model.input(0): given})
        compiled = core.compile_model(model, "CPU", {
            "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": precision})
    except Exception as error:  # RuntimeError, mostly; its first lines name source files of the runtime
        raise CheckpointError(f"is not a model that OpenVINO can run: {_said(error)}", where=where,
                              remedy="Use the backend onnxruntime") from None
    output = compiled.output(0)
    idle: SimpleQueue[Any] = SimpleQueue()  # requests hold the buffers of one call each

    def compute(images: np.ndarray) -> np.ndarray:
        try:
            request = idle.get_nowait()
        except Empty:
            request = compiled.create_infer_request()
        try:
            return np.array(request.infer([images])[output])
        except Exception as error:
            raise _translated(error, images) from error
        finally:
            idle.put(request)

    shape = [None if size.is_dynamic else size.get_length() for size in compiled.input(0).partial_shape]
    return _checked(compute, shape, np.dtype(compiled.input(0).element_type.to_dtype()).type, batch)


def _checked(compute: Session, shape: Sequence[int | None], kind: Any, batch: int | None) -> Session:
    """The session that refuses images of another shape or type, and that keeps to `batch` images at once."""

    def answer(images: np.ndarray) -> np.ndarray:
        images = np.asarray(images)
        fits = images.ndim == len(shape) and all(size in (None, found) for size, found
                                                 in zip(shape[1:], images.shape[1:], strict=True))
        if not fits or (kind is not None and images.dtype != kind) or not len(images):
            expected = ", ".join(str(size or name) for size, name in
                                 zip((None, *shape[1:]), ("B", "H", "W", "C"), strict=False))
            raise UserError(f"has shape {tuple(images.shape)} and type {images.dtype}; the model takes "
                            f"{np.dtype(kind).name if kind else 'numbers'} [{expected}]", where="images",
                            remedy="Resize the images as the bundle's preprocessing says")
        if batch is None or len(images) == batch:
            return compute(images)
        parts = []
        for start in range(0, len(images), batch):
            part = images[start:start + batch]
            missing = batch - len(part)
            filled = np.concatenate([part, np.repeat(part[-1:], missing, 0)]) if missing else part
            parts.append(compute(filled)[:len(part)])
        return np.concatenate(parts)

    return answer


def _translated(error: Exception, images: np.ndarray) -> UserError:
    return ResourceError(f"the runtime could not compute this: {_said(error)}", where=f"images {images.shape}",
                         remedy="Try fewer images at once, or the backend onnxruntime")


def _said(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
