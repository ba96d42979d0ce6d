"""LeNet-5: convolutions and sub-sampling in turn, then two full layers.

Paper: LeCun, Bottou, Bengio, Haffner, Gradient-based learning applied to document recognition, Proc. IEEE
1998, section II-B. `lenet5` is the paper's network with its 60,000 trainable parameters: the connection table
of C3, scaled tanh, sub-sampling with one coefficient and one bias a map, and fixed +1/-1 codes at the output
(radial basis functions, equation 7). Departures: sub-sampling passes through the same squashing function as
every other layer, and the codes come from a hash, as random codes are one of the paper's choices, in place of
drawn 7 x 12 glyphs, so that any number of classes has its codes. `lenet5_full` is what textbooks draw: C3
sees all maps, plain average pooling, linear output. `lenet5_relu` has ReLU and max pooling besides.
forward: images [B, C, 32, 32], normalised -> logits [B, num_classes]; with codes, minus the squared distance
to each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visus import models
from visus.core.errors import UserError
from visus.core.seeds import hash64
from visus.core.validate import one_of, positive, require

IMAGE_SIZE = 32
C3_TABLE = (  # Table I: the maps of S2 that each map of C3 sees
    (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5),
    (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5), (0, 1, 3, 4),
            (1, 2, 4, 5),
    (0, 2, 3, 5), (0, 1, 2, 3, 4, 5),
)


@dataclass(frozen=True, kw_only=True)
class LeNet5Config:
    """connections: 'table' (Table I) or 'full', of C3. activation: 'scaled_tanh', 'tanh' or 'relu'.
    pooling: 'trainable', 'average' or 'max'. head: 'codes' (equation 7) or 'linear'. image_size: only 32."""

    connections: str = "table"
    activation: str = "scaled_tanh"
    pooling: str = "trainable"
    head: str = "codes"
    in_channels: int = 1
    num_classes: int = 10
    image_size: int = IMAGE_SIZE

    def __post_init__(self) -> None:
        positive(in_channels=self.in_channels, num_classes=self.num_classes)
        one_of(("table", "full"), connections=self.connections)
        one_of(("scaled_tanh", "tanh", "relu"), activation=self.activation)
        one_of(("trainable", "average", "max"), pooling=self.pooling)
        one_of(("codes", "linear"), head=self.head)
        require(self.image_size == IMAGE_SIZE, "image_size", self.image_size,
                "be 32, the only size that LeNet-5 takes; resize or pad the images")


class ScaledTanh(nn.Module):
    """A tanh(S a) with A = 1.7159 and S = 2/3, so that f(1) = 1 and f(-1) = -1 (appendix A)."""

    def forward(self, maps: Tensor) -> Tensor:
        return 1.7159 * torch.tanh(maps * (2 / 3))


class TrainablePool(nn.Module):
    """[B, C, H, W] -> [B, C, H/2, W/2]: the sum of 2 x 2 places times a coefficient, plus a bias, one of each
    a map."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), 0.25))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, maps: Tensor) -> Tensor:
        sums = 4 * F.avg_pool2d(maps, 2)  # exact, and of a divisor of its own ONNX knows nothing
        return sums * self.weight.view(-1, 1, 1) + self.bias.view(-1, 1, 1)


class TableConv2d(nn.Module):
    """A 5 x 5 convolution whose output map i sees the input maps table[i] only; no weight is kept for the
    others."""

    def __init__(self, in_channels: int, table: tuple[tuple[int, ...], ...]):
        super().__init__()
        pairs = [(i, j) for i, inputs in enumerate(table) for j in inputs]
        self.shape = (len(table), in_channels, 5, 5)
        self.weight = nn.Parameter(torch.empty(len(pairs), 5, 5))
        self.bias = nn.Parameter(torch.empty(len(table)))
        fan_in = torch.tensor([25.0 * len(table[i]) for i, _ in pairs])
        self.register_buffer("pairs", torch.tensor(pairs).T.contiguous())  # [2, P]: output map, input map
        with torch.no_grad():
            nn.init.uniform_(self.weight, -1, 1).mul_((fan_in**-0.5).view(-1, 1, 1))
            nn.init.zeros_(self.bias)

    def forward(self, maps: Tensor) -> Tensor:
        weight = self.weight.new_zeros(self.shape).index_put((self.pairs[0], self.pairs[1]), self.weight)
        return F.conv2d(maps, weight, self.bias)


class CodeHead(nn.Module):
    """Features [B, D] -> minus the squared distance to each class's fixed code of +1 and -1: [B,
    num_classes]."""

    def __init__(self, dim: int, num_classes: int):
        super().__init__()
        bits = hash64(np.arange(num_classes * dim), "lenet5 codes") >> np.uint64(63)
        self.register_buffer("codes", torch.tensor(bits.astype(np.float32) * 2 - 1).reshape(num_classes, dim))

    def forward(self, features: Tensor) -> Tensor:
        squares = features.square().sum(1, keepdim=True) + self.codes.square().sum(1)  # [B, num_classes]
        return 2 * features @ self.codes.T - squares


class LeNet5(nn.Module):
    Config = LeNet5Config

    def __init__(self, config: LeNet5Config):
        super().__init__()
        self.config = config
        self.c1 = nn.Conv2d(config.in_channels, 6, 5)
        self.s2 = _pool(config.pooling, 6)
        self.c3 = TableConv2d(6, C3_TABLE) if config.connections == "table" else nn.Conv2d(6, 16, 5)
        self.s4 = _pool(config.pooling, 16)
        self.c5 = nn.Conv2d(16, 120, 5)
        self.f6 = nn.Linear(120, 84)
        head = CodeHead if config.head == "codes" else nn.Linear
        self.output = head(84, config.num_classes)
        self.squash = {"scaled_tanh": ScaledTanh, "tanh": nn.Tanh, "relu": nn.ReLU}[config.activation]()
        self.squash_pool = self.squash if config.pooling == "trainable" else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, 32, 32] -> logits [B, num_classes]. Raises UserError for another size."""
        if images.shape[-2:] != (IMAGE_SIZE, IMAGE_SIZE):
            raise UserError("LeNet-5 takes images of 32 x 32 pixels",
                            where="x".join(map(str, images.shape[-2:])),
                            remedy="Resize or pad the images to 32 x 32")
        maps = self.squash(self.c1(images))              # [B, 6, 28, 28]
        maps = self.squash_pool(self.s2(maps))           # [B, 6, 14, 14]
        maps = self.squash(self.c3(maps))                # [B, 16, 10, 10]
        maps = self.squash_pool(self.s4(maps))           # [B, 16, 5, 5]
        features = self.squash(self.c5(maps)).flatten(1)  # [B, 120]
        return self.output(self.squash(self.f6(features)))


def _pool(kind: str, channels: int) -> nn.Module:
    return TrainablePool(channels) if kind == "trainable" else (
        nn.AvgPool2d(2) if kind == "average" else nn.MaxPool2d(2))


VARIANTS = {
    "lenet5": {"connections": "table", "activation": "scaled_tanh", "pooling": "trainable", "head": "codes"},
    "lenet5_full": {"connections": "full", "activation": "tanh", "pooling": "average", "head": "linear"},
    "lenet5_relu": {"connections": "full", "activation": "relu", "pooling": "max", "head": "linear"},
}

PUBLISHED = {
    "lenet5": [
        {"what": "params", "value": "60000",
         "source": "LeCun et al. 1998, section II-B (sum over its layers)"},
        {"what": "top1", "value": "99.05", "data": "MNIST",
         "source": "LeCun et al. 1998, section III: MNIST test, 0.95 % error"},
    ],
}

models.add(LeNet5, VARIANTS, family="lenet", task="classification", published=PUBLISHED,
           paper="LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition, "
                 "Proc. IEEE 1998",
           # ink on an empty ground: 0 -> -0.1, 1 -> 1.175 (section II-B)
           preprocessing={"size": (32, 32), "channels": 1, "mean": (0.0784,), "std": (0.7843,)})
