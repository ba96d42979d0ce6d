"""EfficientNetV2-S, M and L: EfficientNet searched again for the speed of training.

Paper: Tan, Le, EfficientNetV2: Smaller Models and Faster Training, ICML 2021, arXiv:2104.00298. The early stages
widen and filter in one ordinary 3 x 3 convolution, as depthwise ones waste an accelerator there; the later ones are
inverted residuals with squeeze and excitation. Departures: symmetric padding, as the public weights ask. Parameters
carry torchvision's names.
forward: images [B, C, H, W], normalised -> logits [B, num_classes].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from visus import models
from visus.core.validate import one_of, positive, probability, require
from visus.layers.conv import conv_bn_act
from visus.layers.drop_path import DropPath
from visus.layers.feature_sequential import FeatureSequential
from visus.layers.squeeze_excitation import SqueezeExcitation
from visus.layers.timm_blocks import split_timm_blocks
from visus.layers.widths import round_width

HEAD_DIM = 1280
STAGES = {  # Table 4 and the authors' code: fused, expansion, stride of the first, channels, blocks
    "s": ((True, 1, 1, 24, 2), (True, 4, 2, 48, 4), (True, 4, 2, 64, 4), (False, 4, 2, 128, 6), (False, 6, 1, 160, 9),
          (False, 6, 2, 256, 15)),
    "m": ((True, 1, 1, 24, 3), (True, 4, 2, 48, 5), (True, 4, 2, 80, 5), (False, 4, 2, 160, 7), (False, 6, 1, 176, 14),
          (False, 6, 2, 304, 18), (False, 6, 1, 512, 5)),
    "l": ((True, 1, 1, 32, 4), (True, 4, 2, 64, 7), (True, 4, 2, 96, 7), (False, 4, 2, 192, 10), (False, 6, 1, 224, 19),
          (False, 6, 2, 384, 25), (False, 6, 1, 640, 7)),
}


@dataclass(frozen=True, kw_only=True)
class EfficientNetV2Config:
    """size: 's', 'm' or 'l', a row of STAGES. width, depth: multipliers of its channels and blocks. dropout: before the
    last layer. drop_path: rate past the last block; the first has 0, the others linearly more. bn_eps: of every batch
    norm."""

    size: str = "s"
    width: float = 1.0
    depth: float = 1.0
    dropout: float = 0.2
    drop_path: float = 0.2
    bn_eps: float = 1e-3
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        one_of(tuple(STAGES), size=self.size)
        for field in ("width", "depth"):
            value = getattr(self, field)
            require(isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 8, field, value,
                    "be a number above 0, at most 8")
        probability(dropout=self.dropout, drop_path=self.drop_path, bn_eps=self.bn_eps)
        positive(in_channels=self.in_channels, num_classes=self.num_classes)


class InvertedResidual(nn.Module):
    """Widen, filter, narrow: [B, in_dim, H, W] -> [B, dim, H / stride, W / stride].

    fused: one 3 x 3 convolution widens and filters (Fused-MBConv; with an expansion of 1 it is the whole block);
    otherwise 1 x 1, 3 x 3 by channel, gate (MBConv).
    """

    def __init__(self, in_dim: int, dim: int, stride: int, expansion: int, fused: bool, drop_path: float,
                 bn_eps: float):
        super().__init__()
        hidden = in_dim * expansion
        if fused and expansion == 1:
            layers: list[nn.Module] = [conv_bn_act(in_dim, dim, 3, stride, 1, nn.SiLU, bn_eps)]
        elif fused:
            layers = [conv_bn_act(in_dim, hidden, 3, stride, 1, nn.SiLU, bn_eps),
                      conv_bn_act(hidden, dim, 1, act=None, eps=bn_eps)]
        else:
            layers = [conv_bn_act(in_dim, hidden, 1, 1, 1, nn.SiLU, bn_eps),
                      conv_bn_act(hidden, hidden, 3, stride, hidden, nn.SiLU, bn_eps),
                      SqueezeExcitation(hidden, max(1, in_dim // 4), nn.SiLU(inplace=True), nn.Sigmoid()),
                      conv_bn_act(hidden, dim, 1, act=None, eps=bn_eps)]
        self.block = nn.Sequential(*layers)
        self.drop_path = DropPath(drop_path)
        self.is_residual = stride == 1 and in_dim == dim

    def forward(self, maps: Tensor) -> Tensor:
        out = self.block(maps)
        return self.drop_path(out).add_(maps) if self.is_residual else out  # no layer needs its output again


class EfficientNetV2(nn.Module):
    """`features(images)`: maps of strides 2, 4, 8 and 16 before each halving, and the last, of stride 32."""

    Config = EfficientNetV2Config

    def __init__(self, config: EfficientNetV2Config):
        super().__init__()
        self.config = config
        rows = STAGES[config.size]
        depths = [math.ceil(count * config.depth) for *_, count in rows]
        dim = round_width(rows[0][3] * config.width)
        layers: list[nn.Module] = [conv_bn_act(config.in_channels, dim, 3, 2, 1, nn.SiLU, config.bn_eps)]
        taps, channels, done = [], [], 0
        for (fused, expansion, stride, stage_dim, _), depth in zip(rows, depths, strict=True):
            if stride == 2:
                taps.append(len(layers) - 1)
                channels.append(dim)
            blocks = []
            for i in range(depth):
                in_dim, dim = dim, round_width(stage_dim * config.width)
                blocks.append(InvertedResidual(in_dim, dim, stride if i == 0 else 1, expansion, fused,
                                               config.drop_path * done / sum(depths), config.bn_eps))
                done += 1
            layers.append(nn.Sequential(*blocks))
        layers.append(conv_bn_act(dim, HEAD_DIM, 1, 1, 1, nn.SiLU, config.bn_eps))
        self.features = FeatureSequential(layers, (*taps, len(layers) - 1))
        self.classifier = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(HEAD_DIM, config.num_classes))
        self.feature_channels = (*channels, HEAD_DIM)
        self.feature_strides = (2, 4, 8, 16, 32)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                bound = module.out_features ** -0.5
                nn.init.uniform_(module.weight, -bound, bound)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.features.last(images)
        return self.classifier(maps.mean((2, 3)))  # [B, D, h, w] -> [B, D] -> [B, num_classes]


_LAYERS = {"conv": "0", "bn": "1", "fc1": "fc1", "fc2": "fc2"}


def from_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A timm state dict (efficientnetv2_s, _m, _l) under our names; the values are the same. timm's networks have
    bn_eps=1e-5; those named tf_ pad as TensorFlow does, which these do not."""
    outside, blocks = split_timm_blocks(state)
    last = 2 + max((b.place[0] for b in blocks), default=0)
    names = {"conv_stem": "features.0.0", "bn1": "features.0.1", "conv_head": f"features.{last}.0",
             "bn2": f"features.{last}.1", "classifier": "classifier.1"}
    out = {}
    for name, tensor in outside.items():
        layer, _, leaf = name.rpartition(".")
        out[f"{names.get(layer, layer)}.{leaf}"] = tensor
    for b in blocks:
        stage, index, _ = b.place
        out[f"features.{stage + 1}.{index}.block.{b.step}.{_LAYERS[b.layer]}.{b.leaf}"] = b.tensor
    return out


VARIANTS = {
    "efficientnet_v2_s": {"size": "s", "dropout": 0.2},
    "efficientnet_v2_m": {"size": "m", "dropout": 0.3},
    "efficientnet_v2_l": {"size": "l", "dropout": 0.4},
}

_TABLE_7 = "Tan and Le 2021, Table 7 (there named FLOPs; from memory)"
_TORCHVISION = "torchvision 0.28.0, weights IMAGENET1K_V1"
_NOT_ITEMISED = "not known: the paper does not itemise its count, and torchvision's count equals ours"
PUBLISHED = {
    "efficientnet_v2_s": [{"what": "params", "value": "22e6", "source": _TABLE_7, "reason": _NOT_ITEMISED},
                          {"what": "macs", "value": "8.8e9", "source": _TABLE_7, "reason": _NOT_ITEMISED},
                          {"what": "params", "value": "21458488", "source": _TORCHVISION},
                          {"what": "macs", "value": "8.366e9", "source": _TORCHVISION},
                          {"what": "top1", "value": "84.228", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "efficientnet_v2_m": [{"what": "params", "value": "54e6", "source": _TABLE_7},
                          {"what": "macs", "value": "24e9", "source": _TABLE_7,
                           "reason": "it is 24.58e9, and 24 if cut"},
                          {"what": "params", "value": "54139356", "source": _TORCHVISION},
                          {"what": "macs", "value": "24.582e9", "source": _TORCHVISION},
                          {"what": "top1", "value": "85.112", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "efficientnet_v2_l": [{"what": "params", "value": "120e6", "source": _TABLE_7, "reason": _NOT_ITEMISED},
                          {"what": "macs", "value": "53e9", "source": _TABLE_7, "reason": _NOT_ITEMISED},
                          {"what": "params", "value": "118515272", "source": _TORCHVISION},
                          {"what": "macs", "value": "56.08e9", "source": _TORCHVISION},
                          {"what": "top1", "value": "85.808", "data": "ImageNet-1k", "source": _TORCHVISION}],
}

_LICENCE = "BSD-3-Clause (torchvision); trained on ImageNet-1k"
WEIGHTS = {
    "efficientnet_v2_s": {"torchvision": {"file": "efficientnet_v2_s-dd5fe13b.pth", "licence": _LICENCE}},
    "efficientnet_v2_m": {"torchvision": {"file": "efficientnet_v2_m-dc08266a.pth", "licence": _LICENCE}},
    "efficientnet_v2_l": {"torchvision": {"file": "efficientnet_v2_l-59c71312.pth",
                                          "licence": "Apache-2.0 (Google, by way of torchvision); trained on "
                                                     "ImageNet-1k"}},
}

_HALF = {"interpolation": "bicubic", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
_PREPROCESSING = {  # as torchvision's weights were evaluated
    "efficientnet_v2_s": {"size": (384, 384)}, "efficientnet_v2_m": {"size": (480, 480)},
    "efficientnet_v2_l": {"size": (480, 480), **_HALF},
}
for _name, _values in _PREPROCESSING.items():
    models.add(EfficientNetV2, {_name: VARIANTS[_name]}, WEIGHTS, family="efficientnet", task="classification",
               published=PUBLISHED, origins={"torchvision": dict, "timm": from_timm},
               peers={_name: ("torchvision", _name)},
               paper="Tan, Le: EfficientNetV2: Smaller Models and Faster Training, ICML 2021, arXiv:2104.00298",
               preprocessing={"resize": "crop", "crop_fraction": 1.0, **_values})
