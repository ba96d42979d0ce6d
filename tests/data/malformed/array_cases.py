"""Malformed label maps, tables, arrays, batches and archives (reliability.md 2.1, rows 29, 47 to 49)."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.data.malformed.case import Case
from tests.data.malformed.healthy import (
    HIGH,
    WIDE,
    cifar,
    cifar_batch,
    encoded,
    idx,
    idx_bytes,
    masks,
    npz,
    parquet,
    shard_members,
    shards,
    table,
    tar,
)

MAP, TABLE, SET, BATCH, SHARD, ROWS = (r"masks/0\.png", r"labels\.csv", r"set\.npz", r"data_batch_1", r"train-000\.tar",
                                       r"train\.parquet")


class Runs:
    """What a pickle that runs a command looks like."""

    def __reduce__(self) -> Any:
        return os.system, ("touch owned",)


def of(make: Callable[..., Path], *values: Any, **named: Any) -> Callable[[Path], Path]:
    return lambda folder: make(folder, *values, **named)


def colours() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (HIGH, WIDE, 3), dtype=np.uint8)


def zip_of(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return file.getvalue()


def npy(shape: tuple[int, ...], data: bytes, dtype: str = "|u1") -> bytes:
    head = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + data


def linked_tar(kind: bytes, target: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        about = tarfile.TarInfo("000.png")
        about.type, about.linkname = kind, target
        archive.addfile(about)
        for name, data in shard_members()[2:]:
            about = tarfile.TarInfo(name)
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
    return file.getvalue()


def members(*changes: tuple[int, str, bytes]) -> bytes:
    rows = shard_members()
    for place, name, data in changes:
        rows[place] = (name, data)
    return tar(*rows)


ZEROS = np.zeros((6, 4, 4), np.uint8)
MASKS = [
    Case("masks: a value of no class", of(masks, np.full((HIGH, WIDE), 7, np.uint8)), rf"{MAP}.*\b7\b"),
    Case("masks: colours in the place of numbers", of(masks, colours()), r"classes\.txt.*colours"),
    Case("masks: a cut map", of(masks, encoded()[:200]), rf"{MAP}.*truncated"),
    Case("masks: an empty map", of(masks, b""), rf"{MAP}.*empty"),
    Case("masks: a JPEG", of(masks, encoded(0, "JPEG")), rf"{MAP}.*JPEG", "PNG"),
    Case("masks: a map that is text", of(masks, b"cat,dog\n" * 40), rf"{MAP}.*text"),
    Case("masks: a class twice", of(masks, table="cat\ncat\n"), r"classes\.txt.*cat"),
    Case("masks: a table of bytes", of(masks, table="\0\0\0"), r"classes\.txt.*zero"),
]
TABLES = [
    Case("table: no column of labels", of(table, "path,colour\nimages/0.png,red\n"), rf"{TABLE}:1.*colour"),
    Case("table: fields too few", of(table, "path,label\nimages/0.png\n"), rf"{TABLE}:2.*1 field"),
    Case("table: a quote that does not end", of(table, 'path,label\n"images/0.png,cat\n'), rf"{TABLE}:\d+.*"),
    Case("table: a column twice", of(table, "path,path,label\na,b,c\n"), rf"{TABLE}.*path"),
    Case("table: a missing image", of(table, "path,label\nimages/9.png,cat\nimages/1.png,dog\n"),
         rf"{TABLE}:2.*images/9\.png"),
    Case("table: an address", of(table, "path,label\nhttp://127.0.0.1/a.png,cat\nimages/1.png,dog\n"),
         rf"{TABLE}:2.*http"),
    Case("table: an unknown split", of(table, "path,label,split\nimages/0.png,cat,trian\nimages/1.png,dog,val\n"),
         rf"{TABLE}:2.*trian"),
    Case("table: two labels of one image", of(table, "path,label\nimages/0.png,cat\nimages/0.png,dog\n"),
         rf"{TABLE}:3.*images/0\.png"),
    Case("table: zero bytes", of(table, b"path,label\n" + bytes(300)), rf"{TABLE}.*zero"),
    Case("table: Latin-1", of(table, "path,label\nimages/0.png,k\xe4fer\n".encode("latin-1")), rf"{TABLE}:2.*0xe4"),
    Case("table: one class", of(table, "path,label\nimages/0.png,cat\nimages/1.png,cat\n"), r"cat"),
]
ARRAYS = [
    Case("npz: objects", of(npz, labels=np.array([Runs()] * 6, object)), rf"{SET}.*(object|pickle)"),
    Case("npz: another count of labels", of(npz, labels=np.arange(5)), rf"{SET}.*5.*6|{SET}.*6.*5"),
    Case("npz: floating-point images of unknown range", of(npz, images=ZEROS + 300.5), rf"{SET}.*images"),
    Case("npz: labels of NaN", of(npz, labels=np.full(6, np.nan)), rf"{SET}.*labels"),
    Case("npz: no labels", of(npz, labels=None), rf"{SET}.*label"),
    Case("npz: cut", of(npz, zip_of(images=npy((6, 4, 4), bytes(96)), labels=npy((6,), bytes(6)))[:150]),
         rf"{SET}.*archive"),
    Case("npz: a header that lies",
         of(npz, zip_of(images=npy((10**9, 4, 4), bytes(96)), labels=npy((6,), bytes(6)))), rf"{SET}.*images"),
    Case("npz: a bomb", of(npz, zip_of(images=npy((3 << 28, 4, 4), b""), labels=npy((6,), bytes(6)))),
         rf"{SET}.*images"),
    Case("npz: a header that is a program",
         of(npz, zip_of(images=b"\x93NUMPY\x01\x00(\x00__import__('os').system('touch owned') \n",
                        labels=npy((6,), bytes(6)))), rf"{SET}:images.*header"),
    Case("idx: another number of dimensions", of(idx, images=idx_bytes(np.zeros((6, 4), np.uint8))), r"images-idx3"),
    Case("idx: fewer pixels than it says", of(idx, images=idx_bytes(ZEROS)[:-7]), r"images-idx3.*96.*89"),
    Case("idx: four thousand million images", of(idx, images=b"\0\0\x08\x03" + b"\xff" * 4 + bytes(100)),
         r"images-idx3.*4294967295"),
    Case("idx: another count of labels", of(idx, labels=idx_bytes(np.zeros(5, np.uint8))), r"(5.*6|6.*5)"),
    Case("idx: not IDX", of(idx, labels=b"cat\ndog\n"), r"labels-idx1.*IDX"),
    Case("idx: a cut gzip", lambda folder: (idx(folder, packed=True), cut(folder / "train-images-idx3-ubyte.gz"))[0],
         r"images-idx3-ubyte\.gz.*end"),
    Case("cifar: a pickle that runs a command", of(cifar, pickle.dumps(Runs(), 2)), rf"{BATCH}.*(posix|system)"),
    Case("cifar: a cut pickle", of(cifar, cifar_batch()[:5000]), rf"{BATCH}.*byte \d+"),
    Case("cifar: no labels", of(cifar, cifar_batch(labels=None)), rf"{BATCH}.*labels"),
    Case("cifar: a label of 10", of(cifar, cifar_batch(labels=[10] * 20)), rf"{BATCH}.*10"),
    Case("cifar: labels that are words", of(cifar, cifar_batch(labels=["cat"] * 20)), rf"{BATCH}.*label"),
    Case("cifar: images of another length", of(cifar, cifar_batch(data=np.zeros((20, 3071), np.uint8))),
         rf"{BATCH}.*(3,?071|data)"),
    Case("cifar: another count of labels", of(cifar, cifar_batch(labels=[1] * 19)), rf"{BATCH}.*19"),
    Case("cifar: a number in the place of all", of(cifar, pickle.dumps(7, 2)), rf"{BATCH}.*int"),
]
ARCHIVES = [
    Case("shards: cut inside an image", of(shards, tar(*shard_members())[:700]), rf"{SHARD}.*000\.png"),
    Case("shards: an empty file", of(shards, b""), rf"{SHARD}.*no images"),
    Case("shards: not tar", of(shards, encoded() * 8), rf"{SHARD}.*tar"),
    Case("shards: a sample without label", of(shards, tar(*shard_members()[:-1])), rf"{SHARD}.*005"),
    Case("shards: a size that lies", of(shards, tar(*shard_members()).replace(b"00000000001\0", b"77777777777\0")),
         rf"{SHARD}.*000\.png"),
    Case("shards: a link out", of(shards, linked_tar(tarfile.SYMTYPE, "/etc/hostname")), rf"{SHARD}.*(link|000)"),
    Case("shards: a device", of(shards, linked_tar(tarfile.CHRTYPE, "")), rf"{SHARD}.*(device|000)"),
    Case("shards: JSON that is none", of(shards, members((1, "000.json", b"{"), *(
        (2 * k + 1, f"00{k}.json", b'{"label": %d}' % (k % 2)) for k in range(1, 6)))),
         rf"{SHARD}.*000"),
    Case("parquet: not parquet", of(parquet, b"PAR1" + bytes(100)), rf"{ROWS}.*(damaged|unknown)"),
    Case("parquet: cut", lambda folder: cut(parquet(folder)), rf"{ROWS}.*(damaged|unknown)"),
    Case("parquet: no labels", of(parquet, label=None), rf"{ROWS}.*label"),
    Case("parquet: images that are numbers", of(parquet, image=list(range(6))), rf"{ROWS}.*image"),
    Case("parquet: a label is missing", of(parquet, label=[0, 1, None, 1, 0, 1]), rf"{ROWS}.*(2|3)"),
]


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:len(path.read_bytes()) // 2])
    return path


CASES = [*MASKS, *TABLES, *ARRAYS, *ARCHIVES]
