"""DINOv2: a ViT taught without labels, whose frozen tokens serve many tasks.

Paper: Oquab et al., DINOv2: Learning Robust Visual Features without Supervision, TMLR 2024, arXiv:2304.07193; with
registers: Darcet et al., Vision Transformers Need Registers, ICLR 2024, arXiv:2309.16588. The network is a ViT
(Dosovitskiy et al., ICLR 2021) with LayerScale (Touvron et al., ICCV 2021, arXiv:2103.17239), in its largest size with
SwiGLU (Shazeer, GLU Variants Improve Transformer, 2020, arXiv:2002.05202).
Departures: positions of another grid are resampled to exactly that grid, as timm and transformers do; the authors' code
asks for a grid 0.1 larger and cuts. With registers the class token has no position of its own (it is summed into the
token, as in timm). Parameters carry timm's names.
forward: images [B, C, H, W], normalised, H and W multiples of patch_size -> logits [B, num_classes].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visus import models
from visus.core.rename import join_parts, rename
from visus.core.validate import boolean, natural, one_of, positive, probability, require
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


@dataclass(frozen=True, kw_only=True)
class DINOv2Config:
    """image_size, patch_size: sides in pixels; other images get their positions interpolated. dim: width of a token.
    gated: SwiGLU in place of the MLP, of two thirds of its hidden width. registers: tokens beside the patches that
    stand for nothing. layer_scale: first value of the branches' scales. pool: what the head reads, the "class" token
    or it and the mean of the patches ("class_mean"). antialias: of positions for a smaller grid, which timm has in all
    sizes, transformers and the authors with registers only. dropout: after attention, MLP and positions. drop_path:
    rate at every block."""

    image_size: int = 518
    patch_size: int = 14
    dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    gated: bool = False
    registers: int = 0
    layer_scale: float = 1e-5
    pool: str = "class"
    antialias: bool = True
    dropout: float = 0.0
    drop_path: float = 0.0
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        require_tokens(self.image_size, self.patch_size, self.dim, self.num_heads, self.mlp_ratio)
        positive(depth=self.depth, in_channels=self.in_channels, num_classes=self.num_classes)
        natural(registers=self.registers)
        boolean(gated=self.gated, antialias=self.antialias)
        one_of(("class", "class_mean"), pool=self.pool)
        probability(dropout=self.dropout, drop_path=self.drop_path)
        require(isinstance(self.layer_scale, int | float) and self.layer_scale > 0, "layer_scale", self.layer_scale,
                "be above 0")


class SwiGLU(nn.Module):
    """One linear layer for gate and values, SiLU of the gate times the values, linear: [..., dim] -> the same."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float):
        super().__init__()
        self.fc1 = nn.Linear(dim, 2 * hidden_dim)
        self.drop1 = nn.Dropout(dropout)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop2 = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        gate, values = self.fc1(tokens).chunk(2, dim=-1)
        return self.drop2(self.fc2(self.drop1(F.silu(gate) * values)))


def gated_width(hidden_dim: int) -> int:
    """Two thirds of an MLP's hidden width, upwards to a multiple of 8: as many parameters as the MLP has."""
    return (int(hidden_dim * 2 / 3) + 7) // 8 * 8


class DINOv2(nn.Module):
    Config = DINOv2Config

    def __init__(self, config: DINOv2Config):
        super().__init__()
        self.config = config
        dim, registers = config.dim, config.registers
        self.num_prefix_tokens = 1 + registers
        self.patch_embed = PatchStem(config.in_channels, dim, config.image_size, config.patch_size, any_size=True)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.reg_token = nn.Parameter(torch.empty(1, registers, dim)) if registers else None
        self.num_positioned = 0 if registers else 1  # prefix tokens that have a position
        self.pos_embed = nn.Parameter(torch.empty(1, self.num_positioned + self.patch_embed.side**2, dim))
        self.pos_drop = nn.Dropout(config.dropout)
        hidden = int(dim * config.mlp_ratio)
        self.blocks = TokenBlocks(*[
            PreNormBlock(dim, config.num_heads, hidden, config.dropout, config.drop_path, config.layer_scale,
                         mlp=SwiGLU(dim, gated_width(hidden), config.dropout) if config.gated else None)
            for _ in range(config.depth)])
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.head = nn.Linear(dim * (1 if config.pool == "class" else 2), config.num_classes)
        self.feature_channels = (dim,)
        self.feature_strides = (config.patch_size,)
        initialise_tokens(self)

    def _embedded(self, images: Tensor, masked: Tensor | None, mask_token: Tensor | None) -> Tensor:
        """[B, C, H, W] -> tokens before the first block [B, num_prefix_tokens + N, dim]."""
        grid, batch = self.patch_embed.grid(images), images.shape[0]
        tokens = self.patch_embed(images)  # [B, N, dim]
        if masked is not None and mask_token is not None:
            tokens = torch.where(masked.unsqueeze(-1), mask_token.to(tokens.dtype), tokens)
        positions = sized_positions(self.pos_embed, grid, self.num_positioned, self.config.antialias)
        classed = self.cls_token.expand(batch, -1, -1)
        if self.reg_token is None:
            return self.pos_drop(torch.cat([classed, tokens], dim=1) + positions)
        return self.pos_drop(torch.cat([classed, self.reg_token.expand(batch, -1, -1), tokens + positions], dim=1))

    def tokens(self, images: Tensor, masked: Tensor | None = None, mask_token: Tensor | None = None) -> Tensor:
        """[B, C, H, W] -> normalised tokens [B, num_prefix_tokens + N, dim]: class token, registers, patches.
        masked, mask_token: where given together, patches that the student does not see, [B, N] of bool, and the vector
        [dim] in their place (iBOT's objective, section 4 of the paper). Raises UserError unless H and W are multiples
        of patch_size."""
        return self.norm(self.blocks(self._embedded(images, masked, mask_token)))

    def last_tokens(self, images: Tensor, count: int) -> list[Tensor]:
        """As `tokens`, after each of the last `count` blocks: what linear and dense heads read (section 7)."""
        return [self.norm(tokens) for tokens in self.blocks.last(self._embedded(images, None, None), count)]

    def embed(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> the class token [B, dim], for the image-level objective, retrieval and neighbours."""
        return self.tokens(images)[:, 0]

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> one map [B, dim, H / patch_size, W / patch_size]: the patches' last tokens."""
        return [maps_of(self.tokens(images)[:, self.num_prefix_tokens:], self.patch_embed.grid(images))]

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.tokens(images)
        if self.config.pool == "class":
            return self.head(tokens[:, 0])
        return self.head(torch.cat([tokens[:, 0], tokens[:, self.num_prefix_tokens:].mean(1)], dim=1))  # [B, 2 dim]

    def adapt(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """The state with its positions resized to this model's grid, and with this model's head where it has none;
        and what was done in words."""
        state, notes = fit_positions(state, self.pos_embed, self.num_positioned, self.config.antialias)
        state, more = fresh_head(state, self)
        return state, notes + more


def _without_class_position(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With registers: the class token's position summed into the token. The mask token, which only the objective
    reads, is left out."""
    state = {name: tensor for name, tensor in state.items() if name != "mask_token"}
    if {"reg_token", "cls_token", "pos_embed"} <= state.keys():
        state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
        state["pos_embed"] = state["pos_embed"][:, 1:]
    return state


_FROM_ORIGINAL = ((r"^register_tokens$", "reg_token"), (r"\.mlp\.w12\.", ".mlp.fc1."), (r"\.mlp\.w3\.", ".mlp.fc2."))


def from_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' state dict (dinov2_vits14_pretrain.pth and its like) under our names."""
    return _without_class_position(rename(state, _FROM_ORIGINAL))


_FROM_TRANSFORMERS = (  # in order; a file has the names of before transformers 5, a model those of today
    (r"^dinov2(?:_with_registers)?\.", ""), (r"^classifier\.", "head."), (r"^layernorm\.", "norm."),
    (r"^embeddings\.(cls_token|mask_token)$", r"\1"), (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."), (r"^encoder\.layer\.", "blocks."),
    (r"\.attention\.(?:attention\.query|q_proj)\.", ".attn.q."),
    (r"\.attention\.(?:attention\.key|k_proj)\.", ".attn.k."),
    (r"\.attention\.(?:attention\.value|v_proj)\.", ".attn.v."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."), (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."), (r"\.mlp\.(?:weights_out|down_proj)\.", ".mlp.fc2."),
)


def from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A transformers state dict (Dinov2Model, Dinov2WithRegistersModel, or their image classifiers, whose head needs
    pool="class_mean") under our names: queries, keys and values are joined, and gates and values."""
    state = join_parts(rename(state, _FROM_TRANSFORMERS), ("q", "k", "v"), "qkv")
    return _without_class_position(join_parts(state, ("gate_proj", "up_proj"), "fc1"))


_SIZES = {
    "small": {"dim": 384, "depth": 12, "num_heads": 6},
    "base": {"dim": 768, "depth": 12, "num_heads": 12},
    "large": {"dim": 1024, "depth": 24, "num_heads": 16},
    "giant": {"dim": 1536, "depth": 40, "num_heads": 24, "gated": True},
}
VARIANTS = {f"dinov2_{size}_14{more}": {**numbers, **({"registers": 4} if more else {})}
            for more in ("", "_reg") for size, numbers in _SIZES.items()}

_README = "the authors' README, frozen, linear classifier at 224 pixels; LVD-142M"
_CUT = "the table drops the fraction; ours counts positions of 37 x 37 patches and a head of 1000 classes"
PUBLISHED = {
    f"dinov2_{size}_14{more}": [
        {"what": "params", "value": params, "source": "the authors' README", "reason": _CUT},
        {"what": "top1", "value": top1, "data": "ImageNet-1k", "source": _README}]
    for more, rows in (("", (("small", "21e6", "81.1"), ("base", "86e6", "84.5"), ("large", "300e6", "86.3"),
                             ("giant", "1100e6", "86.5"))),
                       ("_reg", (("small", "21e6", "80.9"), ("base", "86e6", "84.6"), ("large", "300e6", "86.7"),
                                 ("giant", "1100e6", "87.1"))))
    for size, params, top1 in rows}

_TIMM = {name: name.replace("dinov2", "vit", 1).removesuffix("_reg").replace("_14", "_patch14")
         + ("_reg4" if name.endswith("_reg") else "") + "_dinov2" for name in VARIANTS}
PEERS = {name: ("timm", theirs) for name, theirs in _TIMM.items() if "giant" not in name}  # two do not fit into memory

_LICENCE = "Apache-2.0 (Meta); trained without labels on LVD-142M"
_HUB = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vit{0}14/dinov2_vit{0}14{1}_pretrain.pth"
WEIGHTS = {
    name: {"timm": {"file": f"{peer}.lvd142m", "licence": _LICENCE},
           "transformers": {"file": f"facebook/dinov2-{'with-registers-' if name.endswith('_reg') else ''}"
                                    f"{name.split('_')[1]}", "licence": _LICENCE,
                            **({} if name.endswith("_reg") else {"config": {"antialias": False}})},
           "original": {"file": _HUB.format(name.split("_")[1][0], "_reg4" if name.endswith("_reg") else "")
                        .rsplit("/", 1)[1], "licence": _LICENCE,
                        "url": _HUB.format(name.split("_")[1][0], "_reg4" if name.endswith("_reg") else ""),
                        **({} if name.endswith("_reg") else {"config": {"antialias": False}})}}
    for name, peer in _TIMM.items()}

models.add(DINOv2, VARIANTS, WEIGHTS, family="dinov2", task="classification", published=PUBLISHED, peers=PEERS,
           origins={"timm": dict, "transformers": from_transformers, "original": from_original},
           paper="Oquab et al.: DINOv2: Learning Robust Visual Features without Supervision, TMLR 2024, "
                 "arXiv:2304.07193",
           preprocessing={"size": (518, 518), "resize": "crop", "crop_fraction": 1.0, "interpolation": "bicubic"},
           fingerprint_size=112, peer_options={"dynamic_img_size": True})
