"""OverFeat: a classifier that slides over images of any size, as its full layers are convolutions.

Paper: Sermanet, Eigen, Zhang, Mathieu, Fergus, LeCun, OverFeat: Integrated Recognition, Localization and Detection
using Convolutional Networks, ICLR 2014, arXiv:1312.6229: the fast model of Table 1 and the accurate one of Table 3.
No normalisation of responses, and pooling windows that do not overlap. A larger image gives a map of scores, of which
each class takes its highest (section 3.3); `score_map` gives the map itself, also at the finer stride of Figure 3.
Departures: Table 1 states 24 x 24 as the maps that enter layer 2, but 28 x 28 is what 231 pixels give, and 24 x 24 is
what its convolution then makes of them.
forward: images [B, C, H, W], normalised, H and W of at least image_size -> logits [B, num_classes].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from visus import models
from visus.core.errors import UserError
from visus.core.validate import positive, probability, require
from visus.layers.feature_sequential import FeatureSequential


@dataclass(frozen=True, kw_only=True)
class OverFeatConfig:
    """dims, kernels, pools: of each convolution, its filters, their side, and the side of the pooling after it (1 for
    none); 3 x 3 convolutions keep H and W, larger ones are not padded. stride: of the first. hidden_dims: units of the
    hidden full layers. image_size: side in pixels of the images that give one score; the first full layer is as large
    as the maps that they leave."""

    dims: tuple[int, ...] = (96, 256, 512, 1024, 1024)
    kernels: tuple[int, ...] = (11, 5, 3, 3, 3)
    pools: tuple[int, ...] = (2, 2, 1, 1, 2)
    stride: int = 4
    hidden_dims: tuple[int, ...] = (3072, 4096)
    image_size: int = 231
    dropout: float = 0.5
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        require(isinstance(self.dims, tuple) and len(self.dims) > 0, "dims", self.dims, "be filter counts")
        for field in ("kernels", "pools"):
            value = getattr(self, field)
            require(isinstance(value, tuple) and len(value) == len(self.dims), field, value,
                    f"be {len(self.dims)} numbers, as many as dims")
        require(isinstance(self.hidden_dims, tuple) and len(self.hidden_dims) == 2, "hidden_dims", self.hidden_dims,
                "be two unit counts")
        for dim, kernel, pool in zip(self.dims, self.kernels, self.pools, strict=True):
            positive(dims=dim, kernels=kernel, pools=pool)
            require(kernel % 2 == 1, "kernels", self.kernels, "be odd")
        for dim in self.hidden_dims:
            positive(hidden_dims=dim)
        positive(stride=self.stride, image_size=self.image_size, in_channels=self.in_channels,
                 num_classes=self.num_classes)
        probability(dropout=self.dropout)
        require(self.pools[-1] > 1, "pools", self.pools, "end in a pooling")
        require(last_side(self) >= 1, "image_size", self.image_size, "leave maps for the full layers: make it larger")


def last_side(config: OverFeatConfig) -> int:
    """Side of the last pooled maps of an image of image_size."""
    side, stride = config.image_size, config.stride
    for kernel, pool in zip(config.kernels, config.pools, strict=True):
        side = ((side + 2 * _padding(kernel) - kernel) // stride + 1) // pool
        stride = 1
    return side


class OverFeat(nn.Module):
    """features(images): the convolutions before each pooling, and the last pooled maps."""

    Config = OverFeatConfig

    def __init__(self, config: OverFeatConfig):
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        taps, channels, strides = [], [], []
        in_dim, stride, total = config.in_channels, config.stride, config.stride
        for dim, kernel, pool in zip(config.dims, config.kernels, config.pools, strict=True):
            layers += [nn.Conv2d(in_dim, dim, kernel, stride, _padding(kernel)), nn.ReLU(inplace=True)]
            if pool > 1:
                taps.append(len(layers) - 1)
                channels.append(dim)
                strides.append(total)
                layers.append(nn.MaxPool2d(pool))
                total *= pool
            in_dim, stride = dim, 1
        self.features = FeatureSequential(layers, (*taps, len(layers) - 1))
        hidden, rate = config.hidden_dims, config.dropout
        self.classifier = nn.Sequential(
            nn.Conv2d(in_dim, hidden[0], last_side(config)), nn.ReLU(inplace=True), nn.Dropout(rate),
            nn.Conv2d(hidden[0], hidden[1], 1), nn.ReLU(inplace=True), nn.Dropout(rate),
            nn.Conv2d(hidden[1], config.num_classes, 1))
        self.feature_channels = (*channels, in_dim)
        self.feature_strides = (*strides, total)
        for module in self.modules():  # section 3.1
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.score_map(images).amax((2, 3))  # [B, num_classes, h, w] -> [B, num_classes]

    def score_map(self, images: Tensor, fine: bool = False) -> Tensor:
        """[B, C, H, W] -> logits [B, num_classes, h, w], one for each place of the window.

        fine: the last pooling starts at each of its p x p offsets in turn, and the p^2 maps that the classifier makes
        of them are interleaved (Figure 3): p times as many places on each side, of those that every offset has."""
        if min(images.shape[2:]) < self.config.image_size:
            raise UserError(f"images of {images.shape[2]} x {images.shape[3]} pixels are smaller than this model takes",
                            where=f"image_size={self.config.image_size}",
                            remedy="Resize the images, or build the model with a smaller image_size")
        if not fine:
            return self.classifier(self.features.last(images))
        maps = self.features[:-1](images)
        pool = self.config.pools[-1]
        full = last_side(self.config)
        rows, columns = ((side - pool + 1) // pool - full + 1 for side in maps.shape[2:])
        if min(rows, columns) < 1:
            raise UserError(f"images of {images.shape[2]} x {images.shape[3]} pixels have no places between places",
                            where="fine=True", remedy="Take larger images, or fine=False")
        shifted = [self.classifier(self.features[-1](maps[:, :, y:, x:]))[:, :, :rows, :columns]
                   for y in range(pool) for x in range(pool)]
        scores = torch.stack(shifted, -1).unflatten(-1, (pool, pool))  # [B, K, h, w, p, p]
        return scores.permute(0, 1, 2, 4, 3, 5).flatten(4).flatten(2, 3)  # [B, K, h p, w p]


def _padding(kernel: int) -> int:
    return 1 if kernel == 3 else 0


VARIANTS = {
    "overfeat_fast": {"dims": (96, 256, 512, 1024, 1024), "kernels": (11, 5, 3, 3, 3), "pools": (2, 2, 1, 1, 2),
                      "stride": 4, "hidden_dims": (3072, 4096), "image_size": 231},
    "overfeat_accurate": {"dims": (96, 256, 512, 512, 1024, 1024), "kernels": (7, 7, 3, 3, 3, 3),
                          "pools": (3, 2, 1, 1, 1, 3), "stride": 2, "hidden_dims": (4096, 4096), "image_size": 221},
}

_TABLE_2 = "Sermanet et al. 2014, Table 2, {} (from memory)"
_TABLE_4 = "Sermanet et al. 2014, Table 4 (there named {}; from memory)"
PUBLISHED = {
    "overfeat_fast": [
        {"what": "params", "value": "145e6", "source": _TABLE_4.format("parameters"),
         "reason": "the layers of Table 1 sum to 145.92 million, which it cuts to 145"},
        {"what": "macs", "value": "2810e6", "source": _TABLE_4.format("connections"),
         "reason": "the layers of Table 1 sum to 2801 million products, 2802 with biases"},
        {"what": "top1", "value": "60.72", "data": "ImageNet-1k",
         "source": _TABLE_2.format("1 fast model, one scale, coarse stride, validation, 39.28 % error")}],
    "overfeat_accurate": [
        {"what": "params", "value": "144e6", "source": _TABLE_4.format("parameters"),
         "reason": "the layers of Table 3 sum to 144.66 million, which it cuts to 144"},
        {"what": "macs", "value": "5369e6", "source": _TABLE_4.format("connections"),
         "reason": "the layers of Table 3 sum to 5355 million products, 5357 with biases"},
        {"what": "top1", "value": "64.26", "data": "ImageNet-1k",
         "source": _TABLE_2.format("1 accurate model, four scales, fine stride, validation, 35.74 % error")}],
}

for _name, _variant in VARIANTS.items():
    models.add(OverFeat, {_name: _variant}, family="overfeat", task="classification", published=PUBLISHED,
               paper="Sermanet, Eigen, Zhang, Mathieu, Fergus, LeCun: OverFeat: Integrated Recognition, Localization "
                     "and Detection using Convolutional Networks, ICLR 2014, arXiv:1312.6229",
               preprocessing={"size": (_variant["image_size"], _variant["image_size"]), "resize": "crop",
                              "crop_fraction": round(_variant["image_size"] / 256, 4)})
