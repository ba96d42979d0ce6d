"""The three-layer convolutional network of a first course: convolution, ReLU, pooling, and two full layers.

Source: Stanford CS231n, assignment 2, Convolutional Networks: conv - ReLU - 2 x 2 max pool - affine - ReLU - affine -
softmax, the smallest network that learns its own filters. Departure: pooling comes before the ReLU, on a quarter of
the places; the largest of ReLUs is the ReLU of the largest, in value and in gradient.
forward: images [B, C, S, S], normalised -> logits [B, num_classes].
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from visus import models
from visus.core.errors import UserError
from visus.core.validate import positive, require


@dataclass(frozen=True, kw_only=True)
class ThreeLayerConvNetConfig:
    """num_filters, filter_size: the convolution, padded so that it keeps the maps' size. image_size: side in pixels of
    the square images. weight_scale: standard deviation of all weights at the start; biases start at 0."""

    num_filters: int = 32
    filter_size: int = 7
    hidden_dim: int = 100
    weight_scale: float = 1e-3
    image_size: int = 32
    in_channels: int = 3
    num_classes: int = 10

    def __post_init__(self) -> None:
        positive(num_filters=self.num_filters, filter_size=self.filter_size, hidden_dim=self.hidden_dim,
                 image_size=self.image_size, in_channels=self.in_channels, num_classes=self.num_classes)
        require(self.filter_size % 2 == 1, "filter_size", self.filter_size, "be odd, so that the padding is whole")
        require(self.image_size >= 2, "image_size", self.image_size, "be at least 2, the side of the pooling window")
        scale = self.weight_scale
        require(isinstance(scale, int | float) and not isinstance(scale, bool) and scale > 0, "weight_scale", scale,
                "be a number above 0")


class ThreeLayerConvNet(nn.Module):
    Config = ThreeLayerConvNetConfig

    def __init__(self, config: ThreeLayerConvNetConfig):
        super().__init__()
        self.config = config
        self.conv = nn.Conv2d(config.in_channels, config.num_filters, config.filter_size,
                              padding=config.filter_size // 2)
        self.pool = nn.MaxPool2d(2)
        self.relu = nn.ReLU(inplace=True)
        self.hidden = nn.Linear(config.num_filters * (config.image_size // 2) ** 2, config.hidden_dim)
        self.head = nn.Linear(config.hidden_dim, config.num_classes)
        self.feature_channels = (config.num_filters,)
        self.feature_strides = (2,)
        for layer in (self.conv, self.hidden, self.head):
            nn.init.normal_(layer.weight, std=config.weight_scale)
            nn.init.zeros_(layer.bias)

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, S, S] -> the pooled maps [B, num_filters, S / 2, S / 2]. Raises UserError for another image shape."""
        expected = (self.config.in_channels, self.config.image_size, self.config.image_size)
        if tuple(images.shape[1:]) != expected:
            raise UserError(f"this model was built for images of {expected}", where=tuple(images.shape[1:]),
                            remedy="Resize the images, or build the model with their image_size and in_channels")
        return [self.relu(self.pool(self.conv(images)))]

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.relu(self.hidden(self.features(images)[0].flatten(1)))  # [B, F S/2 S/2] -> [B, hidden_dim]
        return self.head(hidden)


VARIANTS = {"three_layer_convnet": {"num_filters": 32, "filter_size": 7, "hidden_dim": 100}}

models.add(ThreeLayerConvNet, VARIANTS, family="three_layer_convnet", task="classification",
           paper="Stanford CS231n, Convolutional Neural Networks for Visual Recognition, assignment 2: "
                 "Convolutional Networks",
           preprocessing={"size": (32, 32), "mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)})
