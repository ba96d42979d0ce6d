"""Xception: an Inception network taken to its limit, where each channel is filtered by itself, with residuals.

Paper: Chollet, Xception: Deep Learning with Depthwise Separable Convolutions, CVPR 2017, arXiv:1610.02357. A
separable convolution filters each channel and then mixes them, with nothing in between (section 4.7). Departures: no
dropout by default (0.5 in the paper); the batch norms' epsilon is timm's 1e-5, where Keras has 1e-3. Parameters carry
the names of timm's legacy_xception.
forward: images [B, C, H, W], normalised, H and W of at least 7 -> logits [B, num_classes].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from visus import models
from visus.core.validate import positive, probability, require
from visus.layers.image_size import require_size

MIN_SIZE = 7  # of a side in pixels: the first two convolutions do not pad
STEM_DIMS = (32, 64)


@dataclass(frozen=True, kw_only=True)
class XceptionConfig:
    """depth: blocks in the middle flow. dims: channels after each of the three blocks of the entry flow, after the
    block of the exit flow and after its two separable convolutions. dropout: before the last layer."""

    depth: int = 8
    dims: tuple[int, ...] = (128, 256, 728, 1024, 1536, 2048)
    dropout: float = 0.0
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        positive(depth=self.depth, in_channels=self.in_channels, num_classes=self.num_classes)
        require(isinstance(self.dims, tuple) and len(self.dims) == 6, "dims", self.dims, "be six channel counts")
        for dim in self.dims:
            positive(dims=dim)
        probability(dropout=self.dropout)


class SeparableConv(nn.Module):
    """3 x 3 by channel, then 1 x 1 over channels: [B, in_dim, H, W] -> [B, dim, H, W]."""

    def __init__(self, in_dim: int, dim: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_dim, in_dim, 3, 1, 1, groups=in_dim, bias=False)
        self.pointwise = nn.Conv2d(in_dim, dim, 1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        return self.pointwise(self.conv1(maps))


class Block(nn.Module):
    """Separable convolutions to `dims` channels, ReLU before each (before the first where `relu_first`), then a
    pooling if stride is 2; beside them the identity or a 1 x 1 convolution.
    [B, in_dim, H, W] -> [B, dims[-1], H / stride, W / stride], not yet activated."""

    def __init__(self, in_dim: int, dims: tuple[int, ...], stride: int, relu_first: bool = True):
        super().__init__()
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(zip((in_dim, *dims), dims, strict=False)):
            if number or relu_first:
                layers.append(nn.ReLU(inplace=number > 0))  # the block's input is read beside it
            layers += [SeparableConv(before, after), nn.BatchNorm2d(after)]
        if stride > 1:
            layers.append(nn.MaxPool2d(3, stride, 1))
        self.rep = nn.Sequential(*layers)
        self.skip = None
        if stride > 1 or dims[-1] != in_dim:
            self.skip = nn.Conv2d(in_dim, dims[-1], 1, stride, bias=False)
            self.skipbn = nn.BatchNorm2d(dims[-1])

    def forward(self, maps: Tensor) -> Tensor:
        out = self.rep(maps)
        return out.add_(maps if self.skip is None else self.skipbn(self.skip(maps)))


class Xception(nn.Module):
    Config = XceptionConfig

    def __init__(self, config: XceptionConfig):
        super().__init__()
        self.config = config
        entry_1, entry_2, dim, exit_1, exit_2, exit_3 = config.dims
        self.conv1 = nn.Conv2d(config.in_channels, STEM_DIMS[0], 3, 2, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM_DIMS[0])
        self.conv2 = nn.Conv2d(*STEM_DIMS, 3, bias=False)
        self.bn2 = nn.BatchNorm2d(STEM_DIMS[1])
        blocks = [Block(STEM_DIMS[1], (entry_1, entry_1), 2, relu_first=False),
                  Block(entry_1, (entry_2, entry_2), 2), Block(entry_2, (dim, dim), 2),
                  *[Block(dim, (dim, dim, dim), 1) for _ in range(config.depth)],
                  Block(dim, (dim, exit_1), 2)]
        self.names = [f"block{number}" for number in range(1, len(blocks) + 1)]
        for name, block in zip(self.names, blocks, strict=True):
            self.add_module(name, block)
        self.tapped = ("block1", "block2", self.names[-2])  # the last of strides 4, 8 and 16
        self.conv3 = SeparableConv(exit_1, exit_2)
        self.bn3 = nn.BatchNorm2d(exit_2)
        self.conv4 = SeparableConv(exit_2, exit_3)
        self.bn4 = nn.BatchNorm2d(exit_3)
        self.dropout = nn.Dropout(config.dropout)
        self.fc = nn.Linear(exit_3, config.num_classes)
        self.feature_channels = (STEM_DIMS[1], entry_1, entry_2, dim, exit_3)
        self.feature_strides = (2, 4, 8, 16, 32)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")  # 9 of a channel's filter

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> activated maps of strides 2, 4, 8, 16 and 32, at most three places away from H / stride:
        147, 74, 37, 19 and 10 of 299."""
        maps = self._stem(images)
        out = [maps]
        for name in self.names:
            maps = getattr(self, name)(maps)
            if name in self.tapped:
                out.append(F.relu(maps))
        return [*out, self._exit(maps)]

    def forward(self, images: Tensor) -> Tensor:
        maps = self._stem(images)
        for name in self.names:
            maps = getattr(self, name)(maps)
        return self.fc(self.dropout(F.adaptive_avg_pool2d(self._exit(maps), 1).flatten(1)))  # [B, D] -> logits

    def _stem(self, images: Tensor) -> Tensor:
        require_size(images, MIN_SIZE)
        maps = F.relu(self.bn1(self.conv1(images)), inplace=True)
        return F.relu(self.bn2(self.conv2(maps)), inplace=True)

    def _exit(self, maps: Tensor) -> Tensor:
        maps = F.relu(self.bn3(self.conv3(maps)), inplace=True)
        return F.relu(self.bn4(self.conv4(maps)), inplace=True)


VARIANTS = {
    "xception": {"depth": 8},
}

_CHOLLET = "Chollet 2017 (from memory), "
_TIMM = "timm, results/results-imagenet.csv (legacy_xception.tf_in1k)"
PUBLISHED = {
    "xception": [{"what": "params", "value": "22855952", "source": _CHOLLET + "Table 3"},
                 {"what": "params", "value": "22910480",
                  "source": "documentation of tf.keras.applications (from memory)",
                  "reason": "with 54528 running statistics of batch norms there"},
                 {"what": "params", "value": "22.86e6", "source": _TIMM},
                 {"what": "macs", "value": "8.4e9",
                  "source": "timm, model card of legacy_xception.tf_in1k (from memory)"},
                 {"what": "top1", "value": "79.0", "data": "ImageNet-1k", "source": _CHOLLET + "Table 1"},
                 {"what": "top1", "value": "79.040", "data": "ImageNet-1k", "source": _TIMM}],
}

WEIGHTS = {
    "xception": {"timm": {"file": "legacy_xception.tf_in1k",
                          "licence": "Apache-2.0 (timm, from Keras); trained on ImageNet-1k"}},
}

models.add(Xception, VARIANTS, WEIGHTS, family="xception", task="classification", published=PUBLISHED,
           origins={"timm": dict}, peers={"xception": ("timm", "legacy_xception")},
           paper="Chollet: Xception: Deep Learning with Depthwise Separable Convolutions, CVPR 2017, "
                 "arXiv:1610.02357",
           # timm's weights
           preprocessing={"size": (299, 299), "resize": "crop", "crop_fraction": 0.8975, "interpolation": "bicubic",
                          "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)})
