"""BN-Inception (Inception-v2): GoogLeNet with batch norm, two 3 x 3 for each 5 x 5, and modules that halve.

Paper: Ioffe, Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift,
ICML 2015, arXiv:1502.03167. Each activation is brought to mean 0 and variance 1 over its batch, then scaled and
shifted, so that layers need no bias, no dropout and no response normalisation, and learn at higher rates.
Departures: the first convolution is a plain 7 x 7, not a separable one; no auxiliary classifiers;
bn_inception (but not bn_inception_original) has wider pooling projections in 4c and 4d; all as the public weights
have them. A module that halves maps of an odd side pools around the places around which it convolves.
forward: images [B, C, H, W], normalised, H and W of at least 7 -> logits [B, num_classes].
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from visus import models
from visus.core.validate import positive, probability
from visus.layers.branches import Branches
from visus.layers.conv_norm import ConvNorm
from visus.layers.image_size import require_size

MIN_SIZE = 7  # of a side in pixels: the first two poolings do not pad
NORM_EPS = 1e-5


@dataclass(frozen=True, kw_only=True)
class BNInceptionConfig:
    """pool_dim: channels of the pooling projections in modules 4c and 4d, 96 in the paper. dropout: before the last
    layer; the paper goes without."""

    pool_dim: int = 128
    dropout: float = 0.0
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        positive(pool_dim=self.pool_dim, in_channels=self.in_channels, num_classes=self.num_classes)
        probability(dropout=self.dropout)


class HalvingPool(nn.Module):
    """[B, C, H, W] -> [B, C, ceil(H / 2), ceil(W / 2)], as many places as a padded 3 x 3 convolution of stride 2."""

    def forward(self, maps: Tensor) -> Tensor:
        height, width = maps.shape[-2:]
        return F.max_pool2d(maps, 3, 2, (height % 2, width % 2), ceil_mode=True)


def _conv(in_dim: int, dim: int, kernel: int, stride: int = 1) -> ConvNorm:
    return ConvNorm(in_dim, dim, kernel, stride, eps=NORM_EPS)


def _module(in_dim: int, dim_1: int, reduce_3: int, dim_3: int, reduce_double: int, dim_double: int, pool: nn.Module,
            dim_pool: int) -> Branches:
    """[B, in_dim, H, W] -> [B, dim_1 + dim_3 + dim_double + dim_pool, H, W]. The arguments are a row of Figure 5."""
    return Branches(
        single=_conv(in_dim, dim_1, 1),
        three=nn.Sequential(_conv(in_dim, reduce_3, 1), _conv(reduce_3, dim_3, 3)),
        twice=nn.Sequential(_conv(in_dim, reduce_double, 1), _conv(reduce_double, dim_double, 3),
                            _conv(dim_double, dim_double, 3)),
        pool=nn.Sequential(pool, _conv(in_dim, dim_pool, 1)))


def _halving(in_dim: int, reduce_3: int, dim_3: int, reduce_double: int, dim_double: int) -> Branches:
    """[B, in_dim, H, W] -> [B, dim_3 + dim_double + in_dim, ceil(H / 2), ceil(W / 2)]: stride 2 in Figure 5."""
    return Branches(
        three=nn.Sequential(_conv(in_dim, reduce_3, 1), _conv(reduce_3, dim_3, 3, 2)),
        twice=nn.Sequential(_conv(in_dim, reduce_double, 1), _conv(reduce_double, dim_double, 3),
                            _conv(dim_double, dim_double, 3, 2)),
        pool=HalvingPool())


def _average() -> nn.Module:
    return nn.AvgPool2d(3, 1, 1)


class BNInception(nn.Module):
    Config = BNInceptionConfig

    def __init__(self, config: BNInceptionConfig):
        super().__init__()
        self.config = config
        wide = 480 + config.pool_dim  # channels that 4c and 4d put out: 576 in the paper
        self.conv1 = _conv(config.in_channels, 64, 7, 2)
        self.maxpool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2_reduce = _conv(64, 64, 1)
        self.conv2 = _conv(64, 192, 3)
        self.maxpool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.inception_3a = _module(192, 64, 64, 64, 64, 96, _average(), 32)
        self.inception_3b = _module(256, 64, 64, 96, 64, 96, _average(), 64)
        self.inception_3c = _halving(320, 128, 160, 64, 96)
        self.inception_4a = _module(576, 224, 64, 96, 96, 128, _average(), 128)
        self.inception_4b = _module(576, 192, 96, 128, 96, 128, _average(), 128)
        self.inception_4c = _module(576, 160, 128, 160, 128, 160, _average(), config.pool_dim)
        self.inception_4d = _module(wide, 96, 128, 192, 160, 192, _average(), config.pool_dim)
        self.inception_4e = _halving(wide, 128, 192, 192, 256)
        self.inception_5a = _module(wide + 448, 352, 192, 320, 160, 224, _average(), 128)
        self.inception_5b = _module(1024, 352, 192, 320, 192, 224, nn.MaxPool2d(3, 1, 1), 128)
        self.dropout = nn.Dropout(config.dropout)
        self.fc = nn.Linear(1024, config.num_classes)
        self.feature_channels = (192, 320, wide, 1024)
        self.feature_strides = (4, 8, 16, 32)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> maps of strides 4, 8, 16 and 32: the last before each halving (of sides rounded up)."""
        require_size(images, MIN_SIZE)
        maps_2 = self.conv2(self.conv2_reduce(self.maxpool1(self.conv1(images))))
        maps_3 = self.inception_3b(self.inception_3a(self.maxpool2(maps_2)))
        maps_4 = self.inception_4b(self.inception_4a(self.inception_3c(maps_3)))
        maps_4 = self.inception_4d(self.inception_4c(maps_4))
        return [maps_2, maps_3, maps_4, self.inception_5b(self.inception_5a(self.inception_4e(maps_4)))]

    def forward(self, images: Tensor) -> Tensor:
        maps = self.features(images)[-1]
        return self.fc(self.dropout(F.adaptive_avg_pool2d(maps, 1).flatten(1)))  # [B, 1024] -> [B, num_classes]


_ORIGINAL = {"conv1_7x7_s2": "conv1", "conv2_3x3_reduce": "conv2_reduce", "conv2_3x3": "conv2"}
_ORIGINAL_BRANCH = {"1x1": "single", "3x3_reduce": "three.0", "3x3": "three.1", "double_3x3_reduce": "twice.0",
                    "double_3x3_1": "twice.1", "double_3x3_2": "twice.2", "pool_proj": "pool.1"}


def convert_pretrainedmodels(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From the names of Cadene's pretrained-models.pytorch, which are those of the Caffe weights that it ports.

    A convolution's bias is taken from the running mean after it, where it has the same effect; the first kernel
    is turned from BGR to RGB; vectors of [1, C] become [C]."""
    out = {}
    for name, tensor in state.items():
        layer, leaf = name.rsplit(".", 1)
        normed = layer.endswith("_bn")
        plain = layer.removesuffix("_bn")
        if plain == "last_linear":
            out[f"fc.{leaf}"] = tensor
            continue
        module = re.fullmatch(r"(inception_\d[a-e])_(\w+)", plain)
        ours = (f"{module[1]}.{_ORIGINAL_BRANCH.get(module[2], module[2])}" if module
                else _ORIGINAL.get(plain, plain))
        if not normed and leaf == "bias" and f"{plain}_bn.running_mean" in state:
            continue
        if normed and leaf != "num_batches_tracked":
            tensor = tensor.reshape(-1)  # [1, C] -> [C]
        if normed and leaf == "running_mean" and f"{plain}.bias" in state:
            tensor = tensor - state[f"{plain}.bias"]
        if plain == "conv1_7x7_s2" and leaf == "weight" and not normed and tensor.shape[1] == 3:
            tensor = tensor.flip(1)
        out[f"{ours}.{'bn' if normed else 'conv'}.{leaf}"] = tensor
    return out


VARIANTS = {
    "bn_inception": {"pool_dim": 128},
    "bn_inception_original": {"pool_dim": 96},
}

_CADENE = "pretrained-models.pytorch, bninception"
_PAPER = "Ioffe, Szegedy 2015 (from memory), "
PUBLISHED = {
    "bn_inception": [{"what": "params", "value": "11295240", "source": _CADENE + " (counted from its public code)",
                      "reason": "with 10016 biases of convolutions there, which the batch norms after them cancel"},
                     {"what": "top1", "value": "73.524", "data": "ImageNet-1k", "source": _CADENE}],
    "bn_inception_original": [{"what": "params", "value": "13.6e6", "source": _PAPER + "section 4.2",
                               "reason": "not itemised there; the rows of Figure 5 alone come to ours"},
                              {"what": "top1", "value": "74.8", "data": "ImageNet-1k",
                               "source": _PAPER + "Figure 3 (BN-x30)"}],
}

WEIGHTS = {
    "bn_inception": {"pretrainedmodels": {"file": "bn_inception-52deb4733.pth",
                                          "licence": "BSD-3-Clause (pretrained-models.pytorch, the porting; the Caffe "
                                                     "weights state none); trained on ImageNet-1k"}},
}

models.add(BNInception, VARIANTS, WEIGHTS, family="inception", task="classification", published=PUBLISHED,
           origins={"pretrainedmodels": convert_pretrainedmodels},
           paper="Ioffe, Szegedy: Batch Normalization: Accelerating Deep Network Training by Reducing Internal "
                 "Covariate Shift, ICML 2015, arXiv:1502.03167",
           # of the public weights, which take 0..255 less a mean and divide by nothing
           preprocessing={"size": (224, 224), "resize": "crop", "crop_fraction": 0.875,
                          "mean": (128 / 255, 117 / 255, 104 / 255), "std": (1 / 255, 1 / 255, 1 / 255)})
