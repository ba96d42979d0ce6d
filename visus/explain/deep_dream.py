"""DeepDream: an image made into more of what a layer already sees in it.

Source: Mordvintsev, Olah, Tyka, Inceptionism: Going Deeper into Neural Networks, Google Research blog, 2015: gradient
ascent on the mean square of a layer's activations, over octaves from coarse to fine, each keeping the detail that the
coarser ones have made, shifted at random at each step so that no grid shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from visus import explain
from visus.core.validate import natural, positive, require
from visus.explain.activations import layer_maps, layer_problem
from visus.explain.class_image import Priors, accepted_sizes, ascend, check_ascent, numbered
from visus.explain.explanation import Explanation
from visus.explain.feature_layer import FeatureLayer, feature_layer
from visus.explain.pixels import PixelScale, Scale, pixel_scale
from visus.ops.resample import resize


def deep_dream(model: nn.Module, pixels: Tensor, scale: PixelScale, layer: FeatureLayer, *, channel: int | None = None,
               octaves: int = 3, octave_scale: float = 1.4, steps: int = 10, step_size: float = 0.03, jitter: int = 16,
               coarse: float = 1.0, seed: int = 0) -> Tensor:
    """Pixels [B, C, H, W] in [0, 1] -> the dream, of the same form. channel: of the layer to dream of; None is all.
    octaves: sizes, each 1 / octave_scale of the next; one only where the model takes one size or the layer gives tokens
    of a fixed grid. steps: of each octave. coarse: as in Priors."""
    size = (pixels.shape[2], pixels.shape[3])
    sizes = [size] if layer.layout == "tokens" else \
        accepted_sizes(lambda images: layer_maps(model, images, at_size(model, images, layer)), size, pixels, octaves,
                       1 / octave_scale)
    generator = torch.Generator().manual_seed(seed)
    middle = torch.zeros_like(scale.mean)

    def score(seen: Tensor) -> Tensor:
        maps = layer_maps(model, scale.normalised(seen), at_size(model, seen, layer))
        return (maps if channel is None else maps[:, channel:channel + 1]).square().flatten(1).mean(1)

    detail = torch.zeros_like(resize(pixels, sizes[0]))
    for now in sizes:
        base = resize(pixels, now)
        begun = (base + resize(detail, now, "bicubic")).clamp(0, 1)
        dreamt = ascend(score, begun, middle, steps=steps, step_size=step_size, generator=generator,
                        priors=Priors(jitter=jitter, coarse=coarse))
        detail = dreamt - base
    return dreamt


def at_size(model: nn.Module, images: Tensor, layer: FeatureLayer) -> FeatureLayer:
    """The same layer for images of another size, where it is a module: its number among the operations may differ."""
    if layer.name and any(name == layer.name for name, _ in model.named_modules()):
        return feature_layer(model, images, layer.name)
    return layer


@dataclass(frozen=True, kw_only=True)
class DeepDream:
    """layer: a module's dotted name; None is the last that has places, early ones give textures and late ones parts of
    things. channel: of the layer; None is all. octaves, octave_scale: sizes from coarse to fine. steps: of each
    octave. jitter, coarse: as in class_image."""

    layer: str | None = None
    channel: int | None = None
    octaves: int = 3
    octave_scale: float = 1.4
    steps: int = 12
    step_size: float = 0.03
    jitter: int = 16
    coarse: float = 1.0
    seed: int = 0
    mean: Scale = None
    std: Scale = None
    needs_images: ClassVar[bool] = True
    folded: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(octaves=self.octaves)
        require(isinstance(self.octave_scale, int | float) and 1 < self.octave_scale <= 4, "octave_scale",
                self.octave_scale, "be above 1 and at most 4")
        check_ascent(self.steps, self.step_size, 1, self.seed)
        Priors(jitter=self.jitter, coarse=self.coarse)
        if self.channel is not None:
            natural(channel=self.channel)

    def problem(self, model: nn.Module, images: Tensor) -> str | None:
        return layer_problem(model, images, self.layer)

    def __call__(self, model: nn.Module, images: Tensor) -> Explanation:
        scale = pixel_scale(images, self.mean, self.std)
        layer = feature_layer(model, images, self.layer)
        if self.channel is not None:
            count = layer_maps(model, images[:1].detach(), layer).shape[1]
            require(self.channel < count, "channel", self.channel, f"be below the {count} of the layer")
        made = deep_dream(model, scale.pixels(images), scale, layer, channel=self.channel,
                          octaves=self.octaves, octave_scale=self.octave_scale, steps=self.steps,
                          step_size=self.step_size, jitter=self.jitter, coarse=self.coarse, seed=self.seed)
        what = "all channels" if self.channel is None else f"channel {self.channel}"
        return Explanation(sentence=f"Each image made into more of what {what} of {layer.words} see in it.",
                           pictures=made, picture_names=numbered("dream", len(made)))


explain.add(DeepDream, {"deep_dream": {}}, summary="an image made into more of what a layer sees in it",
            paper="Mordvintsev, Olah, Tyka, Google Research blog, 2015")
