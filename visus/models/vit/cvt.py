"""CvT: a vision transformer whose tokens, queries, keys and values come from convolutions.

Paper: Wu et al., CvT: Introducing Convolutions to Vision Transformers, ICCV 2021, arXiv:2103.15808. Each stage starts
with a strided convolution; depthwise convolutions before the projections of attention tell where a token is, so there
are no position embeddings and any image size goes. A class token joins in the last stage. As the authors' code has it,
scores are divided by the root of all channels, not of a head's, and QuickGELU is the activation, with which the public
weights were trained; transformers computes an exact GELU on the same weights (`quick_gelu=False`). Parameters carry the
authors' names, but that stages are in a list.
forward: images [B, C, H, W], normalised -> logits [B, num_classes].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from visus import models
from visus.core.rename import rename
from visus.core.validate import boolean, positive, probability, require
from visus.layers.drop_path import DropPath
from visus.layers.image_size import require_size
from visus.layers.mlp import MLP
from visus.layers.quick_gelu import QuickGELU
from visus.ops.attention import attend

MLP_RATIO = 4


@dataclass(frozen=True, kw_only=True)
class CvTConfig:
    """depths, dims, num_heads: a number for each of the three stages. quick_gelu: x sigmoid(1.702 x) as the activation,
    else GELU. drop_path: rate at the last block of the last stage; its earlier blocks have linearly less, the other
    stages none."""

    depths: tuple[int, ...] = (1, 2, 10)
    dims: tuple[int, ...] = (64, 192, 384)
    num_heads: tuple[int, ...] = (1, 3, 6)
    quick_gelu: bool = True
    drop_path: float = 0.0
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        for field in ("depths", "dims", "num_heads"):
            counts = getattr(self, field)
            require(isinstance(counts, tuple) and len(counts) == 3, field, counts, "be three numbers, one a stage")
            for count in counts:
                positive(**{field: count})
        for dim, heads in zip(self.dims, self.num_heads, strict=True):
            require(dim % heads == 0, "dims", self.dims, f"be multiples of num_heads={self.num_heads}")
        boolean(quick_gelu=self.quick_gelu)
        probability(drop_path=self.drop_path)
        positive(in_channels=self.in_channels, num_classes=self.num_classes)


class ConvEmbed(nn.Module):
    """Convolutional token embedding, section 3.1: [B, C, H, W] -> [B, H / stride, W / stride, dim]."""

    def __init__(self, in_dim: int, dim: int, kernel: int, stride: int, padding: int):
        super().__init__()
        self.proj = nn.Conv2d(in_dim, dim, kernel, stride, padding)
        self.norm = nn.LayerNorm(dim)

    def forward(self, maps: Tensor) -> Tensor:
        return self.norm(self.proj(maps).permute(0, 2, 3, 1))


class ConvProjection(nn.Module):
    """Depthwise 3 x 3 convolution and batch norm: [B, dim, H, W] -> tokens [B, N, dim], N = H W / stride^2."""

    def __init__(self, dim: int, stride: int):
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, stride, 1, groups=dim, bias=False)
        self.bn = nn.BatchNorm2d(dim)

    def forward(self, maps: Tensor) -> Tensor:
        return self.bn(self.conv(maps)).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Section 3.2: tokens [B, N, dim] -> the same shape. size: H and W of the map that the last H W tokens are; a class
    token before them goes by the convolutions."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.scale = dim**-0.5
        self.conv_proj_q = ConvProjection(dim, 1)
        self.conv_proj_k = ConvProjection(dim, 2)
        self.conv_proj_v = ConvProjection(dim, 2)
        self.proj_q = nn.Linear(dim, dim)
        self.proj_k = nn.Linear(dim, dim)
        self.proj_v = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        prefix = tokens.shape[1] - size[0] * size[1]
        first, places = tokens[:, :prefix], tokens[:, prefix:]
        maps = places.transpose(1, 2).unflatten(2, size)  # [B, dim, H, W]
        parts = []
        for conv, linear in ((self.conv_proj_q, self.proj_q), (self.conv_proj_k, self.proj_k),
                             (self.conv_proj_v, self.proj_v)):
            part = conv(maps)
            if prefix:
                part = torch.cat([first, part], 1)  # [B, 1 + N, dim]
            parts.append(linear(part).unflatten(2, (self.num_heads, -1)).transpose(1, 2))  # [B, heads, N, head_dim]
        out = attend(*parts, scale=self.scale)
        return self.proj(out.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, dim: int, num_heads: int, quick_gelu: bool, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, MLP_RATIO * dim)
        if quick_gelu:
            self.mlp.act = QuickGELU()
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens), size))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))


class Stage(nn.Module):
    """[B, C, H, W] -> maps [B, dim, h, w] and the class token [B, 1, dim], of no rows where there is none."""

    def __init__(self, embed: ConvEmbed, blocks: list[Block], class_dim: int):
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, class_dim)) if class_dim else None
        self.patch_embed = embed
        self.blocks = nn.ModuleList(blocks)

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        places = self.patch_embed(maps)
        size = (places.shape[1], places.shape[2])
        tokens = places.flatten(1, 2)  # [B, N, dim]
        if self.cls_token is not None:
            tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], 1)
        for block in self.blocks:
            tokens = block(tokens, size)
        prefix = tokens.shape[1] - size[0] * size[1]
        return tokens[:, prefix:].transpose(1, 2).unflatten(2, size), tokens[:, :prefix]


class CvT(nn.Module):
    Config = CvTConfig

    def __init__(self, config: CvTConfig):
        super().__init__()
        self.config = config
        stages, in_dim = [], config.in_channels
        for i, (depth, dim, heads) in enumerate(zip(config.depths, config.dims, config.num_heads, strict=True)):
            embed = ConvEmbed(in_dim, dim, 3, 2, 1) if i else ConvEmbed(in_dim, dim, 7, 4, 2)
            rates = [config.drop_path * j / max(depth - 1, 1) if i == 2 else 0.0 for j in range(depth)]
            blocks = [Block(dim, heads, config.quick_gelu, rate) for rate in rates]
            stages.append(Stage(embed, blocks, dim if i == 2 else 0))
            in_dim = dim
        self.stages = nn.ModuleList(stages)
        self.norm = nn.LayerNorm(in_dim)
        self.head = nn.Linear(in_dim, config.num_classes)
        self.feature_channels = tuple(config.dims)
        self.feature_strides = (4, 8, 16)
        nn.init.trunc_normal_(stages[2].cls_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def pyramid(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """The maps of `features` and the class token [B, 1, dim]. Raises UserError for images below 3 pixels."""
        require_size(images, 3)
        maps, out, token = images, [], images
        for stage in self.stages:
            maps, token = stage(maps)
            out.append(maps)
        return out, token

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> maps [B, dim, H / s, W / s] at strides s of 4, 8 and 16."""
        return self.pyramid(images)[0]

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(self.pyramid(images)[1][:, 0]))


_FROM_TRANSFORMERS = (  # in order
    (r"^classifier\.", "head."), (r"^layernorm\.", "norm."), (r"^cvt\.encoder\.", ""),
    (r"\.embedding\.convolution_embeddings\.projection\.", ".patch_embed.proj."),
    (r"\.embedding\.convolution_embeddings\.normalization\.", ".patch_embed.norm."), (r"\.layers\.", ".blocks."),
    (r"\.attention\.attention\.convolution_projection_([qkv])[a-z]+\.convolution_projection\.", r".attn.conv_proj_\1."),
    (r"(conv_proj_[qkv])\.convolution\.", r"\1.conv."), (r"(conv_proj_[qkv])\.normalization\.", r"\1.bn."),
    (r"\.attention\.attention\.projection_([qkv])[a-z]+\.", r".attn.proj_\1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."), (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."), (r"\.layernorm_before\.", ".norm1."), (r"\.layernorm_after\.", ".norm2."),
)


def from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A transformers state dict (CvtForImageClassification) under our names."""
    return rename(state, _FROM_TRANSFORMERS)


def from_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' state dict under our names."""
    return rename(state, [(r"^stage(\d)\.", r"stages.\1.")])


VARIANTS = {
    "cvt_13": {"depths": (1, 2, 10), "dims": (64, 192, 384), "num_heads": (1, 3, 6)},
    "cvt_21": {"depths": (1, 4, 16), "dims": (64, 192, 384), "num_heads": (1, 3, 6)},
}
WIDE = {"cvt_w24": {"depths": (2, 2, 20), "dims": (192, 768, 1024), "num_heads": (3, 12, 16)}}  # at 384 pixels

_AUTHORS = "the authors' repository microsoft/CvT, README.md"
_DROPPED = "both figures there are ours (4.57e9 and 7.18e9) without the second decimal, not rounded"
PUBLISHED = {
    "cvt_13": [{"what": "params", "value": "20e6", "source": _AUTHORS},
               {"what": "macs", "value": "4.5e9", "source": _AUTHORS, "reason": _DROPPED},
               {"what": "top1", "value": "81.6", "data": "ImageNet-1k", "source": _AUTHORS}],
    "cvt_21": [{"what": "params", "value": "32e6", "source": _AUTHORS},
               {"what": "macs", "value": "7.1e9", "source": _AUTHORS, "reason": _DROPPED},
               {"what": "top1", "value": "82.5", "data": "ImageNet-1k", "source": _AUTHORS}],
    "cvt_w24": [{"what": "params", "value": "277e6", "source": _AUTHORS},
                {"what": "macs", "value": "193.2e9", "source": _AUTHORS,
                 "reason": "0.5% under ours, we do not know why: of CvT-13 at 384 ours is 16.27e9 and theirs 16.3e9"},
                {"what": "top1", "value": "87.6", "data": "ImageNet-1k",
                 "source": f"{_AUTHORS}, trained on ImageNet-22k, then 1k at 384"}],
}


_HUB = "https://huggingface.co/microsoft/{}/resolve/main/pytorch_model.bin"
_FILES = {  # transformers' file, the authors' (which lies in a folder without plain addresses), data
    "cvt_13": ("cvt-13", "CvT-13-224x224-IN-1k.pth", "ImageNet-1k"),
    "cvt_21": ("cvt-21", "CvT-21-224x224-IN-1k.pth", "ImageNet-1k"),
    "cvt_w24": ("cvt-w24-384-22k", "CvT-w24-384x384-IN-22k.pth", "ImageNet-22k, then 1k"),
}
WEIGHTS = {name: {"transformers": {"file": f"microsoft/{hub}", "url": _HUB.format(hub),
                                   "licence": f"Apache-2.0 (Microsoft's model card); trained on {data}"},
                  "original": {"file": original, "licence": f"MIT (Microsoft); trained on {data}"}}
           for name, (hub, original, data) in _FILES.items()}

_ABOUT = {"family": "cvt", "task": "classification", "published": PUBLISHED,
          "origins": {"transformers": from_transformers, "original": from_original},
          "paper": "Wu et al.: CvT: Introducing Convolutions to Vision Transformers, ICCV 2021, arXiv:2103.15808"}
models.add(CvT, VARIANTS, WEIGHTS, **_ABOUT,
           preprocessing={"size": (224, 224), "resize": "crop", "crop_fraction": 0.875, "interpolation": "bicubic"})
models.add(CvT, WIDE, WEIGHTS, **_ABOUT,
           preprocessing={"size": (384, 384), "resize": "squash", "interpolation": "bicubic"})
