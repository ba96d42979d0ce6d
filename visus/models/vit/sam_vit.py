"""SAM's image encoder: a plain ViT that attends within windows, and everywhere in four of its blocks.

Paper: Kirillov et al., Segment Anything, ICCV 2023, arXiv:2304.02643, appendix A; the backbone is that of Li et al.,
Exploring Plain Vision Transformer Backbones for Object Detection (ViTDet), ECCV 2022, arXiv:2203.16527, with relative
positions decomposed into rows and columns (Li et al., MViTv2, CVPR 2022, arXiv:2112.01526, equation 4). Maps that
windows do not fill are padded with zeros after the norm, as there. Departures: a linear classifier on the mean of the
neck's map, as timm has it; tables of positions are resampled for images of other sizes. Parameters carry timm's names.
forward: images [B, C, H, W], normalised, H and W multiples of patch_size -> logits [B, num_classes].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visus import models
from visus.core.rename import rename
from visus.core.validate import natural, positive, probability, require
from visus.layers.channel_norm import ChannelNorm
from visus.layers.fresh_head import fresh_head
from visus.layers.patch_stem import PatchStem, maps_of
from visus.layers.vit_blocks import (
    NORM_EPS,
    PreNormBlock,
    SelfAttention,
    TokenBlocks,
    initialise_tokens,
    require_tokens,
)
from visus.ops.positions import resize_positions
from visus.ops.windows import from_windows, to_windows

UNSHIFTED = (0, 0)


@dataclass(frozen=True, kw_only=True)
class SAMViTConfig:
    """image_size, patch_size: sides in pixels; other images get their positions interpolated. dim: width of a token.
    window: side of windows in patches. global_blocks: numbers of the blocks that attend everywhere. neck_dim: channels
    of the map that is given. drop_path: rate at the last block; earlier blocks have linearly less."""

    image_size: int = 1024
    patch_size: int = 16
    dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    window: int = 14
    global_blocks: tuple[int, ...] = (2, 5, 8, 11)
    neck_dim: int = 256
    drop_path: float = 0.0
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        require_tokens(self.image_size, self.patch_size, self.dim, self.num_heads, self.mlp_ratio)
        positive(depth=self.depth, window=self.window, neck_dim=self.neck_dim, in_channels=self.in_channels,
                 num_classes=self.num_classes)
        for block in self.global_blocks:
            natural(global_blocks=block)
            require(block < self.depth, "global_blocks", self.global_blocks, f"lie below depth={self.depth}")
        probability(drop_path=self.drop_path)


def resize_line(table: Tensor, length: int) -> Tensor:
    """A table of values for offsets along a line [2 side - 1, d], linearly resampled to `length`."""
    if len(table) == length:
        return table
    return F.interpolate(table.T[None], size=length, mode="linear")[0].T


def line_of(table: Tensor, side: int) -> Tensor:
    """[2 s - 1, d] -> [side, side, d]: of each query and key along a line, the value for their offset."""
    place = torch.arange(side, device=table.device)
    return resize_line(table, 2 * side - 1)[place[:, None] - place + side - 1]


class DecomposedAttention(SelfAttention):
    """Self-attention of patches of a grid, within windows unless window is 0, which adds to a score the query's product
    with a vector for the key's offset in rows, and with one for its offset in columns: tokens [B, h * w, dim] and
    (h, w) -> the same shape. side: of the grid that the tables are for."""

    def __init__(self, dim: int, num_heads: int, side: int, window: int):
        super().__init__(dim, num_heads, 0.0)
        self.window = window
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, dim // num_heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, dim // num_heads))

    def placed(self, q: Tensor, k: Tensor, grid: tuple[int, int] | None) -> tuple[Tensor, Tensor, Tensor | None]:
        assert grid is not None
        batch, heads, count, _ = q.shape
        places = q.unflatten(2, grid)  # [B, heads, h, w, d]
        rows = torch.einsum("bnhwd,hkd->bnhwk", places, line_of(self.rel_pos_h, grid[0]).to(q.dtype))
        columns = torch.einsum("bnhwd,wkd->bnhwk", places, line_of(self.rel_pos_w, grid[1]).to(q.dtype))
        bias = rows.unsqueeze(-1) + columns.unsqueeze(-2)  # [B, heads, h, w, h, w]
        return q, k, bias.reshape(batch, heads, count, count)

    def forward(self, tokens: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        assert grid is not None
        if not self.window:
            return super().forward(tokens, grid)
        windows = to_windows(tokens.unflatten(1, grid), self.window, UNSHIFTED)  # [B * n, window * window, dim]
        windows = super().forward(windows, (self.window, self.window))
        return from_windows(windows, grid, self.window, UNSHIFTED).flatten(1, 2)


class SAMViT(nn.Module):
    Config = SAMViTConfig

    def __init__(self, config: SAMViTConfig):
        super().__init__()
        self.config = config
        dim, heads = config.dim, config.num_heads
        self.num_prefix_tokens = 0
        self.patch_embed = PatchStem(config.in_channels, dim, config.image_size, config.patch_size, any_size=True)
        side = self.patch_embed.side
        self.pos_embed = nn.Parameter(torch.empty(1, side, side, dim))
        rates = [config.drop_path * i / max(config.depth - 1, 1) for i in range(config.depth)]
        self.blocks = TokenBlocks()
        for i, rate in enumerate(rates):
            attention = DecomposedAttention(dim, heads, side, 0) if i in config.global_blocks else \
                DecomposedAttention(dim, heads, config.window, config.window)
            self.blocks.append(PreNormBlock(dim, heads, int(dim * config.mlp_ratio), 0.0, rate, attention=attention))
        self.neck = nn.Sequential(
            nn.Conv2d(dim, config.neck_dim, 1, bias=False), ChannelNorm(config.neck_dim, eps=NORM_EPS),
            nn.Conv2d(config.neck_dim, config.neck_dim, 3, padding=1, bias=False),
            ChannelNorm(config.neck_dim, eps=NORM_EPS))
        self.head = nn.Linear(config.neck_dim, config.num_classes)
        self.feature_channels = (config.neck_dim,)
        self.feature_strides = (config.patch_size,)
        initialise_tokens(self)

    def tokens(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> tokens of the last block [B, N, dim], without a norm: what the neck reads. Raises UserError
        unless H and W are multiples of patch_size."""
        grid, side = self.patch_embed.grid(images), self.patch_embed.side
        positions = resize_positions(self.pos_embed.flatten(1, 2), (side, side), grid, 0)
        return self.blocks(self.patch_embed(images) + positions, grid)

    def embed(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, neck_dim, H / patch_size, W / patch_size]: the embedding of the image that SAM's mask
        decoder reads."""
        return self.neck(maps_of(self.tokens(images), self.patch_embed.grid(images)))

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> one map, `embed`'s."""
        return [self.embed(images)]

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.embed(images).mean((2, 3)))

    def adapt(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """The state with its tables of positions resized to this model's grid and windows, and with this model's head
        where it has none; and what was done in words."""
        state, notes = fresh_head(state, self)
        for name, own in self.named_parameters():
            table = state.get(name)
            if table is None or table.shape == own.shape:
                continue
            if name == "pos_embed" and table.ndim == 4 and table.shape[3] == own.shape[3]:
                old, new = (table.shape[1], table.shape[2]), (own.shape[1], own.shape[2])
                state[name] = resize_positions(table.flatten(1, 2), old, new, 0).unflatten(1, new)
                notes.append(f"pos_embed was resized from {old[0]} x {old[1]} patches to {new[0]} x {new[1]}")
            elif ".rel_pos_" in name and table.ndim == 2 and table.shape[1] == own.shape[1]:
                state[name] = resize_line(table, len(own))
                note = f"relative positions were resized from {len(table)} offsets to {len(own)}"
                notes += [note] if note not in notes else []
        return state, notes


def from_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A timm state dict under our names."""
    return rename(state, ((r"^head\.fc\.", "head."),))


_FROM_ORIGINAL = ((r"^image_encoder\.", ""), (r"\.mlp\.lin([12])\.", r".mlp.fc\1."))


def from_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The image encoder of SAM's state dict (`image_encoder.*`; prompt encoder and mask decoder are left out) under our
    names."""
    return rename({name: tensor for name, tensor in state.items() if name.startswith("image_encoder.")},
                  _FROM_ORIGINAL)


_FROM_TRANSFORMERS = (
    (r"^vision_encoder\.", ""), (r"^patch_embed\.projection\.", "patch_embed.proj."), (r"^layers\.", "blocks."),
    (r"^neck\.conv1\.", "neck.0."), (r"^neck\.layer_norm1\.", "neck.1."), (r"^neck\.conv2\.", "neck.2."),
    (r"^neck\.layer_norm2\.", "neck.3."), (r"\.layer_norm([12])\.", r".norm\1."),
    (r"\.mlp\.lin([12])\.", r".mlp.fc\1."),
)


def from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The image encoder of a transformers state dict (SamVisionModel, or a SamModel, whose other parts are left out)
    under our names."""
    return rename({name: tensor for name, tensor in state.items() if name.startswith("vision_encoder.")},
                  _FROM_TRANSFORMERS)


VARIANTS = {
    "sam_vit_base_16": {"dim": 768, "depth": 12, "num_heads": 12, "global_blocks": (2, 5, 8, 11)},
    "sam_vit_large_16": {"dim": 1024, "depth": 24, "num_heads": 16, "global_blocks": (5, 11, 17, 23)},
    "sam_vit_huge_16": {"dim": 1280, "depth": 32, "num_heads": 16, "global_blocks": (7, 15, 23, 31)},
}

_PAPER = "Kirillov et al. 2023, Figure 13 (from memory)"
_WHOLE = ("the figure does not say what it counts; ours is tensor for tensor the encoder of the authors' files, with "
          "a classifier of 0.26 million beside it")
PUBLISHED = {name: [{"what": "params", "value": params, "source": _PAPER, "reason": _WHOLE}]
             for name, params in (("sam_vit_base_16", "91e6"), ("sam_vit_large_16", "308e6"),
                                  ("sam_vit_huge_16", "636e6"))}

_TIMM = {name: f"samvit_{name.split('_')[2]}_patch16" for name in VARIANTS}
PEERS = {name: ("timm", theirs) for name, theirs in _TIMM.items() if "huge" not in name}  # two do not fit into memory

_LICENCE = "Apache-2.0 (Meta); trained on SA-1B, from MAE"
_URL = "https://dl.fbaipublicfiles.com/segment_anything/{}"
_ORIGINAL = {"sam_vit_base_16": "sam_vit_b_01ec64.pth", "sam_vit_large_16": "sam_vit_l_0b3195.pth",
             "sam_vit_huge_16": "sam_vit_h_4b8939.pth"}
WEIGHTS = {
    name: {"timm": {"file": f"{_TIMM[name]}.sa1b", "licence": _LICENCE},
           "transformers": {"file": f"facebook/sam-vit-{name.split('_')[2]}", "licence": _LICENCE},
           "original": {"file": file, "licence": _LICENCE, "url": _URL.format(file)}}
    for name, file in _ORIGINAL.items()}

models.add(SAMViT, VARIANTS, WEIGHTS, family="sam_vit", task="classification", published=PUBLISHED, peers=PEERS,
           origins={"timm": from_timm, "transformers": from_transformers, "original": from_original},
           paper="Kirillov et al.: Segment Anything, ICCV 2023, arXiv:2304.02643",
           preprocessing={"size": (1024, 1024), "resize": "pad", "interpolation": "bilinear"},
           fingerprint_size=256, peer_options={"norm_layer": partial(nn.LayerNorm, eps=NORM_EPS)})  # the authors'
