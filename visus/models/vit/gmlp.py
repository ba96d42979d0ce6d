"""gMLP: an MLP over channels in whose middle one half of the units gates the other, after mixing the places.

Paper: Liu, Dai, So, Le, Pay Attention to MLPs, NeurIPS 2021, arXiv:2105.08050. The gates' weights hold one number for
each pair of places, so a model takes images of one size, and weights of another size do not fit. Parameters carry
timm's names.
forward: images [B, C, S, S], normalised -> logits [B, num_classes].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from visus import models
from visus.core.validate import positive, probability, require
from visus.layers.drop_path import DropPath
from visus.layers.patch_stem import PatchStem, check_patches, maps_of

NORM_EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class GMLPConfig:
    """image_size, patch_size: sides in pixels. dim: width of a token. hidden_dim: units in the middle of a block, half
    of which are the gate. drop_path: rate at the last block; earlier blocks have linearly less."""

    image_size: int = 224
    patch_size: int = 16
    dim: int = 256
    depth: int = 30
    hidden_dim: int = 1536
    drop_path: float = 0.0
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        check_patches(self.image_size, self.patch_size)
        positive(dim=self.dim, depth=self.depth, hidden_dim=self.hidden_dim, in_channels=self.in_channels,
                 num_classes=self.num_classes)
        require(self.hidden_dim % 2 == 0, "hidden_dim", self.hidden_dim, "be even")
        probability(drop_path=self.drop_path)


class SpatialGate(nn.Module):
    """Section 2.1: one half of the units is multiplied by the other, which is normalised and then mixed over places:
    [B, N, hidden_dim] -> [B, N, hidden_dim / 2]. Near 1 at the start."""

    def __init__(self, hidden_dim: int, places: int):
        super().__init__()
        self.norm = nn.LayerNorm(hidden_dim // 2)
        self.proj = nn.Linear(places, places)

    def forward(self, units: Tensor) -> Tensor:
        kept, gate = units.chunk(2, dim=-1)
        gate = self.proj(self.norm(gate).transpose(1, 2))  # [B, hidden_dim / 2, N]
        return kept * gate.transpose(1, 2)


class GatedMLP(nn.Module):
    """[B, N, dim] -> the same shape."""

    def __init__(self, dim: int, hidden_dim: int, places: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.gate = SpatialGate(hidden_dim, places)
        self.fc2 = nn.Linear(hidden_dim // 2, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(self.gate(self.act(self.fc1(tokens))))


class Block(nn.Module):
    """Equation 1 with its residual: [B, N, dim] -> the same shape."""

    def __init__(self, dim: int, hidden_dim: int, places: int, drop_path: float):
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp_channels = GatedMLP(dim, hidden_dim, places)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.drop_path(self.mlp_channels(self.norm(tokens)))


class GMLP(nn.Module):
    Config = GMLPConfig

    def __init__(self, config: GMLPConfig):
        super().__init__()
        self.config = config
        self.stem = PatchStem(config.in_channels, config.dim, config.image_size, config.patch_size)
        rates = [config.drop_path * i / max(config.depth - 1, 1) for i in range(config.depth)]
        self.blocks = nn.Sequential(*[Block(config.dim, config.hidden_dim, self.stem.side**2, rate) for rate in rates])
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
        for block in self.blocks:  # a gate of 1, section 2.1
            nn.init.normal_(block.mlp_channels.gate.proj.weight, std=1e-6)
            nn.init.ones_(block.mlp_channels.gate.proj.bias)
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
    "gmlp_tiny_16": {"dim": 128, "hidden_dim": 768},
    "gmlp_small_16": {"dim": 256, "hidden_dim": 1536},
    "gmlp_base_16": {"dim": 512, "hidden_dim": 3072},
}

_TABLE_1 = "Liu et al. 2021, Table 1 (from memory)"
_TABLE_2 = "Liu et al. 2021, Table 2 (from memory; there named FLOPs)"
_CLOSE = "{} by the paper's equations, as in timm; where the paper's figure has the rest from is not known"
PUBLISHED = {
    "gmlp_tiny_16": [{"what": "params", "value": "5.9e6", "source": _TABLE_1},
                     {"what": "macs", "value": "1.4e9", "source": _TABLE_2,
                      "reason": _CLOSE.format("1.33e9")},
                     {"what": "top1", "value": "72.3", "data": "ImageNet-1k", "source": _TABLE_2}],
    "gmlp_small_16": [{"what": "params", "value": "19.5e6", "source": _TABLE_1,
                       "reason": _CLOSE.format("19.42e6")},
                      {"what": "macs", "value": "4.5e9", "source": _TABLE_2,
                       "reason": _CLOSE.format("4.39e9")},
                      {"what": "top1", "value": "79.6", "data": "ImageNet-1k", "source": _TABLE_2}],
    "gmlp_base_16": [{"what": "params", "value": "73.4e6", "source": _TABLE_1,
                      "reason": _CLOSE.format("73.08e6")},
                     {"what": "macs", "value": "15.8e9", "source": _TABLE_2,
                      "reason": _CLOSE.format("15.72e9")},
                     {"what": "top1", "value": "81.6", "data": "ImageNet-1k", "source": _TABLE_2}],
}

WEIGHTS = {"gmlp_small_16": {"timm": {"file": "gmlp_s16_224.ra3_in1k",
                                      "licence": "Apache-2.0 (timm); trained on ImageNet-1k"}}}

PEERS = {
    "gmlp_tiny_16": ("timm", "gmlp_ti16_224"),
    "gmlp_small_16": ("timm", "gmlp_s16_224"),
    "gmlp_base_16": ("timm", "gmlp_b16_224"),
}

models.add(GMLP, VARIANTS, WEIGHTS, family="gmlp", task="classification", published=PUBLISHED, peers=PEERS,
           origins={"timm": dict}, paper="Liu, Dai, So, Le: Pay Attention to MLPs, NeurIPS 2021, arXiv:2105.08050",
           preprocessing={"size": (224, 224), "resize": "crop", "crop_fraction": 0.875, "interpolation": "bicubic",
                          "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)})
