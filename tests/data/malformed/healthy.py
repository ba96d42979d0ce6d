"""One small healthy set per format. Each function writes it into an empty folder and gives the path to open."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDE, HIGH = 16, 12


def picture(seed: int = 0) -> np.ndarray:
    """uint8 [12, 16, 3]."""
    return np.random.default_rng(seed).integers(0, 255, (HIGH, WIDE, 3), dtype=np.uint8)


def encoded(seed: int = 0, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(seed)).save(file, kind)
    return file.getvalue()


def put(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def coco_book() -> dict[str, Any]:
    return {
        "images": [{"id": k + 1, "file_name": f"{k}.png", "width": WIDE, "height": HIGH} for k in range(4)],
        "categories": [{"id": 1, "name": "cat", "keypoints": ["nose", "tail"], "skeleton": [[1, 2]]},
                       {"id": 7, "name": "dog"}],
        "annotations": [
            {"id": 10, "image_id": 1, "category_id": 1, "bbox": [1, 2, 5, 6], "area": 30, "iscrowd": 0,
             "segmentation": [[1, 2, 6, 2, 6, 8]], "keypoints": [2, 3, 2, 5, 6, 1], "num_keypoints": 2},
            {"id": 11, "image_id": 2, "category_id": 7, "bbox": [0, 0, 8, 8], "area": 64, "iscrowd": 1,
             "segmentation": {"size": [HIGH, WIDE], "counts": [20, 10, HIGH * WIDE - 30]}},
            {"id": 12, "image_id": 3, "category_id": 7, "bbox": [3, 3, 4, 4], "area": 16, "iscrowd": 0}]}


def coco(folder: Path, book: Any = None, text: bytes | str | None = None) -> Path:
    """book: what the file holds; text: in its stead, as it is."""
    for k in range(4):
        put(folder / "images" / f"{k}.png", encoded(k))
    return put(folder / "annotations" / "instances_train.json",
               json.dumps(coco_book() if book is None else book) if text is None else text).parent.parent


def voc_page(k: int = 0, boxes: str | None = None, extra: str = "") -> str:
    boxes = ("<object><name>cat</name><difficult>0</difficult><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>9</xmax>"
             "<ymax>10</ymax></bndbox></object>") if boxes is None else boxes
    return (f"<annotation><filename>{k}.png</filename><size><width>{WIDE}</width><height>{HIGH}</height>"
            f"<depth>3</depth></size>{extra}{boxes}</annotation>")


def voc(folder: Path, first: bytes | str | None = None) -> Path:
    """first: the first page."""
    for k in range(4):
        put(folder / "JPEGImages" / f"{k}.png", encoded(k))
        put(folder / "Annotations" / f"{k}.xml", voc_page(k))
    if first is not None:
        put(folder / "Annotations" / "0.xml", first)
    return folder


def yolo(folder: Path, first: bytes | str | None = None, names: bytes | str | None = None) -> Path:
    """first: the first label file; names: data.yaml."""
    for k in range(4):
        put(folder / "images" / "train" / f"{k}.png", encoded(k))
        put(folder / "labels" / "train" / f"{k}.txt", f"{k % 2} 0.5 0.5 0.25 0.25\n")
    put(folder / "data.yaml", "path: .\ntrain: images/train\nnc: 2\nnames: [cat, dog]\n" if names is None else names)
    if first is not None:
        put(folder / "labels" / "train" / "0.txt", first)
    return folder


def masks(folder: Path, first: np.ndarray | bytes | None = None, table: str | None = "cat\ndog\n") -> Path:
    """first: the first map, or its file; table: classes.txt."""
    for k in range(4):
        put(folder / "images" / f"{k}.png", encoded(k))
        file = io.BytesIO()
        Image.fromarray(np.full((HIGH, WIDE), k % 2, np.uint8)).save(file, "PNG")
        put(folder / "masks" / f"{k}.png", file.getvalue())
    if isinstance(first, bytes):
        put(folder / "masks" / "0.png", first)
    elif first is not None:
        Image.fromarray(first).save(folder / "masks" / "0.png")
    if table is not None:
        put(folder / "classes.txt", table)
    return folder


def table(folder: Path, text: bytes | str | None = None, name: str = "labels.csv") -> Path:
    rows = []
    for k in range(4):
        put(folder / "images" / f"{k}.png", encoded(k))
        rows.append(f"images/{k}.png,{'cat' if k % 2 else 'dog'}\n")
    return put(folder / name, "path,label\n" + "".join(rows) if text is None else text)


def npz(folder: Path, data: bytes | None = None, **arrays: Any) -> Path:
    """data: the file's bytes; arrays: in the place of images [6, 4, 4] and labels [6]."""
    if data is not None:
        return put(folder / "set.npz", data)
    file = io.BytesIO()
    whole = {"images": np.zeros((6, 4, 4), np.uint8), "labels": np.arange(6) % 2, **arrays}
    np.savez_compressed(file, **{k: v for k, v in whole.items() if v is not None})
    return put(folder / "set.npz", file.getvalue())


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def idx(folder: Path, images: bytes | None = None, labels: bytes | None = None, packed: bool = False) -> Path:
    pixels = np.arange(6 * 16, dtype=np.uint8).reshape(6, 4, 4)
    for name, data, given in (("images-idx3", idx_bytes(pixels), images),
                              ("labels-idx1", idx_bytes(np.arange(6, dtype=np.uint8) % 2), labels)):
        data = data if given is None else given
        put(folder / (f"train-{name}-ubyte" + (".gz" if packed else "")), gzip.compress(data) if packed else data)
    return folder


def cifar_batch(**changed: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (20, 3072), dtype=np.uint8)
    batch = {b"data": pixels, b"labels": [k % 10 for k in range(20)], b"batch_label": b"b",
             b"filenames": [b"%d.png" % k for k in range(20)], **{k.encode(): v for k, v in changed.items()}}
    return pickle.dumps({k: v for k, v in batch.items() if v is not None}, 2)


def cifar(folder: Path, batch: bytes | None = None) -> Path:
    names = [b"airplane", b"automobile", b"bird", b"cat", b"deer", b"dog", b"frog", b"horse", b"ship", b"truck"]
    put(folder / "cifar-10-batches-py" / "batches.meta", pickle.dumps({b"label_names": names}, 2))
    put(folder / "cifar-10-batches-py" / "data_batch_1", cifar_batch() if batch is None else batch)
    put(folder / "cifar-10-batches-py" / "test_batch", cifar_batch())
    return folder / "cifar-10-batches-py"


def tar(*members: tuple[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members:
            about = tarfile.TarInfo(name)
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
    return file.getvalue()


def shard_members() -> list[tuple[str, bytes]]:
    return [(f"{k:03d}.{kind}", encoded(k) if kind == "png" else b"%d" % (k % 2))
            for k in range(6) for kind in ("png", "cls")]


def shards(folder: Path, data: bytes | None = None) -> Path:
    return put(folder / "train-000.tar", tar(*shard_members()) if data is None else data)


def parquet(folder: Path, data: bytes | None = None, **columns: Any) -> Path:
    """data: the file's bytes; columns: in the place of image (bytes) and label."""
    if data is None:
        import pyarrow
        import pyarrow.parquet

        whole = {"image": [encoded(k) for k in range(6)], "label": [k % 2 for k in range(6)], **columns}
        file = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.table({k: v for k, v in whole.items() if v is not None}), file)
        data = file.getvalue()
    return put(folder / "train.parquet", data)
