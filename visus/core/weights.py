"""The one place that opens weight files. Nothing in a file is ever run, and nothing is allocated before it is
checked.

Safetensors is what visus writes. A `.pt`/`.pth` file is read only after a guard has seen its size, its zip
directory, every global that its pickle names and every storage that it declares; then by
torch.load(weights_only=True). The guard reads pickles with pickletools, as data.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import math
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor, nn

from visus.core.errors import CheckpointError
from visus.core.files import atomic
from visus.core.seeds import uniform

CHECKSUM = "visus.sha256"
MAX_HEADER = 32 << 20    # bytes of a safetensors header or a pickle: thousands of tensors need under one MiB
MAX_ENTRIES = 100_000
MAX_DIRECTORY = 16 << 20  # bytes of a zip directory: 100,000 entries of 160 bytes
SLACK = 1.01

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool, "C64": torch.complex64, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

_STORAGE_BYTES = {
    "torch DoubleStorage": 8, "torch FloatStorage": 4, "torch HalfStorage": 2, "torch BFloat16Storage": 2,
    "torch LongStorage": 8, "torch IntStorage": 4, "torch ShortStorage": 2, "torch CharStorage": 1,
    "torch ByteStorage": 1, "torch BoolStorage": 1, "torch ComplexFloatStorage": 8,
    "torch ComplexDoubleStorage": 16, "torch.storage UntypedStorage": 1,
}
_ALLOWED_GLOBALS = frozenset(_STORAGE_BYTES) | {
    "collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter",
    "torch Size",
    "torch device",
}
_ALLOWED_OPCODES = frozenset({
    "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT",
    "BININT1", "BININT2", "LONG1", "BINFLOAT", "SHORT_BINSTRING", "BINSTRING", "BINUNICODE",
    "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_TUPLE",
    "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_SET", "ADDITEMS",
    "BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GLOBAL", "STACK_GLOBAL", "REDUCE",
    "NEWOBJ", "BUILD", "BINPERSID",
})
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

_KNOWN_FORMATS = (  # first bytes, what the file is, what to do
    (b"version https://git-lfs", "is a Git LFS pointer, not the file itself", "Fetch the file: git lfs pull"),
    (b"\x93NUMPY", "is a NumPy array, not a weights file", None),
    (b"\x89HDF", "is an HDF5 file (Keras?), not a torch or safetensors file", None),
    (b"\x1f\x8b", "is a gzip archive", "Unpack it first"),
    (b"\xfd7zXZ", "is an xz archive", "Unpack it first"),
    (b"GGUF", "is a GGUF file, not a torch or safetensors file", None),
)
_EXPORT = ("Where the file comes from, save the tensors alone: "
           "safetensors.torch.save_file(model.state_dict(), path)")
_AGAIN = "Download or copy it again"


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors or torch file, on the CPU.

    A checkpoint that nests its tensors under `state_dict`, `model_state_dict`, `model_state` or `model` is
    unwrapped.
    Raises CheckpointError, which names the file and what it is, for anything that is not a plain, whole file
    of tensors.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            head = file.read(1024)
            file.seek(0)
            kind = _recognise(path, head, size)
            if kind == "safetensors":
                return _read_safetensors(path, file, size)
            with _translated(path):
                if kind == "zip":
                    _guard_zip(path, file, size)
                else:
                    _guard_legacy(path, file, size)
            file.seek(0)
            with _translated(path):
                loaded = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror or error}", where=path) from error
    return _plain_tensors(path, loaded, size)


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata of a safetensors file, without its tensors. Raises CheckpointError."""
    path = Path(path)
    try:
        with open(path, "rb") as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            return _header(path, file, size).get("__metadata__", {})
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror or error}", where=path) from error


def write_state_dict(path: str | Path, tensors: Mapping[str, Tensor],
                     metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors, in one step: the same tensors and metadata give the same bytes.

    A SHA-256 of names, types, shapes and values goes into the metadata and is checked by `read_state_dict`.
    Tensors that share memory are written one by one. Raises CheckpointError for a type that the format lacks.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPE_NAMES:
            raise CheckpointError(f"{name} is {tensor.dtype}, which safetensors cannot hold", where=path)
    order = sorted(tensors,
                   key=lambda name: (-tensors[name].element_size(), name))  # largest first: all aligned
    header: dict[str, Any] = {
        "__metadata__": dict(sorted({**(metadata or {}), "format": "pt",
                                     CHECKSUM: _checksum(tensors)}.items()))}
    end = 0
    for name in order:
        start, end = end, end + tensors[name].numel() * tensors[name].element_size()
        header[name] = {"dtype": _DTYPE_NAMES[tensors[name].dtype], "shape": list(tensors[name].shape),
                        "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic(path) as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for name in order:
            file.write(_bytes(tensors[name]))


def non_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of the tensors that hold a NaN or an infinity."""
    return [name for name, tensor in tensors.items()
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())]


def with_tensors(model: nn.Module, make: Callable[[str, Tensor], Tensor]) -> nn.Module:
    """A copy of `model` whose parameters and buffers are `make(name, tensor)`; the model's own are not
    copied.

    Tensors that are tied stay tied: `make` sees them once, under their first name.
    """
    memo: dict[int, Any] = {}
    for name, parameter in model.named_parameters():
        made = make(name, parameter)
        memo[id(parameter)] = nn.Parameter(made, requires_grad=parameter.requires_grad
                                           and made.is_floating_point())
    for name, buffer in model.named_buffers():
        memo[id(buffer)] = make(name, buffer)
    return copy.deepcopy(model, memo)


def fingerprint(model: nn.Module, images_shape: tuple[int, ...]) -> tuple[float, float, float, float]:
    """Mean, standard deviation, first and last value of the model's output for weights and images from a
    hash.

    images_shape: (B, C, H, W). Weights and images depend on names and positions alone (core.seeds), the run
    is in float64 and eval mode on the CPU, so equal code gives equal numbers to a relative 1e-7 on any
    machine. Matrices and kernels are uniform with variance 2 / fan-in; vectors lie around 1 (weights) or 0
    (biases); running means and variances are filled too, other buffers are kept. `model` is left as it is.
    """
    with torch.no_grad():
        output = hashed_model(model)(hashed_images(images_shape)).flatten()
    return output.mean().item(), output.std(correction=0).item(), output[0].item(), output[-1].item()


def hashed_model(model: nn.Module) -> nn.Module:
    """A copy on the CPU, float64 and in eval mode, with the weights of `fingerprint`."""
    return with_tensors(model, _hashed).eval()


def hashed_images(shape: tuple[int, ...]) -> Tensor:
    """The images of `fingerprint`: float64 in [-1, 1)."""
    unit = torch.from_numpy(uniform(np.arange(math.prod(shape)), "fingerprint", "images"))
    return (unit * 2 - 1).reshape(shape)


def _hashed(name: str, tensor: Tensor) -> Tensor:
    leaf = name.rsplit(".", 1)[-1]
    if not tensor.is_floating_point():
        return tensor.detach().cpu().clone()
    if not isinstance(tensor, nn.Parameter) and leaf not in ("running_mean", "running_var"):
        return tensor.detach().to("cpu", torch.float64)
    unit = torch.from_numpy(uniform(np.arange(tensor.numel()), "fingerprint", name)).reshape(tensor.shape)
    if leaf == "running_var":
        return unit.add_(0.5)
    unit.sub_(0.5)
    if leaf == "running_mean" or leaf.endswith("bias"):
        return unit.mul_(0.2)
    if tensor.ndim < 2 or leaf == "gain":  # timm keeps the gains of standardised weights as [D, 1, 1, 1]
        return unit.mul_(0.2).add_(1)
    return unit.mul_(2 * (6 / tensor[0].numel()) ** 0.5)


def _recognise(path: Path, head: bytes, size: int) -> str:
    if size == 0:
        raise CheckpointError("is empty (0 bytes)", where=path, remedy=_AGAIN)
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise CheckpointError("is a web page, not a weights file", where=path,
                              remedy="The download was answered by an error or login page: download it again")
    for magic, what, remedy in _KNOWN_FORMATS:
        if head.startswith(magic):
            raise CheckpointError(what, where=path, remedy=remedy)
    if path.suffix == ".safetensors" or (head[8:9] == b"{" and head[5:8] == b"\0\0\0"):
        return "safetensors"
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head.startswith(b"\x80") and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "pickle"
    raise CheckpointError("is not a weights file (neither safetensors nor a torch checkpoint)", where=path,
                          remedy=_EXPORT)


class _translated:
    """Turns whatever a parser raises into CheckpointError."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or not isinstance(error, Exception) or isinstance(error, CheckpointError):
            return
        raise CheckpointError(f"is damaged or truncated ({type(error).__name__} while it was read)",
                              where=self.path,
                              remedy=_AGAIN) from error


def _header(path: Path, file: IO[bytes], size: int) -> dict[str, Any]:
    first = file.read(8)
    length = struct.unpack("<Q", first)[0] if len(first) == 8 else None
    if length is None or length > size - 8:
        raise CheckpointError(f"is truncated or damaged: its header claims {length} bytes of {size}",
                              where=path, remedy=_AGAIN)
    if length > MAX_HEADER:
        raise CheckpointError(f"has a header of {length >> 20} MiB; the limit is {MAX_HEADER >> 20} MiB",
                              where=path)
    try:
        header = json.loads(file.read(length))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"has a damaged header ({type(error).__name__})", where=path,
                              remedy=_AGAIN) from error
    if not isinstance(header, dict) or not all(isinstance(v, dict) for v in header.values()):
        raise CheckpointError("has a damaged header (not a table of tensors)", where=path, remedy=_AGAIN)
    return header


def _read_safetensors(path: Path, file: IO[bytes], size: int) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    expected = _header(path, file, size).get("__metadata__", {}).get(CHECKSUM)
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"is truncated or damaged ({error})", where=path, remedy=_AGAIN) from error
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"holds tensors that cannot be read ({error})", where=path) from error
    if expected is not None and expected != _checksum(tensors):
        raise CheckpointError("was changed since it was written: its checksum does not match", where=path,
                              remedy="Use an earlier checkpoint, or copy the file again")
    return tensors


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name}\0{tensors[name].dtype}\0{list(tensors[name].shape)}\0".encode())
        digest.update(_bytes(tensors[name]))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]


def _guard_zip(path: Path, file: IO[bytes], size: int) -> None:
    _guard_directory(path, file, size)
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        names = {entry.filename for entry in entries}
        if len(entries) > MAX_ENTRIES or len(names) != len(entries):
            raise CheckpointError(f"has {len(entries)} entries, {len(entries) - len(names)} of them twice",
                                  where=path)
        if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1
               or entry.compress_size != entry.file_size for entry in entries):
            raise CheckpointError("is a compressed or encrypted archive, which torch never writes",
                                  where=path, remedy="Unpack it first if it is an archive of checkpoints")
        total = sum(entry.file_size for entry in entries)
        if total > size * SLACK:
            raise CheckpointError(f"claims {total} bytes of content in a file of {size}", where=path)
        if any(name.rsplit("/", 1)[-1] == "constants.pkl" or "/code/" in name for name in names):
            raise CheckpointError("is a TorchScript archive, which holds code", where=path, remedy=_EXPORT)
        pickles = [entry for entry in entries if entry.filename.rsplit("/", 1)[-1] == "data.pkl"]
        if not pickles and names and all(name.endswith(".npy") for name in names):
            raise CheckpointError("is a NumPy archive (.npz), not a weights file", where=path)
        if len(pickles) != 1 or pickles[0].filename.count("/") != 1:
            raise CheckpointError("is a zip archive, but not a torch checkpoint (it needs one NAME/data.pkl)",
                                  where=path)
        if pickles[0].file_size > MAX_HEADER:
            raise CheckpointError(f"has a pickle of {pickles[0].file_size >> 20} MiB", where=path,
                                  remedy=_EXPORT)
        root = pickles[0].filename.split("/")[0]
        actual = {entry.filename: entry.file_size for entry in entries}
        scan = _Scan(path, io.BytesIO(archive.read(pickles[0])))
        scan.run()
        for key, (claimed, _) in scan.storages.items():
            found = actual.get(f"{root}/data/{key}")
            if found != claimed:
                raise CheckpointError(f"declares storage {key!r} of {claimed} bytes, but holds {found}",
                                      where=path, remedy=_AGAIN)


def _guard_directory(path: Path, file: IO[bytes], size: int) -> None:
    """The zip directory's own record, before anything is parsed: at the very end, whole, and of a sane
    length."""
    file.seek(max(0, size - 98))
    tail = file.read()
    end = tail[-22:]
    if len(tail) < 22 or end[:4] != b"PK\x05\x06" or end[-2:] != b"\0\0":
        raise CheckpointError("is truncated: the directory at the end of the archive is missing", where=path,
                              remedy=_AGAIN)
    count, length, offset = struct.unpack("<10xHLL2x", end)
    stop = size - 22
    if tail[-42:-38] == b"PK\x06\x07" and len(tail) == 98:  # zip64: a 56-byte record, a 20-byte locator
        record = tail[-98:-42]
        if record[:4] != b"PK\x06\x06":
            raise CheckpointError("has a damaged archive directory", where=path, remedy=_AGAIN)
        count, length, offset = struct.unpack("<32xQQQ", record)
        stop = size - 98
    if count > MAX_ENTRIES or length > MAX_DIRECTORY:
        raise CheckpointError(f"has an archive directory of {count} entries in {length} bytes, more than any "
                              "checkpoint", where=path)
    if offset + length != stop:
        raise CheckpointError("has a damaged archive directory", where=path, remedy=_AGAIN)


def _guard_legacy(path: Path, file: IO[bytes], size: int) -> None:
    """The torch format before 1.6: five pickles in a row (magic, version, system, object, keys), then the
    storages."""
    stream = io.BytesIO(file.read(MAX_HEADER))
    first = _Scan(path, stream)
    first.run()
    if first.atoms != [_LEGACY_MAGIC]:
        raise CheckpointError("is a plain pickle, not a torch checkpoint", where=path, remedy=_EXPORT)
    scans = [_Scan(path, stream) for _ in range(4)]
    for scan in scans:
        scan.run()
    claimed = sum(length for length, _ in scans[2].storages.values())
    if claimed > size:
        raise CheckpointError(f"declares storages of {claimed} bytes in a file of {size}", where=path,
                              remedy=_AGAIN)


class _Scan:
    """One pickle, read opcode by opcode and never executed.

    Collects `storages`: key -> (bytes, device) of each persistent id, and `atoms`: the strings, integers and
    globals on the stack since the last MARK, enough to follow what torch.save writes. Everything that
    torch.save does not write is refused.
    """

    def __init__(self, path: Path, stream: IO[bytes]):
        self.path = path
        self.stream = stream
        self.storages: dict[str, tuple[int, str]] = {}
        self.atoms: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> None:
        last: Any = None  # what MEMOIZE and BINPUT would keep: an atom, or the tuple just made
        for opcode, argument, _ in self._opcodes():
            name = opcode.name
            if name not in _ALLOWED_OPCODES:
                raise CheckpointError(f"holds Python objects (pickle opcode {name})", where=self.path,
                                      remedy=_EXPORT)
            if name == "STOP":
                return
            if name == "MARK":
                self.atoms, last = [], None
            elif name in ("BINPUT", "LONG_BINPUT"):
                self._memo[argument] = last
            elif name == "MEMOIZE":
                self._memo[len(self._memo)] = last
            elif name in ("BINGET", "LONG_BINGET"):
                last = self._memo.get(argument)
                self.atoms.append(last)
            elif name in ("GLOBAL", "STACK_GLOBAL"):
                last = argument if name == "GLOBAL" else " ".join(str(a) for a in self.atoms[-2:])
                if last not in _ALLOWED_GLOBALS:
                    raise CheckpointError(f"holds Python objects: it asks for {'.'.join(last.split(' '))}",
                                          where=self.path, remedy=_EXPORT)
                self.atoms.append(last)
            elif name == "TUPLE":
                last = tuple(self.atoms)
                self.atoms = []
            elif name == "BINPERSID":
                self._declare(last)
                last = None
            elif argument is not None and name not in ("PROTO", "FRAME"):
                last = argument
                self.atoms.append(last)
            else:
                last = None

    def _opcodes(self) -> Iterator[tuple[pickletools.OpcodeInfo, Any, int | None]]:
        with _translated(self.path):
            yield from pickletools.genops(self.stream)

    def _declare(self, persistent: Any) -> None:
        ok = isinstance(persistent, tuple) and len(persistent) >= 5 and persistent[0] == "storage"
        if ok:
            _, kind, key, device, count = persistent[:5]
            ok = (kind in _STORAGE_BYTES and isinstance(key, str) and isinstance(device, str)
                  and isinstance(count, int) and count >= 0)
        if not ok:
            raise CheckpointError("refers to a storage in a way that torch does not write", where=self.path,
                                  remedy=_EXPORT)
        declared = (count * _STORAGE_BYTES[kind], device)
        if self.storages.setdefault(key, declared) != declared:
            raise CheckpointError(f"declares storage {key!r} twice with different sizes", where=self.path)


def _plain_tensors(path: Path, loaded: Any, size: int) -> dict[str, Tensor]:
    if isinstance(loaded, dict) and not any(isinstance(value, Tensor) for value in loaded.values()):
        for key in ("state_dict", "model_state_dict", "model_state", "model"):
            if isinstance(loaded.get(key), dict):
                loaded = loaded[key]
                break
    if not isinstance(loaded, dict):
        raise CheckpointError(f"holds a {type(loaded).__name__}, not named tensors", where=path,
                              remedy=_EXPORT)
    others = [str(name) for name, value in loaded.items()
              if not isinstance(value, Tensor) or not isinstance(name, str)]
    if others or not loaded:
        raise CheckpointError("holds no named tensors" if not loaded else
                              f"holds entries that are not tensors: {', '.join(others[:8])}", where=path,
                              remedy=_EXPORT)
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in loaded.values()}
    wide = [name for name, t in loaded.items() if t.numel() * t.element_size() > t.untyped_storage().nbytes()]
    if wide or sum(storages.values()) > size * SLACK:
        raise CheckpointError("describes tensors larger than the data in the file", where=path, remedy=_AGAIN)
    return {name: tensor.detach() for name, tensor in loaded.items()}
