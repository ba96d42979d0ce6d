"""GoogLeNet (Inception v1): nine modules that look at four scales at once, and two auxiliary classifiers.

Paper: Szegedy et al., Going Deeper with Convolutions, CVPR 2015, arXiv:1409.4842. A module concatenates 1 x 1,
3 x 3 and larger convolutions and a pooling, behind 1 x 1 convolutions that keep them cheap. Departures, all as
the public weights have them: batch norm after each convolution (Ioffe and Szegedy 2015) instead of local
response normalisation; 3 x 3 where the paper has 5 x 5; an auxiliary head pools its maps to 4 x 4 whatever
their size. Parameters carry torchvision's names.
forward: images [B, C, H, W], normalised, H and W of at least 15 -> logits [B, num_classes] of the main
classifier, in training too. loss: images, targets -> scalar, with the auxiliary classifiers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visus import models
from visus.core.validate import boolean, positive, probability
from visus.layers.conv_norm import ConvNorm
from visus.layers.image_size import require_size
from visus.losses.classification import cross_entropy

AUX_WEIGHT = 0.3   # of each auxiliary loss (section 5)
AUX_SIDE = 4       # of the maps that an auxiliary head reads
MIN_SIZE = 15     # of a side in pixels: four poolings without padding


@dataclass(frozen=True, kw_only=True)
class GoogLeNetConfig:
    """aux_heads: with the two auxiliary classifiers, which `loss` alone reads. dropout, aux_dropout: before the
    last layer of the main and of an auxiliary classifier."""

    aux_heads: bool = True
    dropout: float = 0.4
    aux_dropout: float = 0.7
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        boolean(aux_heads=self.aux_heads)
        probability(dropout=self.dropout, aux_dropout=self.aux_dropout)
        positive(in_channels=self.in_channels, num_classes=self.num_classes)


class NaiveInception(nn.Module):
    """Figure 2a, the module before its reductions: [B, in_dim, H, W] -> [B, dim_1 + dim_3 + dim_5 + in_dim, H, W].

    Each larger kernel sees all channels, and the pooling hands all of them on: modules in a row grow without end.
    kernel_5: as in Inception. Not part of GoogLeNet; here to be compared with."""

    def __init__(self, in_dim: int, dim_1: int, dim_3: int, dim_5: int, kernel_5: int = 5):
        super().__init__()
        self.branch1 = ConvNorm(in_dim, dim_1, 1)
        self.branch2 = ConvNorm(in_dim, dim_3, 3)
        self.branch3 = ConvNorm(in_dim, dim_5, kernel_5)
        self.branch4 = nn.MaxPool2d(3, 1, 1)

    def forward(self, maps: Tensor) -> Tensor:
        return torch.cat([self.branch1(maps), self.branch2(maps), self.branch3(maps), self.branch4(maps)], 1)


class Inception(nn.Module):
    """Figure 2b: [B, in_dim, H, W] -> [B, dim_1 + dim_3 + dim_5 + dim_pool, H, W]. The arguments are a row of Table
    1: reduce_3 and reduce_5 are the 1 x 1 convolutions before the 3 x 3 and the 5 x 5. kernel_5: 5 in the paper, 3
    in the public weights."""

    def __init__(self, in_dim: int, dim_1: int, reduce_3: int, dim_3: int, reduce_5: int, dim_5: int, dim_pool: int,
                 kernel_5: int = 3):
        super().__init__()
        self.branch1 = ConvNorm(in_dim, dim_1, 1)
        self.branch2 = nn.Sequential(ConvNorm(in_dim, reduce_3, 1), ConvNorm(reduce_3, dim_3, 3))
        self.branch3 = nn.Sequential(ConvNorm(in_dim, reduce_5, 1), ConvNorm(reduce_5, dim_5, kernel_5))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), ConvNorm(in_dim, dim_pool, 1))

    def forward(self, maps: Tensor) -> Tensor:
        return torch.cat([self.branch1(maps), self.branch2(maps), self.branch3(maps), self.branch4(maps)], 1)


class AuxiliaryHead(nn.Module):
    """A classifier on maps from the middle: [B, in_dim, H, W] -> logits [B, num_classes]."""

    def __init__(self, in_dim: int, num_classes: int, dropout: float):
        super().__init__()
        self.conv = ConvNorm(in_dim, 128, 1)
        self.fc1 = nn.Linear(128 * AUX_SIDE**2, 1024)
        self.dropout = nn.Dropout(dropout)
        self.fc2 = nn.Linear(1024, num_classes)

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.conv(F.adaptive_avg_pool2d(maps, AUX_SIDE))
        hidden = F.relu(self.fc1(maps.flatten(1)), inplace=True)  # [B, 128, 4, 4] -> [B, 2048] -> [B, 1024]
        return self.fc2(self.dropout(hidden))


class GoogLeNet(nn.Module):
    Config = GoogLeNetConfig

    def __init__(self, config: GoogLeNetConfig):
        super().__init__()
        self.config = config
        self.conv1 = ConvNorm(config.in_channels, 64, 7, 2)
        self.maxpool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2 = ConvNorm(64, 64, 1)
        self.conv3 = ConvNorm(64, 192, 3)
        self.maxpool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.inception3a = Inception(192, 64, 96, 128, 16, 32, 32)
        self.inception3b = Inception(256, 128, 128, 192, 32, 96, 64)
        self.maxpool3 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.inception4a = Inception(480, 192, 96, 208, 16, 48, 64)
        self.inception4b = Inception(512, 160, 112, 224, 24, 64, 64)
        self.inception4c = Inception(512, 128, 128, 256, 24, 64, 64)
        self.inception4d = Inception(512, 112, 144, 288, 32, 64, 64)
        self.inception4e = Inception(528, 256, 160, 320, 32, 128, 128)
        self.maxpool4 = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.inception5a = Inception(832, 256, 160, 320, 32, 128, 128)
        self.inception5b = Inception(832, 384, 192, 384, 48, 128, 128)
        if config.aux_heads:
            self.aux1 = AuxiliaryHead(512, config.num_classes, config.aux_dropout)
            self.aux2 = AuxiliaryHead(528, config.num_classes, config.aux_dropout)
        self.dropout = nn.Dropout(config.dropout)
        self.fc = nn.Linear(1024, config.num_classes)
        self.feature_channels = (192, 480, 832, 1024)
        self.feature_strides = (4, 8, 16, 32)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> maps of strides 4, 8, 16 and 32: the last before each halving (of sides rounded up)."""
        maps_2, maps_3, _, _, maps_4, maps_5 = self._trunk(images)
        return [maps_2, maps_3, maps_4, maps_5]

    def forward(self, images: Tensor) -> Tensor:
        return self._classify(self._trunk(images)[-1])

    def training_logits(self, images: Tensor) -> tuple[Tensor, tuple[tuple[float, Tensor], ...]]:
        """Logits of the main classifier, and (0.3, logits) of each auxiliary one where the model has them."""
        _, _, maps_4a, maps_4d, _, maps = self._trunk(images)
        logits = self._classify(maps)
        if not self.config.aux_heads:
            return logits, ()
        return logits, ((AUX_WEIGHT, self.aux1(maps_4a)), (AUX_WEIGHT, self.aux2(maps_4d)))

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of the main classifier plus 0.3 times that of each auxiliary one, where the model has
        them, in train and eval. targets: int64 [B], or float [B, num_classes] soft labels. -> scalar."""
        logits, auxiliary = self.training_logits(images)
        return cross_entropy(logits, targets) + sum(weight * cross_entropy(aux, targets) for weight, aux in auxiliary)

    def _classify(self, maps: Tensor) -> Tensor:
        return self.fc(self.dropout(F.adaptive_avg_pool2d(maps, 1).flatten(1)))  # [B, 1024] -> [B, num_classes]

    def _trunk(self, images: Tensor) -> tuple[Tensor, ...]:
        """The maps after conv3 and after inception 3b, 4a, 4d, 4e and 5b."""
        require_size(images, MIN_SIZE)
        maps_2 = self.conv3(self.conv2(self.maxpool1(self.conv1(images))))
        maps_3 = self.inception3b(self.inception3a(self.maxpool2(maps_2)))
        maps_4a = self.inception4a(self.maxpool3(maps_3))
        maps_4d = self.inception4d(self.inception4c(self.inception4b(maps_4a)))
        maps_4e = self.inception4e(maps_4d)
        return maps_2, maps_3, maps_4a, maps_4d, maps_4e, self.inception5b(self.inception5a(self.maxpool4(maps_4e)))


VARIANTS = {
    "googlenet": {"aux_heads": True},
}

_TORCHVISION = "torchvision 0.28.0, weights IMAGENET1K_V1"
PUBLISHED = {
    "googlenet": [{"what": "params", "value": "6624904", "source": _TORCHVISION,
                   "reason": "counted there without the two auxiliary heads, of 6379984 parameters"},
                  {"what": "macs", "value": "1.498e9", "source": _TORCHVISION},
                  {"what": "top1", "value": "69.778", "data": "ImageNet-1k", "source": _TORCHVISION}],
}

WEIGHTS = {
    "googlenet": {"torchvision": {"file": "googlenet-1378be20.pth",
                                  "licence": "BSD-3-Clause (torchvision); trained on ImageNet-1k; its auxiliary "
                                             "heads are not trained"}},
}

models.add(GoogLeNet, VARIANTS, WEIGHTS, family="inception", task="classification", published=PUBLISHED,
           origins={"torchvision": dict}, peers={"googlenet": ("torchvision", "googlenet")},
           paper="Szegedy et al.: Going Deeper with Convolutions, CVPR 2015, arXiv:1409.4842",
           # of the public weights, which come from TensorFlow; torchvision does the same inside of its model
           preprocessing={"size": (224, 224), "resize": "crop", "crop_fraction": 0.875,
                          "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)})
