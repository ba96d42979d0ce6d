"""Parts of plain vision transformers: pre-norm blocks, LayerScale, learned positions.

Papers: Dosovitskiy et al., ICLR 2021, arXiv:2010.11929 (blocks); Touvron et al., Going deeper with Image
Transformers, ICCV 2021, arXiv:2103.17239 (LayerScale). Parameters carry timm's names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visus.core.validate import positive, require
from visus.layers.drop_path import DropPath
from visus.layers.mlp import MLP
from visus.layers.patch_stem import PatchStem, check_patches
from visus.ops.attention import attend
from visus.ops.positions import relative_offsets, resize_offsets, resize_positions, rotary_angles, rotate

NORM_EPS = 1e-6


def require_tokens(image_size: int, patch_size: int, dim: int, num_heads: int, mlp_ratio: float) -> None:
    """Raises UserError unless patches fill the image, heads share the width and an MLP has a hidden unit."""
    positive(dim=dim, num_heads=num_heads)
    check_patches(image_size, patch_size)
    require(dim % num_heads == 0, "dim", dim, f"be a multiple of num_heads={num_heads}")
    require(isinstance(mlp_ratio, int | float) and dim * mlp_ratio >= 1, "mlp_ratio", mlp_ratio,
            "leave at least one hidden unit")


class SelfAttention(nn.Module):
    """Multi-head self-attention: [B, N, dim] -> [B, N, dim]. It does not know where tokens lie: the same tokens in
    another order give the same answers in that order. Kinds that do have `placed`."""

    def __init__(self, dim: int, num_heads: int, dropout: float):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(dropout)

    def placed(self, q: Tensor, k: Tensor, grid: tuple[int, int] | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Queries and keys [B, heads, N, dim / heads] and a bias of their scores, by their places in the grid."""
        return q, k, None

    def forward(self, tokens: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        batch, count, dim = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, count, 3, self.num_heads, dim // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, heads, N, dim / heads]
        q, k, bias = self.placed(q, k, grid)
        out = attend(q, k, v, bias)
        return self.proj_drop(self.proj(out.transpose(1, 2).reshape(batch, count, dim)))


class RelativeAttention(SelfAttention):
    """Self-attention of patches of a grid after num_prefix other tokens, which adds to each score a learned number for
    the offset of query and key (Liu et al., Swin Transformer, ICCV 2021, equation 4); scores of other tokens have none.
    A grid other than side x side gets the table resampled."""

    def __init__(self, dim: int, num_heads: int, dropout: float, side: int, num_prefix: int):
        super().__init__(dim, num_heads, dropout)
        self.grid = (side, side)
        self.num_prefix = num_prefix
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * side - 1) ** 2, num_heads))

    def placed(self, q: Tensor, k: Tensor, grid: tuple[int, int] | None) -> tuple[Tensor, Tensor, Tensor | None]:
        grid = grid or self.grid
        table = resize_offsets(self.relative_position_bias_table, self.grid, grid)
        bias = table[relative_offsets(grid, q.device)].permute(2, 0, 1)[None]  # [1, heads, h * w, h * w]
        return q, k, F.pad(bias, (self.num_prefix, 0, self.num_prefix, 0)).to(q.dtype)


class RotaryAttention(SelfAttention):
    """Self-attention of patches of a grid after num_prefix other tokens, whose queries and keys are turned by their
    places (ops.positions.rotary_angles)."""

    def __init__(self, dim: int, num_heads: int, dropout: float, side: int, num_prefix: int):
        super().__init__(dim, num_heads, dropout)
        self.grid = (side, side)
        self.num_prefix = num_prefix

    def placed(self, q: Tensor, k: Tensor, grid: tuple[int, int] | None) -> tuple[Tensor, Tensor, Tensor | None]:
        angles = rotary_angles(grid or self.grid, q.shape[-1], q)
        angles = F.pad(angles, (0, 0, self.num_prefix, 0))  # [N, dim / heads / 2]: other tokens are not turned
        return rotate(q, angles), rotate(k, angles), None


class ScaledAdd(nn.Module):
    """LayerScale: [..., dim] plus a branch whose channels `gamma` scales, from `start` on."""

    def __init__(self, dim: int, start: float):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), float(start)))

    def forward(self, tokens: Tensor, branch: Tensor) -> Tensor:
        return torch.addcmul(tokens, self.gamma, branch)


class PreNormBlock(nn.Module):
    """Normalise, attend, add; normalise, MLP, add: [B, N, dim] -> [B, N, dim]. layer_scale: first value of the
    branches' scales, or None for branches without. attention, mlp: in place of SelfAttention and of MLP. norm_eps: what
    the norms add to variances."""

    def __init__(self, dim: int, num_heads: int, hidden_dim: int, dropout: float, drop_path: float,
                 layer_scale: float | None = None, attention: SelfAttention | None = None,
                 mlp: nn.Module | None = None, norm_eps: float = NORM_EPS):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = attention or SelfAttention(dim, num_heads, dropout)
        self.ls1 = None if layer_scale is None else ScaledAdd(dim, layer_scale)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = mlp or MLP(dim, hidden_dim, dropout)
        self.ls2 = None if layer_scale is None else ScaledAdd(dim, layer_scale)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, tokens: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        branch = self.drop_path(self.attn(self.norm1(tokens), grid))
        tokens = tokens + branch if self.ls1 is None else self.ls1(tokens, branch)
        branch = self.drop_path(self.mlp(self.norm2(tokens)))
        return tokens + branch if self.ls2 is None else self.ls2(tokens, branch)


class TokenBlocks(nn.Sequential):
    """Blocks one after the other: tokens [B, N, dim], of which the last h * w are patches of a grid (h, w) -> the
    same shape."""

    def forward(self, tokens: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        for block in self:
            tokens = block(tokens, grid)
        return tokens

    def last(self, tokens: Tensor, count: int, grid: tuple[int, int] | None = None) -> list[Tensor]:
        """What each of the last `count` blocks gives, in their order."""
        outputs = []
        for block in self:
            tokens = block(tokens, grid)
            outputs.append(tokens)
            outputs = outputs[-count:]
        return outputs


def initialise_tokens(model: nn.Module) -> None:
    """Truncated normal of 0.02 for linear layers and the model's own parameters (class token, positions), zero biases;
    a PatchStem keeps the variance of its input."""
    for parameter in model.parameters(recurse=False):
        nn.init.trunc_normal_(parameter, std=0.02)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in model.modules():
        if isinstance(module, PatchStem):
            nn.init.trunc_normal_(module.proj.weight, std=math.sqrt(1 / module.proj.weight[0].numel()))
            if module.proj.bias is not None:
                nn.init.zeros_(module.proj.bias)


def sized_positions(positions: Tensor, grid: tuple[int, int], num_prefix: int, antialias: bool = True) -> Tensor:
    """Learned positions of a square grid, [1, num_prefix + s * s, dim], for a grid (h, w) of patches. antialias: as of
    ops.positions.resize_positions."""
    side = math.isqrt(positions.shape[1] - num_prefix)
    return resize_positions(positions, (side, side), grid, num_prefix, antialias)


def fit_positions(state: Mapping[str, Tensor], own: Tensor, num_prefix: int,
                  antialias: bool = True) -> tuple[dict[str, Tensor], list[str]]:
    """The state with its `pos_embed` resized to the square grid of `own`, [1, num_prefix + g * g, dim], and what was
    done in words. One that is no square grid, or of another width, is left for strict loading to refuse."""
    state, notes = dict(state), []
    positions = state.get("pos_embed")
    if positions is not None and positions.ndim == 3 and positions.shape[1:] != own.shape[1:]:
        count = max(positions.shape[1] - num_prefix, 0)
        side, new = math.isqrt(count), math.isqrt(own.shape[1] - num_prefix)
        if side and side**2 == count and positions.shape[2] == own.shape[2]:
            state["pos_embed"] = resize_positions(positions, (side, side), (new, new), num_prefix, antialias)
            notes.append(f"pos_embed was resized from {side} x {side} patches to {new} x {new}")
    return state, notes
