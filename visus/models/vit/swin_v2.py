"""Swin Transformer V2: norms after the branches, cosines for scores, position biases from a small network.

Paper: Liu, Hu, Lin, Yao, Xie, Wei, Ning, Cao, Zhang, Dong, Wei, Guo, Swin Transformer V2: Scaling Up Capacity and
Resolution, CVPR 2022, arXiv:2111.09883. Departures: images may have any size; where windows do not fit, zeros fill the
map up, as in torchvision. The norms of the branches start at one, as there (the authors' code starts at zero), and the
extra norm after every sixth block, which the paper has for its huge model alone, is left out. Parameters carry
torchvision's names; offsets and their indices are made anew, not stored.
forward: images [B, C, H, W], normalised -> logits [B, num_classes].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visus import models
from visus.core.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from visus.core.rename import join_parts, rename
from visus.core.validate import positive, probability, require
from visus.layers.drop_path import DropPath
from visus.layers.image_size import require_size
from visus.layers.patch_pyramid import PyramidSequential, gather_neighbours, patch_stem
from visus.ops.attention import attend
from visus.ops.windows import from_windows, half_shift, relative_index, score_bias, shift_mask, to_windows

PATCH_SIZE = 4
STAGES = 4
BIAS_DIM = 512  # hidden units of the network that makes the biases
MOST_BIAS = 16  # the authors' code bounds a bias by a sigmoid to (0, 16)
MOST_SCALE = math.log(100)  # section 3.2: the temperature is at least 0.01
FURTHEST = 8  # the authors' code brings offsets to [-8, 8] before the logarithm


@dataclass(frozen=True, kw_only=True)
class SwinV2Config:
    """dim: width of the first stage, doubled by each that follows. windows: their side in each stage, in places of the
    map. trained_windows: those that the weights were trained with, where fine-tuning changed them; None: the same.
    drop_path: rate at the last block; earlier blocks have linearly less."""

    dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    windows: tuple[int, ...] = (8, 8, 8, 8)
    trained_windows: tuple[int, ...] | None = None
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    drop_path: float = 0.0
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        positive(dim=self.dim, in_channels=self.in_channels, num_classes=self.num_classes)
        for field in ("depths", "num_heads", "windows", "trained_windows"):
            values = getattr(self, field)
            if field == "trained_windows" and values is None:
                continue
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


def log_offsets(window: int, trained_window: int, like: Tensor) -> Tensor:
    """[(2 window - 1)^2, 2]: (y, x) of every offset in a window, log-spaced, equation 4, so that the largest of a
    window of trained_window places is log2(9) / 3. Rounded as float32, with which the public weights were trained.
    like: gives dtype and device."""
    side = torch.arange(1 - window, window, device=like.device, dtype=torch.float32)
    side = side / max(trained_window - 1, 1) * FURTHEST
    side = side.sign() * (side.abs() + 1).log2() / math.log2(FURTHEST)
    count = len(side)
    return torch.stack([side[:, None].expand(count, count), side.expand(count, count)], -1).flatten(0, 1).to(like.dtype)


class WindowAttention(nn.Module):
    """Equation 2, in each window by itself: cosines over a temperature, plus a bias: [B * n, N, dim] -> the same shape.
    Keys have no bias: their part of `qkv.bias` is not used."""

    def __init__(self, dim: int, num_heads: int, dropout: float):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(dropout)
        self.logit_scale = nn.Parameter(torch.full((num_heads, 1, 1), math.log(10)))
        self.cpb_mlp = nn.Sequential(nn.Linear(2, BIAS_DIM), nn.ReLU(inplace=True),
                                     nn.Linear(BIAS_DIM, num_heads, bias=False))

    def forward(self, windows: Tensor, index: Tensor, offsets: Tensor, mask: Tensor | None) -> Tensor:
        batch, count, dim = windows.shape
        of_q, of_k, of_v = self.qkv.bias.split(dim)
        qkv = F.linear(windows, self.qkv.weight, torch.cat([of_q, torch.zeros_like(of_k), of_v]))
        qkv = qkv.reshape(batch, count, 3, self.num_heads, dim // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B * n, heads, N, dim / heads]
        q = F.normalize(q, dim=-1) * self.logit_scale.clamp(max=MOST_SCALE).exp()
        table = MOST_BIAS * self.cpb_mlp(offsets).sigmoid()  # [(2 window - 1)^2, heads]
        bias = score_bias(table, index, mask, windows)
        out = attend(q.to(v.dtype), F.normalize(k, dim=-1).to(v.dtype), v, bias.to(v.dtype), scale=1.0)
        return self.proj_drop(self.proj(out.transpose(1, 2).reshape(batch, count, dim)))


class Block(nn.Module):
    """Figure 1, right: attend in windows, normalise, add; MLP, normalise, add: [B, H, W, dim] -> the same shape."""

    def __init__(self, dim: int, num_heads: int, window: int, hidden_dim: int, dropout: float, drop_path: float):
        super().__init__()
        self.window = window
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, num_heads, dropout)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden_dim), nn.GELU(), nn.Dropout(dropout),
                                 nn.Linear(hidden_dim, dim), nn.Dropout(dropout))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, maps: Tensor, index: Tensor, offsets: Tensor, shift: tuple[int, int],
                mask: Tensor | None) -> Tensor:
        windows = self.attn(to_windows(maps, self.window, shift), index, offsets, mask)
        branch = from_windows(windows, (maps.shape[1], maps.shape[2]), self.window, shift)
        maps = maps + self.drop_path(self.norm1(branch))
        return maps + self.drop_path(self.norm2(self.mlp(maps)))


class Stage(nn.Sequential):
    """Blocks, of which the second, fourth and so on shift their windows: [B, H, W, dim] -> the same shape."""

    def __init__(self, blocks: list[Block], window: int, trained_window: int):
        super().__init__(*blocks)
        self.window = window
        self.trained_window = trained_window

    def forward(self, maps: Tensor) -> Tensor:
        size = (maps.shape[1], maps.shape[2])
        index = relative_index(self.window, maps.device)
        offsets = log_offsets(self.window, self.trained_window, maps)
        shift = half_shift(*size, self.window)
        mask = shift_mask(size, self.window, shift, maps) if any(shift) and len(self) > 1 else None
        for number, block in enumerate(self):
            maps = block(maps, index, offsets, shift, mask) if number % 2 else block(maps, index, offsets, (0, 0), None)
        return maps


class PatchMerging(nn.Module):
    """[B, H, W, dim] -> [B, H / 2, W / 2, 2 dim]."""

    def __init__(self, dim: int):
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(2 * dim)

    def forward(self, maps: Tensor) -> Tensor:
        return self.norm(self.reduction(gather_neighbours(maps)))


class SwinV2(nn.Module):
    Config = SwinV2Config

    def __init__(self, config: SwinV2Config):
        super().__init__()
        self.config = config
        dims, count = [config.dim * 2**stage for stage in range(STAGES)], sum(config.depths)
        rates = iter([config.drop_path * i / max(count - 1, 1) for i in range(count)])
        trained = config.trained_windows or config.windows
        layers: list[nn.Module] = [patch_stem(config.in_channels, dims[0], PATCH_SIZE)]
        for stage, (dim, depth, heads, window) in enumerate(zip(dims, config.depths, config.num_heads, config.windows,
                                                                strict=True)):
            if stage:
                layers.append(PatchMerging(dims[stage - 1]))
            blocks = [Block(dim, heads, window, int(dim * config.mlp_ratio), config.dropout, next(rates))
                      for _ in range(depth)]
            layers.append(Stage(blocks, window, trained[stage]))
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

    def forward(self, images: Tensor) -> Tensor:
        require_size(images, PATCH_SIZE)
        maps = self.features.last(images)
        return self.head(self.norm(maps).mean((1, 2)))


def from_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A torchvision state dict without the offsets and their indices, which follow from the window."""
    return {name: tensor for name, tensor in state.items()
            if not name.endswith(("relative_position_index", "relative_coords_table"))}


_FROM_TIMM = (  # in order; stage i is features 2i (what merges patches before it) and 2i + 1
    (r"^layers\.(\d+)\.downsample", lambda match: f"features.{2 * int(match[1])}"),
    (r"^layers\.(\d+)\.blocks", lambda match: f"features.{2 * int(match[1]) + 1}"),
    (r"^patch_embed\.proj\.", "features.0.0."), (r"^patch_embed\.norm\.", "features.0.2."),
    (r"^head\.fc\.", "head."), (r"\.mlp\.fc1\.", ".mlp.0."), (r"\.mlp\.fc2\.", ".mlp.3."),
    (r"\.([qv])_bias$", r".\1.bias"),
)
_FROM_TRANSFORMERS = (  # in order
    (r"^swinv2\.encoder\.layers\.(\d+)\.downsample", lambda match: f"features.{2 * int(match[1]) + 2}"),
    (r"^swinv2\.encoder\.layers\.(\d+)\.blocks", lambda match: f"features.{2 * int(match[1]) + 1}"),
    (r"^swinv2\.embeddings\.patch_embeddings\.projection\.", "features.0.0."),
    (r"^swinv2\.embeddings\.norm\.", "features.0.2."), (r"^swinv2\.layernorm\.", "norm."),
    (r"^classifier\.", "head."), (r"\.layernorm_before\.", ".norm1."), (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.output\.dense\.", ".attn.proj."), (r"\.intermediate\.dense\.", ".mlp.0."),
    (r"\.output\.dense\.", ".mlp.3."), (r"\.attention\.self\.", ".attn."),
    (r"\.continuous_position_bias_mlp\.", ".cpb_mlp."), (r"\.attn\.query\.", ".attn.q."),
    (r"\.attn\.key\.", ".attn.k."), (r"\.attn\.value\.", ".attn.v."),
)


def _joined(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values made one, with zeros as the bias of keys, which neither origin has."""
    out = dict(state)
    for name in [name for name in out if name.endswith(".q.bias")]:
        out[name.replace(".q.", ".k.")] = torch.zeros_like(out[name])
    return join_parts(out, "qkv", "qkv")


def from_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A timm state dict under our names."""
    return _joined(rename(state, _FROM_TIMM))


def from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A transformers state dict (Swinv2ForImageClassification) under our names, without offsets and indices."""
    return _joined(from_torchvision(rename(state, _FROM_TRANSFORMERS)))


_T, _S, _B, _L = (  # tiny, small, base, large
    {"dim": dim, "depths": (2, 2, depth, 2), "num_heads": (heads, 2 * heads, 4 * heads, 8 * heads)}
    for dim, depth, heads in ((96, 6, 3), (96, 18, 3), (128, 18, 4), (192, 18, 6)))
_W16, _W24 = {"windows": (16, 16, 16, 8)}, {"windows": (24, 24, 24, 12)}
_W12 = (12, 12, 12, 6)  # at 192 pixels, on ImageNet-22k
VARIANTS = {  # of windows of 8, and of 16, at 256 pixels; w12to16: trained with windows of 12 before
    "swin_v2_tiny": _T, "swin_v2_small": _S, "swin_v2_base": _B,
    "swin_v2_tiny_w16": _T | _W16, "swin_v2_small_w16": _S | _W16, "swin_v2_base_w16": _B | _W16,
    "swin_v2_base_w12to16": _B | _W16 | {"trained_windows": _W12},
    "swin_v2_large_w12to16": _L | _W16 | {"trained_windows": _W12},
}
AT_384 = {"swin_v2_base_w12to24": _B | _W24 | {"trained_windows": _W12},
          "swin_v2_large_w12to24": _L | _W24 | {"trained_windows": _W12}}
AT_192 = {"swin_v2_base_w12": _B | {"windows": _W12, "num_classes": 21841},
          "swin_v2_large_w12": _L | {"windows": _W12, "num_classes": 21841}}

_ZOO = "the authors' repository microsoft/Swin-Transformer, README.md"
_TORCHVISION = "torchvision 0.28.0, weights IMAGENET1K_V1"
_FIGURES = {  # params, MACs (there named FLOPs), top-1
    "swin_v2_tiny": ("28e6", "5.9e9", "81.8"), "swin_v2_small": ("50e6", "11.5e9", "83.7"),
    "swin_v2_base": ("88e6", "20.3e9", "84.2"), "swin_v2_tiny_w16": ("28e6", "6.6e9", "82.8"),
    "swin_v2_small_w16": ("50e6", "12.6e9", "84.1"), "swin_v2_base_w16": ("88e6", "21.8e9", "84.6"),
    "swin_v2_base_w12to16": ("88e6", "21.8e9", "86.2"), "swin_v2_large_w12to16": ("197e6", "47.5e9", "86.9"),
    "swin_v2_base_w12to24": ("88e6", "54.7e9", "87.1"), "swin_v2_large_w12to24": ("197e6", "115.4e9", "87.6"),
}
_OF_TORCHVISION = {
    "swin_v2_tiny": ("28351570", "5.94e9", "82.072"), "swin_v2_small": ("49737442", "11.546e9", "83.712"),
    "swin_v2_base": ("87930848", "20.325e9", "84.112"),
}
PUBLISHED: dict[str, list[dict[str, str]]] = {name: [] for name in _FIGURES}
for _figures, _source in ((_FIGURES, _ZOO), (_OF_TORCHVISION, _TORCHVISION)):
    for _name, (_params, _macs, _top1) in _figures.items():
        _trained = ", trained on ImageNet-22k, then 1k" if "w12to" in _name else ""
        PUBLISHED[_name] += [{"what": "params", "value": _params, "source": _source},
                             {"what": "macs", "value": _macs, "source": _source},
                             {"what": "top1", "value": _top1, "data": "ImageNet-1k", "source": _source + _trained}]
for _name in set(_FIGURES) - set(_OF_TORCHVISION):
    PUBLISHED[_name][1]["reason"] = "ours counts the network of the biases too: (2 window - 1)^2 offsets a block"

_TV_LICENCE = "BSD-3-Clause (torchvision); trained on ImageNet-1k"
_TIMM = {"licence": "MIT (Microsoft, by way of timm); trained on ImageNet-1k", "preprocessing": {"crop_fraction": 0.9}}
_22K = "MIT (Microsoft, by way of timm); trained on ImageNet-22k"


def _hub(name: str) -> dict[str, dict[str, object]]:
    """transformers' weights; every one is published as a torch file."""
    return {"transformers": {"file": f"microsoft/swinv2-{name}", "licence": "Apache-2.0 (Microsoft's model card)",
                             "url": f"https://huggingface.co/microsoft/swinv2-{name}/resolve/main/pytorch_model.bin",
                             "preprocessing": {"resize": "squash"}}}


WEIGHTS = {
    "swin_v2_tiny": {"torchvision": {"file": "swin_v2_t-b137f0e2.pth", "licence": _TV_LICENCE},
                     "timm": {"file": "swinv2_tiny_window8_256.ms_in1k", **_TIMM}, **_hub("tiny-patch4-window8-256")},
    "swin_v2_small": {"torchvision": {"file": "swin_v2_s-637d8ceb.pth", "licence": _TV_LICENCE},
                      "timm": {"file": "swinv2_small_window8_256.ms_in1k", **_TIMM},
                      **_hub("small-patch4-window8-256")},
    "swin_v2_base": {"torchvision": {"file": "swin_v2_b-781e5279.pth", "licence": _TV_LICENCE,
                                     "preprocessing": {"crop_fraction": 256 / 272}},
                     "timm": {"file": "swinv2_base_window8_256.ms_in1k", **_TIMM}, **_hub("base-patch4-window8-256")},
    **{f"swin_v2_{size}_w16": {"timm": {"file": f"swinv2_{size}_window16_256.ms_in1k", **_TIMM},
                               **_hub(f"{size}-patch4-window16-256")} for size in ("tiny", "small", "base")},
    **{f"swin_v2_{size}_w12to{window}": {
        "timm": {"file": f"swinv2_{size}_window12to{window}_192to{pixels}.ms_in22k_ft_in1k",
                 "licence": f"{_22K}, then 1k", "preprocessing": {"crop_fraction": crop}},
        **_hub(f"{size}-patch4-window12to{window}-192to{pixels}-22kto1k-ft")}
       for size in ("base", "large") for window, pixels, crop in ((16, 256, 0.9), (24, 384, 1.0))},
    **{f"swin_v2_{size}_w12": {"timm": {"file": f"swinv2_{size}_window12_192.ms_in22k", "licence": _22K,
                                        "preprocessing": {"crop_fraction": 0.9}},
                               **_hub(f"{size}-patch4-window12-192-22k")} for size in ("base", "large")},
}

_ABOUT = {"family": "swin_v2", "task": "classification", "published": PUBLISHED,
          "origins": {"torchvision": from_torchvision, "timm": from_timm, "transformers": from_transformers},
          "peers": {"swin_v2_tiny": ("torchvision", "swin_v2_t"), "swin_v2_small": ("torchvision", "swin_v2_s"),
                    "swin_v2_base": ("torchvision", "swin_v2_b")},
          "paper": "Liu et al.: Swin Transformer V2: Scaling Up Capacity and Resolution, CVPR 2022, arXiv:2111.09883"}
for _variants, _pixels, _crop in ((VARIANTS, 256, 256 / 260), (AT_384, 384, 1.0), (AT_192, 192, 0.9)):
    models.add(SwinV2, _variants, WEIGHTS, **_ABOUT,  # 256 / 260: torchvision's of the tiny and the small one
               preprocessing={"size": (_pixels, _pixels), "resize": "crop", "crop_fraction": _crop,
                              "interpolation": "bicubic", "mean": IMAGENET_MEAN, "std": IMAGENET_STD})
