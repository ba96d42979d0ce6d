"""Swin Transformer: attention within windows, which every second block shifts by half a window, in a pyramid.

Paper: Liu, Lin, Cao, Hu, Wei, Zhang, Lin, Guo, Swin Transformer, ICCV 2021, arXiv:2103.14030. Departures: images may
have any size; where windows do not fit, zeros fill the map up, as in the authors' detectors and in torchvision.
Parameters carry torchvision's names; indices of relative positions are made anew, not stored.
forward: images [B, C, H, W], normalised -> logits [B, num_classes].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from visus import models
from visus.core.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from visus.core.rename import join_parts, rename
from visus.core.validate import positive, probability, require
from visus.layers.drop_path import DropPath
from visus.layers.image_size import require_size
from visus.layers.offset_tables import fit_offset_tables
from visus.layers.patch_pyramid import PyramidSequential, gather_neighbours, patch_stem
from visus.ops.attention import attend
from visus.ops.windows import (
    from_windows,
    half_shift,
    relative_index,
    score_bias,
    shift_mask,
    to_windows,
)

PATCH_SIZE = 4
STAGES = 4


@dataclass(frozen=True, kw_only=True)
class SwinConfig:
    """dim: width of the first stage, doubled by each that follows. windows: their side in each stage, in places of the
    map. drop_path: rate at the last block; earlier blocks have linearly less."""

    dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    windows: tuple[int, ...] = (7, 7, 7, 7)
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    drop_path: float = 0.0
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        positive(dim=self.dim, in_channels=self.in_channels, num_classes=self.num_classes)
        for field in ("depths", "num_heads", "windows"):
            values = getattr(self, field)
            require(isinstance(values, tuple | list) and len(values) == STAGES, field, values,
                    f"hold {STAGES} whole numbers, one for each stage")
            for value in values:
                positive(**{field: value})
        for stage, heads in enumerate(self.num_heads):
            require(self.dim * 2**stage % heads == 0, "num_heads", self.num_heads,
                    f"divide the width of each stage: {heads} does not divide {self.dim * 2**stage}")
        require(isinstance(self.mlp_ratio, int | float) and self.dim * self.mlp_ratio >= 1, "mlp_ratio",
                self.mlp_ratio, "leave at least one hidden unit")
        probability(dropout=self.dropout, drop_path=self.drop_path)


class WindowAttention(nn.Module):
    """Equation 4, in each window by itself: [B * n, N, dim] -> the same shape."""

    def __init__(self, dim: int, num_heads: int, window: int, dropout: float):
        super().__init__()
        self.num_heads = num_heads
        self.window = window
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(dropout)
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, num_heads))

    def forward(self, windows: Tensor, index: Tensor, mask: Tensor | None) -> Tensor:
        batch, count, dim = windows.shape
        qkv = self.qkv(windows).reshape(batch, count, 3, self.num_heads, dim // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B * n, heads, N, dim / heads]
        bias = score_bias(self.relative_position_bias_table, index, mask, windows)
        out = attend(q, k, v, bias.to(q.dtype))
        return self.proj_drop(self.proj(out.transpose(1, 2).reshape(batch, count, dim)))


class Block(nn.Module):
    """Equation 3: normalise, attend in windows, add; normalise, MLP, add: [B, H, W, dim] -> the same shape."""

    def __init__(self, dim: int, num_heads: int, window: int, hidden_dim: int, dropout: float, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, num_heads, window, dropout)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden_dim), nn.GELU(), nn.Dropout(dropout),
                                 nn.Linear(hidden_dim, dim), nn.Dropout(dropout))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, maps: Tensor, index: Tensor, shift: tuple[int, int], mask: Tensor | None) -> Tensor:
        size, window = (maps.shape[1], maps.shape[2]), self.attn.window
        windows = to_windows(self.norm1(maps), window, shift)
        windows = self.attn(windows, index, mask)
        maps = maps + self.drop_path(from_windows(windows, size, window, shift))
        return maps + self.drop_path(self.mlp(self.norm2(maps)))


class Stage(nn.Sequential):
    """Blocks, of which the second, fourth and so on shift their windows: [B, H, W, dim] -> the same shape."""

    def forward(self, maps: Tensor) -> Tensor:
        size, window = (maps.shape[1], maps.shape[2]), self[0].attn.window
        index = relative_index(window, maps.device)
        shift = half_shift(*size, window)
        mask = shift_mask(size, window, shift, maps) if any(shift) and len(self) > 1 else None
        for number, block in enumerate(self):
            maps = block(maps, index, shift, mask) if number % 2 else block(maps, index, (0, 0), None)
        return maps


class PatchMerging(nn.Module):
    """[B, H, W, dim] -> [B, H / 2, W / 2, 2 dim]."""

    def __init__(self, dim: int):
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(4 * dim)

    def forward(self, maps: Tensor) -> Tensor:
        return self.reduction(self.norm(gather_neighbours(maps)))


class Swin(nn.Module):
    Config = SwinConfig

    def __init__(self, config: SwinConfig):
        super().__init__()
        self.config = config
        dims, count = [config.dim * 2**stage for stage in range(STAGES)], sum(config.depths)
        rates = iter([config.drop_path * i / max(count - 1, 1) for i in range(count)])
        layers: list[nn.Module] = [patch_stem(config.in_channels, dims[0], PATCH_SIZE)]
        for stage, (dim, depth, heads, window) in enumerate(zip(dims, config.depths, config.num_heads, config.windows,
                                                                strict=True)):
            if stage:
                layers.append(PatchMerging(dims[stage - 1]))
            layers.append(Stage(*[Block(dim, heads, window, int(dim * config.mlp_ratio), config.dropout, next(rates))
                                  for _ in range(depth)]))
        self.features = PyramidSequential(layers, (1, 3, 5, 7))
        self.norm = nn.LayerNorm(dims[-1])
        self.head = nn.Linear(dims[-1], config.num_classes)
        self.feature_channels = tuple(dims)
        self.feature_strides = (4, 8, 16, 32)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, WindowAttention):
                nn.init.trunc_normal_(module.relative_position_bias_table, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        require_size(images, PATCH_SIZE)
        maps = self.features.last(images)
        return self.head(self.norm(maps).mean((1, 2)))

    def adapt(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """The state with its tables of relative position biases resized to this model's windows, and what was done in
        words."""
        return fit_offset_tables(state, self)


def from_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A torchvision state dict without the indices of relative positions, which follow from the window."""
    return {name: tensor for name, tensor in state.items() if not name.endswith("relative_position_index")}


_FROM_TIMM = (  # in order; stage i is features 2i (what merges patches before it) and 2i + 1
    (r"^layers\.(\d+)\.downsample", lambda match: f"features.{2 * int(match[1])}"),
    (r"^layers\.(\d+)\.blocks", lambda match: f"features.{2 * int(match[1]) + 1}"),
    (r"^patch_embed\.proj\.", "features.0.0."), (r"^patch_embed\.norm\.", "features.0.2."),
    (r"^head\.fc\.", "head."), (r"\.mlp\.fc1\.", ".mlp.0."), (r"\.mlp\.fc2\.", ".mlp.3."),
)


def from_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A timm state dict under our names."""
    return rename(state, _FROM_TIMM)


_FROM_TRANSFORMERS = (  # in order; a file has the names of before transformers 5, a model those of today
    (r"^swin\.encoder\.layers\.(\d+)\.downsample", lambda match: f"features.{2 * int(match[1]) + 2}"),
    (r"^swin\.encoder\.layers\.(\d+)\.blocks", lambda match: f"features.{2 * int(match[1]) + 1}"),
    (r"^swin\.embeddings\.patch_embeddings\.projection\.", "features.0.0."),
    (r"^swin\.embeddings\.norm\.", "features.0.2."), (r"^swin\.layernorm\.", "norm."), (r"^classifier\.", "head."),
    (r"\.layernorm_before\.", ".norm1."), (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.(?:self\.query|q_proj)\.", ".attn.q."), (r"\.attention\.(?:self\.key|k_proj)\.", ".attn.k."),
    (r"\.attention\.(?:self\.value|v_proj)\.", ".attn.v."), (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.attention\.(?:self|relative_position_bias)\.", ".attn."),
    (r"\.(?:intermediate\.dense|mlp\.fc1)\.", ".mlp.0."), (r"\.(?:output\.dense|mlp\.fc2)\.", ".mlp.3."),
)


def from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A transformers state dict (SwinForImageClassification) under our names, queries, keys and values joined, without
    the indices of relative positions."""
    return join_parts(from_torchvision(rename(state, _FROM_TRANSFORMERS)), "qkv", "qkv")


VARIANTS = {
    "swin_tiny": {"dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)},
    "swin_small": {"dim": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24)},
    "swin_base": {"dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)},
    "swin_large": {"dim": 192, "depths": (2, 2, 18, 2), "num_heads": (6, 12, 24, 48)},
}
WIDE_WINDOWS = {  # at 384 pixels
    "swin_base_w12": {**VARIANTS["swin_base"], "windows": (12, 12, 12, 12)},
    "swin_large_w12": {**VARIANTS["swin_large"], "windows": (12, 12, 12, 12)},
}

_TABLE_1 = "Liu et al. 2021 (from memory), Table 1 (there named FLOPs)"
_TORCHVISION = "torchvision 0.28.0, weights IMAGENET1K_V1"
_ZOO = "the authors' repository microsoft/Swin-Transformer, README.md, trained on ImageNet-22k, then 1k"
PUBLISHED = {
    "swin_tiny": [{"what": "params", "value": "29e6", "source": _TABLE_1,
                   "reason": "28.29 million, which rounds to 28"},
                  {"what": "macs", "value": "4.5e9", "source": _TABLE_1},
                  {"what": "top1", "value": "81.3", "data": "ImageNet-1k", "source": _TABLE_1},
                  {"what": "params", "value": "28288354", "source": _TORCHVISION},
                  {"what": "macs", "value": "4.491e9", "source": _TORCHVISION},
                  {"what": "top1", "value": "81.474", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "swin_small": [{"what": "params", "value": "50e6", "source": _TABLE_1},
                   {"what": "macs", "value": "8.7e9", "source": _TABLE_1},
                   {"what": "top1", "value": "83.0", "data": "ImageNet-1k", "source": _TABLE_1},
                   {"what": "params", "value": "49606258", "source": _TORCHVISION},
                   {"what": "macs", "value": "8.741e9", "source": _TORCHVISION},
                   {"what": "top1", "value": "83.196", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "swin_base": [{"what": "params", "value": "88e6", "source": _TABLE_1},
                  {"what": "macs", "value": "15.4e9", "source": _TABLE_1},
                  {"what": "top1", "value": "83.5", "data": "ImageNet-1k", "source": _TABLE_1},
                  {"what": "params", "value": "87768224", "source": _TORCHVISION},
                  {"what": "macs", "value": "15.431e9", "source": _TORCHVISION},
                  {"what": "top1", "value": "83.582", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "swin_large": [{"what": "params", "value": "197e6", "source": _ZOO},
                   {"what": "macs", "value": "34.5e9", "source": _ZOO},
                   {"what": "top1", "value": "86.3", "data": "ImageNet-1k", "source": _ZOO}],
    "swin_base_w12": [{"what": "params", "value": "88e6", "source": _ZOO},
                      {"what": "macs", "value": "47.1e9", "source": _ZOO},
                      {"what": "top1", "value": "86.4", "data": "ImageNet-1k", "source": _ZOO}],
    "swin_large_w12": [{"what": "params", "value": "197e6", "source": _ZOO},
                       {"what": "macs", "value": "103.9e9", "source": _ZOO},
                       {"what": "top1", "value": "87.3", "data": "ImageNet-1k", "source": _ZOO}],
}

_TV_LICENCE = "BSD-3-Clause (torchvision); trained on ImageNet-1k"
_MIT = "MIT (Microsoft, by way of timm); trained on "
_TIMM = {"preprocessing": {"crop_fraction": 0.9}}


def _hub(name: str) -> dict[str, object]:
    """transformers' weights; every one is published as a torch file."""
    return {"file": f"microsoft/swin-{name}", "licence": "Apache-2.0 (Microsoft's model card)",
            "url": f"https://huggingface.co/microsoft/swin-{name}/resolve/main/pytorch_model.bin",
            "preprocessing": {"resize": "squash"}}


WEIGHTS = {
    "swin_tiny": {"torchvision": {"file": "swin_t-704ceda3.pth", "licence": _TV_LICENCE},
                  "timm": {"file": "swin_tiny_patch4_window7_224.ms_in1k", "licence": f"{_MIT}ImageNet-1k", **_TIMM},
                  "transformers": _hub("tiny-patch4-window7-224")},
    "swin_small": {"torchvision": {"file": "swin_s-5e29d889.pth", "licence": _TV_LICENCE,
                                   "preprocessing": {"crop_fraction": 224 / 246}},
                   "timm": {"file": "swin_small_patch4_window7_224.ms_in22k_ft_in1k",
                            "licence": f"{_MIT}ImageNet-22k, then 1k", **_TIMM},
                   "transformers": _hub("small-patch4-window7-224")},
    "swin_base": {"torchvision": {"file": "swin_b-68c6b09e.pth", "licence": _TV_LICENCE,
                                  "preprocessing": {"crop_fraction": 224 / 238}},
                  "timm": {"file": "swin_base_patch4_window7_224.ms_in22k_ft_in1k",
                           "licence": f"{_MIT}ImageNet-22k, then 1k", **_TIMM},
                  "transformers": _hub("base-patch4-window7-224")},
    "swin_large": {"timm": {"file": "swin_large_patch4_window7_224.ms_in22k_ft_in1k",
                            "licence": f"{_MIT}ImageNet-22k, then 1k", **_TIMM},
                   "transformers": _hub("large-patch4-window7-224")},
    **{f"swin_{size}_w12": {"timm": {"file": f"swin_{size}_patch4_window12_384.ms_in22k_ft_in1k",
                                     "licence": f"{_MIT}ImageNet-22k, then 1k"},
                            "transformers": _hub(f"{size}-patch4-window12-384")}
       for size in ("base", "large")},
}

_ABOUT = {"family": "swin", "task": "classification", "published": PUBLISHED,
          "origins": {"torchvision": from_torchvision, "timm": from_timm, "transformers": from_transformers},
          "peers": {"swin_tiny": ("torchvision", "swin_t"), "swin_small": ("torchvision", "swin_s"),
                    "swin_base": ("torchvision", "swin_b")},
          "paper": "Liu, Lin, Cao, Hu, Wei, Zhang, Lin, Guo: Swin Transformer, ICCV 2021, arXiv:2103.14030"}
_SEEN = {"interpolation": "bicubic", "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
models.add(Swin, VARIANTS, WEIGHTS, **_ABOUT,
           preprocessing={"size": (224, 224), "resize": "crop", "crop_fraction": 224 / 232, **_SEEN})  # torchvision's
models.add(Swin, WIDE_WINDOWS, WEIGHTS, **_ABOUT,
           preprocessing={"size": (384, 384), "resize": "crop", "crop_fraction": 1.0, **_SEEN})  # timm's
