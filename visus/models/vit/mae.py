"""MAE's encoder: a ViT that sees a quarter of the patches while it is trained, and all of them afterwards.

Paper: He et al., Masked Autoencoders Are Scalable Vision Learners, CVPR 2022, arXiv:2111.06377. The network is a ViT
(Dosovitskiy et al., ICLR 2021) with fixed sine and cosine positions; the decoder, which is thrown away after
pre-training, belongs to the objective. Departures: the head's norm is the encoder's last norm and starts from its
weights, where the authors' fine-tuning starts a new one. Parameters carry timm's names.
forward: images [B, C, H, W], normalised, H and W multiples of patch_size -> logits [B, num_classes].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from visus import models
from visus.core.validate import boolean, one_of, positive, probability, require
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
from visus.ops.positions import sincos_positions


@dataclass(frozen=True, kw_only=True)
class MAEConfig:
    """image_size, patch_size: sides in pixels; other images get their positions interpolated. dim: width of a token, a
    multiple of 4. pool: what the head reads, the "mean" of the patches, normalised thereafter, or the normalised
    "class" token. learn_positions: whether positions, sines and cosines at first, are trained, as the authors'
    fine-tuning does and their pre-training does not. antialias: of positions for a smaller grid, which timm has and
    transformers has not. drop_path: rate at the last block; earlier blocks have linearly less."""

    image_size: int = 224
    patch_size: int = 16
    dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    pool: str = "mean"
    learn_positions: bool = False
    antialias: bool = True
    drop_path: float = 0.0
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        require_tokens(self.image_size, self.patch_size, self.dim, self.num_heads, self.mlp_ratio)
        positive(depth=self.depth, in_channels=self.in_channels, num_classes=self.num_classes)
        require(self.dim % 4 == 0, "dim", self.dim, "be a multiple of 4")
        one_of(("mean", "class"), pool=self.pool)
        boolean(learn_positions=self.learn_positions, antialias=self.antialias)
        probability(drop_path=self.drop_path)


class MAE(nn.Module):
    Config = MAEConfig

    def __init__(self, config: MAEConfig):
        super().__init__()
        self.config = config
        dim = config.dim
        self.num_prefix_tokens = 1
        self.patch_embed = PatchStem(config.in_channels, dim, config.image_size, config.patch_size, any_size=True)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        side = self.patch_embed.side
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + side**2, dim), requires_grad=config.learn_positions)
        rates = [config.drop_path * i / max(config.depth - 1, 1) for i in range(config.depth)]
        self.blocks = TokenBlocks(*[PreNormBlock(dim, config.num_heads, int(dim * config.mlp_ratio), 0.0, rate)
                                    for rate in rates])
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.head = nn.Linear(dim, config.num_classes)
        self.feature_channels = (dim,)
        self.feature_strides = (config.patch_size,)
        initialise_tokens(self)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """The authors': uniform linear layers of unit gain, the patches' among them, and a place of zeros for the
        class token."""
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.flatten(1))
        side = self.patch_embed.side
        self.pos_embed[:, :1] = 0
        self.pos_embed[:, 1:] = sincos_positions((side, side), self.config.dim, self.pos_embed)

    def _encoded(self, images: Tensor, keep: Tensor | None) -> Tensor:
        """[B, C, H, W] -> tokens after the last block, before the norm [B, 1 + K, dim]; K = N where keep is None."""
        grid = self.patch_embed.grid(images)
        positions = sized_positions(self.pos_embed, grid, 1, self.config.antialias)
        tokens = self.patch_embed(images) + positions[:, 1:]  # [B, N, dim]
        if keep is not None:
            tokens = tokens.gather(1, keep.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))  # [B, K, dim]
        classed = (self.cls_token + positions[:, :1]).expand(images.shape[0], -1, -1)
        return self.blocks(torch.cat([classed, tokens], dim=1))

    def tokens(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> normalised tokens of all patches [B, 1 + N, dim], class token first. Raises UserError unless
        H and W are multiples of patch_size."""
        return self.norm(self._encoded(images, None))

    def encode(self, images: Tensor, keep: Tensor) -> Tensor:
        """[B, C, H, W] and the patches that are seen of each image, numbers [B, K] of int64 that count them row by row
        -> normalised tokens [B, 1 + K, dim], class token first, then patches in keep's order: what the decoder reads.
        `draw_keep` draws them."""
        return self.norm(self._encoded(images, keep))

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> one map [B, dim, H / patch_size, W / patch_size]: the patches' last tokens."""
        return [maps_of(self.tokens(images)[:, 1:], self.patch_embed.grid(images))]

    def forward(self, images: Tensor) -> Tensor:
        tokens = self._encoded(images, None)
        return self.head(self.norm(tokens[:, 1:].mean(1) if self.config.pool == "mean" else tokens[:, 0]))

    def adapt(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """The state with its positions resized to this model's grid, and with this model's head where it has none;
        and what was done in words."""
        state, notes = fit_positions(state, self.pos_embed, 1, self.config.antialias)
        state, more = fresh_head(state, self)
        return state, notes + more


def draw_keep(batch: int, num_patches: int, mask_ratio: float = 0.75,
              generator: torch.Generator | None = None) -> Tensor:
    """Which patches of each image are seen: [batch, K] of int64, without repetition, K = num_patches (1 - mask_ratio)
    rounded down. Each image has its own draw (section 3: random sampling without replacement)."""
    require(isinstance(mask_ratio, int | float) and 0 <= mask_ratio < 1, "mask_ratio", mask_ratio, "lie in [0, 1)")
    noise = torch.rand(batch, num_patches, generator=generator)
    return noise.argsort(dim=1)[:, :int(num_patches * (1 - mask_ratio))]


def _encoder_alone(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the decoder of a pre-training file; a fine-tuned file's fc_norm is the norm."""
    left_out = ("decoder", "mask_token")
    return {("norm." + name.removeprefix("fc_norm.") if name.startswith("fc_norm.") else name): tensor
            for name, tensor in state.items() if not name.startswith(left_out)}


def from_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A timm state dict under our names; with global_pool="avg" its norm is called fc_norm."""
    return _encoder_alone(state)


def from_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' state dict under our names: mae_pretrain_vit_base.pth and its like, their _full files, whose decoder
    is left out, and fine-tuned ones."""
    return _encoder_alone(state)


def from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A transformers state dict (ViTMAEModel, or ViTMAEForPreTraining, whose decoder is left out) under our names. Its
    layer norms have an epsilon of 1e-12 by its config, ours the authors' 1e-6."""
    return from_transformers_vit(_encoder_alone(state))


VARIANTS = {
    "mae_base_16": {"patch_size": 16, "dim": 768, "depth": 12, "num_heads": 12},
    "mae_large_16": {"patch_size": 16, "dim": 1024, "depth": 24, "num_heads": 16},
    "mae_huge_14": {"patch_size": 14, "dim": 1280, "depth": 32, "num_heads": 16},
}

PUBLISHED = {name: [{"what": "top1", "value": top1, "data": "ImageNet-1k",
                     "source": "the authors' README, fine-tuned at 224 pixels"}]
             for name, top1 in (("mae_base_16", "83.6"), ("mae_large_16", "85.9"), ("mae_huge_14", "86.9"))}

_TIMM = {"mae_base_16": "vit_base_patch16_224", "mae_large_16": "vit_large_patch16_224",
         "mae_huge_14": "vit_huge_patch14_224"}
PEERS = {name: ("timm", theirs) for name, theirs in _TIMM.items() if "huge" not in name}  # two do not fit into memory

_LICENCE = "CC-BY-NC-4.0 (Meta); trained without labels on ImageNet-1k"
_URL = "https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_{}.pth"
WEIGHTS = {
    name: {"timm": {"file": f"{peer}.mae", "licence": _LICENCE},
           "transformers": {"file": f"facebook/vit-mae-{name.split('_')[1]}", "licence": _LICENCE,
                            "config": {"antialias": False}},
           "original": {"file": f"mae_pretrain_vit_{name.split('_')[1]}.pth", "licence": _LICENCE,
                        "url": _URL.format(name.split("_")[1])}}
    for name, peer in _TIMM.items()}

models.add(MAE, VARIANTS, WEIGHTS, family="mae", task="classification", published=PUBLISHED, peers=PEERS,
           origins={"timm": from_timm, "transformers": from_transformers, "original": from_original},
           paper="He et al.: Masked Autoencoders Are Scalable Vision Learners, CVPR 2022, arXiv:2111.06377",
           preprocessing={"size": (224, 224), "resize": "crop", "crop_fraction": 0.875, "interpolation": "bicubic"},
           peer_options={"global_pool": "avg"})
