"""All-CNN-C: a network for small images of convolutions alone.

Paper: Springenberg, Dosovitskiy, Brox, Riedmiller, Striving for Simplicity: The All Convolutional Net, ICLR workshop
2015, arXiv:1412.6806, Tables 1 and 2: convolutions of stride 2 take the place of pooling. Departures: images are
normalised by mean and deviation, not whitened; weights start at random variance 2 / fan-out, of which the paper says
nothing.
forward: images [B, C, H, W], normalised, H and W of at least 9 -> logits [B, num_classes], never negative: a ReLU
follows the last convolution.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from visus import models
from visus.core.validate import positive, probability, require
from visus.layers.feature_sequential import FeatureSequential


@dataclass(frozen=True, kw_only=True)
class AllCNNConfig:
    """dims: filters before and after the first halving. input_dropout: of the image; dropout: of the maps after each
    convolution of stride 2."""

    dims: tuple[int, ...] = (96, 192)
    input_dropout: float = 0.2
    dropout: float = 0.5
    in_channels: int = 3
    num_classes: int = 10

    def __post_init__(self) -> None:
        require(isinstance(self.dims, tuple) and len(self.dims) == 2, "dims", self.dims, "be two filter counts")
        for dim in self.dims:
            positive(dims=dim)
        probability(input_dropout=self.input_dropout, dropout=self.dropout)
        positive(in_channels=self.in_channels, num_classes=self.num_classes)


class AllCNN(nn.Module):
    """features(images): the last maps before each halving, and the last of all, which lack the border that the
    seventh convolution does not pad (6 x 6 of 32 x 32)."""

    Config = AllCNNConfig

    def __init__(self, config: AllCNNConfig):
        super().__init__()
        self.config = config
        first, second = config.dims
        layers = [nn.Dropout(config.input_dropout), *_conv(config.in_channels, first), *_conv(first, first),
                  *_conv(first, first, stride=2), nn.Dropout(config.dropout),
                  *_conv(first, second), *_conv(second, second),
                  *_conv(second, second, stride=2), nn.Dropout(config.dropout),
                  *_conv(second, second, padding=0), *_conv(second, second, kernel=1, padding=0)]
        self.features = FeatureSequential(layers, (4, 11, len(layers) - 1), least=9)
        self.classifier = nn.Sequential(*_conv(second, config.num_classes, kernel=1, padding=0),
                                        nn.AdaptiveAvgPool2d(1))
        self.feature_channels = (first, second, second)
        self.feature_strides = (1, 2, 4)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features.last(images)).flatten(1)  # [B, num_classes, 1, 1] -> [B, num_classes]


def _conv(in_dim: int, dim: int, kernel: int = 3, stride: int = 1, padding: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(in_dim, dim, kernel, stride, padding), nn.ReLU(inplace=True)]


VARIANTS = {"all_cnn_c": {}}

_TABLE_3 = "Springenberg et al. 2015, Table 3 (from memory)"
PUBLISHED = {
    "all_cnn_c": [{"what": "params", "value": "1.3e6", "source": _TABLE_3,
                   "reason": "the layers of Tables 1 and 2 sum to 1.37 million, which the paper cuts to 1.3"},
                  {"what": "top1", "value": "92.75", "data": "CIFAR-10",
                   "source": f"{_TABLE_3}: 7.25 % error with flips and shifts"},
                  {"what": "top1", "value": "90.92", "data": "CIFAR-10",
                   "source": f"{_TABLE_3}: 9.08 % error without augmentation"}],
}

models.add(AllCNN, VARIANTS, family="all_cnn", task="classification", published=PUBLISHED,
           paper="Springenberg, Dosovitskiy, Brox, Riedmiller: Striving for Simplicity: The All Convolutional Net, "
                 "ICLR workshop 2015, arXiv:1412.6806",
           preprocessing={"size": (32, 32), "mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)})
