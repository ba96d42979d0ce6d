"""MViTv2: a pyramid of transformer stages whose attention pools its queries, keys and values with convolutions.

Paper: Li et al., MViTv2: Improved Multiscale Vision Transformers for Classification and Detection, CVPR 2022,
arXiv:2112.01526. Beyond MViT: relative positions, a table for rows and one for columns (equation 3), and the pooled
queries added to what attention gives (equation 4). The last tokens are averaged, no class token. Parameters carry
timm's names.
forward: images [B, C, S, S], normalised -> logits [B, num_classes].
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visus import models
from visus.core.errors import UserError
from visus.core.validate import boolean, positive, probability, require
from visus.layers.drop_path import DropPath
from visus.ops.attention import attend

NORM_EPS = 1e-6
MLP_RATIO = 4
KEY_STRIDES = (4, 2, 1, 1)  # of the pooling of keys and values, a stage


@dataclass(frozen=True, kw_only=True)
class MViTv2Config:
    """image_size: side in pixels. depths: blocks of each of the four stages. dim, num_heads: of the first stage,
    doubled from stage to stage. widen_in_attention: the first block of a stage doubles the channels, in its attention;
    otherwise the last block of the stage before does, in its MLP, as in the large model. drop_path: rate at the last
    block; earlier blocks have linearly less."""

    image_size: int = 224
    depths: tuple[int, ...] = (1, 2, 5, 2)
    dim: int = 96
    num_heads: int = 1
    widen_in_attention: bool = True
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
        require(self.image_size % 32 == 0, "image_size", self.image_size, "be a multiple of 32")
        require(self.dim % self.num_heads == 0, "dim", self.dim, f"be a multiple of num_heads={self.num_heads}")
        boolean(widen_in_attention=self.widen_in_attention)
        probability(drop_path=self.drop_path)


class PatchEmbed(nn.Module):
    """Overlapping 7 x 7 patches: [B, C, S, S] -> [B, S / 4, S / 4, dim]."""

    def __init__(self, in_channels: int, dim: int):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, 7, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).permute(0, 2, 3, 1)


def distances(queries: int, keys: int) -> Tensor:
    """Row of the table of relative positions for each query and key along one axis, in steps of the finer map:
    [queries, keys], from 0."""
    query_step, key_step = max(keys // queries, 1), max(queries // keys, 1)
    return torch.arange(queries)[:, None] * query_step + (keys - 1 - torch.arange(keys)) * key_step


class Attention(nn.Module):
    """Pooling attention: [B, H, W, in_dim] -> [B, H / query_stride, W / query_stride, dim].

    side: H and W. A 3 x 3 depthwise convolution, the same for all heads, and a layer norm over a head's channels pool
    each of queries, keys and values.
    """

    def __init__(self, in_dim: int, dim: int, num_heads: int, side: int, query_stride: int, key_stride: int):
        super().__init__()
        self.num_heads = num_heads
        self.query_stride = query_stride
        self.key_stride = key_stride
        head_dim = dim // num_heads
        self.qkv = nn.Linear(in_dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.pool_q = nn.Conv2d(head_dim, head_dim, 3, query_stride, 1, groups=head_dim, bias=False)
        self.norm_q = nn.LayerNorm(head_dim, eps=NORM_EPS)
        self.pool_k = nn.Conv2d(head_dim, head_dim, 3, key_stride, 1, groups=head_dim, bias=False)
        self.norm_k = nn.LayerNorm(head_dim, eps=NORM_EPS)
        self.pool_v = nn.Conv2d(head_dim, head_dim, 3, key_stride, 1, groups=head_dim, bias=False)
        self.norm_v = nn.LayerNorm(head_dim, eps=NORM_EPS)
        queries, keys = side // query_stride, side // key_stride
        self.register_buffer("distances", distances(queries, keys), persistent=False)
        self.rel_pos_h = nn.Parameter(torch.empty(2 * max(queries, keys) - 1, head_dim))
        self.rel_pos_w = nn.Parameter(torch.empty(2 * max(queries, keys) - 1, head_dim))
        nn.init.trunc_normal_(self.rel_pos_h, std=0.02)
        nn.init.trunc_normal_(self.rel_pos_w, std=0.02)

    def pool(self, maps: Tensor, pool: nn.Conv2d, norm: nn.LayerNorm) -> Tensor:
        """[B, dim, H, W] -> [B, heads, H' * W', head_dim]."""
        weight = pool.weight.repeat(self.num_heads, 1, 1, 1)  # [dim, 1, 3, 3]
        pooled = F.conv2d(maps, weight, None, pool.stride, pool.padding, groups=len(weight))
        tokens = pooled.permute(0, 2, 3, 1).flatten(1, 2).unflatten(2, (self.num_heads, -1))  # [B, N', heads, head_dim]
        return norm(tokens).transpose(1, 2)

    def position_bias(self, q: Tensor) -> Tensor:
        """Equation 3: queries [B, heads, N, head_dim] -> what is added to their scores, [B, heads, N, M]."""
        queries, keys = self.distances.shape
        places = q.unflatten(2, (queries, queries))  # [B, heads, y, x, head_dim]
        rows = torch.einsum("bnyxc,ykc->bnyxk", places, self.rel_pos_h[self.distances])
        columns = torch.einsum("bnyxc,xkc->bnyxk", places, self.rel_pos_w[self.distances])
        bias = rows[..., :, None] + columns[..., None, :]  # [B, heads, y, x, keys, keys]
        return bias.reshape(*q.shape[:3], keys * keys)

    def forward(self, maps: Tensor) -> Tensor:
        q, k, v = self.qkv(maps).permute(0, 3, 1, 2).chunk(3, 1)  # each [B, dim, H, W]
        q = self.pool(q, self.pool_q, self.norm_q)
        k = self.pool(k, self.pool_k, self.norm_k)
        v = self.pool(v, self.pool_v, self.norm_v)
        out = attend(q, k, v, self.position_bias(q)) + q
        side = len(self.distances)
        return self.proj(out.transpose(1, 2).flatten(2).unflatten(1, (side, side)))  # [B, N, dim] -> [B, h, w, dim]


class MLP(nn.Module):
    def __init__(self, in_dim: int, dim: int):
        super().__init__()
        self.fc1 = nn.Linear(in_dim, MLP_RATIO * in_dim)
        self.fc2 = nn.Linear(MLP_RATIO * in_dim, dim)

    def forward(self, maps: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(maps)))


class Block(nn.Module):
    """[B, H, W, in_dim] -> [B, H / query_stride, W / query_stride, dim]. attention_dim: channels of the attention,
    either in_dim or dim; where channels change, the shortcut is a linear layer of the normalised input."""

    def __init__(self, in_dim: int, attention_dim: int, dim: int, num_heads: int, side: int, query_stride: int,
                 key_stride: int, drop_path: float):
        super().__init__()
        self.query_stride = query_stride
        self.norm1 = nn.LayerNorm(in_dim, eps=NORM_EPS)
        self.shortcut_proj_attn = nn.Linear(in_dim, attention_dim) if in_dim != attention_dim else None
        self.attn = Attention(in_dim, attention_dim, num_heads, side, query_stride, key_stride)
        self.norm2 = nn.LayerNorm(attention_dim, eps=NORM_EPS)
        self.shortcut_proj_mlp = nn.Linear(attention_dim, dim) if attention_dim != dim else None
        self.mlp = MLP(attention_dim, dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, maps: Tensor) -> Tensor:
        normed = self.norm1(maps)
        shortcut = maps if self.shortcut_proj_attn is None else self.shortcut_proj_attn(normed)
        if self.query_stride > 1:
            shortcut = F.max_pool2d(shortcut.permute(0, 3, 1, 2), 3, self.query_stride, 1).permute(0, 2, 3, 1)
        maps = shortcut + self.drop_path(self.attn(normed))
        normed = self.norm2(maps)
        shortcut = maps if self.shortcut_proj_mlp is None else self.shortcut_proj_mlp(normed)
        return shortcut + self.drop_path(self.mlp(normed))


class Stage(nn.Module):
    def __init__(self, blocks: list[Block]):
        super().__init__()
        self.blocks = nn.Sequential(*blocks)

    def forward(self, maps: Tensor) -> Tensor:
        return self.blocks(maps)


class MViTv2(nn.Module):
    Config = MViTv2Config

    def __init__(self, config: MViTv2Config):
        super().__init__()
        self.config = config
        count = sum(config.depths)
        rates = iter([config.drop_path * i / max(count - 1, 1) for i in range(count)])
        self.patch_embed = PatchEmbed(config.in_channels, config.dim)
        stages, channels = [], []
        dim, side = config.dim, config.image_size // 4
        for i, depth in enumerate(config.depths):
            blocks = []
            for j in range(depth):
                stride = 2 if i and j == 0 else 1
                if config.widen_in_attention:
                    attention_dim = out_dim = config.dim << i
                else:
                    attention_dim, out_dim = dim, 2 * dim if j == depth - 1 and i < 3 else dim
                blocks.append(Block(dim, attention_dim, out_dim, config.num_heads << i, side, stride, KEY_STRIDES[i],
                                    next(rates)))
                dim, side = out_dim, side // stride
            stages.append(Stage(blocks))
            channels.append(dim)
        self.stages = nn.Sequential(*stages)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.head = nn.Sequential(OrderedDict(fc=nn.Linear(dim, config.num_classes)))
        self.feature_channels = tuple(channels)
        self.feature_strides = (4, 8, 16, 32)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, S, S] -> maps [B, channels, S / s, S / s] at strides s of 4, 8, 16, 32. Raises UserError for another
        size."""
        size = self.config.image_size
        if images.shape[-2:] != (size, size):
            raise UserError(f"this model was built for images of {size} x {size} pixels",
                            where="x".join(map(str, images.shape[-2:])),
                            remedy="Resize the images, or build the model with another image_size")
        maps, out = self.patch_embed(images), []
        for stage in self.stages:
            maps = stage(maps)
            out.append(maps.permute(0, 3, 1, 2))
        return out

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.features(images)[-1].flatten(2).transpose(1, 2)  # [B, N, dim]
        return self.head(self.norm(tokens).mean(1))

    def adapt(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """The state with its tables of relative positions resized (linearly) to this model's maps, and what was done in
        words."""
        state, resized = dict(state), 0
        for name, own in self.named_parameters():
            table = state.get(name)
            if name.endswith(("rel_pos_h", "rel_pos_w")) and table is not None and table.ndim == 2 and len(table) \
                    and table.shape[1] == own.shape[1] and len(table) != len(own):
                line = F.interpolate(table.float().T[None], size=len(own), mode="linear")  # [1, head_dim, length]
                state[name] = line[0].T.to(table.dtype).contiguous()
                resized += 1
        size = self.config.image_size
        return state, [f"{resized} tables of relative positions were resized to images of {size} x {size} pixels"
                       ] if resized else []


VARIANTS = {
    "mvit_v2_tiny": {"depths": (1, 2, 5, 2)},
    "mvit_v2_small": {"depths": (1, 2, 11, 2)},
    "mvit_v2_base": {"depths": (2, 3, 16, 3)},
    "mvit_v2_large": {"depths": (2, 6, 36, 4), "dim": 144, "num_heads": 2, "widen_in_attention": False},
}

_AUTHORS = "the authors' repository facebookresearch/mvit, README.md"
_FIGURES = {  # params, macs, top-1
    "mvit_v2_tiny": ("24e6", "4.7e9", "82.3"), "mvit_v2_small": ("35e6", "7.0e9", "83.6"),
    "mvit_v2_base": ("52e6", "10.2e9", "84.4"), "mvit_v2_large": ("218e6", "42.1e9", "85.3"),
}
PUBLISHED: dict[str, list[dict[str, str]]] = {
    name: [{"what": "params", "value": params, "source": _AUTHORS}, {"what": "macs", "value": macs, "source": _AUTHORS},
           {"what": "top1", "value": top1, "data": "ImageNet-1k", "source": _AUTHORS}]
    for name, (params, macs, top1) in _FIGURES.items()}
PUBLISHED["mvit_v2_base"][0]["reason"] = "ours, which is timm's and reads the public weights, rounds to 51 million"
PUBLISHED["mvit_v2_base"][1]["reason"] = "ours counts 10.1e9, of the same layers as the smaller two, which agree"
PUBLISHED["mvit_v2_large"][1]["reason"] = (
    "ours of the public weights' layout; widened in attention, as the paper has its models, ours counts 41.8e9")

PEERS = {name: ("timm", name.replace("mvit_v2", "mvitv2")) for name in VARIANTS}
WEIGHTS = {name: {"timm": {"file": f"{theirs}.fb_in1k",
                           "licence": "Apache-2.0 (Meta, by way of timm); trained on ImageNet-1k"}}
           for name, (_, theirs) in PEERS.items()}

models.add(MViTv2, VARIANTS, WEIGHTS, family="mvit_v2", task="classification", published=PUBLISHED, peers=PEERS,
           origins={"timm": dict},
           paper="Li et al.: MViTv2: Improved Multiscale Vision Transformers, CVPR 2022, arXiv:2112.01526",
           preprocessing={"size": (224, 224), "resize": "crop", "crop_fraction": 0.9, "interpolation": "bicubic"})
