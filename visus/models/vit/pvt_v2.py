"""PVT v2: a pyramid of transformer stages whose keys and values come from a smaller map.

Paper: Wang et al., PVT v2: Improved Baselines with Pyramid Vision Transformer, Computational Visual Media 2022,
arXiv:2106.13797. Each stage starts with a strided convolution whose patches overlap; a depthwise 3 x 3 convolution in
each MLP tells where a token is, so there are no position embeddings and any image size goes. Attention is not dropped
out. Parameters carry timm's names.
forward: images [B, C, H, W], normalised, H and W of at least 29 (any of the linear variant) -> logits [B, num_classes].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from visus import models
from visus.core.rename import join_parts, rename
from visus.core.validate import boolean, positive, probability, require
from visus.layers.drop_path import DropPath
from visus.layers.image_size import require_size
from visus.ops.attention import attend

NORM_EPS = 1e-6  # of a block and at a stage's end; layer norms after a convolution have torch's
REDUCTIONS = (8, 4, 2, 1)  # sides of the map over those of the map of keys and values, a stage
POOLED_SIDE = 7  # of the map of keys and values in linear attention


@dataclass(frozen=True, kw_only=True)
class PVTv2Config:
    """depths, dims, num_heads, mlp_ratios: a number for each of the four stages. linear: keys and values from a map
    pooled to 7 x 7, of any image. dropout: in the MLPs and after attention. drop_path: rate at the last block; earlier
    blocks have linearly less."""

    depths: tuple[int, ...] = (2, 2, 2, 2)
    dims: tuple[int, ...] = (32, 64, 160, 256)
    num_heads: tuple[int, ...] = (1, 2, 5, 8)
    mlp_ratios: tuple[int, ...] = (8, 8, 4, 4)
    linear: bool = False
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
        boolean(linear=self.linear)
        probability(dropout=self.dropout, drop_path=self.drop_path)
        positive(in_channels=self.in_channels, num_classes=self.num_classes)


class OverlapPatchEmbed(nn.Module):
    """Strided convolution and layer norm, section 3.2: [B, C, H, W] -> [B, H / stride, W / stride, dim]."""

    def __init__(self, in_dim: int, dim: int, kernel: int, stride: int):
        super().__init__()
        self.proj = nn.Conv2d(in_dim, dim, kernel, stride, kernel // 2)
        self.norm = nn.LayerNorm(dim)

    def forward(self, maps: Tensor) -> Tensor:
        return self.norm(self.proj(maps).permute(0, 2, 3, 1))  # [B, dim, h, w] -> [B, h, w, dim]


class Attention(nn.Module):
    """Queries of each place, keys and values of the map made smaller: [B, H, W, dim] -> the same shape.

    reduction: kernel and stride of the convolution that makes it smaller. linear: average pooling to 7 x 7 does, then a
    1 x 1 convolution, layer norm and GELU (section 3.1).
    """

    def __init__(self, dim: int, num_heads: int, reduction: int, linear: bool, dropout: float):
        super().__init__()
        self.num_heads = num_heads
        self.linear = linear
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(dropout)
        kernel = 1 if linear else reduction
        self.sr = nn.Conv2d(dim, dim, kernel, kernel) if linear or reduction > 1 else None
        self.norm = nn.LayerNorm(dim) if linear or reduction > 1 else None

    def forward(self, maps: Tensor) -> Tensor:
        batch, height, width, dim = maps.shape
        heads, head_dim = self.num_heads, dim // self.num_heads
        q = self.q(maps).reshape(batch, height * width, heads, head_dim).transpose(1, 2)  # [B, heads, N, head_dim]
        small = maps
        if self.sr is not None:
            small = maps.permute(0, 3, 1, 2)  # [B, dim, H, W]
            if self.linear:
                small = F.adaptive_avg_pool2d(small, POOLED_SIDE)
            small = self.norm(self.sr(small).permute(0, 2, 3, 1))  # [B, h, w, dim]
            if self.linear:
                small = F.gelu(small)
        kv = self.kv(small).reshape(batch, -1, 2, heads, head_dim)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, heads, h * w, head_dim]
        out = attend(q, k, v)
        return self.proj_drop(self.proj(out.transpose(1, 2).reshape(batch, height, width, dim)))


class ConvMLP(nn.Module):
    """An MLP with a depthwise 3 x 3 convolution, zero at the border, before its GELU (section 3.3), and with `linear` a
    ReLU before that: [B, H, W, dim] -> the same shape."""

    def __init__(self, dim: int, hidden_dim: int, linear: bool, dropout: float):
        super().__init__()
        self.linear = linear
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.dwconv = nn.Conv2d(hidden_dim, hidden_dim, 3, padding=1, groups=hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, maps: Tensor) -> Tensor:
        hidden = self.fc1(maps)
        if self.linear:
            hidden = F.relu(hidden, inplace=True)
        hidden = self.dwconv(hidden.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # by way of [B, hidden_dim, H, W]
        return self.drop(self.fc2(self.drop(F.gelu(hidden))))


class Block(nn.Module):
    def __init__(self, dim: int, num_heads: int, mlp_ratio: int, reduction: int, linear: bool, dropout: float,
                 drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = Attention(dim, num_heads, reduction, linear, dropout)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = ConvMLP(dim, dim * mlp_ratio, linear, dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, maps: Tensor) -> Tensor:
        maps = maps + self.drop_path(self.attn(self.norm1(maps)))
        return maps + self.drop_path(self.mlp(self.norm2(maps)))


class Stage(nn.Module):
    """Blocks and a layer norm, after a downsampling if there is one: [B, C, H, W] (without one [B, H, W, C]) ->
    [B, dim, h, w]."""

    def __init__(self, downsample: OverlapPatchEmbed | None, blocks: list[Block], dim: int):
        super().__init__()
        self.downsample = nn.Identity() if downsample is None else downsample
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)

    def forward(self, maps: Tensor) -> Tensor:
        return self.norm(self.blocks(self.downsample(maps))).permute(0, 3, 1, 2)


class PVTv2(nn.Module):
    Config = PVTv2Config

    def __init__(self, config: PVTv2Config):
        super().__init__()
        self.config = config
        count = sum(config.depths)
        rates = iter([config.drop_path * i / max(count - 1, 1) for i in range(count)])
        self.patch_embed = OverlapPatchEmbed(config.in_channels, config.dims[0], 7, 4)
        stages = []
        for i, (depth, dim, heads, ratio) in enumerate(zip(config.depths, config.dims, config.num_heads,
                                                           config.mlp_ratios, strict=True)):
            downsample = OverlapPatchEmbed(config.dims[i - 1], dim, 3, 2) if i else None
            stages.append(Stage(downsample, [Block(dim, heads, ratio, REDUCTIONS[i], config.linear, config.dropout,
                                                   next(rates)) for _ in range(depth)], dim))
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(config.dims[3], config.num_classes)
        self.feature_channels = tuple(config.dims)
        self.feature_strides = (4, 8, 16, 32)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Conv2d):
                fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
                nn.init.zeros_(module.bias)

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> maps [B, dim, H / s, W / s] at strides s of 4, 8, 16, 32 (rounded up). Raises UserError for
        images of which no window of a reduction would be left."""
        if not self.config.linear:
            require_size(images, 4 * (REDUCTIONS[0] - 1) + 1)
        maps, out = self.patch_embed(images), []
        for stage in self.stages:
            maps = stage(maps)
            out.append(maps)
        return out

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images)[-1].mean((2, 3)))


_FROM_TRANSFORMERS = (  # in order
    (r"^pvt_v2\.encoder\.layers\.0\.patch_embedding\.", "patch_embed."),
    (r"^pvt_v2\.encoder\.layers\.(\d)\.patch_embedding\.", r"stages.\1.downsample."),
    (r"^pvt_v2\.encoder\.layers\.", "stages."), (r"^classifier\.", "head."), (r"\.layer_norm_([12])\.", r".norm\1."),
    (r"\.layer_norm\.", ".norm."), (r"\.attention\.query\.", ".attn.q."),
    (r"\.attention\.key\.", ".attn.k."), (r"\.attention\.value\.", ".attn.v."), (r"\.attention\.", ".attn."),
    (r"\.spatial_reduction\.", ".sr."), (r"\.mlp\.dense([12])\.", r".mlp.fc\1."),
    (r"\.dwconv\.dwconv\.", ".dwconv."),
)


def from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A transformers state dict (PvtV2ForImageClassification) under our names, keys and values joined. All its layer
    norms have an epsilon of 1e-6."""
    return join_parts(rename(state, _FROM_TRANSFORMERS), "kv", "kv")


_WIDE = {"dims": (64, 128, 320, 512)}
VARIANTS = {
    "pvt_v2_b0": {"depths": (2, 2, 2, 2), "dims": (32, 64, 160, 256)},
    "pvt_v2_b1": {"depths": (2, 2, 2, 2), **_WIDE},
    "pvt_v2_b2": {"depths": (3, 4, 6, 3), **_WIDE},
    "pvt_v2_b2_linear": {"depths": (3, 4, 6, 3), **_WIDE, "linear": True},
    "pvt_v2_b3": {"depths": (3, 4, 18, 3), **_WIDE},
    "pvt_v2_b4": {"depths": (3, 8, 27, 3), **_WIDE},
    "pvt_v2_b5": {"depths": (3, 6, 40, 3), **_WIDE, "mlp_ratios": (4, 4, 4, 4)},
}

_AUTHORS = "the authors' repository whai362/PVT, classification/README.md"
_TABLE_2 = "Wang et al. 2022 (from memory), Table 2 (there named FLOPs)"
_NO_HEAD = "the 1000-class head (0.26 million) is left out there"
_FILE = "the file beside it has 54 MB, four bytes for each of 14.0 million"
_COUNTER = "the authors' counter finds somewhat more: 4.04e9 of b2 in their README, 4.03e9 here"
_FIGURES = {  # params, macs, top-1
    "pvt_v2_b0": ("3.4e6", "0.6e9", "70.5"), "pvt_v2_b1": ("13.1e6", "2.1e9", "78.7"),
    "pvt_v2_b2": ("25.4e6", "4.0e9", "82.0"), "pvt_v2_b2_linear": ("22.6e6", "3.9e9", "82.1"),
    "pvt_v2_b3": ("45.2e6", "6.9e9", "83.1"), "pvt_v2_b4": ("62.6e6", "10.1e9", "83.6"),
    "pvt_v2_b5": ("82.0e6", "11.8e9", "83.8"),
}
PUBLISHED: dict[str, list[dict[str, str]]] = {
    name: [{"what": "params", "value": params, "source": _AUTHORS}, {"what": "macs", "value": macs, "source": _TABLE_2},
           {"what": "top1", "value": top1, "data": "ImageNet-1k", "source": _AUTHORS}]
    for name, (params, macs, top1) in _FIGURES.items()}
PUBLISHED["pvt_v2_b0"][0]["reason"] = _NO_HEAD
PUBLISHED["pvt_v2_b1"][0]["reason"] = _FILE
PUBLISHED["pvt_v2_b5"][1]["reason"] = _COUNTER

PEERS = {name: ("timm", name.replace("linear", "li")) for name in VARIANTS}
WEIGHTS = {name: {"timm": {"file": f"{theirs}.in1k",
                           "licence": "Apache-2.0 (the authors, by way of timm); trained on ImageNet-1k"},
                  "transformers": {"file": f"OpenGVLab/{name}", "licence": "Apache-2.0 (the model card); ImageNet-1k"}}
           for name, (_, theirs) in PEERS.items()}

models.add(PVTv2, VARIANTS, WEIGHTS, family="pvt_v2", task="classification", published=PUBLISHED, peers=PEERS,
           origins={"timm": dict, "transformers": from_transformers},
           paper="Wang et al.: PVT v2: Improved Baselines with Pyramid Vision Transformer, CVMJ 2022, arXiv:2106.13797",
           preprocessing={"size": (224, 224), "resize": "crop", "crop_fraction": 0.9, "interpolation": "bicubic"})
