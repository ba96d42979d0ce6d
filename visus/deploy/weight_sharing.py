"""Shared weights: each layer's weights become a few values, chosen by k-means and then learnt on.

Han, Mao, Dally, Deep Compression, ICLR 2016, arXiv:1510.00149, section 3: the first centroids are spread evenly from
the least to the largest weight, since the few large weights matter most; the gradient of a centroid is the sum of the
gradients of the weights that share it (equation 3). Weights that were pruned stay zero and are no part of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from visus.core.errors import UserError
from visus.deploy.prune_weights import prunable

CONVOLUTION_BITS, FULL_BITS = 8, 5  # table 4 of the paper: 8 bits for convolutions, 5 for full layers
MOST_BITS = 8
ROUNDS = 200


@dataclass(frozen=True)
class Clusters:
    """centroids: float64 [k], ascending. index: of the nearest one for each value, int64 [n]."""

    centroids: np.ndarray
    index: np.ndarray


class Shared(nn.Module):
    """A parametrization: codebook [k] -> the weight. index: int64, as the weight; mask: False where it is zero."""

    def __init__(self, index: Tensor, mask: Tensor):
        super().__init__()
        self.register_buffer("index", index)
        self.register_buffer("mask", mask)
        self.index: Tensor
        self.mask: Tensor

    def forward(self, codebook: Tensor) -> Tensor:
        return torch.where(self.mask, codebook[self.index], 0.0)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The mean of the weights of each index; 0 of an index that none has."""
        count = int(self.index.max()) + 1
        index, values = self.index[self.mask], weight.detach()[self.mask].double()
        total = torch.zeros(count, dtype=torch.float64, device=weight.device).index_add_(0, index, values)
        number = torch.bincount(index, minlength=count)
        return (total / number.clamp_min(1)).to(weight.dtype)


def cluster(values: np.ndarray, count: int) -> Clusters:
    """Lloyd's k-means of numbers [n] from evenly spread centroids. A centroid that no value is nearest to stays where
    it is. At most as many centroids as there are different values."""
    values = np.asarray(values, np.float64)
    different = np.unique(values)
    if len(different) <= count:
        return Clusters(different, np.searchsorted(different, values))
    centroids = np.linspace(values.min(), values.max(), count)
    index = np.empty(0, np.int64)
    for _ in range(ROUNDS):
        now = np.searchsorted((centroids[1:] + centroids[:-1]) / 2, values)
        if np.array_equal(now, index):
            break
        index = now
        number = np.bincount(index, minlength=count)
        total = np.bincount(index, weights=values, minlength=count)
        centroids = np.where(number > 0, total / np.maximum(number, 1), centroids)
    return Clusters(centroids, np.searchsorted((centroids[1:] + centroids[:-1]) / 2, values))


def share_weights(model: nn.Module, convolution_bits: int = CONVOLUTION_BITS, full_bits: int = FULL_BITS) -> None:
    """Let each kernel and matrix be computed from a codebook of at most 2^bits - 1 values and zero, in place; what is
    zero now stays zero. The codebooks are the parameters that train. Raises UserError for bits out of range."""
    for name, bits in (("convolution_bits", convolution_bits), ("full_bits", full_bits)):
        if not 1 <= bits <= MOST_BITS:
            raise UserError(f"must be 1 to {MOST_BITS}", where=f"{name}={bits}")
    for name, weight in prunable(model).items():
        mask = weight.detach() != 0
        if not bool(mask.any()):
            continue
        found = cluster(weight.detach()[mask].cpu().numpy(), 2 ** (full_bits if weight.ndim == 2 else
                                                                   convolution_bits) - 1)
        index = torch.zeros(weight.shape, dtype=torch.int64, device=weight.device)
        index[mask] = torch.from_numpy(found.index).to(weight.device)
        owner = model.get_submodule(name.rpartition(".")[0])
        parametrize.register_parametrization(owner, name.rpartition(".")[2], Shared(index, mask), unsafe=True)


def settle_weights(model: nn.Module) -> None:
    """End `share_weights`, in place: each weight is an ordinary parameter again, with the values that it shares."""
    for module in list(model.modules()):
        for name in list(getattr(module, "parametrizations", {})):
            if any(isinstance(one, Shared) for one in module.parametrizations[name]):  # type: ignore[index]
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
