"""PVT: a pyramid of transformer stages, whose attention takes its keys and values from a smaller map.

Paper: Wang et al., Pyramid Vision Transformer: A Versatile Backbone for Dense Prediction without Convolutions, ICCV
2021, arXiv:2102.12122. Patches do not overlap; every stage has learned position embeddings, which are resized
(bilinear, as in the authors' code) for images of another size than the model was built for. A class token joins in the
last stage. Parameters carry the authors' names, but that stages are in a list.
forward: images [B, C, H, W], normalised, H and W of at least 32 -> logits [B, num_classes].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visus import models
from visus.core.rename import join_parts, rename
from visus.core.validate import positive, probability, require
from visus.layers.drop_path import DropPath
from visus.layers.image_size import require_size
from visus.layers.mlp import MLP
from visus.ops.attention import attend

NORM_EPS = 1e-6  # of a block and at the end; layer norms after a convolution have torch's
REDUCTIONS = (8, 4, 2, 1)  # sides of the map over those of the map of keys and values, a stage
PATCH_SIZES = (4, 2, 2, 2)
LEAST = 32  # pixels, of which a window of the first reduction is left


@dataclass(frozen=True, kw_only=True)
class PVTConfig:
    """image_size: side in pixels of the images that the position embeddings are for. depths, dims, num_heads,
    mlp_ratios: a number for each of the four stages. dropout: after positions, attention and MLP. drop_path: rate at
    the last block; earlier blocks have linearly less."""

    image_size: int = 224
    depths: tuple[int, ...] = (2, 2, 2, 2)
    dims: tuple[int, ...] = (64, 128, 320, 512)
    num_heads: tuple[int, ...] = (1, 2, 5, 8)
    mlp_ratios: tuple[int, ...] = (8, 8, 4, 4)
    dropout: float = 0.0
    drop_path: float = 0.0
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        for field in ("depths", "dims", "num_heads", "mlp_ratios"):
            counts = getattr(self, field)
            require(isinstance(counts, tuple) and len(counts) == 4, field, counts, "be four numbers, one a stage")
            for count in counts:
                positive(**{field: count})
        for dim, heads in zip(self.dims, self.num_heads, strict=True):
            require(dim % heads == 0, "dims", self.dims, f"be multiples of num_heads={self.num_heads}")
        positive(image_size=self.image_size, in_channels=self.in_channels, num_classes=self.num_classes)
        require(self.image_size >= LEAST, "image_size", self.image_size, f"be at least {LEAST}")
        probability(dropout=self.dropout, drop_path=self.drop_path)


class PatchEmbed(nn.Module):
    """[B, C, H, W] -> normalised patches [B, H / patch_size, W / patch_size, dim]."""

    def __init__(self, in_dim: int, dim: int, patch_size: int):
        super().__init__()
        self.proj = nn.Conv2d(in_dim, dim, patch_size, patch_size)
        self.norm = nn.LayerNorm(dim)

    def forward(self, maps: Tensor) -> Tensor:
        return self.norm(self.proj(maps).permute(0, 2, 3, 1))  # [B, dim, h, w] -> [B, h, w, dim]


class Attention(nn.Module):
    """Spatial-reduction attention, equations 1 to 3: tokens [B, N, dim] -> the same shape. reduction: kernel and stride
    of the convolution that makes the map of keys and values; above 1, the tokens are a map of `size` (H, W)."""

    def __init__(self, dim: int, num_heads: int, reduction: int, dropout: float):
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(dropout)
        self.sr = nn.Conv2d(dim, dim, reduction, reduction) if reduction > 1 else None
        self.norm = nn.LayerNorm(dim) if reduction > 1 else None

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        batch, count, dim = tokens.shape
        heads, head_dim = self.num_heads, dim // self.num_heads
        q = self.q(tokens).reshape(batch, count, heads, head_dim).transpose(1, 2)  # [B, heads, N, head_dim]
        small = tokens
        if self.sr is not None:
            maps = tokens.unflatten(1, size).permute(0, 3, 1, 2)  # [B, dim, H, W]
            small = self.norm(self.sr(maps).permute(0, 2, 3, 1))  # [B, h, w, dim]
        kv = self.kv(small).reshape(batch, -1, 2, heads, head_dim)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, heads, h * w, head_dim]
        out = attend(q, k, v)
        return self.proj_drop(self.proj(out.transpose(1, 2).reshape(batch, count, dim)))


class Block(nn.Module):
    def __init__(self, dim: int, num_heads: int, hidden_dim: int, reduction: int, dropout: float, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = Attention(dim, num_heads, reduction, dropout)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = MLP(dim, hidden_dim, dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens), size))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))


def resize_bilinear(positions: Tensor, grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """[1, prefix + h * w, dim] -> [1, prefix + h' * w', dim]; what stands before the h * w places is kept."""
    prefix = positions.shape[1] - grid[0] * grid[1]
    maps = positions[:, prefix:].transpose(1, 2).unflatten(2, grid)  # [1, dim, h, w]
    places = F.interpolate(maps, size=new_grid, mode="bilinear").flatten(2).transpose(1, 2)
    return torch.cat([positions[:, :prefix], places], 1) if prefix else places


class Stage(nn.Module):
    """[B, C, H, W] -> tokens [B, N, dim], with the class token first if there is one, and the size (h, w) of the map
    that the others are. side: of the map that the position embeddings are for."""

    def __init__(self, embed: PatchEmbed, blocks: list[Block], dim: int, side: int, class_token: bool, dropout: float):
        super().__init__()
        self.side = side
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim)) if class_token else None
        self.pos_embed = nn.Parameter(torch.empty(1, side * side + class_token, dim))
        self.patch_embed = embed
        self.pos_drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, maps: Tensor) -> tuple[Tensor, tuple[int, int]]:
        places = self.patch_embed(maps)
        size = (places.shape[1], places.shape[2])
        tokens = places.flatten(1, 2)  # [B, N, dim]
        if self.cls_token is not None:
            tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], 1)
        positions = self.pos_embed
        if size != (self.side, self.side):
            positions = resize_bilinear(positions, (self.side, self.side), size)
        tokens = self.pos_drop(tokens + positions)
        for block in self.blocks:
            tokens = block(tokens, size)
        return tokens, size


class PVT(nn.Module):
    Config = PVTConfig

    def __init__(self, config: PVTConfig):
        super().__init__()
        self.config = config
        count = sum(config.depths)
        rates = iter([config.drop_path * i / max(count - 1, 1) for i in range(count)])
        stages, in_dim, side = [], config.in_channels, config.image_size
        for i, (depth, dim, heads, ratio) in enumerate(zip(config.depths, config.dims, config.num_heads,
                                                           config.mlp_ratios, strict=True)):
            side //= PATCH_SIZES[i]
            blocks = [Block(dim, heads, dim * ratio, REDUCTIONS[i], config.dropout, next(rates)) for _ in range(depth)]
            stages.append(Stage(PatchEmbed(in_dim, dim, PATCH_SIZES[i]), blocks, dim, side, i == 3, config.dropout))
            in_dim = dim
        self.stages = nn.ModuleList(stages)
        self.norm = nn.LayerNorm(in_dim, eps=NORM_EPS)
        self.head = nn.Linear(in_dim, config.num_classes)
        self.feature_channels = tuple(config.dims)
        self.feature_strides = (4, 8, 16, 32)
        for name, parameter in self.named_parameters():
            if name.endswith(("cls_token", "pos_embed")):
                nn.init.trunc_normal_(parameter, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def pyramid(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """The maps of `features` and the last stage's class token [B, dim]. Raises UserError for images of which no
        window of a reduction would be left."""
        require_size(images, LEAST)
        maps, out, tokens = images, [], images
        for stage in self.stages:
            tokens, size = stage(maps)
            places = tokens if stage.cls_token is None else tokens[:, 1:]
            maps = places.unflatten(1, size).permute(0, 3, 1, 2)  # [B, N, dim] -> [B, dim, h, w]
            out.append(maps)
        return out, tokens[:, 0]

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> maps [B, dim, H / s, W / s] at strides s of 4, 8, 16, 32 (rounded down)."""
        return self.pyramid(images)[0]

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(self.pyramid(images)[1]))

    def adapt(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """The state with its position embeddings resized to this model's maps, and what was done in words."""
        state, notes = dict(state), []
        for i, stage in enumerate(self.stages):
            name, own = f"stages.{i}.pos_embed", stage.pos_embed
            positions = state.get(name)
            if positions is None or positions.ndim != 3 or positions.shape[1:] == own.shape[1:]:
                continue
            side = math.isqrt(max(positions.shape[1], 1) - (stage.cls_token is not None))
            if side and side**2 == positions.shape[1] - (stage.cls_token is not None) \
                    and positions.shape[2] == own.shape[2]:
                state[name] = resize_bilinear(positions.float(), (side, side), (stage.side, stage.side)
                                              ).to(positions.dtype)
                notes.append(f"{name} was resized from {side} x {side} places to {stage.side} x {stage.side}")
        return state, notes


_FROM_ORIGINAL = (
    (r"^patch_embed(\d)\.", lambda match: f"stages.{int(match[1]) - 1}.patch_embed."),
    (r"^pos_embed(\d)$", lambda match: f"stages.{int(match[1]) - 1}.pos_embed"),
    (r"^block(\d)\.", lambda match: f"stages.{int(match[1]) - 1}.blocks."), (r"^cls_token$", "stages.3.cls_token"),
)


def from_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' state dict under our names."""
    return rename(state, _FROM_ORIGINAL)


_FROM_TRANSFORMERS = (  # in order
    (r"^classifier\.", "head."), (r"^pvt\.encoder\.layer_norm\.", "norm."),
    (r"^pvt\.encoder\.patch_embeddings\.(\d)\.position_embeddings$", r"stages.\1.pos_embed"),
    (r"^pvt\.encoder\.patch_embeddings\.(\d)\.cls_token$", r"stages.\1.cls_token"),
    (r"^pvt\.encoder\.patch_embeddings\.(\d)\.projection\.", r"stages.\1.patch_embed.proj."),
    (r"^pvt\.encoder\.patch_embeddings\.(\d)\.layer_norm\.", r"stages.\1.patch_embed.norm."),
    (r"^pvt\.encoder\.block\.(\d)\.", r"stages.\1.blocks."), (r"\.layer_norm_([12])\.", r".norm\1."),
    (r"\.attention\.self\.query\.", ".attn.q."), (r"\.attention\.self\.key\.", ".attn.k."),
    (r"\.attention\.self\.value\.", ".attn.v."), (r"\.attention\.self\.sequence_reduction\.", ".attn.sr."),
    (r"\.attention\.self\.layer_norm\.", ".attn.norm."), (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.mlp\.dense([12])\.", r".mlp.fc\1."),
)


def from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A transformers state dict (PvtForImageClassification) under our names, keys and values joined. All its layer
    norms have an epsilon of 1e-6."""
    return join_parts(rename(state, _FROM_TRANSFORMERS), "kv", "kv")


VARIANTS = {
    "pvt_tiny": {"depths": (2, 2, 2, 2)},
    "pvt_small": {"depths": (3, 4, 6, 3)},
    "pvt_medium": {"depths": (3, 4, 18, 3)},
    "pvt_large": {"depths": (3, 8, 27, 3)},
}

_AUTHORS = "the authors' repository whai362/PVT, classification/README.md"
_TABLE_2 = "Wang et al. 2021, Table 2 (there named FLOPs)"
_FIGURES = {  # params, MACs, top-1
    "pvt_tiny": ("13.2e6", "1.9e9", "75.1"), "pvt_small": ("24.5e6", "3.8e9", "79.8"),
    "pvt_medium": ("44.2e6", "6.7e9", "81.2"), "pvt_large": ("61.4e6", "9.8e9", "81.7"),
}
PUBLISHED: dict[str, list[dict[str, str]]] = {
    name: [{"what": "params", "value": params, "source": _AUTHORS}, {"what": "macs", "value": macs, "source": _TABLE_2},
           {"what": "top1", "value": top1, "data": "ImageNet-1k", "source": _AUTHORS}]
    for name, (params, macs, top1) in _FIGURES.items()}

WEIGHTS = {name: {"original": {"file": f"{name}.pth",
                               "url": f"https://github.com/whai362/PVT/releases/download/v2/{name}.pth",
                               "licence": "Apache-2.0 (the authors); trained on ImageNet-1k"}} for name in VARIANTS}

models.add(PVT, VARIANTS, WEIGHTS, family="pvt", task="classification", published=PUBLISHED,
           origins={"original": from_original, "transformers": from_transformers},
           paper="Wang et al.: Pyramid Vision Transformer, ICCV 2021, arXiv:2102.12122",
           preprocessing={"size": (224, 224), "resize": "crop", "crop_fraction": 0.875, "interpolation": "bicubic"})
