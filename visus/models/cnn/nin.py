"""Network in Network, for CIFAR: each convolution is followed by a small network at every place.

Paper: Lin, Chen, Yan, Network In Network, ICLR 2014, arXiv:1312.4400. A mlpconv layer is a convolution and two 1 x 1
convolutions, each with a ReLU; the last gives one map a class, whose average over all places is the class's logit in
place of full layers. The paper prints no widths: these are of the authors' released CIFAR-10 network (from memory),
whose second pooling averages. Departures: images are normalised by mean and deviation, not whitened; weights start at
random variance 2 / fan-out, not at deviation 0.05.
forward: images [B, C, H, W], normalised, H and W of at least 4 -> logits [B, num_classes], never negative: a ReLU
follows the last convolution.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from visus import models
from visus.core.validate import positive, probability, require
from visus.layers.feature_sequential import FeatureSequential


@dataclass(frozen=True, kw_only=True)
class NINConfig:
    """dims: filters of the three convolutions of each of the first two mlpconv layers and of the first two
    convolutions of the third. dropout: after each pooling."""

    dims: tuple[int, ...] = (192, 160, 96, 192, 192, 192, 192, 192)
    dropout: float = 0.5
    in_channels: int = 3
    num_classes: int = 10

    def __post_init__(self) -> None:
        require(isinstance(self.dims, tuple) and len(self.dims) == 8, "dims", self.dims, "be eight filter counts")
        for dim in self.dims:
            positive(dims=dim)
        probability(dropout=self.dropout)
        positive(in_channels=self.in_channels, num_classes=self.num_classes)


class NIN(nn.Module):
    """features(images): the maps of the first two mlpconv layers before their pooling, and those that the last
    convolution turns into classes."""

    Config = NINConfig

    def __init__(self, config: NINConfig):
        super().__init__()
        self.config = config
        dims = config.dims
        layers = [*_conv(config.in_channels, dims[0], 5), *_conv(dims[0], dims[1], 1), *_conv(dims[1], dims[2], 1),
                  nn.MaxPool2d(3, 2, ceil_mode=True), nn.Dropout(config.dropout),
                  *_conv(dims[2], dims[3], 5), *_conv(dims[3], dims[4], 1), *_conv(dims[4], dims[5], 1),
                  nn.AvgPool2d(3, 2, ceil_mode=True), nn.Dropout(config.dropout),
                  *_conv(dims[5], dims[6], 3), *_conv(dims[6], dims[7], 1)]
        self.features = FeatureSequential(layers, (5, 13, len(layers) - 1), least=4)
        self.classifier = nn.Sequential(*_conv(dims[7], config.num_classes, 1), nn.AdaptiveAvgPool2d(1))
        self.feature_channels = (dims[2], dims[5], dims[7])
        self.feature_strides = (1, 2, 4)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features.last(images)).flatten(1)  # [B, num_classes, 1, 1] -> [B, num_classes]


def _conv(in_dim: int, dim: int, kernel: int) -> list[nn.Module]:
    return [nn.Conv2d(in_dim, dim, kernel, 1, kernel // 2), nn.ReLU(inplace=True)]


VARIANTS = {"nin": {}}

_TABLE_1 = "Lin et al. 2014, Table 1 (from memory)"
PUBLISHED = {
    "nin": [{"what": "top1", "value": "91.19", "data": "CIFAR-10",
             "source": f"{_TABLE_1}: 8.81 % error with flips and shifts"},
            {"what": "top1", "value": "89.59", "data": "CIFAR-10",
             "source": f"{_TABLE_1}: 10.41 % error without augmentation"}],
}

models.add(NIN, VARIANTS, family="nin", task="classification", published=PUBLISHED,
           paper="Lin, Chen, Yan: Network In Network, ICLR 2014, arXiv:1312.4400",
           preprocessing={"size": (32, 32), "mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)})
