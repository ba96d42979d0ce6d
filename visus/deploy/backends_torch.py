"""The ways in which torch itself computes a finished model, and the quick way out of it into a runtime's graph."""

from __future__ import annotations

import copy
import io
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from visus.core.errors import UserError, did_you_mean
from visus.deploy.fold import reparameterise
from visus.deploy.session import WITH_TORCH, Session

OPSETS = (20, 17)  # 20 has Gelu as one operation, 17 LayerNormalization
_COUNT = threading.RLock()  # torch's number of threads belongs to the process


def torch_variant(model: nn.Module, backend: str, images_shape: tuple[int, ...] | None = None) -> nn.Module:
    """A copy of the model in eval mode, prepared as `backend` says; the model stays as it was ('torch': the model).

    images_shape: [B, C, H, W] for folding, where the model's config does not tell. Raises UserError for an unknown
    backend and for a model whose batch norms cannot be followed.
    """
    if backend not in WITH_TORCH:
        raise UserError("is not a backend of torch", where=f"backend {backend!r}",
                        remedy=did_you_mean(backend, WITH_TORCH))
    if backend == "torch":
        return model.eval()
    folded = backend.startswith("torch-folded")
    variant = reparameterise(model, images_shape).model if folded else copy.deepcopy(model).eval()
    variant.requires_grad_(False)
    if backend.endswith("channels-last"):
        variant.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return torch.compile(variant) if backend == "torch-compile" else variant  # type: ignore[return-value]


def torch_program(program: nn.Module, backend: str) -> nn.Module:
    """A Program (visus.deploy.program) around its model as `backend` prepares it."""
    preprocessing: Any = program.preprocessing
    variant = torch_variant(program.model, backend, (1, preprocessing.channels, *preprocessing.size))  # type: ignore
    if variant is program.model:
        return program.eval()
    out = copy.copy(program)
    out._modules = {**program._modules, "model": variant}
    return out.eval()


def torch_session(program: nn.Module, backend: str, threads: int) -> Session:
    """uint8 [B, H, W, C] -> float32 [B, K] by torch on so many threads. Calls with other numbers of threads wait for
    each other: the number belongs to the process, and is put back."""
    call = on_threads(torch_program(program, backend), threads)
    return lambda images: call(torch.from_numpy(np.ascontiguousarray(images))).numpy()


def on_threads(model: Callable[[Tensor], Tensor], threads: int) -> Callable[[Tensor], Tensor]:
    """model(images) without gradients on so many threads of torch."""

    def call(images: Tensor) -> Tensor:
        with _COUNT, torch.inference_mode():
            before = torch.get_num_threads()
            if before != threads:
                torch.set_num_threads(threads)
            try:
                return model(images)
            finally:
                if before != threads:
                    torch.set_num_threads(before)

    return call


def quick_graph(model: nn.Module, example: Tensor) -> bytes:
    """The model as an ONNX graph for images of exactly the example's shape.

    By the tracing exporter: a fifth to a thirtieth of the time of the one that `visus export` uses (0.5 to 4 s
    against 6 to 28 s), with the same operations. It follows one forward pass, so the graph must be compared with the
    model, and is; where it fails, the other one is asked. Raises UserError where both fail.
    """
    found: list[str] = []
    attempts: list[dict[str, Any]] = [*({"opset_version": opset, "dynamo": False} for opset in OPSETS),
                                      {"opset_version": OPSETS[0], "dynamo": True, "external_data": False}]
    for options in attempts:
        out = io.BytesIO()
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                target: Any = None if options["dynamo"] else out
                written = torch.onnx.export(model, (example,), target, input_names=["images"], output_names=["out"],
                                            verbose=False, **options)
            return out.getvalue() if written is None else written.model_proto.SerializeToString()
        except Exception as error:  # the exporters raise many kinds, none of which says more than its text
            found.append(next((line for line in str(error).splitlines() if line.strip()), type(error).__name__))
    raise UserError(f"cannot be written as a graph: {found[0]}", where=type(model).__name__)
