"""A `.deep` file: a network's tensors as Deep Compression stores them, and its size after each of the method's steps.

Han, Mao, Dally, ICLR 2016, arXiv:1510.00149. A tensor of few different values is stored as those that are not zero, in
order: for each the gap, how many zeros lie before it, and the index of its value in the codebook; both streams in
Huffman's code. A gap that does not fit its bits is filled with a zero that is stored (figure 2): index 0. Tensors of
many values (scales, shifts, biases, statistics) lie there as they are.

    8 bytes   VISDEEP1
    4 bytes   length of the header, little endian
    header    JSON: {"tensors": [{"name", "shape", "kind": "raw" | "shared", ...}]}
    bytes     of each tensor in turn, as its entry says: raw: the numbers, little endian; shared: codebook (float32),
              gaps, indices

Nothing in a file is executed, and nothing is allocated that its bytes cannot describe.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from visus.core.errors import CheckpointError
from visus.core.files import write_bytes
from visus.deploy import huffman

MAGIC = b"VISDEEP1"
MAX_HEADER = 16 << 20
MAX_FILE = 1 << 30
MOST_ZEROS = 4096  # numbers that one byte of a file may stand for: 8 entries, each behind a widest gap, twice over
MAX_NUMBERS = 1 << 28  # of one tensor
GAP_BITS = {"convolution": 8, "full": 5}  # the paper's; a matrix is full, anything of more axes a convolution
MOST_VALUES = 256
KINDS = {"float32": "<f4", "float64": "<f8", "int64": "<i8"}


@dataclass(frozen=True)
class Stages:
    """Bytes of all tensors (or of one) after each step: as float32, pruned (values and gaps), with shared values
    (indices, gaps, codebook), in Huffman's code. entries: numbers in it; kept: those that are not zero."""

    entries: int
    kept: int
    plain: float
    pruned: float
    shared: float
    huffman: float


@dataclass(frozen=True)
class Written:
    """size: of the file in bytes, with header. total, layers: see Stages; layers by tensor, of those that share."""

    size: int
    total: Stages
    layers: Mapping[str, Stages]


def write_deep(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray]) -> Written:
    """tensors: float32, float64 or int64, by name. Float32 kernels and matrices of at most 255 different values besides
    zero are stored as shared ones."""
    entries: list[dict[str, Any]] = []
    parts: list[bytes] = []
    layers: dict[str, Stages] = {}
    raw = 0
    for name, values in tensors.items():
        entry: dict[str, Any] = {"name": name, "shape": list(values.shape)}
        book = np.unique(values[values != 0]) if values.dtype == np.float32 and values.ndim > 1 else None
        if book is None or len(book) >= MOST_VALUES or np.isnan(values).any():
            if str(values.dtype) not in KINDS:
                raise CheckpointError(f"holds {values.dtype}, which a .deep file does not", where=name)
            blob = np.ascontiguousarray(values).astype(KINDS[str(values.dtype)]).tobytes()
            entry |= {"kind": "raw", "type": str(values.dtype), "bytes": len(blob)}
            parts.append(blob)
            raw += len(blob)
        else:
            written, blobs, layers[name] = _shared(values, book)
            entry |= written
            parts += blobs
        entries.append(entry)
    header = json.dumps({"tensors": entries}, separators=(",", ":")).encode()
    data = MAGIC + struct.pack("<I", len(header)) + header + b"".join(parts)
    write_bytes(Path(path), data)
    sums = {field: sum(getattr(layer, field) for layer in layers.values()) for field in
            ("entries", "kept", "plain", "pruned", "shared", "huffman")}
    others = sum(values.size for name, values in tensors.items() if name not in layers)
    total = Stages(sums["entries"] + others, sums["kept"] + others, *(sums[f] + raw for f in
                                                                      ("plain", "pruned", "shared", "huffman")))
    return Written(len(data), total, layers)


def read_deep(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The tensors, to the bit. Raises CheckpointError for anything that `write_deep` does not write."""
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > MAX_FILE:
            raise CheckpointError(f"is {size >> 20} MiB, more than the limit of {MAX_FILE >> 20} MiB", where=path)
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror or error}", where=path) from error
    try:
        return _decoded(data)
    except CheckpointError as error:
        raise CheckpointError(f"is damaged: {error.problem}", where=path,
                              remedy="Copy the file again, or compress the run anew") from None
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError, AttributeError) as error:
        raise CheckpointError(f"is damaged ({type(error).__name__} while it was read)", where=path,
                              remedy="Copy the file again, or compress the run anew") from None


def stages_record(stages: Stages) -> dict[str, float]:
    return asdict(stages)


def _shared(values: np.ndarray, book: np.ndarray) -> tuple[dict[str, Any], list[bytes], Stages]:
    bits = GAP_BITS["full" if values.ndim == 2 else "convolution"]
    flat = values.reshape(-1)
    places = np.flatnonzero(flat)
    widest = (1 << bits) - 1  # zeros that one gap can hold
    zeros = np.diff(places, prepend=-1) - 1
    fill = zeros // (widest + 1)  # each filler takes `widest` zeros and its own place
    at = np.arange(len(places)) + np.cumsum(fill)
    gaps = np.full(len(places) + int(fill.sum()), widest, np.int64)
    gaps[at] = zeros - fill * (widest + 1)
    index = np.zeros(len(gaps), np.int64)
    index[at] = np.searchsorted(book, flat[places]) + 1
    gap_lengths = huffman.code_lengths(np.bincount(gaps, minlength=1).tolist() if len(gaps) else [])
    index_lengths = huffman.code_lengths(np.bincount(index, minlength=1).tolist() if len(gaps) else [])
    gap_bytes, index_bytes = huffman.encode(gaps, gap_lengths), huffman.encode(index, index_lengths)
    codebook = book.astype("<f4").tobytes()
    value_bits = max(1, math.ceil(math.log2(len(book) + 1)))
    stages = Stages(flat.size, len(places), 4.0 * flat.size, len(gaps) * (32 + bits) / 8,
                    len(gaps) * (value_bits + bits) / 8 + len(codebook),
                    float(len(gap_bytes) + len(index_bytes) + len(codebook) + len(gap_lengths) / 2
                          + len(index_lengths) / 2))
    entry = {"kind": "shared", "values": len(book), "stored": len(gaps), "gap_lengths": gap_lengths,
             "gap_bytes": len(gap_bytes), "index_lengths": index_lengths, "index_bytes": len(index_bytes)}
    return entry, [codebook, gap_bytes, index_bytes], stages


def _decoded(data: bytes) -> dict[str, np.ndarray]:
    if data[:8] != MAGIC or len(data) < 12:
        raise CheckpointError("it is not a .deep file")
    length = struct.unpack("<I", data[8:12])[0]
    if length > MAX_HEADER or 12 + length > len(data):
        raise CheckpointError(f"its header claims {length} bytes of {len(data)}")
    header = json.loads(data[12:12 + length])
    reader = _Reader(data, 12 + length)
    out: dict[str, np.ndarray] = {}
    room = (1 << 20) + MOST_ZEROS * len(data)
    for entry in header["tensors"]:
        name, shape = entry["name"], entry["shape"]
        if not isinstance(name, str) or name in out or not isinstance(shape, list) or any(
                type(size) is not int or size < 0 for size in shape) or math.prod(shape) > MAX_NUMBERS:
            raise CheckpointError(f"it has a tensor {str(name)[:80]!r} of shape {str(shape)[:80]}")
        room -= math.prod(shape)
        if room < 0:
            raise CheckpointError(f"{len(data)} bytes do not describe so many numbers")
        out[name] = (_raw if entry["kind"] == "raw" else _unshared)(entry, reader, math.prod(shape)).reshape(shape)
    if reader.at != len(data):
        raise CheckpointError(f"{len(data) - reader.at} bytes belong to no tensor")
    return out


class _Reader:
    def __init__(self, data: bytes, at: int):
        self.data, self.at = data, at

    def take(self, count: Any) -> bytes:
        if type(count) is not int or not 0 <= count <= len(self.data) - self.at:
            raise CheckpointError(f"it claims {str(count)[:20]} bytes more, and has {len(self.data) - self.at}")
        self.at += count
        return self.data[self.at - count:self.at]


def _raw(entry: Mapping[str, Any], reader: _Reader, count: int) -> np.ndarray:
    kind = np.dtype(KINDS[entry["type"]])
    blob = reader.take(entry["bytes"])
    if len(blob) != count * kind.itemsize:
        raise CheckpointError(f"{len(blob)} bytes are not {count} numbers")
    return np.frombuffer(blob, kind).astype(kind.newbyteorder("="))


def _unshared(entry: Mapping[str, Any], reader: _Reader, count: int) -> np.ndarray:
    if entry["kind"] != "shared" or type(entry["values"]) is not int or not 0 <= entry["values"] < MOST_VALUES \
            or type(entry["stored"]) is not int:
        raise CheckpointError("it has a tensor of an unknown kind")
    book = np.frombuffer(reader.take(4 * entry["values"]), "<f4").astype(np.float32)
    gap_bytes, index_bytes = reader.take(entry["gap_bytes"]), reader.take(entry["index_bytes"])
    gaps = huffman.decode(gap_bytes, entry["gap_lengths"], entry["stored"])
    index = huffman.decode(index_bytes, entry["index_lengths"], entry["stored"])
    places = np.cumsum(gaps + 1) - 1
    widest = 1 << max(GAP_BITS.values())
    if len(gaps) and (gaps.max() >= widest or places[-1] >= count or index.max() > len(book)):
        raise CheckpointError("a stored number lies outside of its tensor or codebook")
    out = np.zeros(count, np.float32)
    out[places] = np.concatenate([np.zeros(1, np.float32), book])[index]
    return out
