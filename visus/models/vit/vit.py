"""Vision Transformer: an image is a row of patches, a class token gathers the answer.

Paper: Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021, arXiv:2010.11929; sizes Ti and S from
Touvron et al. (DeiT), ICML 2021, arXiv:2012.12877. The patches' mean in place of the class token is the paper's
appendix D.3, with fixed sine and cosine positions it is Beyer, Zhai, Kolesnikov, Better plain ViT baselines,
arXiv:2205.01580; registers are Darcet et al., Vision Transformers Need Registers, ICLR 2024, arXiv:2309.16588.
Departures: drop path (Huang et al., ECCV 2016) may be switched on, and the head is one linear layer, as the paper has
it when fine-tuning. Parameters carry timm's names.
forward: images [B, C, H, W], normalised, H and W multiples of patch_size -> logits [B, num_classes].
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from visus import models
from visus.core.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from visus.core.validate import natural, one_of, positive, probability, require
from visus.layers.offset_tables import fit_offset_tables
from visus.layers.patch_stem import PatchStem, maps_of
from visus.layers.vit_blocks import (
    NORM_EPS,
    PreNormBlock,
    RelativeAttention,
    RotaryAttention,
    SelfAttention,
    TokenBlocks,
    fit_positions,
    initialise_tokens,
    require_tokens,
    sized_positions,
)
from visus.ops.positions import resize_positions, sincos_positions

POSITIONS = ("learned", "learned_2d", "sincos", "relative", "rotary", "none")


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """image_size, patch_size: sides in pixels; other images get their positions interpolated. dim: width of a token.
    pool: what the head reads, the "class" token or the "mean" of the patches, then without a class token. positions:
    how patches are told apart: a "learned" vector each, a learned half for its row and its column ("learned_2d"),
    fixed "sincos", a learned "relative" bias of attention, "rotary" queries and keys, or "none". registers: tokens
    beside the patches that stand for nothing. dropout: after attention, MLP and positions. drop_path: rate at the last
    block; earlier blocks have linearly less."""

    image_size: int = 224
    patch_size: int = 16
    dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    pool: str = "class"
    positions: str = "learned"
    registers: int = 0
    dropout: float = 0.0
    drop_path: float = 0.0
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        require_tokens(self.image_size, self.patch_size, self.dim, self.num_heads, self.mlp_ratio)
        positive(depth=self.depth, in_channels=self.in_channels, num_classes=self.num_classes)
        natural(registers=self.registers)
        one_of(("class", "mean"), pool=self.pool)
        one_of(POSITIONS, positions=self.positions)
        if self.positions == "learned_2d":
            require(self.dim % 2 == 0, "dim", self.dim, "be even for positions=learned_2d")
        if self.positions == "sincos":
            require(self.dim % 4 == 0, "dim", self.dim, "be a multiple of 4 for positions=sincos")
        if self.positions == "rotary":
            require(self.dim // self.num_heads % 4 == 0, "dim", self.dim,
                    f"be a multiple of 4 num_heads={4 * self.num_heads} for positions=rotary")
        probability(dropout=self.dropout, drop_path=self.drop_path)


class ViT(nn.Module):
    Config = ViTConfig

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.config = config
        dim, classed = config.dim, config.pool == "class"
        self.num_prefix_tokens = int(classed) + config.registers
        self.patch_embed = PatchStem(config.in_channels, dim, config.image_size, config.patch_size, any_size=True)
        side = self.patch_embed.side
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim)) if classed else None
        self.reg_token = nn.Parameter(torch.empty(1, config.registers, dim)) if config.registers else None
        if config.positions == "learned":  # the class token has a position too, registers have none
            self.pos_embed = nn.Parameter(torch.empty(1, int(classed) + side**2, dim))
        elif config.positions == "learned_2d":
            self.pos_embed_y = nn.Parameter(torch.empty(1, side, 1, dim // 2))
            self.pos_embed_x = nn.Parameter(torch.empty(1, 1, side, dim // 2))
        self.pos_drop = nn.Dropout(config.dropout)
        rates = [config.drop_path * i / max(config.depth - 1, 1) for i in range(config.depth)]
        self.blocks = TokenBlocks(*[PreNormBlock(dim, config.num_heads, int(dim * config.mlp_ratio), config.dropout,
                                                 rate, attention=self._attention()) for rate in rates])
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.head = nn.Linear(dim, config.num_classes)
        self.feature_channels = (dim,)
        self.feature_strides = (config.patch_size,)
        initialise_tokens(self)

    def _attention(self) -> SelfAttention:
        config = self.config
        sizes = (config.dim, config.num_heads, config.dropout)
        if config.positions == "relative":
            return RelativeAttention(*sizes, self.patch_embed.side, self.num_prefix_tokens)
        if config.positions == "rotary":
            return RotaryAttention(*sizes, self.patch_embed.side, self.num_prefix_tokens)
        return SelfAttention(*sizes)

    def position_embedding(self, grid: tuple[int, int]) -> Tensor | None:
        """What is added to the patches of a grid, [1, h * w, dim], after a row for the class token where it has a
        position; None where positions lie in attention, or nowhere."""
        side = self.patch_embed.side
        if self.config.positions == "learned":
            return sized_positions(self.pos_embed, grid, self.pos_embed.shape[1] - side**2)
        if self.config.positions == "learned_2d":
            halves = self.pos_embed_y.expand(-1, -1, side, -1), self.pos_embed_x.expand(-1, side, -1, -1)
            return resize_positions(torch.cat(halves, dim=3).flatten(1, 2), (side, side), grid, 0)
        if self.config.positions == "sincos":
            return sincos_positions(grid, self.config.dim, self.patch_embed.proj.weight)
        return None

    def tokens(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> normalised tokens [B, num_prefix_tokens + N, dim]: class token, registers, patches, where
        there are such. Raises UserError unless H and W are multiples of patch_size."""
        grid = self.patch_embed.grid(images)
        tokens, positions, batch = self.patch_embed(images), self.position_embedding(grid), images.shape[0]
        classed = [] if self.cls_token is None else [self.cls_token.expand(batch, -1, -1)]
        if positions is not None and positions.shape[1] == tokens.shape[1]:
            tokens, positions = tokens + positions, None
        if classed:
            tokens = torch.cat([*classed, tokens], dim=1)  # [B, 1 + N, dim]
        if positions is not None:
            tokens = tokens + positions
        if self.reg_token is not None:
            split = len(classed)
            tokens = torch.cat([tokens[:, :split], self.reg_token.expand(batch, -1, -1), tokens[:, split:]], dim=1)
        return self.norm(self.blocks(self.pos_drop(tokens), grid))

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> one map [B, dim, H / patch_size, W / patch_size]: the patches' last tokens."""
        return [maps_of(self.tokens(images)[:, self.num_prefix_tokens:], self.patch_embed.grid(images))]

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.tokens(images)
        return self.head(tokens[:, 0] if self.config.pool == "class" else tokens[:, self.num_prefix_tokens:].mean(1))

    def adapt(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """The state with its learned positions resized to this model's grid, and what was done in words."""
        if self.config.positions == "learned":
            return fit_positions(state, self.pos_embed, self.pos_embed.shape[1] - self.patch_embed.side**2)
        if self.config.positions == "learned_2d":
            return fit_lines(state, self.patch_embed.side)
        return fit_offset_tables(state, self)


def fit_lines(state: Mapping[str, Tensor], side: int) -> tuple[dict[str, Tensor], list[str]]:
    """The state with its vectors of rows and columns (positions="learned_2d") resized to `side` of each, and what was
    done in words."""
    state, y, x = dict(state), state.get("pos_embed_y"), state.get("pos_embed_x")
    if y is None or x is None or y.ndim != 4 or x.ndim != 4 or (y.shape[1], x.shape[2]) == (side, side):
        return state, []
    state["pos_embed_y"] = resize_positions(y.flatten(1, 2), (y.shape[1], 1), (side, 1), 0).unsqueeze(2)
    state["pos_embed_x"] = resize_positions(x.flatten(1, 2), (1, x.shape[2]), (1, side), 0).unsqueeze(1)
    return state, [f"positions were resized from {y.shape[1]} rows and {x.shape[2]} columns to {side} of each"]


_TORCHVISION_NAMES = (  # torchvision's part -> ours, in order
    ("class_token", "cls_token"), ("conv_proj", "patch_embed.proj"), ("encoder.pos_embedding", "pos_embed"),
    ("encoder.layers.encoder_layer_", "blocks."), ("encoder.ln", "norm"), ("heads.head", "head"),
    (".ln_1.", ".norm1."), (".ln_2.", ".norm2."), (".self_attention.in_proj_", ".attn.qkv."),
    (".self_attention.out_proj.", ".attn.proj."), (".mlp.0.", ".mlp.fc1."), (".mlp.3.", ".mlp.fc2."),
    (".mlp.linear_1.", ".mlp.fc1."), (".mlp.linear_2.", ".mlp.fc2."),
)


def convert_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A torchvision state dict under our names; the values are the same."""
    out = {}
    for name, tensor in state.items():
        for theirs, ours in _TORCHVISION_NAMES:
            name = name.replace(theirs, ours)
        out[name] = tensor
    return out


_FROM_TRANSFORMERS = (  # in order; a file has the names of before transformers 5, a model those of today
    (r"^classifier\.", "head."), (r"^vit\.layernorm\.", "norm."), (r"^vit\.embeddings\.cls_token$", "cls_token"),
    (r"^vit\.embeddings\.position_embeddings$", "pos_embed"),
    (r"^vit\.embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^vit\.(?:encoder\.layer|layers)\.", "blocks."), (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."), (r"\.attention\.(?:attention\.query|q_proj)\.", ".attn.q."),
    (r"\.attention\.(?:attention\.key|k_proj)\.", ".attn.k."),
    (r"\.attention\.(?:attention\.value|v_proj)\.", ".attn.v."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."), (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
)


def from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A transformers state dict (ViTForImageClassification) under our names: queries, keys and values are joined, and
    a pooler, which no classifier reads, is left out. Its layer norms have an epsilon of 1e-12 by its config, ours the
    authors' 1e-6."""
    out = {}
    for name, tensor in state.items():
        for theirs, ours in _FROM_TRANSFORMERS:
            name = re.sub(theirs, ours, name)
        if not name.startswith("vit.pooler."):
            out[name] = tensor
    for name in [name for name in out if ".attn.q." in name]:
        thirds = [name.replace(".attn.q.", f".attn.{third}.") for third in "qkv"]
        if all(third in out for third in thirds):
            joined = torch.cat([out.pop(third) for third in thirds])  # three times [dim, ...] -> [3 dim, ...]
            out[name.replace(".attn.q.", ".attn.qkv.")] = joined
    return out


VARIANTS = {
    "vit_tiny_16": {"patch_size": 16, "dim": 192, "depth": 12, "num_heads": 3},
    "vit_small_16": {"patch_size": 16, "dim": 384, "depth": 12, "num_heads": 6},
    "vit_base_16": {"patch_size": 16, "dim": 768, "depth": 12, "num_heads": 12},
    "vit_base_32": {"patch_size": 32, "dim": 768, "depth": 12, "num_heads": 12},
    "vit_large_16": {"patch_size": 16, "dim": 1024, "depth": 24, "num_heads": 16},
    "vit_large_32": {"patch_size": 32, "dim": 1024, "depth": 24, "num_heads": 16},
    "vit_huge_14": {"patch_size": 14, "dim": 1280, "depth": 32, "num_heads": 16},
    "vit_small_16_mean": {"patch_size": 16, "dim": 384, "depth": 12, "num_heads": 6, "pool": "mean",
                          "positions": "sincos"},
}

_TABLE_1 = "Dosovitskiy et al. 2021, Table 1"
_DEIT = "Touvron et al. 2021 (DeiT), Table 1"
_TORCHVISION = "torchvision 0.28.0, weights IMAGENET1K_V1 (trained there from scratch)"
_SWAG = "torchvision 0.28.0, weights IMAGENET1K_SWAG_LINEAR_V1 (trained on IG-3.6B)"
_BEYER = "Beyer, Zhai, Kolesnikov 2022 (from memory)"
_NO_PATCH = "Table 1 gives one number for all patch sizes and does not say whether the head counts"
PUBLISHED = {
    "vit_tiny_16": [{"what": "params", "value": "5e6", "source": _DEIT,
                     "reason": "the table drops the fraction: 5.7 million with the 1000-class head"}],
    "vit_small_16": [{"what": "params", "value": "22e6", "source": _DEIT}],
    "vit_base_16": [{"what": "params", "value": "86e6", "source": _TABLE_1,
                     "reason": f"{_NO_PATCH}; without the 1000-class head it is 85.8 million"},
                    {"what": "params", "value": "86567656", "source": _TORCHVISION},
                    {"what": "macs", "value": "17.564e9", "source": _TORCHVISION},
                    {"what": "top1", "value": "81.072", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "vit_base_32": [{"what": "params", "value": "86e6", "source": _TABLE_1, "reason": _NO_PATCH},
                    {"what": "params", "value": "88224232", "source": _TORCHVISION},
                    {"what": "macs", "value": "4.409e9", "source": _TORCHVISION},
                    {"what": "top1", "value": "75.912", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "vit_large_16": [{"what": "params", "value": "307e6", "source": _TABLE_1, "reason": _NO_PATCH},
                     {"what": "params", "value": "304326632", "source": _TORCHVISION},
                     {"what": "macs", "value": "61.555e9", "source": _TORCHVISION},
                     {"what": "top1", "value": "79.662", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "vit_large_32": [{"what": "params", "value": "307e6", "source": _TABLE_1},
                     {"what": "params", "value": "306535400", "source": _TORCHVISION},
                     {"what": "macs", "value": "15.378e9", "source": _TORCHVISION},
                     {"what": "top1", "value": "76.972", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "vit_huge_14": [{"what": "params", "value": "632e6", "source": _TABLE_1},
                    {"what": "params", "value": "632045800", "source": _SWAG},
                    {"what": "macs", "value": "167.295e9", "source": _SWAG},
                    {"what": "top1", "value": "85.708", "data": "ImageNet-1k", "source": _SWAG}],
    "vit_small_16_mean": [{"what": "params", "value": "22e6", "source": _BEYER},
                          {"what": "top1", "value": "76.5", "data": "ImageNet-1k",
                           "source": f"{_BEYER}, 90 epochs"}],
}

_TIMM = "Apache-2.0 (Google, by way of timm); trained on ImageNet-21k"
_TV = {"licence": "BSD-3-Clause (torchvision); trained on ImageNet-1k",
       "preprocessing": {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "interpolation": "bilinear",
                         "crop_fraction": 0.875}}
_HUB = {"licence": "Apache-2.0 (Google's model card); trained on ImageNet-21k, then 1k",
        "preprocessing": {"resize": "squash", "interpolation": "bilinear"}}
WEIGHTS = {
    "vit_tiny_16": {"timm": {"file": "vit_tiny_patch16_224.augreg_in21k_ft_in1k", "licence": _TIMM}},
    "vit_small_16": {"timm": {"file": "vit_small_patch16_224.augreg_in21k_ft_in1k", "licence": _TIMM}},
    "vit_base_16": {"timm": {"file": "vit_base_patch16_224.augreg2_in21k_ft_in1k", "licence": _TIMM},
                    "torchvision": {"file": "vit_b_16-c867db91.pth", **_TV},
                    "transformers": {"file": "google/vit-base-patch16-224", **_HUB}},
    "vit_base_32": {"timm": {"file": "vit_base_patch32_224.augreg_in21k_ft_in1k", "licence": _TIMM},
                    "torchvision": {"file": "vit_b_32-d86f8d99.pth", **_TV}},
    "vit_large_16": {"timm": {"file": "vit_large_patch16_224.augreg_in21k_ft_in1k", "licence": _TIMM},
                     "torchvision": {"file": "vit_l_16-852ce7e3.pth", **_TV},
                     "transformers": {  # published as a torch file alone
                         "file": "google/vit-large-patch16-224", **_HUB,
                         "url": "https://huggingface.co/google/vit-large-patch16-224/resolve/main/pytorch_model.bin"}},
    "vit_large_32": {"torchvision": {"file": "vit_l_32-c7638314.pth", **_TV}},
    "vit_huge_14": {"torchvision": {"file": "vit_h_14_lc_swag-c1eb923e.pth",
                                    "licence": "CC-BY-NC-4.0 (Meta, SWAG, by way of torchvision); trained on "
                                               "Instagram, the classifier on ImageNet-1k",
                                    "preprocessing": {"mean": IMAGENET_MEAN, "std": IMAGENET_STD,
                                                      "crop_fraction": 1.0}}},
}

PEERS = {
    "vit_tiny_16": ("timm", "vit_tiny_patch16_224"),
    "vit_small_16": ("timm", "vit_small_patch16_224"),
    "vit_base_16": ("timm", "vit_base_patch16_224"),
    "vit_base_32": ("timm", "vit_base_patch32_224"),
    "vit_large_16": ("timm", "vit_large_patch16_224"),
    "vit_large_32": ("timm", "vit_large_patch32_224"),
    "vit_huge_14": ("timm", "vit_huge_patch14_224"),
}

models.add(ViT, VARIANTS, WEIGHTS, family="vit", task="classification", published=PUBLISHED, peers=PEERS,
           origins={"timm": dict, "torchvision": convert_torchvision, "transformers": from_transformers},
           paper="Dosovitskiy et al.: An Image is Worth 16x16 Words, ICLR 2021, arXiv:2010.11929",
           # timm's weights
           preprocessing={"size": (224, 224), "resize": "crop", "crop_fraction": 0.9,
                          "interpolation": "bicubic",
                          "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)})
