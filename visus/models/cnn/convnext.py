"""ConvNeXt: a residual network brought up to date step by step with what vision transformers do.

Paper: Liu, Mao, Wu, Feichtenhofer, Darrell, Xie, A ConvNet for the 2020s, CVPR 2022, arXiv:2201.03545. A block is a
depthwise 7 x 7 convolution that mixes places, then an MLP in each place that mixes channels, with one layer norm and
one GELU in all. Parameters carry torchvision's names; `from_timm` reads timm's, `from_transformers` transformers'.
forward: images [B, C, H, W], normalised, H and W of at least 32 -> logits [B, num_classes].
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from visus import models
from visus.core.validate import positive, probability, require
from visus.layers.channel_norm import ChannelNorm
from visus.layers.drop_path import DropPath
from visus.layers.feature_sequential import FeatureSequential
from visus.layers.permute import Permute

NORM_EPS = 1e-6
MLP_RATIO = 4
KERNEL = 7


@dataclass(frozen=True, kw_only=True)
class ConvNeXtConfig:
    """depths, dims: blocks and channels of each of the four stages. layer_scale: what each block's output is
    multiplied by at the start. drop_path: rate at the last block; earlier blocks have linearly less (the paper trains
    with 0.1, 0.4, 0.5 and 0.5 from tiny to large)."""

    depths: tuple[int, ...] = (3, 3, 9, 3)
    dims: tuple[int, ...] = (96, 192, 384, 768)
    layer_scale: float = 1e-6
    drop_path: float = 0.0
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        for field in ("depths", "dims"):
            counts = getattr(self, field)
            require(isinstance(counts, tuple) and len(counts) == 4, field, counts, "be four numbers, one a stage")
            for count in counts:
                positive(**{field: count})
        require(isinstance(self.layer_scale, int | float) and self.layer_scale > 0, "layer_scale", self.layer_scale,
                "be above 0")
        probability(drop_path=self.drop_path)
        positive(in_channels=self.in_channels, num_classes=self.num_classes)


class Block(nn.Module):
    """Depthwise 7 x 7, layer norm, MLP, scale, add: [B, dim, H, W] -> the same shape."""

    def __init__(self, dim: int, layer_scale: float, drop_path: float):
        super().__init__()
        self.layer_scale = nn.Parameter(torch.full((dim, 1, 1), layer_scale))
        self.block = nn.Sequential(
            nn.Conv2d(dim, dim, KERNEL, padding=KERNEL // 2, groups=dim),
            Permute(0, 2, 3, 1),  # [B, H, W, dim]
            nn.LayerNorm(dim, eps=NORM_EPS),
            nn.Linear(dim, MLP_RATIO * dim),
            nn.GELU(),
            nn.Linear(MLP_RATIO * dim, dim),
            Permute(0, 3, 1, 2),  # [B, dim, H, W]
        )
        self.drop_path = DropPath(drop_path)

    def forward(self, maps: Tensor) -> Tensor:
        return torch.addcmul(maps, self.drop_path(self.block(maps)), self.layer_scale)


class ConvNeXt(nn.Module):
    Config = ConvNeXtConfig

    def __init__(self, config: ConvNeXtConfig):
        super().__init__()
        self.config = config
        dims, count = config.dims, sum(config.depths)
        rates = iter([config.drop_path * i / max(count - 1, 1) for i in range(count)])
        layers: list[nn.Module] = []
        for number, (dim, depth) in enumerate(zip(dims, config.depths, strict=True)):
            if number == 0:
                layers.append(nn.Sequential(nn.Conv2d(config.in_channels, dim, 4, 4), ChannelNorm(dim, eps=NORM_EPS)))
            else:
                before = dims[number - 1]
                layers.append(nn.Sequential(ChannelNorm(before, eps=NORM_EPS), nn.Conv2d(before, dim, 2, 2)))
            layers.append(nn.Sequential(*[Block(dim, config.layer_scale, next(rates)) for _ in range(depth)]))
        self.features = FeatureSequential(layers, (1, 3, 5, 7), least=32)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(ChannelNorm(dims[3], eps=NORM_EPS), nn.Flatten(1),
                                        nn.Linear(dims[3], config.num_classes))
        self.feature_channels = tuple(dims)
        self.feature_strides = (4, 8, 16, 32)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.features.last(images)
        return self.classifier(self.avgpool(maps))  # [B, D, 1, 1] -> [B, num_classes]


_FROM_TIMM = ((r"^stem\.", "features.0."), (r"^head\.norm\.", "classifier.0."), (r"^head\.fc\.", "classifier.2."),
              (r"\.conv_dw\.", ".block.0."), (r"\.norm\.", ".block.2."), (r"\.mlp\.fc1\.", ".block.3."),
              (r"\.mlp\.fc2\.", ".block.5."), (r"\.gamma$", ".layer_scale"))


def from_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """timm's names and shapes -> ours: stage i is features 2i (what comes before its blocks) and 2i + 1."""
    out = {}
    for name, tensor in state.items():
        name = re.sub(r"^stages\.(\d+)\.downsample", lambda match: f"features.{2 * int(match[1])}", name)
        name = re.sub(r"^stages\.(\d+)\.blocks", lambda match: f"features.{2 * int(match[1]) + 1}", name)
        for theirs, ours in _FROM_TIMM:
            name = re.sub(theirs, ours, name)
        out[name] = tensor.reshape(-1, 1, 1) if name.endswith(".layer_scale") else tensor  # [dim] -> [dim, 1, 1]
    return out


_FROM_TRANSFORMERS = (
    (r"^classifier\.", "classifier.2."), (r"^convnext\.layernorm\.", "classifier.0."),
    (r"^convnext\.embeddings\.patch_embeddings\.", "features.0.0."),
    (r"^convnext\.embeddings\.layernorm\.", "features.0.1."), (r"\.layer_scale_parameter$", ".layer_scale"),
    (r"\.dwconv\.", ".block.0."), (r"\.layernorm\.", ".block.2."), (r"\.pwconv1\.", ".block.3."),
    (r"\.pwconv2\.", ".block.5."))


def from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """transformers' names and shapes (ConvNextForImageClassification) -> ours. Its last layer norm has an epsilon of
    1e-12 by its config, ours the authors' 1e-6."""
    out = {}
    for name, tensor in state.items():
        for theirs, ours in _FROM_TRANSFORMERS:
            name = re.sub(theirs, ours, name)
        name = re.sub(r"^convnext\.encoder\.stages\.(\d+)\.downsampling_layer",
                      lambda match: f"features.{2 * int(match[1])}", name)
        name = re.sub(r"^convnext\.encoder\.stages\.(\d+)\.layers",
                      lambda match: f"features.{2 * int(match[1]) + 1}", name)
        out[name] = tensor.reshape(-1, 1, 1) if name.endswith(".layer_scale") else tensor  # [dim] -> [dim, 1, 1]
    return out


VARIANTS = {
    "convnext_tiny": {"depths": (3, 3, 9, 3), "dims": (96, 192, 384, 768)},
    "convnext_small": {"depths": (3, 3, 27, 3), "dims": (96, 192, 384, 768)},
    "convnext_base": {"depths": (3, 3, 27, 3), "dims": (128, 256, 512, 1024)},
    "convnext_large": {"depths": (3, 3, 27, 3), "dims": (192, 384, 768, 1536)},
}

_TABLE_1 = "Liu et al. 2022 (from memory), Table 1 (there named FLOPs)"
_TORCHVISION = "torchvision 0.28.0, weights IMAGENET1K_V1"
PUBLISHED = {
    "convnext_tiny": [{"what": "params", "value": "29e6", "source": _TABLE_1},
                      {"what": "macs", "value": "4.5e9", "source": _TABLE_1},
                      {"what": "top1", "value": "82.1", "data": "ImageNet-1k", "source": _TABLE_1},
                      {"what": "params", "value": "28589128", "source": _TORCHVISION},
                      {"what": "macs", "value": "4.456e9", "source": _TORCHVISION},
                      {"what": "top1", "value": "82.520", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "convnext_small": [{"what": "params", "value": "50e6", "source": _TABLE_1},
                       {"what": "macs", "value": "8.7e9", "source": _TABLE_1},
                       {"what": "top1", "value": "83.1", "data": "ImageNet-1k", "source": _TABLE_1},
                       {"what": "params", "value": "50223688", "source": _TORCHVISION},
                       {"what": "macs", "value": "8.684e9", "source": _TORCHVISION},
                       {"what": "top1", "value": "83.616", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "convnext_base": [{"what": "params", "value": "89e6", "source": _TABLE_1},
                      {"what": "macs", "value": "15.4e9", "source": _TABLE_1},
                      {"what": "top1", "value": "83.8", "data": "ImageNet-1k", "source": _TABLE_1},
                      {"what": "params", "value": "88591464", "source": _TORCHVISION},
                      {"what": "macs", "value": "15.355e9", "source": _TORCHVISION},
                      {"what": "top1", "value": "84.062", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "convnext_large": [{"what": "params", "value": "198e6", "source": _TABLE_1},
                       {"what": "macs", "value": "34.4e9", "source": _TABLE_1},
                       {"what": "top1", "value": "84.3", "data": "ImageNet-1k", "source": _TABLE_1},
                       {"what": "params", "value": "197767336", "source": _TORCHVISION},
                       {"what": "macs", "value": "34.361e9", "source": _TORCHVISION},
                       {"what": "top1", "value": "84.414", "data": "ImageNet-1k", "source": _TORCHVISION}],
}

_LICENCE = "BSD-3-Clause (torchvision); trained on ImageNet-1k"
_TIMM_LICENCE = "Apache-2.0 (as timm states; from Meta, whose code is MIT); trained on ImageNet-1k"
WEIGHTS = {
    "convnext_tiny": {"torchvision": {"file": "convnext_tiny-983f1562.pth", "licence": _LICENCE},
                     "timm": {"file": "convnext_tiny.fb_in1k", "licence": _TIMM_LICENCE}},
    "convnext_small": {"torchvision": {"file": "convnext_small-0c510722.pth", "licence": _LICENCE},
                      "timm": {"file": "convnext_small.fb_in1k", "licence": _TIMM_LICENCE}},
    "convnext_base": {"torchvision": {"file": "convnext_base-6075fbad.pth", "licence": _LICENCE},
                     "timm": {"file": "convnext_base.fb_in1k", "licence": _TIMM_LICENCE}},
    "convnext_large": {"torchvision": {"file": "convnext_large-ea097f82.pth", "licence": _LICENCE},
                      "timm": {"file": "convnext_large.fb_in1k", "licence": _TIMM_LICENCE}},
}
for _size in ("tiny", "small", "base", "large"):  # torch files: not all are there as safetensors
    WEIGHTS[f"convnext_{_size}"]["transformers"] = {
        "file": f"facebook/convnext-{_size}-224",
        "url": f"https://huggingface.co/facebook/convnext-{_size}-224/resolve/main/pytorch_model.bin",
        "licence": "Apache-2.0 (Meta's model card; Meta's code is MIT); trained on ImageNet-1k",
        "preprocessing": {"interpolation": "bicubic", "crop_fraction": 0.875}}

models.add(ConvNeXt, VARIANTS, WEIGHTS, family="convnext", task="classification", published=PUBLISHED,
           origins={"torchvision": dict, "timm": from_timm, "transformers": from_transformers},
           peers={name: ("torchvision", name) for name in VARIANTS},
           paper="Liu, Mao, Wu, Feichtenhofer, Darrell, Xie: A ConvNet for the 2020s, CVPR 2022, arXiv:2201.03545",
           # torchvision's weights were measured with images resized to 236 (tiny), 230 (small) and 232, cropped to 224
           preprocessing={"size": (224, 224), "resize": "crop", "crop_fraction": 224 / 232})
