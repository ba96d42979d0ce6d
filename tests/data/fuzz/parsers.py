"""What is fuzzed: for each parser a healthy set, the file of it that is changed, how, and what is then done with it."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tests.data.fuzz import mutate
from tests.data.fuzz.mutate import Mutation
from tests.data.malformed import healthy
from visus.core.images import Part, read_header, read_image, read_part
from visus.data.formats import ReadOptions, data_formats
from visus.data.samples import Samples

IMAGE_MB = 1_500


@dataclass(frozen=True)
class Parser:
    """make: writes a healthy set into a folder and gives (path to open, the file that is changed). read: opens the path
    and uses what it gives; it may raise UserError and nothing else. memory_mb: by how much the process may grow; an
    image of 250 megapixels, which is the limit, is decoded."""

    make: Callable[[Path], tuple[Path, Path]]
    mutation: Mutation
    read: Callable[[Path], object]
    memory_mb: int = 300


def _reader(name: str, use: Callable[[Samples], object] = lambda samples: None) -> Callable[[Path], object]:
    build = data_formats.get(name).build

    def read(path: Path) -> None:
        build.recognises(str(path))
        use(build.read(str(path), ReadOptions()))

    return read


def _masks(samples: Samples) -> None:
    """What a transform or a writer does first with the objects of an image."""
    from visus.data.masks import object_masks

    if samples.objects is not None:
        for image in range(len(samples)):
            object_masks(samples.objects.of(image, healthy.HIGH, healthy.WIDE), healthy.HIGH, healthy.WIDE)


def _first(samples: Samples) -> None:
    samples.read(0)


def _maps(samples: Samples) -> None:
    from visus.data.label_maps import read_label_map

    read_label_map(samples.label_maps, 0, num_classes=len(samples.classes))


def _image(path: Path) -> None:
    header, error = None, None
    try:
        header = read_header(path)
    except Exception as problem:  # the pixels must be refused too, or the header was wrong to refuse
        error = problem
    pixels = read_image(path).pixels
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] in (1, 3)
    if error is not None:
        raise error
    assert header is not None and (header.height, header.width) == pixels.shape[:2]


def _part(path: Path) -> None:
    """As training reads a random crop: less is decoded than of a whole image."""
    pixels = read_part(path, lambda height, width: Part(height // 4, width // 4, height // 2, width // 2, 2)).pixels
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] in (1, 3)


def _picture(kind: str, mode: str = "RGB", **options: object) -> Callable[[Path], tuple[Path, Path]]:
    def make(folder: Path) -> tuple[Path, Path]:
        file = io.BytesIO()
        image = Image.fromarray(healthy.picture()).convert(mode)
        image.save(file, kind, **options)
        path = healthy.put(folder / f"a.{kind.lower()}", file.getvalue())
        return path, path

    return make


def _set(make: Callable[..., Path], changed: str = "") -> Callable[[Path], tuple[Path, Path]]:
    def made(folder: Path) -> tuple[Path, Path]:
        path = make(folder)
        return path, folder / changed if changed else path

    return made


def _small_cifar(folder: Path) -> Path:
    pixels = np.zeros((2, 3072), np.uint8)
    return healthy.cifar(folder, healthy.cifar_batch(data=pixels, labels=[0, 1], filenames=[b"a", b"b"]))


def _exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes()


PARSERS: dict[str, Parser] = {
    "coco": Parser(_set(healthy.coco, "annotations/instances_train.json"), mutate.text, _reader("coco", _masks)),
    "voc": Parser(_set(healthy.voc, "Annotations/0.xml"), mutate.text, _reader("voc")),
    "yolo": Parser(_set(healthy.yolo, "labels/train/0.txt"), mutate.text, _reader("yolo", _masks)),
    "yolo-yaml": Parser(_set(healthy.yolo, "data.yaml"), mutate.text, _reader("yolo")),
    "masks": Parser(_set(healthy.masks, "masks/0.png"), mutate.png, _reader("mask_folder", _maps), IMAGE_MB),
    "classes": Parser(_set(healthy.masks, "classes.txt"), mutate.text, _reader("mask_folder")),
    "table": Parser(_set(healthy.table), mutate.text, _reader("table")),
    "npz": Parser(_set(healthy.npz), mutate.npz, _reader("npz", _first)),
    "idx": Parser(_set(healthy.idx, "train-images-idx3-ubyte"), mutate.bytes_of, _reader("idx")),
    "cifar": Parser(_set(_small_cifar, "cifar-10-batches-py/data_batch_1"), mutate.bytes_of, _reader("cifar")),
    "shards": Parser(_set(healthy.shards), mutate.tar, _reader("shards", _first)),
    "parquet": Parser(_set(healthy.parquet), mutate.bytes_of, _reader("parquet", _first)),
    "png": Parser(_picture("PNG", "P"), mutate.png, _image, IMAGE_MB),
    "jpeg": Parser(_picture("JPEG", exif=_exif()), mutate.bytes_of, _image, IMAGE_MB),
    "jpeg-part": Parser(_picture("JPEG", exif=_exif()), mutate.bytes_of, _part, IMAGE_MB),
    "gif": Parser(_picture("GIF", "P"), mutate.bytes_of, _image, IMAGE_MB),
    "webp": Parser(_picture("WEBP"), mutate.bytes_of, _image, IMAGE_MB),
    "bmp": Parser(_picture("BMP"), mutate.bytes_of, _image, IMAGE_MB),
    "tiff": Parser(_picture("TIFF", compression="tiff_lzw"), mutate.bytes_of, _image, IMAGE_MB),
}
