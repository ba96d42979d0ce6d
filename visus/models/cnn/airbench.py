"""A net for speed runs: patches whitened by fixed filters, then three pairs of convolutions that start as identities.

Paper: Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, 2024, arXiv:2404.00498, sections 3.1 to 3.4, and its
code, airbench94. The first filters are the eigenvectors of the covariance of small patches of the training images,
divided by their standard deviations, and their negatives (`whiten`); they stay as they are, their biases learn. Of
each 3 x 3 convolution the first filters pass their inputs on. Batch norms have no learnt scale. Departures: the last
pooling takes the whole map, which at the paper's 32 pixels is its 3 x 3 window; the whitening biases learn to the end.
`airbench_tiny` is half as wide and less, for training on a CPU.
forward: images [B, C, H, W], normalised -> logits [B, num_classes].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visus import models
from visus.core.errors import UserError
from visus.core.validate import positive, require

RUNNING = 0.4    # share of a batch in the running statistics
EPSILON = 1e-12  # of batch norm
FLOOR = 5e-4     # added to the patches' variances before the division


@dataclass(frozen=True, kw_only=True)
class AirbenchConfig:
    """dims: channels of the three blocks. patch: side in pixels of the whitened patches."""

    dims: tuple[int, ...] = (64, 256, 256)
    patch: int = 2
    in_channels: int = 3
    num_classes: int = 10

    def __post_init__(self) -> None:
        positive(patch=self.patch, in_channels=self.in_channels, num_classes=self.num_classes)
        require(len(self.dims) > 0 and all(isinstance(d, int) and d > 0 for d in self.dims), "dims", self.dims,
                "be whole numbers above 0")


def bias_norm(dim: int) -> nn.BatchNorm2d:
    """Batch norm with a shift that learns and a scale that stays 1."""
    norm = nn.BatchNorm2d(dim, eps=EPSILON, momentum=RUNNING)
    norm.weight.requires_grad_(False)
    return norm


class Block(nn.Module):
    """Two convolutions, the first on four times the places: [B, in_dim, H, W] -> [B, dim, H // 2, W // 2]."""

    def __init__(self, in_dim: int, dim: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_dim, dim, 3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(2)
        self.norm1 = bias_norm(dim)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1, bias=False)
        self.norm2 = bias_norm(dim)
        self.act = nn.GELU()
        for conv in (self.conv1, self.conv2):
            nn.init.dirac_(conv.weight[:conv.in_channels].detach())

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.act(self.norm1(self.pool(self.conv1(maps))))
        return self.act(self.norm2(self.conv2(maps)))


class Airbench(nn.Module):
    Config = AirbenchConfig

    def __init__(self, config: AirbenchConfig):
        super().__init__()
        self.config = config
        stem_dim = 2 * config.in_channels * config.patch**2
        self.stem = nn.Conv2d(config.in_channels, stem_dim, config.patch)
        self.stem.weight.requires_grad_(False)
        self.act = nn.GELU()
        self.blocks = nn.ModuleList(Block(i, o) for i, o in zip((stem_dim, *config.dims), config.dims, strict=False))
        self.head = nn.Linear(config.dims[-1], config.num_classes, bias=False)
        self.feature_channels = config.dims
        self.feature_strides = tuple(2 ** (n + 1) for n in range(len(config.dims)))
        with torch.no_grad():
            self.head.weight.div_(self.head.weight.std())

    @torch.no_grad()
    def whiten(self, images: Tensor) -> None:
        """Set the first filters by normalised training images [N, C, H, W]; a few thousand do (section 3.1)."""
        config = self.config
        patches = F.unfold(images.double(), config.patch)  # [N, C p p, places]
        patches = patches.transpose(1, 2).reshape(-1, patches.shape[1])
        variances, directions = torch.linalg.eigh(patches.T @ patches / len(patches))  # directions: in columns
        filters = (directions / (variances + FLOOR).sqrt()).T.reshape(-1, *self.stem.weight.shape[1:])
        self.stem.weight.copy_(torch.cat((filters, -filters)))

    def features(self, images: Tensor) -> list[Tensor]:
        """-> maps after each block: [B, dims[0], H / 2, W / 2], [B, dims[1], H / 4, W / 4], ..., sides rounded down.
        Raises UserError for images of which the last block would leave nothing."""
        least = 2 ** len(self.blocks) + self.config.patch - 1
        if min(images.shape[-2:]) < least:
            raise UserError(f"the sides must be at least {least} pixels", where=tuple(images.shape[-2:]),
                            remedy="Use larger images")
        maps, found = self.act(self.stem(images)), []
        for block in self.blocks:
            maps = block(maps)
            found.append(maps)
        return found

    def forward(self, images: Tensor) -> Tensor:
        pooled = self.features(images)[-1].amax((2, 3))  # [B, dim, H / 8, W / 8] -> [B, dim]
        return self.head(pooled) / pooled.shape[1]


VARIANTS = {"airbench94": {"dims": (64, 256, 256)}, "airbench_tiny": {"dims": (32, 64, 128)}}

models.add(Airbench, VARIANTS, family="airbench", task="classification",
           paper="Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, 2024, arXiv:2404.00498",
           preprocessing={"size": (32, 32), "mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)})
