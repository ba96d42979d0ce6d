"""MViT: a pyramid of transformer stages whose attention pools its queries, keys and values. Image models.

Paper: Fan et al., Multiscale Vision Transformers, ICCV 2021, arXiv:2104.11227. Each later stage has half the rows and
columns (its first block pools the queries) and twice the channels (the last block before it widens in its MLP). The
class token goes by the pooling. Of the time axis nothing is here: the kernels are those of one frame. Departure: images
of other sizes go, with the position embeddings resized. Parameters carry the authors' names, but that queries, keys and
values are one linear layer.
forward: images [B, C, H, W], normalised -> logits [B, num_classes].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visus import models
from visus.core.rename import join_parts, rename
from visus.core.validate import boolean, positive, probability, require
from visus.layers.drop_path import DropPath
from visus.layers.vit_blocks import fit_positions
from visus.ops.attention import attend
from visus.ops.positions import resize_positions

NORM_EPS = 1e-6
MLP_RATIO = 4
KEY_STRIDES = (4, 2, 1, 1)  # of the pooling of keys and values, a stage: their maps have one size in all stages


@dataclass(frozen=True, kw_only=True)
class MViTConfig:
    """image_size: side in pixels of the images that the position embeddings are for. depths: blocks of each of the four
    stages. dim, num_heads: of the first stage, doubled from stage to stage. max_pool: pool by the maximum, else by
    depthwise convolutions. drop_path: rate at the last block; earlier blocks have linearly less."""

    image_size: int = 224
    depths: tuple[int, ...] = (1, 2, 11, 2)
    dim: int = 96
    num_heads: int = 1
    max_pool: bool = False
    drop_path: float = 0.0
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        require(isinstance(self.depths, tuple) and len(self.depths) == 4, "depths", self.depths,
                "be four numbers, one a stage")
        for depth in self.depths:
            positive(depths=depth)
        positive(image_size=self.image_size, dim=self.dim, num_heads=self.num_heads, in_channels=self.in_channels,
                 num_classes=self.num_classes)
        require(self.dim % self.num_heads == 0, "dim", self.dim, f"be a multiple of num_heads={self.num_heads}")
        boolean(max_pool=self.max_pool)
        probability(drop_path=self.drop_path)


class PatchEmbed(nn.Module):
    """Overlapping 7 x 7 patches: [B, C, H, W] -> [B, H / 4, W / 4, dim], rounded up."""

    def __init__(self, in_channels: int, dim: int):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, 7, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).permute(0, 2, 3, 1)


def to_maps(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """Tokens [B, 1 + H W, dim] without the first -> [B, dim, H, W]."""
    return tokens[:, 1:].unflatten(1, size).permute(0, 3, 1, 2)


def to_tokens(first: Tensor, maps: Tensor) -> Tensor:
    """[B, 1, dim] and maps [B, dim, H, W] -> tokens [B, 1 + H W, dim]."""
    return torch.cat([first, maps.permute(0, 2, 3, 1).flatten(1, 2)], 1)


class ConvPool(nn.Conv2d):
    """3 x 3 depthwise convolution of a head's channels, the same for all heads: [B, dim, H, W] -> [B, dim, h, w]."""

    def __init__(self, head_dim: int, stride: int):
        super().__init__(head_dim, head_dim, 3, stride, 1, groups=head_dim, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        heads = maps.shape[1] // self.groups
        weight = self.weight.repeat(heads, 1, 1, 1)  # [dim, 1, 3, 3]
        return F.conv2d(maps, weight, None, self.stride, self.padding, groups=len(weight))


class Attention(nn.Module):
    """Pooling attention, section 3.1: tokens [B, 1 + H W, dim], class token first -> [B, 1 + h w, dim], and (h, w).

    Pooling by convolutions is there with every stride for keys and values, and where query_stride is above 1 for
    queries, a layer norm over a head's channels behind it; by the maximum it is where a stride is above 1.
    """

    def __init__(self, dim: int, num_heads: int, query_stride: int, key_stride: int, max_pool: bool):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        for part, stride in (("q", query_stride), ("k", key_stride), ("v", key_stride)):
            pool = norm = None
            if max_pool and stride > 1:
                pool = nn.MaxPool2d(stride + 1, stride, stride // 2)
            elif not max_pool and (stride > 1 or part != "q"):
                pool, norm = ConvPool(dim // num_heads, stride), nn.LayerNorm(dim // num_heads, eps=NORM_EPS)
            setattr(self, f"pool_{part}", pool)
            setattr(self, f"norm_{part}", norm)

    def pool(self, tokens: Tensor, size: tuple[int, int], pool: nn.Module | None,
             norm: nn.Module | None) -> tuple[Tensor, tuple[int, int]]:
        """Tokens [B, 1 + H W, dim] -> [B, heads, 1 + h w, head_dim], and (h, w)."""
        if pool is not None:
            maps = pool(to_maps(tokens, size))
            tokens, size = to_tokens(tokens[:, :1], maps), (maps.shape[2], maps.shape[3])
        heads = tokens.unflatten(2, (self.num_heads, -1))
        return (heads if norm is None else norm(heads)).transpose(1, 2), size

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        q, k, v = self.qkv(tokens).chunk(3, 2)  # each [B, 1 + H W, dim]
        k = self.pool(k, size, self.pool_k, self.norm_k)[0]
        v = self.pool(v, size, self.pool_v, self.norm_v)[0]
        q, size = self.pool(q, size, self.pool_q, self.norm_q)
        return self.proj(attend(q, k, v).transpose(1, 2).flatten(2)), size


class MLP(nn.Module):
    def __init__(self, in_dim: int, dim: int):
        super().__init__()
        self.fc1 = nn.Linear(in_dim, MLP_RATIO * in_dim)
        self.fc2 = nn.Linear(MLP_RATIO * in_dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(tokens)))


class Block(nn.Module):
    """Tokens [B, 1 + H W, in_dim] -> [B, 1 + h w, dim], and (h, w). Where queries are pooled, the shortcut is by the
    maximum; where channels change, that of the MLP is a linear layer of the normalised tokens."""

    def __init__(self, in_dim: int, dim: int, num_heads: int, query_stride: int, key_stride: int, max_pool: bool,
                 drop_path: float):
        super().__init__()
        self.query_stride = query_stride
        self.norm1 = nn.LayerNorm(in_dim, eps=NORM_EPS)
        self.attn = Attention(in_dim, num_heads, query_stride, key_stride, max_pool)
        self.norm2 = nn.LayerNorm(in_dim, eps=NORM_EPS)
        self.mlp = MLP(in_dim, dim)
        self.proj = nn.Linear(in_dim, dim) if dim != in_dim else None
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        branch, new_size = self.attn(self.norm1(tokens), size)
        if self.query_stride > 1:
            stride = self.query_stride
            tokens = to_tokens(tokens[:, :1], F.max_pool2d(to_maps(tokens, size), stride + 1, stride, stride // 2))
        tokens = tokens + self.drop_path(branch)
        normed = self.norm2(tokens)
        shortcut = tokens if self.proj is None else self.proj(normed)
        return shortcut + self.drop_path(self.mlp(normed)), new_size


class MViT(nn.Module):
    Config = MViTConfig

    def __init__(self, config: MViTConfig):
        super().__init__()
        self.config = config
        self.side = -(-config.image_size // 4)
        self.patch_embed = PatchEmbed(config.in_channels, config.dim)
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + self.side**2, config.dim))
        count = sum(config.depths)
        blocks, channels, dim = [], [], config.dim
        for i, depth in enumerate(config.depths):
            for j in range(depth):
                out_dim = 2 * dim if j == depth - 1 and i < 3 else dim
                blocks.append(Block(dim, out_dim, config.num_heads << i, 2 if i and j == 0 else 1, KEY_STRIDES[i],
                                    config.max_pool, config.drop_path * len(blocks) / max(count - 1, 1)))
                dim = out_dim
            channels.append(dim)
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.head = nn.Linear(dim, config.num_classes)
        self.ends = [sum(config.depths[:i + 1]) for i in range(4)]
        self.feature_channels = tuple(channels)
        self.feature_strides = (4, 8, 16, 32)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def pyramid(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """The maps of `features` and the last tokens [B, 1 + N, dim]."""
        places = self.patch_embed(images)
        size = (places.shape[1], places.shape[2])
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), places.flatten(1, 2)], 1)  # [B, 1 + N, dim]
        tokens = tokens + resize_positions(self.pos_embed, (self.side, self.side), size, 1)
        out = []
        for number, block in enumerate(self.blocks, 1):
            tokens, size = block(tokens, size)
            if number in self.ends:
                out.append(to_maps(tokens, size))
        return out, tokens

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> maps [B, channels, H / s, W / s] at strides s of 4, 8, 16, 32 (rounded up)."""
        return self.pyramid(images)[0]

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(self.pyramid(images)[1][:, 0]))

    def adapt(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """The state with its position embedding resized to this model's grid, and what was done in words."""
        return fit_positions(state, self.pos_embed, num_prefix=1)


_FROM_PYTORCHVIDEO = (  # in order
    (r"^patch_embed\.patch_model\.", "patch_embed.proj."), (r"^cls_positional_encoding\.", ""),
    (r"^norm_embed\.", "norm."), (r"^head\.proj\.", "head."),
)


def from_pytorchvideo(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A PyTorchVideo state dict of an image model, or of a video model of one frame, under our names: kernels without
    the axis of time, which has one place, the parts of the position embedding put together, queries, keys and values
    joined."""
    out = {}
    for name, tensor in rename(state, _FROM_PYTORCHVIDEO).items():
        out[name] = tensor.squeeze(2) if tensor.ndim == 5 and tensor.shape[2] == 1 else tensor
    names = ["cls_token", "pos_embed_class", "pos_embed_spatial", "pos_embed_temporal"]
    dim = out[names[0]].numel() if names[0] in out else 0
    if all(name in out for name in names) and out[names[3]].numel() == dim:
        token, first, places, frame = (out.pop(name).reshape(1, -1, dim) for name in names)
        out["cls_token"] = token
        out["pos_embed"] = torch.cat([first, places + frame], 1)  # [1, 1 + N, dim]
    return join_parts(out, "qkv", "qkv")


_B24, _WIDE = {"depths": (2, 3, 16, 3)}, {"dim": 112, "image_size": 320}
VARIANTS = {
    "mvit_base_16": {"depths": (1, 2, 11, 2)},
    "mvit_base_16_max": {"depths": (1, 2, 11, 2), "max_pool": True},
    "mvit_base_24_max": {**_B24, "max_pool": True},
}
AT_320 = {"mvit_base_24_wide": _B24 | _WIDE, "mvit_base_24_wide_max": {**_B24, **_WIDE, "max_pool": True}}

_TABLE_17 = "Fan et al. 2021, Table 17 (arXiv)"
_ONE = "the table gives one figure for both kinds of pooling"
_FIGURES = {  # params, MACs (there named FLOPs), top-1
    "mvit_base_16": ("37.0e6", "7.8e9", "83.0"), "mvit_base_16_max": ("37.0e6", "7.8e9", "82.5"),
    "mvit_base_24_max": ("53.5e6", "10.9e9", "83.1"), "mvit_base_24_wide": ("72.9e6", "32.7e9", "84.8"),
    "mvit_base_24_wide_max": ("72.9e6", "32.7e9", "84.3"),
}
PUBLISHED: dict[str, list[dict[str, str]]] = {
    name: [{"what": "params", "value": params, "source": _TABLE_17},
           {"what": "macs", "value": macs, "source": _TABLE_17},
           {"what": "top1", "value": top1, "data": "ImageNet-1k", "source": _TABLE_17}]
    for name, (params, macs, top1) in _FIGURES.items()}
PUBLISHED["mvit_base_16_max"][0]["reason"] = f"{_ONE}, which is right for convolutions"
PUBLISHED["mvit_base_24_wide"][0]["reason"] = f"{_ONE}, which is right for the maximum"
PUBLISHED["mvit_base_24_wide_max"][1]["reason"] = f"{_ONE}, which is right for convolutions"

WEIGHTS = {"mvit_base_16": {"pytorchvideo": {
    "file": "MVIT_B_16_f292487636.pyth",
    "url": "https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/imagenet/MVIT_B_16_f292487636.pyth",
    "licence": "Apache-2.0 (Meta, PyTorchVideo); trained on ImageNet-1k"}}}

_ABOUT = {"family": "mvit", "task": "classification", "published": PUBLISHED,
          "origins": {"pytorchvideo": from_pytorchvideo},
          "paper": "Fan et al.: Multiscale Vision Transformers, ICCV 2021, arXiv:2104.11227"}
for _variants, _pixels in ((VARIANTS, 224), (AT_320, 320)):
    models.add(MViT, _variants, WEIGHTS, **_ABOUT,
               preprocessing={"size": (_pixels, _pixels), "resize": "crop", "crop_fraction": 0.875,
                              "interpolation": "bicubic"})
