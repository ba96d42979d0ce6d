"""ConvNeXt V2: ConvNeXt with a norm that lets channels compete, so that masked pre-training does not collapse them.

Paper: Woo, Debnath, Hu, Chen, Liu, Kweon, Xie, ConvNeXt V2: Co-designing and Scaling ConvNets with Masked
Autoencoders, CVPR 2023, arXiv:2301.00808. Global response normalisation between the two layers of each block's MLP
takes the place of layer scale. Parameters carry timm's names; the MLP is of linear layers in all sizes, where timm
has 1 x 1 convolutions in the small ones.
forward: images [B, C, H, W], normalised, H and W of at least 32 -> logits [B, num_classes].
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from visus import models
from visus.core.validate import positive, probability, require
from visus.layers.channel_norm import ChannelNorm
from visus.layers.drop_path import DropPath
from visus.layers.image_size import require_size

EPS = 1e-6
MLP_RATIO = 4
KERNEL = 7


@dataclass(frozen=True, kw_only=True)
class ConvNeXtV2Config:
    """depths, dims: blocks and channels of each of the four stages. drop_path: rate at the last block; earlier blocks
    have linearly less (the paper fine-tunes with 0 to 0.3, from the small sizes to the large)."""

    depths: tuple[int, ...] = (3, 3, 9, 3)
    dims: tuple[int, ...] = (96, 192, 384, 768)
    drop_path: float = 0.0
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        for field in ("depths", "dims"):
            counts = getattr(self, field)
            require(isinstance(counts, tuple) and len(counts) == 4, field, counts, "be four numbers, one a stage")
            for count in counts:
                positive(**{field: count})
        probability(drop_path=self.drop_path)
        positive(in_channels=self.in_channels, num_classes=self.num_classes)


class GlobalResponseNorm(nn.Module):
    """x + weight * x * n + bias, where n is each channel's L2 norm over all places, as a share of the mean of those
    norms over the channels (section 3, algorithm 1): [B, H, W, dim] -> the same shape."""

    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, places: Tensor) -> Tensor:
        norms = torch.linalg.vector_norm(places, dim=(1, 2), keepdim=True)  # [B, 1, 1, dim]
        shares = norms / (norms.mean(-1, keepdim=True) + EPS)
        return torch.addcmul(self.bias, places, shares * self.weight + 1)


class Block(nn.Module):
    """Depthwise 7 x 7, layer norm, MLP with global response norm, add: [B, dim, H, W] -> the same shape."""

    def __init__(self, dim: int, drop_path: float):
        super().__init__()
        self.conv_dw = nn.Conv2d(dim, dim, KERNEL, padding=KERNEL // 2, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=EPS)
        self.mlp = nn.Sequential(OrderedDict([
            ("fc1", nn.Linear(dim, MLP_RATIO * dim)),
            ("act", nn.GELU()),
            ("grn", GlobalResponseNorm(MLP_RATIO * dim)),
            ("fc2", nn.Linear(MLP_RATIO * dim, dim)),
        ]))
        self.drop_path = DropPath(drop_path)

    def forward(self, maps: Tensor) -> Tensor:
        places = self.conv_dw(maps).permute(0, 2, 3, 1)  # [B, H, W, dim]
        branch = self.mlp(self.norm(places)).permute(0, 3, 1, 2)  # [B, dim, H, W]
        return maps + self.drop_path(branch)


class Stage(nn.Module):
    """Norm and a 2 x 2 convolution of stride 2 (but for the first stage), then blocks: [B, in_dim, H, W] -> [B, dim,
    H / 2, W / 2]."""

    def __init__(self, in_dim: int, dim: int, is_first: bool, rates: list[float]):
        super().__init__()
        self.downsample = nn.Identity() if is_first else nn.Sequential(ChannelNorm(in_dim, eps=EPS),
                                                                       nn.Conv2d(in_dim, dim, 2, 2))
        self.blocks = nn.Sequential(*[Block(dim, rate) for rate in rates])

    def forward(self, maps: Tensor) -> Tensor:
        return self.blocks(self.downsample(maps))


class ConvNeXtV2(nn.Module):
    Config = ConvNeXtV2Config

    def __init__(self, config: ConvNeXtV2Config):
        super().__init__()
        self.config = config
        dims, count = config.dims, sum(config.depths)
        rates = [config.drop_path * i / max(count - 1, 1) for i in range(count)]
        self.stem = nn.Sequential(nn.Conv2d(config.in_channels, dims[0], 4, 4), ChannelNorm(dims[0], eps=EPS))
        stages, in_dim, done = [], dims[0], 0
        for number, (dim, depth) in enumerate(zip(dims, config.depths, strict=True)):
            stages.append(Stage(in_dim, dim, number == 0, rates[done:done + depth]))
            in_dim, done = dim, done + depth
        self.stages = nn.Sequential(*stages)
        self.head = nn.Sequential(OrderedDict([("norm", nn.LayerNorm(in_dim, eps=EPS)),
                                               ("fc", nn.Linear(in_dim, config.num_classes))]))
        self.feature_channels = tuple(dims)
        self.feature_strides = (4, 8, 16, 32)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> maps of strides 4, 8, 16 and 32."""
        require_size(images, 32)
        maps, out = self.stem(images), []
        for stage in self.stages:
            maps = stage(maps)
            out.append(maps)
        return out

    def forward(self, images: Tensor) -> Tensor:
        maps = self.features(images)[-1]
        return self.head(maps.mean((2, 3)))  # [B, D, h, w] -> [B, D] -> [B, num_classes]


def from_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """timm's tensors -> ours: the 1 x 1 convolutions of the small sizes' MLPs become matrices."""
    return {name: tensor.flatten(1) if name.endswith((".mlp.fc1.weight", ".mlp.fc2.weight")) else tensor
            for name, tensor in state.items()}


_FROM_TRANSFORMERS = (
    (r"^classifier\.", "head.fc."), (r"^convnextv2\.layernorm\.", "head.norm."),
    (r"^convnextv2\.embeddings\.patch_embeddings\.", "stem.0."), (r"^convnextv2\.embeddings\.layernorm\.", "stem.1."),
    (r"^convnextv2\.encoder\.", ""), (r"\.downsampling_layer\.", ".downsample."), (r"\.layers\.", ".blocks."),
    (r"\.dwconv\.", ".conv_dw."), (r"\.layernorm\.", ".norm."), (r"\.pwconv1\.", ".mlp.fc1."),
    (r"\.grn\.", ".mlp.grn."), (r"\.grn\.gamma$", ".grn.weight"), (r"\.grn\.beta$", ".grn.bias"),  # as at first
    (r"\.pwconv2\.", ".mlp.fc2."))


def from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """transformers' tensors (ConvNextV2ForImageClassification) -> ours. Its last layer norm has an epsilon of 1e-12
    by its config, ours the authors' 1e-6."""
    out = {}
    for name, tensor in state.items():
        for theirs, ours in _FROM_TRANSFORMERS:
            name = re.sub(theirs, ours, name)
        out[name] = tensor.flatten() if ".mlp.grn." in name else tensor  # [1, 1, 1, dim] -> [dim]
    return out


VARIANTS = {
    "convnext_v2_atto": {"depths": (2, 2, 6, 2), "dims": (40, 80, 160, 320)},
    "convnext_v2_femto": {"depths": (2, 2, 6, 2), "dims": (48, 96, 192, 384)},
    "convnext_v2_pico": {"depths": (2, 2, 6, 2), "dims": (64, 128, 256, 512)},
    "convnext_v2_nano": {"depths": (2, 2, 8, 2), "dims": (80, 160, 320, 640)},
    "convnext_v2_tiny": {"depths": (3, 3, 9, 3), "dims": (96, 192, 384, 768)},
    "convnext_v2_base": {"depths": (3, 3, 27, 3), "dims": (128, 256, 512, 1024)},
    "convnext_v2_large": {"depths": (3, 3, 27, 3), "dims": (192, 384, 768, 1536)},
    "convnext_v2_huge": {"depths": (3, 3, 27, 3), "dims": (352, 704, 1408, 2816)},
}

_ZOO = "the authors' model zoo (from memory; there named FLOPs), pre-trained and fine-tuned on ImageNet-1k"
PUBLISHED = {
    "convnext_v2_atto": [{"what": "params", "value": "3.7e6", "source": _ZOO},
                         {"what": "macs", "value": "0.55e9", "source": _ZOO},
                         {"what": "top1", "value": "76.7", "data": "ImageNet-1k", "source": _ZOO}],
    "convnext_v2_femto": [{"what": "params", "value": "5.2e6", "source": _ZOO},
                          {"what": "macs", "value": "0.78e9", "source": _ZOO},
                          {"what": "top1", "value": "78.5", "data": "ImageNet-1k", "source": _ZOO}],
    "convnext_v2_pico": [{"what": "params", "value": "9.1e6", "source": _ZOO},
                         {"what": "macs", "value": "1.37e9", "source": _ZOO},
                         {"what": "top1", "value": "80.3", "data": "ImageNet-1k", "source": _ZOO}],
    "convnext_v2_nano": [{"what": "params", "value": "15.6e6", "source": _ZOO},
                         {"what": "macs", "value": "2.45e9", "source": _ZOO},
                         {"what": "top1", "value": "81.9", "data": "ImageNet-1k", "source": _ZOO}],
    "convnext_v2_tiny": [{"what": "params", "value": "28.6e6", "source": _ZOO},
                         {"what": "macs", "value": "4.47e9", "source": _ZOO,
                          "reason": "not known: the zoo does not itemise its count; ours is of convolutions and "
                                    "matrix products alone, as for ConvNeXt-T"},
                         {"what": "top1", "value": "83.0", "data": "ImageNet-1k", "source": _ZOO}],
    "convnext_v2_base": [{"what": "params", "value": "89e6", "source": _ZOO},
                         {"what": "macs", "value": "15.4e9", "source": _ZOO},
                         {"what": "top1", "value": "84.9", "data": "ImageNet-1k", "source": _ZOO}],
    "convnext_v2_large": [{"what": "params", "value": "198e6", "source": _ZOO},
                          {"what": "macs", "value": "34.4e9", "source": _ZOO},
                          {"what": "top1", "value": "85.8", "data": "ImageNet-1k", "source": _ZOO}],
    "convnext_v2_huge": [{"what": "params", "value": "660e6", "source": _ZOO},
                         {"what": "macs", "value": "115e9", "source": _ZOO},
                         {"what": "top1", "value": "86.3", "data": "ImageNet-1k", "source": _ZOO}],
}

_LICENCE = "CC-BY-NC-4.0 (Meta, by way of timm): not for commercial use; trained on ImageNet-1k"
WEIGHTS = {
    "convnext_v2_atto": {"timm": {"file": "convnextv2_atto.fcmae_ft_in1k", "licence": _LICENCE}},
    "convnext_v2_femto": {"timm": {"file": "convnextv2_femto.fcmae_ft_in1k", "licence": _LICENCE}},
    "convnext_v2_pico": {"timm": {"file": "convnextv2_pico.fcmae_ft_in1k", "licence": _LICENCE}},
    "convnext_v2_nano": {"timm": {"file": "convnextv2_nano.fcmae_ft_in1k", "licence": _LICENCE}},
    "convnext_v2_tiny": {"timm": {"file": "convnextv2_tiny.fcmae_ft_in1k", "licence": _LICENCE}},
    "convnext_v2_base": {"timm": {"file": "convnextv2_base.fcmae_ft_in1k", "licence": _LICENCE}},
    "convnext_v2_large": {"timm": {"file": "convnextv2_large.fcmae_ft_in1k", "licence": _LICENCE}},
    "convnext_v2_huge": {"timm": {"file": "convnextv2_huge.fcmae_ft_in1k", "licence": _LICENCE}},
}
for _size in ("atto", "femto", "pico", "nano", "tiny", "base", "large", "huge"):
    WEIGHTS[f"convnext_v2_{_size}"]["transformers"] = {
        "file": f"facebook/convnextv2-{_size}-1k-224",
        "licence": "CC-BY-NC-4.0 (Meta, though the model card says Apache-2.0): not for commercial use; "
                   "trained on ImageNet-1k"}

models.add(ConvNeXtV2, VARIANTS, WEIGHTS, family="convnext_v2", task="classification", published=PUBLISHED,
           origins={"timm": from_timm, "transformers": from_transformers},
           # two of the huge size in float64 want 14 GB: the slow parity test compares it
           peers={name: ("timm", name.replace("convnext_v2", "convnextv2")) for name in list(VARIANTS)[:-1]},
           paper="Woo, Debnath, Hu, Chen, Liu, Kweon, Xie: ConvNeXt V2: Co-designing and Scaling ConvNets with Masked "
                 "Autoencoders, CVPR 2023, arXiv:2301.00808",
           preprocessing={"size": (224, 224), "resize": "crop", "crop_fraction": 0.875, "interpolation": "bicubic"})
