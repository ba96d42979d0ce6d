"""ResMLP: patches mixed by one linear layer over places and an MLP over channels, with no normalisation at all.

Paper: Touvron, Bojanowski, Caron, Cord, El-Nouby, Grave, Izacard, Joulin, Synnaeve, Verbeek, Jegou, ResMLP:
Feedforward networks for image classification with data-efficient training, 2021, arXiv:2105.03404. In place of a norm
each channel has a scale and a shift. The layers over places hold one weight for each pair of places, so a model takes
images of one size, and weights of another size do not fit. Parameters carry timm's names.
forward: images [B, C, S, S], normalised -> logits [B, num_classes].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from visus import models
from visus.core.validate import positive, probability, require
from visus.layers.drop_path import DropPath
from visus.layers.mlp import MLP
from visus.layers.patch_stem import PatchStem, check_patches, maps_of


@dataclass(frozen=True, kw_only=True)
class ResMLPConfig:
    """image_size, patch_size: sides in pixels. dim: width of a token. mlp_ratio: hidden units of the MLP over channels,
    by dim. layer_scale: what each branch is multiplied by at the start. drop_path: rate in every block."""

    image_size: int = 224
    patch_size: int = 16
    dim: int = 384
    depth: int = 12
    mlp_ratio: int = 4
    layer_scale: float = 1e-4
    drop_path: float = 0.0
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        check_patches(self.image_size, self.patch_size)
        positive(dim=self.dim, depth=self.depth, mlp_ratio=self.mlp_ratio, in_channels=self.in_channels,
                 num_classes=self.num_classes)
        require(isinstance(self.layer_scale, int | float) and self.layer_scale > 0, "layer_scale", self.layer_scale,
                "be above 0")
        probability(drop_path=self.drop_path)


class Affine(nn.Module):
    """Equation 1: alpha * token + beta, by channel: [B, N, dim] -> the same shape."""

    def __init__(self, dim: int):
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, 1, dim))
        self.beta = nn.Parameter(torch.zeros(1, 1, dim))

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.addcmul(self.beta, self.alpha, tokens)


class Block(nn.Module):
    """Equations 2 and 3: mix the places linearly, scale, add; MLP over channels, scale, add: [B, N, dim] -> the same
    shape."""

    def __init__(self, dim: int, places: int, hidden_dim: int, layer_scale: float, drop_path: float):
        super().__init__()
        self.norm1 = Affine(dim)
        self.linear_tokens = nn.Linear(places, places)
        self.norm2 = Affine(dim)
        self.mlp_channels = MLP(dim, hidden_dim)
        self.ls1 = nn.Parameter(torch.full((dim,), layer_scale))
        self.ls2 = nn.Parameter(torch.full((dim,), layer_scale))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        mixed = self.linear_tokens(self.norm1(tokens).transpose(1, 2))  # [B, dim, N]
        tokens = torch.addcmul(tokens, self.drop_path(mixed.transpose(1, 2)), self.ls1)
        return torch.addcmul(tokens, self.drop_path(self.mlp_channels(self.norm2(tokens))), self.ls2)


class ResMLP(nn.Module):
    Config = ResMLPConfig

    def __init__(self, config: ResMLPConfig):
        super().__init__()
        self.config = config
        self.stem = PatchStem(config.in_channels, config.dim, config.image_size, config.patch_size)
        self.blocks = nn.Sequential(*[Block(config.dim, self.stem.side**2, config.mlp_ratio * config.dim,
                                            config.layer_scale, config.drop_path) for _ in range(config.depth)])
        self.norm = Affine(config.dim)
        self.head = nn.Linear(config.dim, config.num_classes)
        self.feature_channels = (config.dim,)
        self.feature_strides = (config.patch_size,)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def tokens(self, images: Tensor) -> Tensor:
        """[B, C, S, S] -> scaled tokens [B, N, dim]."""
        return self.norm(self.blocks(self.stem(images)))

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, S, S] -> one map [B, dim, S / patch_size, S / patch_size]: the last tokens."""
        return [maps_of(self.tokens(images), self.stem.grid(images))]

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.tokens(images).mean(1))


VARIANTS = {
    "resmlp_12": {"patch_size": 16, "dim": 384, "depth": 12, "layer_scale": 1e-4},
    "resmlp_24": {"patch_size": 16, "dim": 384, "depth": 24, "layer_scale": 1e-5},
    "resmlp_36": {"patch_size": 16, "dim": 384, "depth": 36, "layer_scale": 1e-6},
    "resmlp_big_24": {"patch_size": 8, "dim": 768, "depth": 24, "layer_scale": 1e-6},
}

_TABLE = "Touvron et al. 2021 (ResMLP), Table 1 (from memory; there named FLOPs)"
PUBLISHED = {
    "resmlp_12": [{"what": "params", "value": "15.4e6", "source": _TABLE},
                  {"what": "macs", "value": "3.0e9", "source": _TABLE},
                  {"what": "top1", "value": "76.6", "data": "ImageNet-1k", "source": _TABLE}],
    "resmlp_24": [{"what": "params", "value": "30.0e6", "source": _TABLE},
                  {"what": "macs", "value": "6.0e9", "source": _TABLE},
                  {"what": "top1", "value": "79.4", "data": "ImageNet-1k", "source": _TABLE}],
    "resmlp_36": [{"what": "params", "value": "44.7e6", "source": _TABLE},
                  {"what": "macs", "value": "8.9e9", "source": _TABLE},
                  {"what": "top1", "value": "79.7", "data": "ImageNet-1k", "source": _TABLE}],
    "resmlp_big_24": [{"what": "params", "value": "129.1e6", "source": _TABLE},
                      {"what": "macs", "value": "100.2e9", "source": _TABLE}],
}

_LICENCE = "Apache-2.0 (Meta, by way of timm); trained on ImageNet-1k"
WEIGHTS = {name: {"timm": {"file": f"{name}_224.fb_in1k", "licence": _LICENCE}} for name in VARIANTS}

models.add(ResMLP, VARIANTS, WEIGHTS, family="resmlp", task="classification", published=PUBLISHED,
           peers={name: ("timm", f"{name}_224") for name in VARIANTS}, origins={"timm": dict},
           paper="Touvron et al.: ResMLP: Feedforward networks for image classification with data-efficient training, "
                 "2021, arXiv:2105.03404",
           preprocessing={"size": (224, 224), "resize": "crop", "crop_fraction": 0.875, "interpolation": "bicubic"})
