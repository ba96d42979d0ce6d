"""Maximally activating patches: what in a set of images drives each channel of a layer most.

Papers: Zeiler, Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014, arXiv:1311.2901, Figure 2 (the
patches beside the projections); Springenberg et al., ICLR workshop 2015, arXiv:1412.6806. A channel's place in an image
is its highest; the patch is what that place sees. How much it sees is measured, so that it holds for any network: the
box around the middle that holds a share of the gradient of the middle place (all of it: the receptive field; less: the
effective one, Luo et al., NIPS 2016, arXiv:1701.04128), moved with the place by the layer's stride.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from visus import explain
from visus.core.validate import natural, positive, require
from visus.explain.activations import layer_maps, layer_problem
from visus.explain.explanation import Explanation
from visus.explain.feature_layer import FeatureLayer, feature_layer
from visus.explain.filters import filter_sheet
from visus.explain.pixels import Scale, pixel_scale

CHUNK = 32  # images through the network at once


def measured_field(model: nn.Module, layer: FeatureLayer, images: Tensor, share: float = 1.0) -> tuple[int, int]:
    """(height, width) in pixels of the least box around the middle place's centre that holds `share` of the magnitude
    of its gradient; odd, and at most the image. images: [B, C, H, W], over which the gradients are summed."""
    with torch.enable_grad():
        leaves = images.detach().clone().requires_grad_()
        maps = layer_maps(model, leaves, layer)
        rows, columns = maps.shape[2:]
        gradient, = torch.autograd.grad(maps[:, :, rows // 2, columns // 2].sum(), leaves)
    mass = gradient.abs().sum((0, 1))
    place = torch.tensor([[rows // 2, columns // 2]])
    centre = centres(place, (rows, columns), (images.shape[2], images.shape[3]))[0]
    sides = []
    for axis, length in ((1, images.shape[2]), (0, images.shape[3])):
        profile = mass.sum(axis)
        away = (torch.arange(length) - int(centre[1 - axis])).abs()
        held = torch.zeros(length, dtype=profile.dtype).index_add_(0, away, profile.cpu()).cumsum(0)
        # share = 1 is every pixel with a gradient at all, which rounding must not cut off
        radius = int((held < share * held[-1] * (1 - 1e-9)).sum()) if share < 1 else int(away[profile.cpu() > 0].max())
        sides.append(min(2 * radius + 1, length))
    return sides[0], sides[1]


def centres(places: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """[..., 2] (row, column) of a map of `grid` places -> the pixel in the middle of what each stands for."""
    stride = torch.tensor([side / count for side, count in zip(size, grid, strict=True)])
    return ((places.cpu() + 0.5) * stride - 0.5).round().long()


@torch.no_grad()
def strongest_places(model: nn.Module, images: Tensor, layer: FeatureLayer) -> tuple[Tensor, Tensor]:
    """Of each image [N, ...] and channel the highest value, [N, C], and its place, int64 [N, C, 2] (row, column)."""
    values, places = [], []
    for part in images.split(CHUNK):
        maps = layer_maps(model, part, layer)
        highest, index = maps.flatten(2).max(2)
        values.append(highest)
        places.append(torch.stack([index // maps.shape[3], index % maps.shape[3]], -1))
    return torch.cat(values), torch.cat(places)


def crops(pixels: Tensor, which: Tensor, middles: Tensor, size: tuple[int, int]) -> Tensor:
    """Patches of `size` around pixels: of pixels [N, C, H, W] the images `which` [M] around `middles` [M, 2] ->
    [M, C, h, w]; grey beyond the border."""
    rows = middles[:, :1] - size[0] // 2 + torch.arange(size[0])  # [M, h]
    columns = middles[:, 1:] - size[1] // 2 + torch.arange(size[1])
    height, width = pixels.shape[2:]
    found = pixels[which[:, None, None], :, rows.clamp(0, height - 1)[:, :, None],
                   columns.clamp(0, width - 1)[:, None]]  # [M, h, w, C]
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None]
    return torch.where(inside[..., None].to(found.device), found, 0.5).permute(0, 3, 1, 2)


@dataclass(frozen=True, kw_only=True)
class MaxPatches:
    """layer: a module's dotted name; None is the last that has places. channels: how many to show, those driven highest
    over their own mean; first: show that one and the following ones instead. patches: of each channel, from as many
    images. share: of the gradient that a patch holds; 1 is the whole receptive field."""

    layer: str | None = None
    channels: int = 16
    first: int | None = None
    patches: int = 9
    share: float = 0.9
    mean: Scale = None
    std: Scale = None
    needs_images: ClassVar[bool] = True
    together: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(channels=self.channels, patches=self.patches)
        require(isinstance(self.share, int | float) and 0 < self.share <= 1, "share", self.share,
                "be above 0 and at most 1")
        if self.first is not None:
            natural(first=self.first)

    def problem(self, model: nn.Module, images: Tensor) -> str | None:
        return layer_problem(model, images, self.layer)

    def __call__(self, model: nn.Module, images: Tensor) -> Explanation:
        scale = pixel_scale(images, self.mean, self.std)
        layer = feature_layer(model, images, self.layer)
        values, places = strongest_places(model, images, layer)
        count = values.shape[1]
        if self.first is None:
            above = (values.amax(0) - values.mean(0)) / values.std(0, correction=0).clamp(min=1e-12)
            chosen = above.topk(min(self.channels, count)).indices
        else:
            require(self.first < count, "first", self.first, f"be below the {count} channels of the layer")
            chosen = torch.arange(self.first, min(self.first + self.channels, count), device=values.device)
        size = measured_field(model, layer, images[:8], self.share)
        per = min(self.patches, len(images))
        which = values[:, chosen].topk(per, dim=0).indices.T  # [channels, per]
        middles = centres(places[which, chosen[:, None]], layer.grid, (images.shape[2], images.shape[3]))
        found = crops(scale.pixels(images), which.flatten(), middles.flatten(0, 1), size)
        strips = torch.stack([filter_sheet(row, per, side_px=48, gap=2) for row in found.unflatten(0, which.shape)])
        names = tuple(f"channel {int(c)}: {float(values[row[0], c]):.3g} to {float(values[row[-1], c]):.3g}"
                      for c, row in zip(chosen, which, strict=True))
        return Explanation(
            sentence=f"The {per} images of {len(images)} that drive each channel of {layer.words} most, best first: "
                     f"the {size[0]} x {size[1]} pixels around its highest place, which hold {self.share:.0%} of its "
                     "gradient.",
            pictures=strips.float(), picture_names=names)


explain.add(MaxPatches, {"max_patches": {}}, summary="the patches of your images that drive each channel most",
            paper="Zeiler, Fergus, ECCV 2014, arXiv:1311.2901, Figure 2")
