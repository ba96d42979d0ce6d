"""CoAtNet: two stages of convolution, then two of attention whose scores know how far apart two places are.

Paper: Dai, Liu, Le, Tan, CoAtNet: Marrying Convolution and Attention for All Data Sizes, NeurIPS 2021,
arXiv:2106.04803. Stages are MBConv, MBConv, transformer, transformer (C-C-T-T); the scores of a pair of places get a
learned bias that depends on their offset alone (equation 3), as a depthwise convolution's weights do. The variants
`coatnet_N` follow the paper: a stage halves its maps by max pooling and, in MBConv, by the stride of the first
convolution (equations 4 and 5). The variants `coatnet_*_rw` are timm's, of which there are public weights. Departures:
the hidden layer of the head and the squeeze to a quarter of a block's output are those of timm's coatnet_N, which the
paper does not describe. Parameters carry timm's names, without the layers in between that hold nothing.
forward: images [B, C, H, W], normalised, sides multiples of 32 -> logits [B, num_classes]. For maps of another size
than those that the model was built for, the tables of biases are resized.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visus import models
from visus.core.errors import UserError
from visus.core.validate import boolean, one_of, positive, probability, require
from visus.layers.drop_path import DropPath
from visus.layers.mlp import MLP
from visus.layers.offset_tables import fit_offset_tables
from visus.layers.squeeze_excitation import SqueezeExcitation
from visus.ops.attention import attend
from visus.ops.positions import resize_offsets

EXPANSION = 4  # of MBConv and of the MLPs
NORM_EPS = 1e-6
STRIDE = 32
ACTS = {"gelu": nn.GELU, "silu": nn.SiLU, "relu": nn.ReLU}


@dataclass(frozen=True, kw_only=True)
class CoAtNetConfig:
    """image_size: side in pixels that the tables of biases are made for. stem_dims: channels of the stem's two
    convolutions. dims, depths: channels and blocks of each of the four stages. head_dim: channels of an attention head.
    drop_path: rate at the last block; earlier blocks have linearly less.
    What timm's variants do in their own way: stride_in: where an MBConv halves its maps: 'expansion' (the first
    convolution), 'depthwise' (the second), or 'pool' (2 x 2 means before both). pool: of the shortcuts and before
    attention, 'max' or 'mean' of 2 x 2. act, squeeze_act: of MBConv and of its squeeze. expand_output: an MBConv has
    EXPANSION times its output's channels inside, otherwise its input's. act_first: an activation follows an MBConv's
    first norm. squeeze_early: the squeeze stands before the norm that follows the depthwise convolution, not after.
    conv_bias, shortcut_bias: biases in the projections of MBConv, and in the shortcuts of attention.
    widen_in_qkv: the first block of a stage widens its maps to make queries, keys and values, otherwise after
    attention. hidden_head: a layer with tanh before the classifier."""

    image_size: int = 224
    stem_dims: tuple[int, int] = (64, 64)
    dims: tuple[int, ...] = (96, 192, 384, 768)
    depths: tuple[int, ...] = (2, 3, 5, 2)
    head_dim: int = 32
    drop_path: float = 0.0
    stride_in: str = "expansion"
    pool: str = "max"
    act: str = "gelu"
    squeeze_act: str = "silu"
    expand_output: bool = True
    act_first: bool = False
    squeeze_early: bool = False
    conv_bias: bool = True
    shortcut_bias: bool = True
    widen_in_qkv: bool = True
    hidden_head: bool = True
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        for field, count in (("stem_dims", 2), ("dims", 4), ("depths", 4)):
            values = getattr(self, field)
            require(isinstance(values, tuple) and len(values) == count, field, values, f"be {count} numbers")
            for value in values:
                positive(**{field: value})
        positive(image_size=self.image_size, head_dim=self.head_dim, in_channels=self.in_channels,
                 num_classes=self.num_classes)
        require(self.image_size % STRIDE == 0, "image_size", self.image_size, f"be a multiple of {STRIDE}")
        attended = self.dims[1:] if not self.widen_in_qkv else self.dims[2:]
        require(all(dim % self.head_dim == 0 for dim in attended), "dims", self.dims,
                f"be multiples of head_dim={self.head_dim} where there is attention")
        probability(drop_path=self.drop_path)
        one_of(("expansion", "depthwise", "pool"), stride_in=self.stride_in)
        one_of(("max", "mean"), pool=self.pool)
        one_of(tuple(ACTS), act=self.act, squeeze_act=self.squeeze_act)
        for field in ("expand_output", "act_first", "squeeze_early", "conv_bias", "shortcut_bias", "widen_in_qkv",
                      "hidden_head"):
            boolean(**{field: getattr(self, field)})


def relative_bias(table: Tensor, size: tuple[int, int]) -> Tensor:
    """What is added to the scores of every pair of places in a map of size (h, w): [heads, h * w, h * w]. table: a
    value for each offset within a square map, row by row, [(2 side - 1)^2, heads]; resized where the map has another
    size."""
    (height, width), side = size, (math.isqrt(table.shape[0]) + 1) // 2
    table = resize_offsets(table, (side, side), size)
    maps = table.T.unflatten(1, (2 * height - 1, 2 * width - 1))  # [heads, 2 h - 1, 2 w - 1]
    # a query's row of biases is a window of the mirrored table, which moves against the query
    windows = maps.flip(1, 2).unfold(1, height, 1).unfold(2, width, 1).flip(1, 2)  # [heads, query y, x, key y, x]
    return windows.reshape(-1, height * width, height * width)


def halve(maps: Tensor, pool: str) -> Tensor:
    """[B, C, H, W] -> [B, C, H / 2, W / 2]."""
    return F.max_pool2d(maps, 2) if pool == "max" else F.avg_pool2d(maps, 2)


class PoolShortcut(nn.Module):
    """[B, in_dim, H, W] -> [B, dim, H / 2, W / 2]: 2 x 2 pooling, and a 1 x 1 convolution where the width changes."""

    def __init__(self, in_dim: int, dim: int, pool: str, bias: bool):
        super().__init__()
        self.pool = pool
        self.expand = nn.Conv2d(in_dim, dim, 1, bias=bias) if in_dim != dim else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        return self.expand(halve(maps, self.pool))


class MBConv(nn.Module):
    """Norm, 1 x 1 up, 3 x 3 depthwise, squeeze and excitation, 1 x 1 down, added to the shortcut (equation 5):
    [B, in_dim, H, W] -> [B, dim, H, W], halved where the block is its stage's first."""

    def __init__(self, in_dim: int, dim: int, first: bool, config: CoAtNetConfig, drop_path: float):
        super().__init__()
        width = EXPANSION * (dim if config.expand_output else in_dim)
        act = ACTS[config.act]
        strides = [2 if first and config.stride_in == place else 1 for place in ("expansion", "depthwise")]
        self.shortcut = PoolShortcut(in_dim, dim, config.pool, config.conv_bias) if first else nn.Identity()
        self.pre_norm = nn.BatchNorm2d(in_dim)
        self.pre_act = act() if config.act_first else nn.Identity()
        self.down = nn.AvgPool2d(2) if first and config.stride_in == "pool" else nn.Identity()
        self.conv1_1x1 = nn.Conv2d(in_dim, width, 1, strides[0], bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.act = act()
        self.conv2_kxk = nn.Conv2d(width, width, 3, strides[1], 1, groups=width, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        squeeze_dim = (dim if config.expand_output else width) // 4
        self.se = SqueezeExcitation(width, squeeze_dim, ACTS[config.squeeze_act](), nn.Sigmoid())
        self.squeeze_early = config.squeeze_early
        self.conv3_1x1 = nn.Conv2d(width, dim, 1, bias=config.conv_bias)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        out = self.down(self.pre_act(self.pre_norm(maps)))
        out = self.conv2_kxk(self.act(self.norm1(self.conv1_1x1(out))))
        if self.squeeze_early:
            out = self.act(self.norm2(self.se(out)))
        else:
            out = self.se(self.act(self.norm2(out)))
        return self.drop_path(self.conv3_1x1(out)) + self.shortcut(maps)


class RelativeAttention(nn.Module):
    """Multi-head attention with a bias for each offset (equation 3): [B, H, W, in_dim] -> [B, H, W, dim].
    side: of the maps that the table is made for."""

    def __init__(self, in_dim: int, dim: int, head_dim: int, side: int, widen_in_qkv: bool):
        super().__init__()
        width = dim if widen_in_qkv else in_dim
        self.num_heads = width // head_dim
        self.qkv = nn.Linear(in_dim, 3 * width)
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * side - 1) ** 2, self.num_heads))
        self.proj = nn.Linear(width, dim)

    def forward(self, maps: Tensor) -> Tensor:
        batch, height, width = maps.shape[:3]
        qkv = self.qkv(maps).reshape(batch, height * width, self.num_heads, -1)  # [B, N, heads, 3 head_dim]
        q, k, v = qkv.transpose(1, 2).chunk(3, dim=3)  # each [B, heads, N, head_dim]
        bias = relative_bias(self.relative_position_bias_table, (height, width))
        out = attend(q, k, v, bias[None])
        return self.proj(out.transpose(1, 2).reshape(batch, height, width, -1))


class TransformerBlock(nn.Module):
    """Normalise, attend, add; normalise, MLP, add: [B, H, W, in_dim] -> [B, H, W, dim], halved where the block is its
    stage's first (equation 4). side: of the maps that it gives."""

    def __init__(self, in_dim: int, dim: int, first: bool, side: int, config: CoAtNetConfig, drop_path: float):
        super().__init__()
        self.pool = config.pool if first else None
        self.shortcut = PoolShortcut(in_dim, dim, config.pool, config.shortcut_bias) if first else nn.Identity()
        self.norm1 = nn.LayerNorm(in_dim, eps=NORM_EPS)
        self.attn = RelativeAttention(in_dim, dim, config.head_dim, side, config.widen_in_qkv)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = MLP(dim, EXPANSION * dim)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        out = self.norm1(maps)
        if self.pool is not None:
            out = halve(out.permute(0, 3, 1, 2), self.pool).permute(0, 2, 3, 1)  # [B, H / 2, W / 2, in_dim]
            maps = self.shortcut(maps.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # [B, H / 2, W / 2, dim]
        maps = maps + self.drop_path(self.attn(out))
        return maps + self.drop_path(self.mlp(self.norm2(maps)))


class ConvStage(nn.Module):
    """[B, in_dim, H, W] -> [B, dim, H / 2, W / 2]."""

    def __init__(self, blocks: list[nn.Module]):
        super().__init__()
        self.blocks = nn.Sequential(*blocks)

    def forward(self, maps: Tensor) -> Tensor:
        return self.blocks(maps)


class AttentionStage(ConvStage):
    """[B, in_dim, H, W] -> [B, dim, H / 2, W / 2], by blocks that work on [B, H, W, dim]."""

    def forward(self, maps: Tensor) -> Tensor:
        return self.blocks(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Stem(nn.Module):
    """[B, C, H, W] -> [B, dims[1], H / 2, W / 2]."""

    def __init__(self, in_channels: int, dims: tuple[int, int], act: type[nn.Module]):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, dims[0], 3, 2, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(dims[0])
        self.act = act()
        self.conv2 = nn.Conv2d(dims[0], dims[1], 3, 1, 1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv2(self.act(self.norm1(self.conv1(images))))


class Head(nn.Module):
    """Maps [B, dim, H, W] -> logits: mean, norm, a hidden layer with tanh, classifier; or norm, mean, classifier."""

    def __init__(self, dim: int, num_classes: int, hidden: bool):
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.hidden = nn.Linear(dim, dim) if hidden else None
        self.fc = nn.Linear(dim, num_classes)

    def forward(self, maps: Tensor) -> Tensor:
        if self.hidden is None:
            return self.fc(self.norm(maps.permute(0, 2, 3, 1)).mean((1, 2)))
        return self.fc(self.hidden(self.norm(maps.mean((2, 3)))).tanh())


class CoAtNet(nn.Module):
    Config = CoAtNetConfig

    def __init__(self, config: CoAtNetConfig):
        super().__init__()
        self.config = config
        self.stem = Stem(config.in_channels, config.stem_dims, ACTS[config.act])
        count = sum(config.depths)
        rates = iter([config.drop_path * i / max(count - 1, 1) for i in range(count)])
        stages: list[nn.Module] = []
        in_dim = config.stem_dims[1]
        for number, (dim, depth) in enumerate(zip(config.dims, config.depths, strict=True)):
            side, blocks = config.image_size // (4 << number), []
            for i in range(depth):
                if number < 2:
                    blocks.append(MBConv(in_dim, dim, i == 0, config, next(rates)))
                else:
                    blocks.append(TransformerBlock(in_dim, dim, i == 0, side, config, next(rates)))
                in_dim = dim
            stages.append(ConvStage(blocks) if number < 2 else AttentionStage(blocks))
        self.stages = nn.ModuleList(stages)
        self.head = Head(config.dims[-1], config.num_classes, config.hidden_head)
        self.feature_channels = config.dims
        self.feature_strides = (4, 8, 16, 32)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.out_channels // module.groups * math.prod(module.kernel_size)
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, RelativeAttention):
                nn.init.trunc_normal_(module.relative_position_bias_table, std=0.02)

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> maps of strides 4, 8, 16 and 32. Raises UserError where a side is no multiple of 32."""
        if images.shape[-2] % STRIDE or images.shape[-1] % STRIDE or not images.shape[-2] * images.shape[-1]:
            raise UserError(f"this model takes images whose sides are multiples of {STRIDE} pixels",
                            where="x".join(map(str, images.shape[-2:])), remedy="Resize or pad the images")
        maps, out = self.stem(images), []
        for stage in self.stages:
            maps = stage(maps)
            out.append(maps)
        return out

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images)[-1])

    def adapt(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """The state with its tables of relative position biases resized to this model's maps, and what was done in
        words."""
        return fit_offset_tables(state, self)


_FROM_TIMM = ((r"^norm\.", "head.norm."), (r"^head\.pre_logits\.fc\.", "head.hidden."), (r"\.norm1\.norm\.", ".norm1."),
              (r"\.se_early\.", ".se."), (r"\.attn\.rel_pos\.", ".attn."))


def from_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """timm's names -> ours; where attention and its MLP have 1 x 1 convolutions there, they are linear layers here."""
    out = {}
    for name, tensor in state.items():
        for theirs, ours in _FROM_TIMM:
            name = re.sub(theirs, ours, name)
        linear = re.search(r"\.(attn|mlp)\.\w+\.weight$", name) and tensor.ndim == 4
        out[name] = tensor.flatten(1) if linear else tensor  # [out, in, 1, 1] -> [out, in]
    return out


VARIANTS = {
    "coatnet_0": {"stem_dims": (64, 64), "dims": (96, 192, 384, 768), "depths": (2, 3, 5, 2)},
    "coatnet_1": {"stem_dims": (64, 64), "dims": (96, 192, 384, 768), "depths": (2, 6, 14, 2)},
    "coatnet_2": {"stem_dims": (128, 128), "dims": (128, 256, 512, 1024), "depths": (2, 6, 14, 2)},
    "coatnet_3": {"stem_dims": (192, 192), "dims": (192, 384, 768, 1536), "depths": (2, 6, 14, 2)},
    "coatnet_4": {"stem_dims": (192, 192), "dims": (192, 384, 768, 1536), "depths": (2, 12, 28, 2)},
}

_RW = {"pool": "mean", "act": "silu", "expand_output": False, "widen_in_qkv": False, "hidden_head": False}
_EARLY = {"act_first": True, "conv_bias": False, "squeeze_early": True, "squeeze_act": "relu", "shortcut_bias": False}
RW_VARIANTS = {
    "coatnet_nano_rw": {"stem_dims": (32, 64), "dims": (64, 128, 256, 512), "depths": (3, 4, 6, 3),
                        "stride_in": "pool", **_RW},
    "coatnet_0_rw": {"stem_dims": (32, 64), "dims": (96, 192, 384, 768), "depths": (2, 3, 7, 2), "stride_in": "pool",
                     **_RW, **_EARLY},
    "coatnet_1_rw": {"stem_dims": (32, 64), "dims": (96, 192, 384, 768), "depths": (2, 6, 14, 2),
                     "stride_in": "depthwise", **_RW, **_EARLY},
    "coatnet_2_rw": {"stem_dims": (64, 128), "dims": (128, 256, 512, 1024), "depths": (2, 6, 14, 2),
                     "stride_in": "depthwise", "act_first": True, "conv_bias": False, **_RW},
}

_PAPER = "Dai et al. 2021 (from memory), Table 4"
_MACS = f"{_PAPER} (there named FLOPs)"
_COUNTED = ("the paper does not say what it counts; this is the products of convolutions, linear layers and attention; "
            "with strides in the depthwise convolutions, as timm has them, it would be {}")
PUBLISHED = {
    "coatnet_0": [{"what": "params", "value": "25e6", "source": _PAPER},
                  {"what": "macs", "value": "4.2e9", "source": _MACS, "reason": _COUNTED.format("4.55e9")},
                  {"what": "top1", "value": "81.6", "data": "ImageNet-1k", "source": _PAPER}],
    "coatnet_1": [{"what": "params", "value": "42e6", "source": _PAPER},
                  {"what": "macs", "value": "8.4e9", "source": _MACS, "reason": _COUNTED.format("8.64e9")},
                  {"what": "top1", "value": "83.3", "data": "ImageNet-1k", "source": _PAPER}],
    "coatnet_2": [{"what": "params", "value": "75e6", "source": _PAPER},
                  {"what": "macs", "value": "15.7e9", "source": _MACS, "reason": _COUNTED.format("16.43e9")},
                  {"what": "top1", "value": "84.1", "data": "ImageNet-1k", "source": _PAPER}],
    "coatnet_3": [{"what": "params", "value": "168e6", "source": _PAPER,
                   "reason": "0.6% fewer here, and timm's count is ours; the paper does not describe every layer"},
                  {"what": "macs", "value": "34.7e9", "source": _MACS, "reason": _COUNTED.format("36.45e9")},
                  {"what": "top1", "value": "84.5", "data": "ImageNet-1k", "source": _PAPER}],
    "coatnet_4": [{"what": "params", "value": "275e6", "source": "Dai et al. 2021 (from memory), Table 5"}],
}

_NOTES = "timm's release notes of its CoAtNet weights (v0.1-weights-maxx)"
RW_PUBLISHED = {
    "coatnet_nano_rw": [{"what": "top1", "value": "81.7", "data": "ImageNet-1k", "source": _NOTES}],
    "coatnet_0_rw": [{"what": "top1", "value": "82.4", "data": "ImageNet-1k", "source": _NOTES}],
    "coatnet_1_rw": [{"what": "top1", "value": "83.6", "data": "ImageNet-1k", "source": _NOTES}],
}

_LICENCE = "Apache-2.0 (timm); trained on ImageNet-1k"
RW_WEIGHTS = {
    "coatnet_nano_rw": {"timm": {"file": "coatnet_nano_rw_224.sw_in1k", "licence": _LICENCE,
                                 "preprocessing": {"crop_fraction": 0.9}}},
    "coatnet_0_rw": {"timm": {"file": "coatnet_0_rw_224.sw_in1k", "licence": _LICENCE}},
    "coatnet_1_rw": {"timm": {"file": "coatnet_1_rw_224.sw_in1k", "licence": _LICENCE}},
    "coatnet_2_rw": {"timm": {"file": "coatnet_2_rw_224.sw_in12k_ft_in1k",
                              "licence": "Apache-2.0 (timm); trained on ImageNet-12k, then 1k"}},
}

_PAPERS = {"conv_stride_mode": "1x1", "conv_pool_type": "max2", "transformer_pool_type": "max2"}  # timm's options
for _variants, _published, _weights, _options in ((VARIANTS, PUBLISHED, {}, _PAPERS),
                                                  (RW_VARIANTS, RW_PUBLISHED, RW_WEIGHTS, {})):
    models.add(CoAtNet, _variants, _weights, family="coatnet", task="classification", published=_published,
               peers={name: ("timm", f"{name}_224") for name in _variants}, peer_options=_options,
               origins={"timm": from_timm},
               paper="Dai, Liu, Le, Tan: CoAtNet: Marrying Convolution and Attention for All Data Sizes, NeurIPS 2021, "
                     "arXiv:2106.04803",
               # timm's weights
               preprocessing={"size": (224, 224), "resize": "crop", "crop_fraction": 0.95, "interpolation": "bicubic",
                              "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)})
