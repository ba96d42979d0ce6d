"""ConvMixer: patches, then blocks of a large depthwise convolution that mixes places and a 1 x 1 that mixes channels,
at one resolution.

Paper: Trockman, Kolter, Patches Are All You Need?, TMLR 2023, arXiv:2201.09792. Parameters carry timm's names.
forward: images [B, C, H, W], normalised, H and W of at least a patch -> logits [B, num_classes]. Rows and columns that
do not fill a patch are not read.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from visus import models
from visus.core.validate import one_of, positive, require
from visus.layers.image_size import require_size

ACTIVATIONS = ("gelu", "relu")


@dataclass(frozen=True, kw_only=True)
class ConvMixerConfig:
    """dim: channels everywhere. kernel_size: side of the depthwise kernels. patch_size: side in pixels. activation:
    'gelu', or 'relu' as the paper's 768/32 was trained."""

    dim: int = 1536
    depth: int = 20
    kernel_size: int = 9
    patch_size: int = 7
    activation: str = "gelu"
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        positive(dim=self.dim, depth=self.depth, kernel_size=self.kernel_size, patch_size=self.patch_size,
                 in_channels=self.in_channels, num_classes=self.num_classes)
        require(self.kernel_size % 2 == 1, "kernel_size", self.kernel_size, "be odd, to keep the maps' size")
        one_of(ACTIVATIONS, activation=self.activation)


class Residual(nn.Module):
    """What `fn` makes of the maps is added to them: [B, dim, h, w] -> the same shape."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.fn = nn.Sequential(*layers)

    def forward(self, maps: Tensor) -> Tensor:
        return self.fn(maps).add_(maps)


class ConvMixer(nn.Module):
    Config = ConvMixerConfig

    def __init__(self, config: ConvMixerConfig):
        super().__init__()
        self.config = config
        dim, kernel = config.dim, config.kernel_size
        self.stem = nn.Sequential(nn.Conv2d(config.in_channels, dim, config.patch_size, config.patch_size),
                                  _activation(config.activation), nn.BatchNorm2d(dim))
        self.blocks = nn.Sequential(*[
            nn.Sequential(
                Residual(nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim), _activation(config.activation),
                         nn.BatchNorm2d(dim)),
                nn.Conv2d(dim, dim, 1), _activation(config.activation), nn.BatchNorm2d(dim))
            for _ in range(config.depth)])
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(dim, config.num_classes)
        self.feature_channels = (dim,)
        self.feature_strides = (config.patch_size,)

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> one map [B, dim, H / patch_size, W / patch_size]."""
        require_size(images, self.config.patch_size)
        return [self.blocks(self.stem(images))]

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.avgpool(self.features(images)[0]).flatten(1))  # [B, dim] -> [B, num_classes]


def _activation(name: str) -> nn.Module:
    return nn.GELU() if name == "gelu" else nn.ReLU(inplace=True)


VARIANTS = {
    "convmixer_1536_20": {"dim": 1536, "depth": 20, "kernel_size": 9, "patch_size": 7},
    "convmixer_768_32": {"dim": 768, "depth": 32, "kernel_size": 7, "patch_size": 7, "activation": "relu"},
    "convmixer_1024_20": {"dim": 1024, "depth": 20, "kernel_size": 9, "patch_size": 14},
}

_TABLE_1 = "Trockman and Kolter 2022, Table 1 (from memory)"
_TABLE = "Trockman and Kolter 2022 (from memory)"
PUBLISHED = {
    "convmixer_1536_20": [{"what": "params", "value": "51.6e6", "source": _TABLE_1},
                          {"what": "top1", "value": "81.37", "data": "ImageNet-1k", "source": _TABLE_1}],
    "convmixer_768_32": [{"what": "params", "value": "21.1e6", "source": _TABLE_1},
                         {"what": "top1", "value": "80.16", "data": "ImageNet-1k", "source": _TABLE_1}],
    "convmixer_1024_20": [{"what": "params", "value": "24.4e6", "source": _TABLE},
                          {"what": "top1", "value": "76.94", "data": "ImageNet-1k", "source": _TABLE}],
}

_LICENCE = "MIT (Trockman and Kolter, by way of timm); trained on ImageNet-1k"
_FILES = {"convmixer_1536_20": "convmixer_1536_20", "convmixer_768_32": "convmixer_768_32",
          "convmixer_1024_20": "convmixer_1024_20_ks9_p14"}
WEIGHTS = {name: {"timm": {"file": f"{file}.in1k", "licence": _LICENCE}} for name, file in _FILES.items()}

models.add(ConvMixer, VARIANTS, WEIGHTS, family="convmixer", task="classification", published=PUBLISHED,
           peers={name: ("timm", file) for name, file in _FILES.items()}, origins={"timm": dict},
           paper="Trockman, Kolter: Patches Are All You Need?, TMLR 2023, arXiv:2201.09792",
           preprocessing={"size": (224, 224), "resize": "crop", "crop_fraction": 0.96, "interpolation": "bicubic"})
