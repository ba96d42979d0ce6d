"""ONNX files: written from a torch program as one self-describing file, and looked at before a runtime opens them."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visus.core.errors import CheckpointError, MissingExtra, UserError
from visus.core.files import finite, write_bytes

if TYPE_CHECKING:
    from torch import Tensor, nn

OPSET = 20
KEY = "visus"           # of the description in the file's own metadata
MOST_BYTES = 2_000_000_000  # of a protobuf file


def write_onnx(program: nn.Module, example: Tensor, path: str | os.PathLike[str],
               about: Mapping[str, Any] | None = None, *, inputs: tuple[str, ...] = ("images",),
               outputs: tuple[str, ...] = ("probs",), dynamic_batch: bool = True, dynamic_size: bool = False) -> None:
    """One file, weights inside. example: images [B, H, W, C] of at least two, of the kind that the program takes.
    about: what is written into the file's metadata, as JSON. dynamic_size: H and W stay open (multiples are the net's
    own affair).

    Raises MissingExtra without onnx and onnxscript, UserError for a program that cannot be written down.
    """
    import torch

    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError:
        raise MissingExtra("Writing ONNX", "export") from None
    axes: dict[int, Any] = {0: torch.export.Dim.DYNAMIC} if dynamic_batch else {}
    if dynamic_size:
        axes |= {1: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC}
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            found = torch.onnx.export(program.eval(), (example,), input_names=list(inputs), output_names=list(outputs),
                                      dynamic_shapes=(axes,), opset_version=OPSET, dynamo=True, verbose=False,
                                      external_data=False, optimize=True)
    except Exception as error:  # the exporter raises many kinds, none of which says more than its text
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"cannot be written as ONNX: {first}", where=type(getattr(program, "model", program)).__name__,
                        remedy="Export it with --to torch-export or --to safetensors") from error
    model = found.model_proto
    del model.graph.value_info[:]  # shapes of the example, which quantisers and other batch sizes stumble over
    if about is not None:
        entry = model.metadata_props.add()
        entry.key, entry.value = KEY, json.dumps(finite(about), allow_nan=False)
    if model.ByteSize() > MOST_BYTES:
        raise UserError(f"has {model.ByteSize() >> 20} MiB, more than one ONNX file can hold", where=str(path),
                        remedy="Export it with --to torch-export or --to safetensors")
    onnx.checker.check_model(model)
    write_bytes(Path(path), model.SerializeToString())


def read_about(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The description in a file of ours, without loading its graph into a runtime. Raises CheckpointError."""
    session = open_graph(path)
    text = session.get_modelmeta().custom_metadata_map.get(KEY)
    try:
        about = json.loads(text) if text else None
    except ValueError:
        about = None
    if not isinstance(about, dict):
        raise CheckpointError("is an ONNX file without our description", where=path,
                              remedy="Write it with: visus export RUN --to onnx")
    return about


def open_graph(path: str | os.PathLike[str], threads: int = 1, spin: bool = False) -> Any:
    """An onnxruntime.InferenceSession on the CPU, from bytes: a file that points to others, for its weights, is
    refused, as it could name any file of the machine. spin: threads wait busily for work."""
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtra("Running ONNX models", "export") from None
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror or error}", where=path) from None
    refuse_other_files(data, path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin else "0")
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its own, without a common base
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise CheckpointError(f"is not an ONNX model that can be run: {first}", where=path,
                              remedy="Export it again: visus export RUN --to onnx") from None


def refuse_other_files(data: bytes, path: Path) -> None:
    """Raises CheckpointError for a model whose tensors lie in other files (CVE-2022-25882 and its successors)."""
    remedy = "Export it as one file: visus export RUN --to onnx"
    if data[4:8] == b"ORTM":
        raise CheckpointError("is in onnxruntime's own format, not ONNX", where=path, remedy=remedy)
    if b"location" not in data:  # the key that every reference to a file has
        return
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError:
        raise CheckpointError("may take tensors from other files, and the package onnx, which would tell, is missing",
                              where=path, remedy="Install it: pip install 'visus[export]'") from None
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError:
        raise CheckpointError("is not an ONNX model", where=path, remedy=remedy) from None
    if any(onnx.external_data_helper.uses_external_data(tensor)
           for tensor in onnx.external_data_helper._get_all_tensors(model)):
        raise CheckpointError("takes tensors from other files, which is refused", where=path, remedy=remedy)
