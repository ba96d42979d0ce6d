"""ONNX files: written from a torch program as one self-describing file, and looked at before a runtime opens them."""

from __future__ import annotations

import io
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from visus.core.errors import CheckpointError, MissingExtra, UserError
from visus.core.files import finite, write_bytes

if TYPE_CHECKING:
    from torch import Tensor, nn

OPSET = 20
BATCH = "batch"         # the name of the axis of images, by which a session fixes it
KEY = "visus"           # of the description in the file's own metadata
MOST_BYTES = 2_000_000_000  # of a protobuf file
# numbers of fields in onnx.proto, from ModelProto on
_METADATA_PROPS = 14
_GRAPH = (7,)
_INITIALIZER = (7, 5)
_RAW_DATA = (7, 5, 9)


def write_onnx(program: nn.Module, example: Tensor, path: str | os.PathLike[str],
               about: Mapping[str, Any] | None = None, *, inputs: tuple[str, ...] = ("images",),
               outputs: tuple[str, ...] = ("probs",), dynamic_batch: bool = True, dynamic_size: bool = False,
               quick: bool = False) -> None:
    """One file, weights inside. example: images [B, H, W, C] of at least two, of the kind that the program takes.
    about: what is written into the file's metadata, as JSON. dynamic_size: H and W stay open (multiples are the net's
    own affair). quick: follow one call (torch.jit.trace) in place of torch.export, in about a tenth of the time; what
    depends on values or on a size that is open may be fixed to those of the example, so the caller compares answers.

    Raises MissingExtra without onnx and onnxscript, UserError for a program that cannot be written down.
    """
    import torch

    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError:
        raise MissingExtra("Writing ONNX", "export") from None
    open_axes = {axis: name for axis, name, wanted in ((0, BATCH, dynamic_batch), (1, "height", dynamic_size),
                                                       (2, "width", dynamic_size)) if wanted}
    try:
        with unheard(), torch.no_grad():
            if quick:
                model = _traced(program.eval(), example, inputs, outputs, open_axes)
            else:
                axes = dict.fromkeys(open_axes, torch.export.Dim.DYNAMIC)
                found = torch.onnx.export(program.eval(), (example,), input_names=list(inputs),
                                          output_names=list(outputs), dynamic_shapes=(axes,), opset_version=OPSET,
                                          dynamo=True, verbose=False, external_data=False, optimize=True)
                assert found is not None
                model = found.model_proto
    except Exception as error:  # the exporter raises many kinds, none of which says more than its text
        raise UserError(f"cannot be written as ONNX: {_cause(error)}",
                        where=type(getattr(program, "model", program)).__name__,
                        remedy="Export it with --to torch-export or --to safetensors") from error
    if dynamic_batch:
        given = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
        for value in (*model.graph.input, *model.graph.output):
            for size in value.type.tensor_type.shape.dim:
                if given and size.dim_param == given:
                    size.dim_param = BATCH
    del model.graph.value_info[:]  # shapes of the example, which quantisers and other batch sizes stumble over
    _forget_source(model)
    if about is not None:
        _add_about(model, about)
    if model.ByteSize() > MOST_BYTES:
        raise UserError(f"has {model.ByteSize() >> 20} MiB, more than one ONNX file can hold", where=str(path),
                        remedy="Export it with --to torch-export or --to safetensors")
    onnx.checker.check_model(model)
    write_bytes(Path(path), model.SerializeToString())


@contextmanager
def unheard() -> Iterator[None]:
    """Without warnings, and without the graph that torch prints where it cannot follow a model: the error says why."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _cause(error: BaseException) -> str:
    """The first line of the error that began it: those around it name steps of the exporter."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _traced(program: nn.Module, example: Tensor, inputs: tuple[str, ...], outputs: tuple[str, ...],
            open_axes: Mapping[int, str]) -> Any:
    """The onnx.ModelProto of one call, by torch's older exporter."""
    import onnx
    import torch

    axes: dict[str, dict[int, str]] = {inputs[0]: dict(open_axes)}
    if 0 in open_axes:
        axes |= {name: {0: open_axes[0]} for name in outputs}
    with tempfile.TemporaryDirectory(prefix="visus-") as folder:
        file = Path(folder) / "traced.onnx"
        torch.onnx.export(program, (example,), file, input_names=list(inputs), output_names=list(outputs),
                          dynamic_axes=axes, opset_version=OPSET, dynamo=False, verbose=False)
        return onnx.load_model_from_string(file.read_bytes())


def _forget_source(model: Any) -> None:
    """The exporters write into each node which lines of source made it, with the paths of this machine."""
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while nodes:
        node = nodes.pop()
        node.doc_string = ""
        del node.metadata_props[:]
        for attribute in node.attribute:
            nodes += [*attribute.g.node, *(inner for graph in attribute.graphs for inner in graph.node)]
    for named in (model.graph, *model.graph.input, *model.graph.output, *model.graph.initializer, *model.functions):
        named.doc_string = ""
        del named.metadata_props[:]


def describe(path: str | os.PathLike[str], about: Mapping[str, Any]) -> None:
    """Put a description into an ONNX file's metadata, in place of the one that it may have."""
    import onnx

    model = onnx.load_model_from_string(read_graph(path))
    kept = [entry for entry in model.metadata_props if entry.key != KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    _add_about(model, about)
    write_bytes(Path(path), model.SerializeToString())


def _add_about(model: Any, about: Mapping[str, Any]) -> None:
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, json.dumps(finite(dict(about)), allow_nan=False)


def read_about(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The description in a file of ours; its graph is passed over. Raises CheckpointError."""
    try:
        with open(path, "rb") as file:
            text = _metadata(file).get(KEY)
        about = json.loads(text) if text else None
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror or error}", where=path) from None
    except (ValueError, RecursionError):
        about = None
    if not isinstance(about, dict):
        raise CheckpointError("is not an ONNX file with our description", where=path,
                              remedy="Write it with: visus export RUN --to onnx")
    return about


def _metadata(file: IO[bytes]) -> dict[str, str]:
    """ModelProto.metadata_props of an ONNX file: field 14, of pairs of a key (1) and a value (2), by protobuf's wire
    format. Raises ValueError for bytes that are not of that format."""
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    found = {}
    while file.tell() < end:
        number, length = _field(file, end)
        if number != _METADATA_PROPS or length is None:
            file.seek(length or 0, os.SEEK_CUR)
            continue
        entry = io.BytesIO(file.read(length))
        words = {}
        while entry.tell() < length:
            number, size = _field(entry, length)
            words[number] = entry.read(size or 0).decode()
        found[words.get(1, "")] = words.get(2, "")
    return found


def _field(file: IO[bytes], end: int) -> tuple[int, int | None]:
    """(number, bytes that follow) of the next field, which is passed over where it is a plain number (None)."""
    key = _varint(file)
    number, kind = key >> 3, key & 7
    length = {0: None, 1: 8, 5: 4}.get(kind, -1)
    if kind == 0:
        _varint(file)
    elif kind == 2:
        length = _varint(file)
    if length == -1 or not number or file.tell() + (length or 0) > end:
        raise ValueError("not a protobuf message")
    return number, length


def _varint(file: IO[bytes]) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            break
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return value
    raise ValueError("not a protobuf message")


def open_graph(path: str | os.PathLike[str], threads: int = 1, spin: bool = False, batch: int | None = None) -> Any:
    """An onnxruntime.InferenceSession on the CPU: a file that points to others, for its weights, is refused, as it
    could name any file of the machine. spin: threads wait busily for work while a call lasts. batch: the number of
    images of every call, for which the graph is then simplified. Raises MissingExtra, CheckpointError."""
    seen = refuse_other_files(path)
    session = _session(os.fspath(path), threads, spin, batch, path)  # which reads the file itself: one copy less
    _refuse_change(os.stat(path), seen, path)
    return session


def open_graph_bytes(data: bytes, threads: int = 1, spin: bool = False, batch: int | None = None,
                     where: object = "the exported model") -> Any:
    """As `open_graph`, of a graph in memory. It may take tensors from other files: give it what was made here, or what
    `read_graph` has read."""
    return _session(data, threads, spin, batch, where)


def _session(given: bytes | str, threads: int, spin: bool, batch: int | None, where: object) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtra("Running ONNX models", "export") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin else "0")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if batch is not None:
        options.add_free_dimension_override_by_name(BATCH, batch)
    try:
        return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its own, without a common base
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise CheckpointError(f"is not an ONNX model that can be run: {first}", where=where,
                              remedy="Export it again: visus export RUN --to onnx") from None


def read_graph(path: str | os.PathLike[str]) -> bytes:
    """The file, if it takes nothing from other files. Raises CheckpointError."""
    seen = refuse_other_files(path)
    with open(path, "rb") as file:
        data = file.read()
        _refuse_change(os.fstat(file.fileno()), seen, path)
    return data


def _refuse_change(found: os.stat_result, seen: tuple[int, int, int, int], path: str | os.PathLike[str]) -> None:
    if _state(found) != seen:
        raise CheckpointError("changed while it was read", where=path, remedy="Try again when it is written whole")


def _state(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def refuse_other_files(path: str | os.PathLike[str]) -> tuple[int, int, int, int]:
    """Raises CheckpointError for a model whose tensors lie in other files (CVE-2022-25882 and its successors), and for
    a file that cannot be read. Gives the state of the file that was looked at."""
    remedy = "Export it as one file: visus export RUN --to onnx"
    try:
        with open(path, "rb") as file:
            seen = _state(os.fstat(file.fileno()))
            if file.read(8)[4:] == b"ORTM":
                raise CheckpointError("is in onnxruntime's own format, not ONNX", where=path, remedy=remedy)
            if b"location" not in _beside_values(file):  # the key that every reference to a file has
                return seen
            file.seek(0)
            data = file.read()
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror or error}", where=path) from None
    except ValueError:
        raise CheckpointError("is not an ONNX model", where=path, remedy=remedy) from None
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
    if any(tensor.external_data or tensor.data_location == onnx.TensorProto.EXTERNAL
           for tensor in _messages(model, onnx.TensorProto)):
        raise CheckpointError("takes tensors from other files, which is refused", where=path, remedy=remedy)
    return seen


def _beside_values(file: IO[bytes]) -> bytes:
    """All of an ONNX file but the values of the graph's initializers (`raw_data`), which are nearly all of it and can
    name no file. Raises ValueError for bytes that are not a protobuf message."""
    kept: list[bytes] = []

    def walk(end: int, path: tuple[int, ...]) -> None:
        while (start := file.tell()) < end:
            number, length = _field(file, end)
            here, content = (*path, number), file.tell()
            if length is not None and here in (_GRAPH, _INITIALIZER):
                walk(content + length, here)
            elif here == _RAW_DATA and length is not None:
                file.seek(length, os.SEEK_CUR)
            else:
                file.seek(start)
                kept.append(file.read(content + (length or 0) - start))

    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    walk(end, ())
    return b"\0".join(kept)


def _messages(message: Any, kind: type) -> Iterator[Any]:
    """All parts of a protobuf message that are of a kind, however deep: in attributes, functions, sub-graphs."""
    from google.protobuf.message import Message

    waiting = [message]
    while waiting:
        one = waiting.pop()
        if isinstance(one, kind):
            yield one
            continue
        for field, value in one.ListFields():
            if field.message_type is not None:
                waiting.extend([value] if isinstance(value, Message) else value)
