"""VGG-11, 13, 16 and 19: stacks of 3 x 3 convolutions, five times halved, and three full layers.

Paper: Simonyan, Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015,
arXiv:1409.1556, Table 1: configurations A, B, D and E; `vgg11_lrn` is A-LRN and `vgg16_c` is C, whose third
convolutions are 1 x 1. Two 3 x 3 convolutions see what one 5 x 5 sees, with fewer weights and one more ReLU. `_bn`
adds batch norm (Ioffe, Szegedy, arXiv:1502.03167) before each ReLU, which the paper does not have. Departures: the
last maps are averaged to 7 x 7, which does nothing at 224 pixels and admits other sizes; weights start at random
variance 2 / fan-out, as torchvision's; the paper fills deep networks from A (`seed_from_shallower`). Parameters carry
torchvision's names; timm's full layers are convolutions (`from_timm`), the same function up to 224 pixels.
forward: images [B, C, H, W], normalised, H and W of at least 32 -> logits [B, num_classes].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from visus import models
from visus.core.errors import UserError
from visus.core.validate import one_of, positive, probability, require
from visus.layers.feature_sequential import FeatureSequential
from visus.layers.response_norm import ResponseNorm

DIMS = (64, 128, 256, 512, 512)
POOLED = 7  # side of the maps that the first full layer sees


@dataclass(frozen=True, kw_only=True)
class VGGConfig:
    """depths, dims: convolutions and their filters in each of the five stages. third_kernel: 3, or 1 for
    configuration C: the side of each stage's third convolution. norm: 'none', 'batch', or 'response' (after the first
    ReLU only, as in A-LRN). hidden_dim: units of each hidden full layer."""

    depths: tuple[int, ...] = (2, 2, 3, 3, 3)
    dims: tuple[int, ...] = DIMS
    third_kernel: int = 3
    norm: str = "none"
    hidden_dim: int = 4096
    dropout: float = 0.5
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        require(isinstance(self.depths, tuple) and len(self.depths) == 5, "depths", self.depths,
                "be five counts of convolutions")
        require(isinstance(self.dims, tuple) and len(self.dims) == 5, "dims", self.dims, "be five filter counts")
        for depth, dim in zip(self.depths, self.dims, strict=True):
            positive(depths=depth, dims=dim)
        require(self.third_kernel in (1, 3), "third_kernel", self.third_kernel, "be 1 or 3")
        one_of(("none", "batch", "response"), norm=self.norm)
        positive(hidden_dim=self.hidden_dim, in_channels=self.in_channels, num_classes=self.num_classes)
        probability(dropout=self.dropout)


class VGG(nn.Module):
    """features(images): the last maps of each stage before its pooling, and the last pooled ones."""

    Config = VGGConfig

    def __init__(self, config: VGGConfig):
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        taps = []
        in_dim = config.in_channels
        for depth, dim in zip(config.depths, config.dims, strict=True):
            for number in range(depth):
                kernel = config.third_kernel if number == 2 else 3
                layers.append(nn.Conv2d(in_dim, dim, kernel, 1, kernel // 2))
                if config.norm == "batch":
                    layers.append(nn.BatchNorm2d(dim))
                layers.append(nn.ReLU(inplace=True))
                if config.norm == "response" and len(layers) == 2:  # AlexNet's numbers; torch divides alpha by 5
                    layers.append(ResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0))
                in_dim = dim
            taps.append(len(layers) - 1)
            layers.append(nn.MaxPool2d(2))
        self.features = FeatureSequential(layers, (*taps, len(layers) - 1), least=32)
        self.avgpool = nn.AdaptiveAvgPool2d(POOLED)
        self.classifier = nn.Sequential(
            nn.Linear(POOLED**2 * in_dim, config.hidden_dim), nn.ReLU(inplace=True), nn.Dropout(config.dropout),
            nn.Linear(config.hidden_dim, config.hidden_dim), nn.ReLU(inplace=True), nn.Dropout(config.dropout),
            nn.Linear(config.hidden_dim, config.num_classes))
        self.feature_channels = (*config.dims, config.dims[4])
        self.feature_strides = (1, 2, 4, 8, 16, 32)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.avgpool(self.features.last(images))
        return self.classifier(maps.flatten(1))  # [B, D, 7, 7] -> [B, 49 D] -> [B, num_classes]


def seed_from_shallower(deep: VGG, shallow: VGG) -> list[str]:
    """Copy the first four convolutions, with their batch norms, and the three full layers of a trained `shallow`
    network into `deep`, section 3.1; its other layers stay as they started. Gives the names that were copied.

    A convolution of A belongs to the one of the same stage and number: the four of A are the first of stages 1 and 2
    and the first two of stage 3. Raises UserError, and copies nothing, where `deep` is not deeper or they do not fit.
    """
    ours, theirs = deep.config.depths, shallow.config.depths
    if ours == theirs or any(a < b for a, b in zip(ours, theirs, strict=True)):
        raise UserError("a network is seeded from one with fewer convolutions, and in no stage more",
                        where=f"depths={ours} from {theirs}")
    if (deep.config.norm == "batch") != (shallow.config.norm == "batch"):
        raise UserError("with batch norm and without it, weights have other scales",
                        where=f"norm={deep.config.norm!r} from {shallow.config.norm!r}")
    there = _layers_of_convolutions(deep)
    target, source = deep.state_dict(), shallow.state_dict()
    pairs = {f"features.{there[place] + step}.": f"features.{layer + step}."
             for place, layer in list(_layers_of_convolutions(shallow).items())[:4]
             for step in range(2 if deep.config.norm == "batch" else 1)}
    pairs |= {prefix: prefix for prefix in ("classifier.0.", "classifier.3.", "classifier.6.")}
    copied = {name: source[old + name.removeprefix(new)] for new, old in pairs.items()
              for name in target if name.startswith(new)}
    for name, tensor in copied.items():
        shape = tuple(target[name].shape)
        if tensor.shape != shape:
            raise UserError(f"cannot take weights of {tuple(tensor.shape)}", where=f"{name} of {shape}",
                            remedy="Give both networks the same dims, hidden_dim, in_channels and num_classes")
    with torch.no_grad():
        for name, tensor in copied.items():
            target[name].copy_(tensor)
    return list(copied)


def _layers_of_convolutions(model: VGG) -> dict[tuple[int, int], int]:
    """(stage, number in it), in order -> the index in `features`."""
    layers: dict[tuple[int, int], int] = {}
    stage = number = 0
    for index, layer in enumerate(model.features):
        if isinstance(layer, nn.Conv2d):
            layers[stage, number] = index
            number += 1
        elif isinstance(layer, nn.MaxPool2d):
            stage, number = stage + 1, 0
    return layers


_TIMM_LAYERS = {"pre_logits.fc1": "classifier.0", "pre_logits.fc2": "classifier.3", "head.fc": "classifier.6"}


def from_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A timm state dict under our names: kernels of full layers [O, I, 7, 7] and [O, I, 1, 1] become matrices."""
    out = {}
    for name, tensor in state.items():
        layer, _, leaf = name.rpartition(".")
        if layer in _TIMM_LAYERS:
            name, tensor = f"{_TIMM_LAYERS[layer]}.{leaf}", tensor.flatten(1) if leaf == "weight" else tensor
        out[name] = tensor
    return out


_A, _B, _C_AND_D, _E = (1, 1, 2, 2, 2), (2, 2, 2, 2, 2), (2, 2, 3, 3, 3), (2, 2, 4, 4, 4)
VARIANTS = {
    "vgg11": {"depths": _A},
    "vgg11_lrn": {"depths": _A, "norm": "response"},
    "vgg13": {"depths": _B},
    "vgg16_c": {"depths": _C_AND_D, "third_kernel": 1},
    "vgg16": {"depths": _C_AND_D},
    "vgg19": {"depths": _E},
    "vgg11_bn": {"depths": _A, "norm": "batch"},
    "vgg13_bn": {"depths": _B, "norm": "batch"},
    "vgg16_bn": {"depths": _C_AND_D, "norm": "batch"},
    "vgg19_bn": {"depths": _E, "norm": "batch"},
}

_TABLE_2 = "Simonyan and Zisserman 2015, Table 2 (from memory)"
_TABLE_3 = "Simonyan and Zisserman 2015, Table 3, trained and tested at one scale, 256, validation (from memory)"
_TORCHVISION = "torchvision 0.28.0, weights IMAGENET1K_V1"


def _torchvision(params: str, macs: str, top1: str) -> list[dict[str, str]]:
    return [{"what": "params", "value": params, "source": _TORCHVISION},
            {"what": "macs", "value": macs, "source": _TORCHVISION},
            {"what": "top1", "value": top1, "data": "ImageNet-1k", "source": _TORCHVISION}]


PUBLISHED = {
    "vgg11": [{"what": "params", "value": "133e6", "source": _TABLE_2},
              *_torchvision("132863336", "7.609e9", "69.020")],
    "vgg11_lrn": [{"what": "params", "value": "133e6", "source": _TABLE_2},
                  {"what": "top1", "value": "70.3", "data": "ImageNet-1k", "source": _TABLE_3}],
    "vgg13": [{"what": "params", "value": "133e6", "source": _TABLE_2},
              *_torchvision("133047848", "11.308e9", "69.928")],
    "vgg16_c": [{"what": "params", "value": "134e6", "source": _TABLE_2},
                {"what": "top1", "value": "71.9", "data": "ImageNet-1k", "source": _TABLE_3}],
    "vgg16": [{"what": "params", "value": "138e6", "source": _TABLE_2},
              *_torchvision("138357544", "15.470e9", "71.592")],
    "vgg19": [{"what": "params", "value": "144e6", "source": _TABLE_2},
              *_torchvision("143667240", "19.632e9", "72.376")],
    "vgg11_bn": _torchvision("132868840", "7.609e9", "70.370"),
    "vgg13_bn": _torchvision("133053736", "11.308e9", "71.586"),
    "vgg16_bn": _torchvision("138365992", "15.470e9", "73.360"),
    "vgg19_bn": _torchvision("143678248", "19.632e9", "74.218"),
}

_LICENCE = "BSD-3-Clause (torchvision); trained on ImageNet-1k"
_TORCHVISION_FILES = {
    "vgg11": {"torchvision": {"file": "vgg11-8a719046.pth", "licence": _LICENCE}},
    "vgg13": {"torchvision": {"file": "vgg13-19584684.pth", "licence": _LICENCE}},
    "vgg16": {"torchvision": {"file": "vgg16-397923af.pth", "licence": _LICENCE}},
    "vgg19": {"torchvision": {"file": "vgg19-dcbb9e9d.pth", "licence": _LICENCE}},
    "vgg11_bn": {"torchvision": {"file": "vgg11_bn-6002323d.pth", "licence": _LICENCE}},
    "vgg13_bn": {"torchvision": {"file": "vgg13_bn-abd245e5.pth", "licence": _LICENCE}},
    "vgg16_bn": {"torchvision": {"file": "vgg16_bn-6c64b313.pth", "licence": _LICENCE}},
    "vgg19_bn": {"torchvision": {"file": "vgg19_bn-c79401a0.pth", "licence": _LICENCE}},
}
WEIGHTS = {name: {**files, "timm": {"file": f"{name}.tv_in1k", "licence": _LICENCE}}
           for name, files in _TORCHVISION_FILES.items()}

# The course notes' memory table: numbers put out and weights (without biases) of each layer.
_CONV_ROWS = {0: ("3.2M", "1728"), 2: ("3.2M", "36864"), 4: ("800K", ""), 5: ("1.6M", "73728"), 7: ("1.6M", "147456"),
              9: ("400K", ""), 10: ("800K", "294912"), 12: ("800K", "589824"), 14: ("800K", "589824"), 16: ("200K", ""),
              17: ("400K", "1179648"), 19: ("400K", "2359296"), 21: ("400K", "2359296"), 23: ("100K", ""),
              24: ("100K", "2359296"), 26: ("100K", "2359296"), 28: ("100K", "2359296"), 30: ("25K", "")}
LAYER_TABLES = {
    "vgg16": {
        "source": "CS231n notes, Convolutional Networks: VGGNet in detail (from memory)",
        "image_size": 224, "columns": ("values", "weights"), "configs": {"": {}},
        "rows": {**{f"features.{number}": row for number, row in _CONV_ROWS.items()},
                 "classifier.0": ("4096", "102760448"), "classifier.3": ("4096", "16777216"),
                 "classifier.6": ("1000", "4096000")},
        "total": ("24M", "138M"),
        "notes": ("The notes count 24M values, 93 MB, for an image; their own rows, with the 150K of the image, sum to "
                  "15.2M, 61 MB.",),
    },
}

models.add(VGG, VARIANTS, WEIGHTS, family="vgg", task="classification", published=PUBLISHED, layer_tables=LAYER_TABLES,
           origins={"torchvision": dict, "timm": from_timm},
           peers={name: ("torchvision", name) for name in WEIGHTS},
           paper="Simonyan, Zisserman: Very Deep Convolutional Networks for Large-Scale Image Recognition, "
                 "ICLR 2015, arXiv:1409.1556",
           preprocessing={"size": (224, 224), "resize": "crop", "crop_fraction": 0.875})
