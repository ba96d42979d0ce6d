"""MLP-Mixer: patches and MLPs alone, of which one mixes places and the next mixes channels.

Paper: Tolstikhin, Houlsby, Kolesnikov, Beyer, Zhai, Unterthiner, Yung, Steiner, Keysers, Uszkoreit, Lucic,
Dosovitskiy, MLP-Mixer: An all-MLP Architecture for Vision, NeurIPS 2021, arXiv:2105.01601. Departure: the head starts
at small random weights, not at zero. The token-mixing MLPs hold one weight for each place, so a model takes images of
one size, and weights of another size do not fit. Parameters carry timm's names.
forward: images [B, C, S, S], normalised -> logits [B, num_classes].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from visus import models
from visus.core.validate import positive, probability
from visus.layers.drop_path import DropPath
from visus.layers.mlp import MLP
from visus.layers.patch_stem import PatchStem, check_patches, maps_of

NORM_EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class MixerConfig:
    """image_size, patch_size: sides in pixels. dim: width of a token. token_dim, channel_dim: hidden units of the MLPs
    over places and over channels (D_S and D_C of the paper). dropout: within the MLPs. drop_path: rate at the last
    block; earlier blocks have linearly less."""

    image_size: int = 224
    patch_size: int = 16
    dim: int = 768
    depth: int = 12
    token_dim: int = 384
    channel_dim: int = 3072
    dropout: float = 0.0
    drop_path: float = 0.0
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        check_patches(self.image_size, self.patch_size)
        positive(dim=self.dim, depth=self.depth, token_dim=self.token_dim, channel_dim=self.channel_dim,
                 in_channels=self.in_channels, num_classes=self.num_classes)
        probability(dropout=self.dropout, drop_path=self.drop_path)


class Block(nn.Module):
    """Equation 1: mix the places of each channel, add; mix the channels of each place, add: [B, N, dim] -> the same."""

    def __init__(self, dim: int, places: int, token_dim: int, channel_dim: int, dropout: float, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp_tokens = MLP(places, token_dim, dropout)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp_channels = MLP(dim, channel_dim, dropout)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        mixed = self.mlp_tokens(self.norm1(tokens).transpose(1, 2))  # [B, dim, N]
        tokens = tokens + self.drop_path(mixed.transpose(1, 2))
        return tokens + self.drop_path(self.mlp_channels(self.norm2(tokens)))


class Mixer(nn.Module):
    Config = MixerConfig

    def __init__(self, config: MixerConfig):
        super().__init__()
        self.config = config
        self.stem = PatchStem(config.in_channels, config.dim, config.image_size, config.patch_size)
        rates = [config.drop_path * i / max(config.depth - 1, 1) for i in range(config.depth)]
        self.blocks = nn.Sequential(*[Block(config.dim, self.stem.side**2, config.token_dim, config.channel_dim,
                                            config.dropout, rate) for rate in rates])
        self.norm = nn.LayerNorm(config.dim, eps=NORM_EPS)
        self.head = nn.Linear(config.dim, config.num_classes)
        self.feature_channels = (config.dim,)
        self.feature_strides = (config.patch_size,)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):  # variance 1 / inputs
                nn.init.trunc_normal_(module.weight, std=math.sqrt(1 / module.weight[0].numel()))
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.head.weight, std=0.02)

    def tokens(self, images: Tensor) -> Tensor:
        """[B, C, S, S] -> normalised tokens [B, N, dim]."""
        return self.norm(self.blocks(self.stem(images)))

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, S, S] -> one map [B, dim, S / patch_size, S / patch_size]: the last tokens."""
        return [maps_of(self.tokens(images), self.stem.grid(images))]

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.tokens(images).mean(1))


VARIANTS = {
    "mixer_small_32": {"patch_size": 32, "dim": 512, "depth": 8, "token_dim": 256, "channel_dim": 2048},
    "mixer_small_16": {"patch_size": 16, "dim": 512, "depth": 8, "token_dim": 256, "channel_dim": 2048},
    "mixer_base_32": {"patch_size": 32, "dim": 768, "depth": 12, "token_dim": 384, "channel_dim": 3072},
    "mixer_base_16": {"patch_size": 16, "dim": 768, "depth": 12, "token_dim": 384, "channel_dim": 3072},
    "mixer_large_32": {"patch_size": 32, "dim": 1024, "depth": 24, "token_dim": 512, "channel_dim": 4096},
    "mixer_large_16": {"patch_size": 16, "dim": 1024, "depth": 24, "token_dim": 512, "channel_dim": 4096},
}

_TABLE_1 = "Tolstikhin et al. 2021, Table 1 (from memory)"
_TABLE_3 = "Tolstikhin et al. 2021, Table 3 (from memory)"
_NO_HEAD = "the table counts no head; without the 1000 classes it is {} million"
PUBLISHED = {
    "mixer_small_32": [{"what": "params", "value": "19e6", "source": _TABLE_1}],
    "mixer_small_16": [{"what": "params", "value": "18e6", "source": _TABLE_1,
                        "reason": _NO_HEAD.format("18.0")}],
    "mixer_base_32": [{"what": "params", "value": "60e6", "source": _TABLE_1}],
    "mixer_base_16": [{"what": "params", "value": "59e6", "source": _TABLE_1,
                       "reason": _NO_HEAD.format("59.1")},
                      {"what": "top1", "value": "76.44", "data": "ImageNet-1k", "source": _TABLE_3}],
    "mixer_large_32": [{"what": "params", "value": "206e6", "source": _TABLE_1,
                        "reason": _NO_HEAD.format("205.9")}],
    "mixer_large_16": [{"what": "params", "value": "207e6", "source": _TABLE_1,
                        "reason": _NO_HEAD.format("207.2")},
                       {"what": "top1", "value": "71.76", "data": "ImageNet-1k", "source": _TABLE_3}],
}

_LICENCE = "Apache-2.0 (Google, by way of timm); trained on ImageNet-21k, then 1k"
WEIGHTS = {
    "mixer_base_16": {"timm": {"file": "mixer_b16_224.goog_in21k_ft_in1k", "licence": _LICENCE}},
    "mixer_large_16": {"timm": {"file": "mixer_l16_224.goog_in21k_ft_in1k", "licence": _LICENCE}},
}

PEERS = {
    "mixer_small_32": ("timm", "mixer_s32_224"),
    "mixer_small_16": ("timm", "mixer_s16_224"),
    "mixer_base_32": ("timm", "mixer_b32_224"),
    "mixer_base_16": ("timm", "mixer_b16_224"),
    "mixer_large_32": ("timm", "mixer_l32_224"),
    "mixer_large_16": ("timm", "mixer_l16_224"),
}

models.add(Mixer, VARIANTS, WEIGHTS, family="mixer", task="classification", published=PUBLISHED, peers=PEERS,
           origins={"timm": dict},
           paper="Tolstikhin et al.: MLP-Mixer: An all-MLP Architecture for Vision, NeurIPS 2021, arXiv:2105.01601",
           preprocessing={"size": (224, 224), "resize": "crop", "crop_fraction": 0.875, "interpolation": "bicubic",
                          "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)})
