"""AlexNet: five convolutions and three full layers.

Papers: Krizhevsky, Sutskever, Hinton, ImageNet Classification with Deep Convolutional Neural Networks, NIPS 2012
(`alexnet_original`: 96 filters, layers 2, 4 and 5 in two groups, one for each of its GPUs, local response
normalisation); Krizhevsky, One weird trick for parallelizing convolutional neural networks, arXiv:1404.5997
(`alexnet`: one tower of 64 filters, no normalisation). ReLU, overlapping pooling and dropout make a large network
trainable. Departures: the last maps are averaged to 6 x 6, which does nothing at the design size (227 and 224 pixels)
and admits others; the original's pooling rounds its sizes up, which changes nothing at 227 (the paper prints 224, from
which its 55 x 55 maps do not follow); `alexnet` has torchvision's order of dropout and PyTorch's initial weights.
Parameters of `alexnet` carry torchvision's names.
forward: images [B, C, H, W], normalised, H and W of at least 63 (`alexnet_original`: 39) -> logits [B, num_classes].
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from visus import models
from visus.core.validate import one_of, positive, probability, require
from visus.layers.feature_sequential import FeatureSequential
from visus.layers.response_norm import ResponseNorm

POOLED = 6  # side of the maps that the first full layer sees


@dataclass(frozen=True, kw_only=True)
class AlexNetConfig:
    """layout: 'one_tower' (arXiv:1404.5997) or 'two_towers' (2012: another padding of the first convolution,
    normalised responses, the paper's initial weights). dims: filters of the five convolutions. groups: of
    convolutions 2, 4 and 5. hidden_dim: units of each hidden full layer."""

    layout: str = "one_tower"
    dims: tuple[int, ...] = (64, 192, 384, 256, 256)
    groups: int = 1
    hidden_dim: int = 4096
    dropout: float = 0.5
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        one_of(("one_tower", "two_towers"), layout=self.layout)
        require(isinstance(self.dims, tuple) and len(self.dims) == 5, "dims", self.dims, "be five filter counts")
        for dim in self.dims:
            positive(dims=dim)
        positive(groups=self.groups, hidden_dim=self.hidden_dim, in_channels=self.in_channels,
                 num_classes=self.num_classes)
        require(all(dim % self.groups == 0 for dim in self.dims), "dims", self.dims,
                f"be multiples of groups={self.groups}")
        probability(dropout=self.dropout)


class AlexNet(nn.Module):
    Config = AlexNetConfig

    def __init__(self, config: AlexNetConfig):
        super().__init__()
        self.config = config
        original = config.layout == "two_towers"
        layers, taps = _trunk(config.in_channels, config.dims, config.groups, original)
        self.features = FeatureSequential(layers, taps, least=39 if original else 63)
        self.avgpool = nn.AdaptiveAvgPool2d(POOLED)
        flat, hidden, rate = POOLED**2 * config.dims[4], config.hidden_dim, config.dropout
        hidden_layers = [nn.Linear(flat, hidden), nn.ReLU(inplace=True), nn.Dropout(rate),
                         nn.Linear(hidden, hidden), nn.ReLU(inplace=True)]
        # the paper drops the outputs of both hidden layers, torchvision the inputs of both
        dropped = [*hidden_layers, nn.Dropout(rate)] if original else [nn.Dropout(rate), *hidden_layers]
        self.classifier = nn.Sequential(*dropped, nn.Linear(hidden, config.num_classes))
        self.feature_channels = (config.dims[0], config.dims[1], config.dims[4], config.dims[4])
        self.feature_strides = (4, 8, 16, 32)
        if original:
            _initialise_as_in_2012(self)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.avgpool(self.features.last(images))
        return self.classifier(maps.flatten(1))  # [B, D, 6, 6] -> [B, 36 D] -> [B, num_classes]


def _trunk(in_channels: int, dims: tuple[int, ...], groups: int,
           original: bool) -> tuple[list[nn.Module], tuple[int, ...]]:
    """The layers up to the last pooling, and the numbers of those that end a stride of 4, 8, 16 and 32."""
    layers: list[nn.Module] = []
    taps = []
    in_dim = in_channels
    for number, dim in enumerate(dims):
        if number == 0:
            layers.append(nn.Conv2d(in_dim, dim, 11, 4, 0 if original else 2))
        else:
            kernel = 5 if number == 1 else 3
            layers.append(nn.Conv2d(in_dim, dim, kernel, 1, kernel // 2, groups=1 if number == 2 else groups))
        layers.append(nn.ReLU(inplace=True))
        if original and number < 2:  # section 3.3: k 2, n 5, alpha 1e-4, beta 0.75
            layers.append(ResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0))
        if number in (0, 1, 4):
            taps.append(len(layers) - 1)
            layers.append(nn.MaxPool2d(3, 2, ceil_mode=original))
        in_dim = dim
    return layers, (*taps, len(layers) - 1)


def _initialise_as_in_2012(model: AlexNet) -> None:
    """Section 5: normal weights of deviation 0.01; biases of 1 in convolutions 2, 4 and 5 and in the hidden full
    layers, elsewhere 0."""
    weighted = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for number, module in enumerate(weighted, 1):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.constant_(module.bias, 1.0 if number in (2, 4, 5, 6, 7) else 0.0)


VARIANTS = {
    "alexnet": {"layout": "one_tower", "dims": (64, 192, 384, 256, 256), "groups": 1},
    "alexnet_original": {"layout": "two_towers", "dims": (96, 256, 384, 384, 256), "groups": 2},
}

_PAPER = "Krizhevsky et al. 2012"
_TORCHVISION = "torchvision 0.28.0, weights IMAGENET1K_V1"
PUBLISHED = {
    "alexnet": [{"what": "params", "value": "61100840", "source": _TORCHVISION},
                {"what": "macs", "value": "0.714e9", "source": _TORCHVISION},
                {"what": "top1", "value": "56.522", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "alexnet_original": [{"what": "params", "value": "60e6", "source": f"{_PAPER}, abstract",
                          "reason": "the layers that the paper lists sum to 60.97 million, which it cuts to 60"},
                         {"what": "top1", "value": "59.3", "data": "ImageNet-1k",
                          "source": f"{_PAPER}, Table 2, one CNN, validation, 40.7 % error (from memory)"}],
}

WEIGHTS = {
    "alexnet": {"torchvision": {"file": "alexnet-owt-7be5be79.pth",
                                "licence": "BSD-3-Clause (torchvision); trained on ImageNet-1k"}},
}

# The course's table of weights (without biases) and multiply-accumulates at 227 px; it prints FLOPs for the latter.
LAYER_TABLES = {
    "alexnet_original": {
        "source": "course slides on AlexNet (catalogue C1), there from the last layer to the first",
        "image_size": 227, "columns": ("weights", "macs"), "configs": {"2 groups": {}, "1 group": {"groups": 1}},
        "rows": {"features.0": ("35K", "105M"), "features.4": ("307K", "223M"), "features.8": ("884K", "149M"),
                 "features.10": ("1.3M", "112M"), "features.12": ("442K", "74M"), "classifier.0": ("37M", "37M"),
                 "classifier.3": ("16M", "16M"), "classifier.6": ("4M", "4M")},
    },
}

for _name, _size in (("alexnet", 224), ("alexnet_original", 227)):
    models.add(AlexNet, {_name: VARIANTS[_name]}, WEIGHTS, family="alexnet", task="classification",
               published=PUBLISHED, layer_tables=LAYER_TABLES, origins={"torchvision": dict},
               peers={"alexnet": ("torchvision", "alexnet")},
               paper="Krizhevsky, Sutskever, Hinton: ImageNet Classification with Deep Convolutional Neural "
                     "Networks, NIPS 2012; one tower: Krizhevsky, arXiv:1404.5997",
               preprocessing={"size": (_size, _size), "resize": "crop", "crop_fraction": 0.875})
