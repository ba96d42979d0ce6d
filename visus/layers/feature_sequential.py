"""Layers in a row that also give their maps at several strides: the trunk of AlexNet, VGG, SqueezeNet and others
whose public weights are named `features.N`."""

from __future__ import annotations

from torch import Tensor, nn

from visus.layers.image_size import require_size


class FeatureSequential(nn.Sequential):
    """images [B, C, H, W] -> the maps after the layers numbered `taps`, of which the last layer is one.

    `last` gives the last map alone, without keeping the others. Tap no layer that an in-place one follows.
    A slice is a plain nn.Sequential. least: pixels that H and W must have; below it both raise UserError.
    """

    def __init__(self, layers: list[nn.Module], taps: tuple[int, ...], least: int = 1):
        super().__init__(*layers)
        assert list(taps) == sorted(set(taps)) and taps[-1] == len(layers) - 1
        self.taps = taps
        self.least = least

    def __getitem__(self, index: int | slice) -> nn.Module:
        layers = list(self._modules.values())[index]
        return nn.Sequential(*layers) if isinstance(layers, list) else layers

    def forward(self, images: Tensor) -> list[Tensor]:
        require_size(images, self.least)
        maps, out = images, []
        for number, layer in enumerate(self):
            maps = layer(maps)
            if number in self.taps:
                out.append(maps)
        return out

    def last(self, images: Tensor) -> Tensor:
        require_size(images, self.least)
        for layer in self:
            images = layer(images)
        return images
