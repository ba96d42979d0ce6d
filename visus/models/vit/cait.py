"""CaiT: deep vision transformers; patches attend among themselves first, a class token reads them at the end.

Paper: Touvron et al., Going deeper with Image Transformers, ICCV 2021, arXiv:2103.17239: LayerScale (section 2), class
attention (section 3), and talking heads (Shazeer et al., 2020, arXiv:2003.02436), which mix the attention maps of all
heads before and after the softmax. Departures: drop path, at one rate for all blocks as in the paper, is off unless
asked for. Talking heads need the attention maps themselves, so that only class attention is fused. Parameters carry
timm's names.
forward: images [B, C, H, W], normalised, H and W multiples of patch_size -> logits [B, num_classes].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from visus import models
from visus.core.validate import positive, probability, require
from visus.layers.drop_path import DropPath
from visus.layers.mlp import MLP
from visus.layers.patch_stem import PatchStem, maps_of
from visus.layers.vit_blocks import NORM_EPS, fit_positions, initialise_tokens, require_tokens, sized_positions
from visus.ops.attention import attend, keep_seen


@dataclass(frozen=True, kw_only=True)
class CaiTConfig:
    """image_size, patch_size: sides in pixels. dim: width of a token. depth: blocks of patches alone; class_depth:
    blocks of the class token. layer_scale: first value of the branches' scales. dropout: after attention, MLP and
    positions. drop_path: rate at every block of patches."""

    image_size: int = 224
    patch_size: int = 16
    dim: int = 384
    depth: int = 24
    class_depth: int = 2
    num_heads: int = 8
    mlp_ratio: float = 4.0
    layer_scale: float = 1e-5
    dropout: float = 0.0
    drop_path: float = 0.0
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        positive(depth=self.depth, class_depth=self.class_depth, in_channels=self.in_channels,
                 num_classes=self.num_classes)
        require_tokens(self.image_size, self.patch_size, self.dim, self.num_heads, self.mlp_ratio)
        probability(dropout=self.dropout, drop_path=self.drop_path)
        require(isinstance(self.layer_scale, int | float) and self.layer_scale > 0, "layer_scale", self.layer_scale,
                "be above 0")


class HeadMixing(nn.Linear):
    """A linear layer over the heads: attention maps [B, H, N, M] -> [B, H, N, M]."""

    def __init__(self, num_heads: int):
        super().__init__(num_heads, num_heads)

    def forward(self, maps: Tensor) -> Tensor:
        weight = self.weight.expand(maps.shape[0], -1, -1)  # [B, H, H]
        return torch.baddbmm(self.bias[:, None], weight, maps.flatten(2)).view_as(maps)


class TalkingHeads(nn.Module):
    """Self-attention whose heads exchange what they see: [B, N, dim] -> [B, N, dim]. proj_l mixes the heads' scores,
    proj_w their weights after the softmax."""

    def __init__(self, dim: int, num_heads: int, dropout: float):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.proj_l = HeadMixing(num_heads)
        self.proj_w = HeadMixing(num_heads)
        self.proj_drop = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, count, dim = tokens.shape
        width = dim // self.num_heads
        q, k, v = self.qkv(tokens).reshape(batch, count, 3, self.num_heads, width).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q * width**-0.5) @ k.transpose(2, 3)  # [B, heads, N, N]
        weights = keep_seen(self.proj_w(self.proj_l(scores).softmax(dim=3)))
        out = (weights @ v).transpose(1, 2).reshape(batch, count, dim)
        return self.proj_drop(self.proj(out))


class ClassAttention(nn.Module):
    """The class token, first of [B, 1 + N, dim], asks all tokens -> [B, 1, dim]."""

    def __init__(self, dim: int, num_heads: int, dropout: float):
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        heads = (self.num_heads, -1)
        q = self.q(tokens[:, :1]).unflatten(2, heads).transpose(1, 2)  # [B, heads, 1, dim / heads]
        k = self.k(tokens).unflatten(2, heads).transpose(1, 2)  # [B, heads, 1 + N, dim / heads]
        v = self.v(tokens).unflatten(2, heads).transpose(1, 2)
        out = attend(q, k, v)
        return self.proj_drop(self.proj(out.transpose(1, 2).flatten(2)))


class PatchBlock(nn.Module):
    """Talking heads, then an MLP, each normalised before and scaled by channel after: [B, N, dim] -> the same
    shape."""

    def __init__(self, dim: int, num_heads: int, hidden_dim: int, layer_scale: float, dropout: float, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = TalkingHeads(dim, num_heads, dropout)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = MLP(dim, hidden_dim, dropout)
        self.gamma_1 = nn.Parameter(torch.full((dim,), float(layer_scale)))
        self.gamma_2 = nn.Parameter(torch.full((dim,), float(layer_scale)))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = torch.addcmul(tokens, self.gamma_1, self.drop_path(self.attn(self.norm1(tokens))))
        return torch.addcmul(tokens, self.gamma_2, self.drop_path(self.mlp(self.norm2(tokens))))


class ClassBlock(nn.Module):
    """As PatchBlock, for the class token alone: (class token [B, 1, dim], patches [B, N, dim]) -> [B, 1, dim]; the
    patches stay as they are."""

    def __init__(self, dim: int, num_heads: int, hidden_dim: int, layer_scale: float, dropout: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = ClassAttention(dim, num_heads, dropout)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = MLP(dim, hidden_dim, dropout)
        self.gamma_1 = nn.Parameter(torch.full((dim,), float(layer_scale)))
        self.gamma_2 = nn.Parameter(torch.full((dim,), float(layer_scale)))

    def forward(self, token: Tensor, patches: Tensor) -> Tensor:
        everything = self.norm1(torch.cat([token, patches], dim=1))  # [B, 1 + N, dim]
        token = torch.addcmul(token, self.gamma_1, self.attn(everything))
        return torch.addcmul(token, self.gamma_2, self.mlp(self.norm2(token)))


class CaiT(nn.Module):
    Config = CaiTConfig

    def __init__(self, config: CaiTConfig):
        super().__init__()
        self.config = config
        self.num_prefix_tokens = 0  # among the patches
        dim, hidden_dim = config.dim, int(config.dim * config.mlp_ratio)
        self.patch_embed = PatchStem(config.in_channels, dim, config.image_size, config.patch_size, any_size=True)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, self.patch_embed.side**2, dim))
        self.pos_drop = nn.Dropout(config.dropout)
        self.blocks = nn.Sequential(*[PatchBlock(dim, config.num_heads, hidden_dim, config.layer_scale, config.dropout,
                                                 config.drop_path) for _ in range(config.depth)])
        self.blocks_token_only = nn.ModuleList([ClassBlock(dim, config.num_heads, hidden_dim, config.layer_scale,
                                                           config.dropout) for _ in range(config.class_depth)])
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.head = nn.Linear(dim, config.num_classes)
        self.feature_channels = (dim,)
        self.feature_strides = (config.patch_size,)
        initialise_tokens(self)

    def patches(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> the patches' tokens [B, N, dim], before the last norm. Raises UserError unless
        H and W are multiples of patch_size."""
        positions = sized_positions(self.pos_embed, self.patch_embed.grid(images), 0)
        return self.blocks(self.pos_drop(self.patch_embed(images) + positions))

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> one map [B, dim, H / patch_size, W / patch_size]: the patches' tokens, normalised."""
        return [maps_of(self.norm(self.patches(images)), self.patch_embed.grid(images))]

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patches(images)
        token = self.cls_token.expand(images.shape[0], -1, -1)  # [B, 1, dim]
        for block in self.blocks_token_only:
            token = block(token, patches)
        return self.head(self.norm(token[:, 0]))

    def adapt(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """The state with its position embedding resized to this model's grid, and what was done in words."""
        return fit_positions(state, self.pos_embed, 0)


VARIANTS = {
    "cait_xxs24": {"dim": 192, "depth": 24, "num_heads": 4, "layer_scale": 1e-5},
    "cait_xxs36": {"dim": 192, "depth": 36, "num_heads": 4, "layer_scale": 1e-5},
    "cait_xs24": {"dim": 288, "depth": 24, "num_heads": 6, "layer_scale": 1e-5},
    "cait_s24": {"dim": 384, "depth": 24, "num_heads": 8, "layer_scale": 1e-5},
    "cait_s36": {"dim": 384, "depth": 36, "num_heads": 8, "layer_scale": 1e-6},
    "cait_m36": {"dim": 768, "depth": 36, "num_heads": 16, "layer_scale": 1e-6},
}

_ZOO = "the authors' README_cait.md, Model Zoo"
_PAPER = "Touvron et al. 2021, Table 3 (from memory)"
_MAPS = "ours counts products alone; how the authors counted is not said"


def _published(params: str, macs: str, macs_source: str, top1: str, top1_source: str,
               reason: str | None = None) -> list[dict[str, str]]:
    return [{"what": "params", "value": params, "source": _PAPER if "." in params else _ZOO},
            {"what": "macs", "value": macs, "source": macs_source, **({"reason": reason} if reason else {})},
            {"what": "top1", "value": top1, "data": "ImageNet-1k", "source": top1_source}]


PUBLISHED = {
    "cait_xxs24": _published("12.0e6", "2.5e9", _PAPER, "78.4", f"{_PAPER}, distilled"),
    "cait_xxs36": _published("17.3e6", "3.8e9", _PAPER, "79.7", f"{_PAPER}, distilled"),
    "cait_xs24": _published("27e6", "5.4e9", _PAPER, "84.1", f"{_ZOO}; distilled, at 384 x 384 pixels"),
    "cait_s24": _published("47e6", "9.4e9", _ZOO, "83.5", f"{_ZOO}; distilled", _MAPS),
    "cait_s36": _published("68e6", "13.9e9", _PAPER, "85.4", f"{_ZOO}; distilled, at 384 x 384 pixels"),
    "cait_m36": _published("271e6", "53.7e9", _PAPER, "86.1", f"{_ZOO}; distilled, at 384 x 384 pixels", _MAPS),
}

_LICENCE = "Apache-2.0 (Meta, by way of timm); trained on ImageNet-1k, distilled"
_LARGE = {"config": {"image_size": 384}, "preprocessing": {"size": (384, 384)}}  # published for larger images alone
WEIGHTS = {
    **{f"cait_{size}": {"timm": {"file": f"cait_{size}_224.fb_dist_in1k", "licence": _LICENCE}}
       for size in ("xxs24", "xxs36", "s24")},
    **{f"cait_{size}": {"timm": {"file": f"cait_{size}_384.fb_dist_in1k", "licence": _LICENCE, **_LARGE}}
       for size in ("xs24", "s36", "m36")},
}

PEERS = {
    "cait_xxs24": ("timm", "cait_xxs24_224"),
    "cait_xxs36": ("timm", "cait_xxs36_224"),
    "cait_s24": ("timm", "cait_s24_224"),
}

models.add(CaiT, VARIANTS, WEIGHTS, family="cait", task="classification", published=PUBLISHED, peers=PEERS,
           origins={"timm": dict},
           paper="Touvron et al.: Going deeper with Image Transformers, ICCV 2021, arXiv:2103.17239",
           preprocessing={"size": (224, 224), "resize": "crop", "crop_fraction": 1.0, "interpolation": "bicubic"})
