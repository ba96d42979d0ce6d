"""DINO: a ViT that taught itself without labels.

Paper: Caron et al., Emerging Properties in Self-Supervised Vision Transformers, ICCV 2021, arXiv:2104.14294. The
network is a ViT (Dosovitskiy et al., ICLR 2021); what is the paper's own is how it is trained, and what it reads: class
tokens of one or more of the last blocks. Departures: positions of another grid are resampled to exactly that grid and
antialiased, as timm does; the authors' code asks for a grid 0.1 larger and does not. Parameters carry timm's names,
which are the authors'.
forward: images [B, C, H, W], normalised, H and W multiples of patch_size -> logits [B, num_classes].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from visus import models
from visus.core.validate import boolean, positive, probability, require
from visus.layers.fresh_head import fresh_head
from visus.layers.patch_stem import PatchStem, maps_of
from visus.layers.vit_blocks import (
    NORM_EPS,
    PreNormBlock,
    TokenBlocks,
    fit_positions,
    initialise_tokens,
    require_tokens,
    sized_positions,
)
from visus.layers.vit_names import from_transformers_vit


@dataclass(frozen=True, kw_only=True)
class DINOConfig:
    """image_size, patch_size: sides in pixels; other images get their positions interpolated. dim: width of a token.
    class_layers: of how many of the last blocks the head reads the class token (4 in the paper's linear protocol for
    ViT-S); mean: whether it reads the mean of the last patches too (as for ViT-B). drop_path: rate at the last block;
    earlier blocks have linearly less (0.1 for the student)."""

    image_size: int = 224
    patch_size: int = 16
    dim: int = 384
    depth: int = 12
    num_heads: int = 6
    mlp_ratio: float = 4.0
    class_layers: int = 1
    mean: bool = False
    drop_path: float = 0.0
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        require_tokens(self.image_size, self.patch_size, self.dim, self.num_heads, self.mlp_ratio)
        positive(depth=self.depth, class_layers=self.class_layers, in_channels=self.in_channels,
                 num_classes=self.num_classes)
        require(self.class_layers <= self.depth, "class_layers", self.class_layers, f"be at most depth={self.depth}")
        boolean(mean=self.mean)
        probability(drop_path=self.drop_path)


class DINO(nn.Module):
    Config = DINOConfig

    def __init__(self, config: DINOConfig):
        super().__init__()
        self.config = config
        dim = config.dim
        self.num_prefix_tokens = 1
        self.patch_embed = PatchStem(config.in_channels, dim, config.image_size, config.patch_size, any_size=True)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + self.patch_embed.side**2, dim))
        rates = [config.drop_path * i / max(config.depth - 1, 1) for i in range(config.depth)]
        self.blocks = TokenBlocks(*[PreNormBlock(dim, config.num_heads, int(dim * config.mlp_ratio), 0.0, rate)
                                    for rate in rates])
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.head = nn.Linear(dim * (config.class_layers + config.mean), config.num_classes)
        self.feature_channels = (dim,)
        self.feature_strides = (config.patch_size,)
        initialise_tokens(self)

    def last_tokens(self, images: Tensor, count: int) -> list[Tensor]:
        """[B, C, H, W] -> normalised tokens [B, 1 + N, dim], class token first, after each of the last `count` blocks.
        Raises UserError unless H and W are multiples of patch_size."""
        grid = self.patch_embed.grid(images)
        tokens = torch.cat([self.cls_token.expand(images.shape[0], -1, -1), self.patch_embed(images)], dim=1)
        tokens = tokens + sized_positions(self.pos_embed, grid, 1)
        return [self.norm(each) for each in self.blocks.last(tokens, count, grid)]

    def tokens(self, images: Tensor) -> Tensor:
        """The last of `last_tokens`."""
        return self.last_tokens(images, 1)[0]

    def embed(self, images: Tensor, last: int = 1) -> Tensor:
        """[B, C, H, W] -> class tokens of the last blocks [B, last * dim], the last block's at the end: with last=1
        what the objective's projection reads, and the paper's nearest neighbours."""
        return torch.cat([tokens[:, 0] for tokens in self.last_tokens(images, last)], dim=1)

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> one map [B, dim, H / patch_size, W / patch_size]: the patches' last tokens."""
        return [maps_of(self.tokens(images)[:, 1:], self.patch_embed.grid(images))]

    def forward(self, images: Tensor) -> Tensor:
        layers = self.last_tokens(images, self.config.class_layers)
        read = [tokens[:, 0] for tokens in layers] + ([layers[-1][:, 1:].mean(1)] if self.config.mean else [])
        return self.head(torch.cat(read, dim=1))  # [B, (class_layers + mean) * dim]

    def adapt(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """The state with its positions resized to this model's grid, and with this model's head where it has none;
        and what was done in words."""
        state, notes = fit_positions(state, self.pos_embed, 1)
        state, more = fresh_head(state, self)
        return state, notes + more


VARIANTS = {
    "dino_small_16": {"patch_size": 16, "dim": 384, "num_heads": 6},
    "dino_small_8": {"patch_size": 8, "dim": 384, "num_heads": 6},
    "dino_base_16": {"patch_size": 16, "dim": 768, "num_heads": 12},
    "dino_base_8": {"patch_size": 8, "dim": 768, "num_heads": 12},
}

_README = "the authors' README"
_CUT = "the table drops the fraction, and has no classifier: ours has one for 1000 classes"
PUBLISHED = {
    name: [{"what": "params", "value": params, "source": _README, "reason": _CUT},
           {"what": "top1", "value": top1, "data": "ImageNet-1k",
            "source": f"{_README}, frozen, linear classifier"}]
    for name, params, top1 in (("dino_small_16", "21e6", "77.0"), ("dino_small_8", "21e6", "79.7"),
                               ("dino_base_16", "85e6", "78.2"), ("dino_base_8", "85e6", "80.1"))}

PEERS = {name: ("timm", f"vit_{size}_patch{patch}_224")
         for name, (size, patch) in ((name, name.split("_")[1:]) for name in VARIANTS)}

_LICENCE = "Apache-2.0 (Meta); trained without labels on ImageNet-1k"
_URL = "https://dl.fbaipublicfiles.com/dino/{0}/{0}.pth"
_ORIGINAL = {"dino_small_16": "dino_deitsmall16_pretrain", "dino_small_8": "dino_deitsmall8_pretrain",
             "dino_base_16": "dino_vitbase16_pretrain", "dino_base_8": "dino_vitbase8_pretrain"}
WEIGHTS = {
    name: {"timm": {"file": f"{PEERS[name][1]}.dino", "licence": _LICENCE},
           "transformers": {"file": f"facebook/dino-vit{name.split('_')[1][0]}{name.split('_')[2]}",
                            "licence": _LICENCE},
           "original": {"file": f"{original}.pth", "licence": _LICENCE, "url": _URL.format(original)}}
    for name, original in _ORIGINAL.items()}

models.add(DINO, VARIANTS, WEIGHTS, family="dino", task="classification", published=PUBLISHED, peers=PEERS,
           origins={"timm": dict, "transformers": from_transformers_vit, "original": dict},
           paper="Caron et al.: Emerging Properties in Self-Supervised Vision Transformers, ICCV 2021, "
                 "arXiv:2104.14294",
           preprocessing={"size": (224, 224), "resize": "crop", "crop_fraction": 0.875, "interpolation": "bicubic"})
