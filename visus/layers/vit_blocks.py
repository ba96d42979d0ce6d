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
from visus.ops.positions import resize_positions

NORM_EPS = 1e-6


def require_tokens(image_size: int, patch_size: int, dim: int, num_heads: int, mlp_ratio: float) -> None:
    """Raises UserError unless patches fill the image, heads share the width and an MLP has a hidden unit."""
    positive(dim=dim, num_heads=num_heads)
    check_patches(image_size, patch_size)
    require(dim % num_heads == 0, "dim", dim, f"be a multiple of num_heads={num_heads}")
    require(isinstance(mlp_ratio, int | float) and dim * mlp_ratio >= 1, "mlp_ratio", mlp_ratio,
            "leave at least one hidden unit")


class SelfAttention(nn.Module):
    """Multi-head self-attention: [B, N, dim] -> [B, N, dim]."""

    def __init__(self, dim: int, num_heads: int, dropout: float):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, count, dim = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, count, 3, self.num_heads, dim // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, heads, N, dim / heads]
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj_drop(self.proj(out.transpose(1, 2).reshape(batch, count, dim)))


class ScaledAdd(nn.Module):
    """LayerScale: [..., dim] plus a branch whose channels `gamma` scales, from `start` on."""

    def __init__(self, dim: int, start: float):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), float(start)))

    def forward(self, tokens: Tensor, branch: Tensor) -> Tensor:
        return torch.addcmul(tokens, self.gamma, branch)


class PreNormBlock(nn.Module):
    """Normalise, attend, add; normalise, MLP, add: [B, N, dim] -> [B, N, dim]. layer_scale: first value of the
    branches' scales, or None for branches without."""

    def __init__(self, dim: int, num_heads: int, hidden_dim: int, dropout: float, drop_path: float,
                 layer_scale: float | None = None):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = SelfAttention(dim, num_heads, dropout)
        self.ls1 = None if layer_scale is None else ScaledAdd(dim, layer_scale)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = MLP(dim, hidden_dim, dropout)
        self.ls2 = None if layer_scale is None else ScaledAdd(dim, layer_scale)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        branch = self.drop_path(self.attn(self.norm1(tokens)))
        tokens = tokens + branch if self.ls1 is None else self.ls1(tokens, branch)
        branch = self.drop_path(self.mlp(self.norm2(tokens)))
        return tokens + branch if self.ls2 is None else self.ls2(tokens, branch)


def initialise_tokens(model: nn.Module) -> None:
    """Truncated normal of 0.02 for linear layers and the model's own parameters (class token, positions), zero biases;
    a PatchStem keeps the variance of its input."""
    for parameter in model.parameters(recurse=False):
        nn.init.trunc_normal_(parameter, std=0.02)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    for module in model.modules():
        if isinstance(module, PatchStem):
            nn.init.trunc_normal_(module.proj.weight, std=math.sqrt(1 / module.proj.weight[0].numel()))
            nn.init.zeros_(module.proj.bias)


def fit_positions(state: Mapping[str, Tensor], own: Tensor, num_prefix: int) -> tuple[dict[str, Tensor], list[str]]:
    """The state with its `pos_embed` resized to the square grid of `own`, [1, num_prefix + g * g, dim], and what was
    done in words. One that is no square grid, or of another width, is left for strict loading to refuse."""
    state, notes = dict(state), []
    positions = state.get("pos_embed")
    if positions is not None and positions.ndim == 3 and positions.shape[1:] != own.shape[1:]:
        count = max(positions.shape[1] - num_prefix, 0)
        side, grid = math.isqrt(count), math.isqrt(own.shape[1] - num_prefix)
        if side and side**2 == count and positions.shape[2] == own.shape[2]:
            state["pos_embed"] = resize_positions(positions, (side, side), (grid, grid), num_prefix)
            notes.append(f"pos_embed was resized from {side} x {side} patches to {grid} x {grid}")
    return state, notes
