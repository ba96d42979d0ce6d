"""Neural style transfer: what is in one picture, painted as another is.

Papers: Gatys, Ecker, Bethge, Image Style Transfer Using Convolutional Neural Networks, CVPR 2016: from an image, L-BFGS
lowers the distance to the content's maps in a deep layer and to the style's Gram matrices in all. Colours kept: Gatys,
Bethge, Hertzmann, Shechtman, arXiv:1606.05897, by the style's colours (`match_colours`) or by luminance alone
(`with_chroma_of`). Regions: Gatys et al., CVPR 2017, arXiv:1611.07865. Several styles with weights, Adam and a start
from the content are the custom of implementations. Departure: each layer counts relative to its own target, so that
weights mean the same for any network; a picture of zero maps has content loss 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor, nn

from visus import explain
from visus.core.errors import UserError
from visus.core.images import read_image
from visus.core.validate import one_of, require
from visus.explain.explanation import Explanation, in_eval_mode
from visus.explain.pixels import PixelScale, Scale, pixel_scale
from visus.explain.texture import (
    Optimiser,
    as_tuple,
    check_descent,
    check_weight,
    noise_like,
    optimise_images,
    smoothness,
)
from visus.losses.perceptual import FeatureMaps, feature_loss, paper_layers, style_grams, style_loss
from visus.ops.resample import center_crop, resize, to_channels

Colour = Literal["style", "luminance", "histogram"]
COLOURS = ("style", "luminance", "histogram")
STARTS = ("content", "noise")
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601: Y of YIQ


def transfer_style(model: nn.Module, images: Tensor, styles: Sequence[Tensor], scale: PixelScale, *,
                   style_shares: Sequence[float] = (), masks: Sequence[Tensor] = (), content_weight: float = 1.0,
                   style_weight: float = 10.0, tv_weight: float = 0.0, content_layers: Sequence[str] = (),
                   style_layers: Sequence[str] = (), pool: str = "max", start: str = "content", steps: int = 200,
                   optimiser: Optimiser = "lbfgs", lr: float = 0.05,
                   generator: Generator | None = None) -> tuple[Tensor, list[float]]:
    """images [B, C, H, W], normalised, in the style of all of `styles` [1, C, h, w]: [B, C, H, W]; and the loss by
    evaluation.

    The loss is content_weight times the relative `feature_loss` plus style_weight times the mean over layers of the
    relative `style_loss`, mixed over the styles in the shares given (equal, where none are). masks: [1, 1, H, W] or
    [B, 1, H, W] in [0, 1], one for each style: the region that it paints, whose Gram matrices alone are compared.
    start: 'content' or 'noise'. scale: of the images' normalisation. Several images are one problem of the
    optimiser; what it finds for each differs a little from what it finds for it alone.
    """
    found = paper_layers(model) if not (content_layers and style_layers) else None
    content_layers = tuple(content_layers) or found.content  # type: ignore[union-attr]
    style_layers = tuple(style_layers) or found.style  # type: ignore[union-attr]
    features = FeatureMaps(model, (*content_layers, *style_layers), pool)
    given = tuple(style_shares) or (1.0,) * len(styles)
    shares = [share / sum(given) for share in given]
    with torch.no_grad(), in_eval_mode(model):
        maps = features(images)
        content = {layer: maps[layer] for layer in content_layers}
        targets = [style_grams(features(style), style_layers) for style in styles]
    weights = dict.fromkeys(style_layers, 1 / len(style_layers))
    content_weights = dict.fromkeys(content_layers, 1 / len(content_layers))

    def loss(pictures: Tensor) -> Tensor:
        maps = features(pictures)
        value = content_weight * feature_loss(maps, content, content_weights, relative=True)
        grams = None if masks else style_grams(maps, style_layers)
        for number, target in enumerate(targets):
            ours = grams if grams is not None else style_grams(maps, style_layers, masks[number])
            value = value + style_weight * shares[number] * style_loss(ours, target, weights, relative=True)
        return value + smoothness(pictures, tv_weight)

    size = (images.shape[2], images.shape[3])
    first = images if start == "content" else noise_like(images, size, scale, generator)
    with in_eval_mode(model):
        return optimise_images(first, loss, scale, steps=steps, optimiser=optimiser, lr=lr)


# -- colours, of images in [0, 1] ----------------------------------------------------------------------------------


def luminance(images: Tensor) -> Tensor:
    """[B, 3, H, W] -> [B, 1, H, W]: Y of YIQ."""
    return (images * images.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def with_chroma_of(images: Tensor, content: Tensor) -> Tensor:
    """The luminance of `images` with the chroma of `content`, both [B, 3, H, W] in [0, 1].

    Chroma, what is left of a pixel when its luminance is taken from each channel (I and Q of YIQ are linear in it), is
    exactly the content's: where the new luminance would leave [0, 1] in a channel, it is moved to the nearest that
    does not, and there is one, the content's own."""
    chroma = content - luminance(content)
    least, most = -chroma.amin(1, keepdim=True), 1 - chroma.amax(1, keepdim=True)
    return chroma + luminance(images).maximum(least).minimum(most)


def match_luminance(images: Tensor, reference: Tensor) -> Tensor:
    """Grey images [B, 3, H, W] of the luminance of `images`, moved and scaled to the mean and spread of reference's:
    arXiv:1606.05897; cut to [0, 1]."""
    ours, theirs = luminance(images), luminance(reference)
    scale = theirs.std((2, 3), keepdim=True) / ours.std((2, 3), keepdim=True).clamp_min(1e-6)
    moved = (ours - ours.mean((2, 3), keepdim=True)) * scale + theirs.mean((2, 3), keepdim=True)
    return moved.clamp(0, 1).expand(-1, 3, -1, -1)


def match_colours(images: Tensor, reference: Tensor) -> Tensor:
    """Images [1, C, h, w] with the mean and covariance over pixels of reference [1, C, H, W]: the linear map of
    arXiv:1606.05897, in its symmetric form. Not cut to [0, 1]."""
    ours, theirs = images[0].flatten(1).double(), reference[0].flatten(1).double()  # [C, h w], [C, H W]
    ours_mean, theirs_mean = ours.mean(1, keepdim=True), theirs.mean(1, keepdim=True)
    spread, wanted = torch.cov(ours, correction=0), torch.cov(theirs, correction=0)
    mapped = _root(wanted) @ _root(spread, -0.5) @ (ours - ours_mean) + theirs_mean
    return mapped.to(images.dtype).view_as(images)


def _root(matrix: Tensor, power: float = 0.5) -> Tensor:
    """A power of a symmetric matrix [C, C]; directions without spread stay small."""
    values, vectors = torch.linalg.eigh(matrix + 1e-10 * torch.eye(len(matrix), dtype=matrix.dtype))
    return vectors * values.clamp_min(1e-10).pow(power) @ vectors.T


# -- the method ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Style:
    """style: the file of the painting, or several; style_shares: how much of each. masks: files of pictures of the
    content's form, one for each style, white where it paints. style_scale: size of the painting over the image's, which
    scales its strokes; it is cut to the image's form. colour: 'style' paints with the painting's; 'luminance' and
    'histogram' keep the image's. content_layers, style_layers: by default the paper's of a VGG. start: 'content' or
    'noise'. The rest as in `Texture`."""

    style: tuple[str, ...] = ()
    style_shares: tuple[float, ...] = ()
    masks: tuple[str, ...] = ()
    style_scale: float = 1.0
    content_weight: float = 1.0
    style_weight: float = 10.0
    tv_weight: float = 0.0
    colour: Colour = "style"
    start: str = "content"
    content_layers: tuple[str, ...] = ()
    style_layers: tuple[str, ...] = ()
    pool: str = "max"
    steps: int = 200
    optimiser: Optimiser = "lbfgs"
    lr: float = 0.05
    seed: int = 0
    mean: Scale = None
    std: Scale = None
    needs_images: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("style", "style_shares", "masks", "content_layers", "style_layers"):
            object.__setattr__(self, name, as_tuple(getattr(self, name)))
        check_descent(self.steps, self.optimiser, self.lr, self.pool, self.tv_weight, self.seed)
        one_of(COLOURS, colour=self.colour)
        one_of(STARTS, start=self.start)
        check_weight(content_weight=self.content_weight, style_weight=self.style_weight)
        require(isinstance(self.style_scale, int | float) and 0 < self.style_scale <= 8, "style_scale",
                self.style_scale, "be above 0 and at most 8")
        for share in self.style_shares:
            check_weight(style_shares=share)
        require(not self.style_shares or (len(self.style_shares) == len(self.style) and sum(self.style_shares) > 0),
                "style_shares", self.style_shares, f"be one number for each of the {len(self.style)} styles, not all 0")
        require(len(self.masks) in (0, len(self.style)), "masks", self.masks,
                f"be one file for each of the {len(self.style)} styles")

    def problem(self, model: nn.Module, images: Tensor) -> str | None:
        if not self.style:
            return "the method style needs a painting: --set style=painting.jpg"
        if self.colour != "style" and images.shape[1] != 3:
            return "has no colours to keep: its images are grey"
        try:
            known = paper_layers(model) if not (self.content_layers and self.style_layers) else None
            names = (*(self.content_layers or known.content), *(self.style_layers or known.style))  # type: ignore[union-attr]
            FeatureMaps(model, names, self.pool)
        except UserError as error:
            return str(error)
        return None

    def __call__(self, model: nn.Module, images: Tensor) -> Explanation:
        require(len(self.style) > 0, "style", self.style, "name the file of a painting")
        scale = pixel_scale(images, self.mean, self.std)
        size = (images.shape[2], images.shape[3])
        scaled = (max(1, round(size[0] * self.style_scale)), max(1, round(size[1] * self.style_scale)))
        content = scale.pixels(images)
        paintings = [covering(pixels_of(file, images.shape[1]), scaled).to(images) for file in self.style]
        masks = [covering(pixels_of(file, 1), size).to(images) for file in self.masks]
        made = []
        for image in content.split(1):  # colours are matched image by image
            seen, styles = image, paintings
            if self.colour == "luminance":
                seen = luminance(image).expand(-1, 3, -1, -1)
                styles = [match_luminance(painting, image) for painting in paintings]
            elif self.colour == "histogram":
                styles = [match_colours(painting, image).clamp(0, 1) for painting in paintings]
            picture, history = transfer_style(
                model, scale.normalised(seen), [scale.normalised(style) for style in styles], scale,
                style_shares=self.style_shares, masks=masks, content_weight=self.content_weight,
                style_weight=self.style_weight, tv_weight=self.tv_weight, content_layers=self.content_layers,
                style_layers=self.style_layers, pool=self.pool, start=self.start, steps=self.steps,
                optimiser=self.optimiser, lr=self.lr, generator=Generator().manual_seed(self.seed))
            picture = scale.pixels(picture)
            made.append(with_chroma_of(picture, image) if self.colour == "luminance" else picture)
        names = ", ".join(Path(file).name for file in self.style)
        kept = {"style": "", "luminance": " Its colours are the image's own, pixel by pixel.",
                "histogram": " The painting was given the image's colours first."}[self.colour]
        return Explanation(
            sentence=f"The image, painted as {names}.{kept} Its loss, content and style together, went from "
                     f"{history[0]:.3g} to {history[-1]:.3g}.",
            pictures=torch.cat(made).clamp(0, 1), picture_names=(f"as {names}",) * len(made))


def pixels_of(file: str | Path, channels: int) -> Tensor:
    """An image file -> [1, channels, H, W] in [0, 1]. Raises ImageError."""
    pixels = torch.from_numpy(read_image(str(file)).pixels).permute(2, 0, 1)[None]  # [1, 1 or 3, H, W]
    return to_channels(pixels, channels).float() / 255


def covering(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Scaled to cover `size` without a change of form, then cut to it about the centre; cut to [0, 1]."""
    scale = max(size[0] / images.shape[2], size[1] / images.shape[3])
    covered = (max(size[0], round(images.shape[2] * scale)), max(size[1], round(images.shape[3] * scale)))
    return center_crop(resize(images, covered, "bicubic"), size).clamp(0, 1)


explain.add(Style, {"style": {}}, summary="the image, painted as another picture is; --set style=painting.jpg",
            paper="Gatys, Ecker, Bethge, CVPR 2016")
