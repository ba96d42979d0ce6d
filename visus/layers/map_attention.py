"""Attention between all places of a map, as a block that may stand anywhere in a ConvNet.

Papers: Wang, Girshick, Gupta, He, Non-local Neural Networks, CVPR 2018, arXiv:1711.07971; Zhang, Goodfellow, Metaxas,
Odena, Self-Attention Generative Adversarial Networks (SAGAN), ICML 2019, arXiv:1805.08318. Both add to each place a
weighted sum over all places, and both start as the identity, so that they may be put into a trained network. Attention
has one head and its scores are not scaled.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visus.ops.attention import attend, keep_seen

KINDS = ("gaussian", "embedded_gaussian", "dot_product", "concatenation")


def to_rows(maps: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, 1, H * W, C]: the places of a map as the queries, keys or values of one head."""
    return maps.flatten(2).transpose(1, 2).contiguous()[:, None]


def from_rows(rows: Tensor, like: Tensor) -> Tensor:
    """[B, 1, H * W, C] -> [B, C, H, W], H and W those of `like`."""
    return rows[:, 0].transpose(1, 2).unflatten(2, like.shape[2:])


class NonLocal(nn.Module):
    """[B, dim, H, W] -> the same shape: x_i + W_z (sum_j f(x_i, x_j) g(x_j)) / C(x) (equations 1 and 6).

    kind: the pairwise function f: 'gaussian' exp(x_i . x_j), 'embedded_gaussian' exp(theta(x_i) . phi(x_j)), both
    divided by their sum over j, which is a softmax; 'dot_product' theta(x_i) . phi(x_j); 'concatenation'
    relu(w . [theta(x_i), phi(x_j)]), both divided by the number of places j. inner_dim: channels of theta, phi and g.
    subsample: j runs over 2 x 2 maxima of phi and g. start: first value of the scales of the last norm.
    """

    def __init__(self, dim: int, inner_dim: int, kind: str = "embedded_gaussian", subsample: bool = False,
                 start: float = 0.0):
        super().__init__()
        self.kind = kind
        self.subsample = subsample
        self.g = nn.Conv2d(dim, inner_dim, 1)
        if kind != "gaussian":
            self.theta = nn.Conv2d(dim, inner_dim, 1)
            self.phi = nn.Conv2d(dim, inner_dim, 1)
        if kind == "concatenation":
            self.w_f = nn.Linear(2 * inner_dim, 1, bias=False)
        self.w_z = nn.Conv2d(inner_dim, dim, 1, bias=False)
        self.bn = nn.BatchNorm2d(dim)
        nn.init.constant_(self.bn.weight, start)

    def forward(self, maps: Tensor) -> Tensor:
        queries = keys = maps
        values = self.g(maps)
        if self.kind != "gaussian":
            queries, keys = self.theta(maps), self.phi(maps)
        if self.subsample:
            keys, values = F.max_pool2d(keys, 2), F.max_pool2d(values, 2)
        q, k, v = to_rows(queries), to_rows(keys), to_rows(values)  # [B, 1, N, C], [B, 1, M, C], [B, 1, M, inner_dim]
        if self.kind in ("gaussian", "embedded_gaussian"):
            out = attend(q, k, v, scale=1.0)
        else:
            if self.kind == "dot_product":
                scores = q @ k.transpose(2, 3)
            else:
                of_query, of_key = self.w_f.weight[0].chunk(2)
                scores = ((q @ of_query)[..., None] + (k @ of_key)[:, :, None]).relu()
            out = keep_seen(scores / k.shape[2]) @ v
        return maps + self.bn(self.w_z(from_rows(out, maps)))


class SelfAttention2d(nn.Module):
    """SAGAN's block, [B, dim, H, W] -> the same shape: x + gamma v(sum_i beta_ji h(x_i)), where beta_j is the softmax
    of f(x_i) . g(x_j) over i (equations 1 to 3).

    f and g have dim / 8 channels; h has dim / 8, as in the paper, or dim / 2 where `subsample`, as in the authors'
    code, which takes keys and values from 2 x 2 maxima. start: first value of gamma.
    """

    def __init__(self, dim: int, subsample: bool = True, start: float = 0.0):
        super().__init__()
        narrow, inner = dim // 8, dim // 2 if subsample else dim // 8
        self.subsample = subsample
        self.f = nn.Conv2d(dim, narrow, 1, bias=False)
        self.g = nn.Conv2d(dim, narrow, 1, bias=False)
        self.h = nn.Conv2d(dim, inner, 1, bias=False)
        self.v = nn.Conv2d(inner, dim, 1, bias=False)
        self.gamma = nn.Parameter(torch.tensor(float(start)))

    def forward(self, maps: Tensor) -> Tensor:
        keys, values = self.f(maps), self.h(maps)
        if self.subsample:
            keys, values = F.max_pool2d(keys, 2), F.max_pool2d(values, 2)
        out = attend(to_rows(self.g(maps)), to_rows(keys), to_rows(values), scale=1.0)
        return torch.addcmul(maps, self.gamma, self.v(from_rows(out, maps)))
