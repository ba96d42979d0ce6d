"""Class images: what a classifier would like to see of a class, by gradient ascent on its score.

Papers: Simonyan, Vedaldi, Zisserman, Deep Inside Convolutional Networks, ICLR workshop 2014, arXiv:1312.6034, section 2
(the score before the softmax, less a penalty on the squared distance from the mean image); Yosinski et al., ICML
workshop 2015, arXiv:1506.06579, section 3 (decay, blur every few steps, and setting to the mean those pixels that are
small or that contribute little); Mordvintsev et al., Inceptionism, 2015 (jitter, several scales); Mahendran, Vedaldi,
CVPR 2015 (total variation). Facets: Nguyen, Yosinski, Clune, Multifaceted Feature Visualization, ICML workshop 2016,
arXiv:1602.03616: images of one class fall into groups, on a map by t-SNE, and the mean of those nearest to a group's
middle is where the ascent begins.
Departures: each step is as long as `step_size` says, whatever the gradient's size; it leads from coarse to fine
pictures where the model takes several sizes. Facets are found without the paper's bias towards the centre.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visus import explain
from visus.core.errors import UserError
from visus.core.validate import natural, positive, probability, require
from visus.explain.activations import without_parameter_gradients
from visus.explain.embedding import LEAST, last_features
from visus.explain.explanation import Explanation, classes_asked, in_eval_mode
from visus.explain.masking import blurred
from visus.explain.pixels import PixelScale, Scale, pixel_scale
from visus.ops.projection import pca, squared_distances, tsne
from visus.ops.resample import resize
from visus.ops.total_variation import total_variation

Score = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Priors:
    """What keeps an ascent among pictures. Pixels are meant as their difference from the mean colour.

    decay: the share that they lose each step (a penalty on their squares). blur: sigma in pixels of a blur every
    `blur_every` steps. clip_norm, clip_contribution: the share of pixels set to the mean every `blur_every` steps,
    the smallest, and those whose product with the gradient is smallest. jitter: pixels by which the picture is shifted
    at random, there and back, each step. tv: weight of the total variation's gradient against one of mean square 1.
    coarse: the power of its frequency by which each wave of the gradient is divided; 1 is the spectrum of photographs.
    """

    decay: float = 0.0
    blur: float = 0.0
    blur_every: int = 4
    clip_norm: float = 0.0
    clip_contribution: float = 0.0
    jitter: int = 0
    tv: float = 0.0
    coarse: float = 0.0

    def __post_init__(self) -> None:
        probability(decay=self.decay, clip_norm=self.clip_norm, clip_contribution=self.clip_contribution)
        for name, value in (("blur", self.blur), ("tv", self.tv), ("coarse", self.coarse)):
            require(isinstance(value, int | float) and not isinstance(value, bool) and value >= 0, name, value,
                    "be a number of at least 0")
        positive(blur_every=self.blur_every)
        natural(jitter=self.jitter)


def ascend(score: Score, start: Tensor, middle: Tensor, *, steps: int, step_size: float, priors: Priors,
           generator: torch.Generator) -> Tensor:
    """Pixels [B, C, H, W] in [0, 1] that raise `score`, a function of such pixels to [B]. middle: [1, C, 1, 1], the
    mean colour. step_size: root of the mean square of what a step adds to a pixel at the start; it falls to a tenth."""
    pixels = start.detach().clone()
    for step in range(steps):
        shift = torch.randint(-priors.jitter, priors.jitter + 1, (2,), generator=generator).tolist()
        with torch.enable_grad():
            leaf = pixels.roll(shift, (2, 3)).requires_grad_()
            gradient, = torch.autograd.grad(score(leaf).sum(), leaf)
        gradient = gradient.roll((-shift[0], -shift[1]), (2, 3))
        gradient = unit(coarsened(gradient, priors.coarse) if priors.coarse else gradient)
        if priors.tv:
            with torch.enable_grad():
                leaf = pixels.detach().requires_grad_()
                rough, = torch.autograd.grad(total_variation(leaf).sum(), leaf)
            gradient = gradient - priors.tv * rough
        along = step_size * (1 - 0.9 * step / steps)
        away = (pixels + along * gradient - middle) * (1 - priors.decay)
        if step % priors.blur_every == priors.blur_every - 1 and step < steps - 1:
            if priors.blur:
                away = blurred(away, priors.blur)
            if priors.clip_norm:
                away = _without_least(away, away.square().sum(1), priors.clip_norm)
            if priors.clip_contribution:
                away = _without_least(away, (away * gradient).sum(1).abs(), priors.clip_contribution)
        pixels = (away + middle).clamp(0, 1)
    return pixels


def coarsened(gradient: Tensor, power: float) -> Tensor:
    """[B, C, H, W] with each wave divided by its frequency to the power: what a step in Fourier space with the spectrum
    of photographs as its metric would be (Olah, Mordvintsev, Schubert, Feature Visualization, Distill 2017)."""
    height, width = gradient.shape[2:]
    down = torch.fft.fftfreq(height, dtype=gradient.dtype, device=gradient.device)[:, None]
    right = torch.fft.rfftfreq(width, dtype=gradient.dtype, device=gradient.device)
    frequency = (down.square() + right.square()).sqrt().clamp(min=1 / max(height, width))
    return torch.fft.irfft2(torch.fft.rfft2(gradient) / frequency ** power, s=(height, width))


def unit(gradient: Tensor) -> Tensor:
    """Each of [B, ...] scaled to a mean square of 1."""
    size = gradient.flatten(1).square().mean(1).sqrt().clamp(min=torch.finfo(gradient.dtype).tiny)
    return gradient / size.view(-1, *[1] * (gradient.ndim - 1))


def _without_least(away: Tensor, size: Tensor, share: float) -> Tensor:
    """[B, C, H, W] with the share of pixels whose `size` [B, H, W] is least at 0."""
    limit = size.flatten(1).quantile(share, dim=1)
    return away * (size >= limit[:, None, None])[:, None]


def class_images(model: nn.Module, targets: Tensor, start: Tensor, scale: PixelScale, *, steps: int, step_size: float,
                 priors: Priors, scales: int = 1, seed: int = 0) -> Tensor:
    """Pixels [B, C, H, W] in [0, 1], ascended from `start`, of the same form, on the score of each one's class, int64
    [B]. scales: sizes to begin with, each 0.7 of the next, where the model takes them."""
    generator = torch.Generator().manual_seed(seed)
    middle = scale.mean.clamp(0, 1)

    def score(pixels: Tensor) -> Tensor:
        return model(scale.normalised(pixels)).gather(1, targets[:, None]).squeeze(1)

    size = (start.shape[2], start.shape[3])
    pixels = start
    with in_eval_mode(model), without_parameter_gradients(model):
        sizes = accepted_sizes(model, size, start, scales, 0.7)
        for number, now in enumerate(sizes):
            pixels = resize(pixels, now, "bicubic").clamp(0, 1)
            part = steps * (number + 1) // len(sizes) - steps * number // len(sizes)
            pixels = ascend(score, pixels, middle, steps=max(1, part), step_size=step_size, priors=priors,
                            generator=generator)
    return resize(pixels, size, "bicubic").clamp(0, 1)


@torch.no_grad()
def accepted_sizes(model: Callable[[Tensor], object], size: tuple[int, int], like: Tensor, count: int,
                   factor: float) -> list[tuple[int, int]]:
    """Up to `count` sizes that the model takes, growing by 1 / factor to `size`, which is the last."""
    sizes = []
    for number in range(count - 1, 0, -1):
        now = tuple(max(1, round(side * factor ** number)) for side in size)
        if min(now) < 8:
            continue
        try:
            model(torch.zeros(1, like.shape[1], *now, dtype=like.dtype, device=like.device))
        except (UserError, RuntimeError, ValueError, AssertionError, IndexError):  # made for one size
            continue
        sizes.append((now[0], now[1]))
    return [*sizes, size]


def noise_start(like: Tensor, scale: PixelScale, seed: int, spread: float = 0.05) -> Tensor:
    """The mean colour with a little noise, the same for each of `like` [B, C, H, W]."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(1, *like.shape[1:], generator=generator).to(like)
    return (scale.mean + spread * noise).clamp(0, 1).expand(len(like), -1, -1, -1)


@dataclass(frozen=True, kw_only=True)
class ClassImage:
    """target: the class; None is the one that a blank image gets. steps, step_size, scales: of the ascent; the rest as
    in Priors. seed: of the noise at the start and of the jitter."""

    target: int | None = None
    steps: int = 160
    step_size: float = 0.04
    scales: int = 2
    decay: float = 0.01
    blur: float = 0.0
    blur_every: int = 4
    clip_norm: float = 0.0
    clip_contribution: float = 0.0
    jitter: int = 16
    tv: float = 1.0
    coarse: float = 1.25
    seed: int = 0
    mean: Scale = None
    std: Scale = None
    needs_images: ClassVar[bool] = False
    folded: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_ascent(self.steps, self.step_size, self.scales, self.seed)
        self.priors()

    def priors(self) -> Priors:
        return Priors(decay=self.decay, blur=self.blur, blur_every=self.blur_every, clip_norm=self.clip_norm,
                      clip_contribution=self.clip_contribution, jitter=self.jitter, tv=self.tv, coarse=self.coarse)

    def problem(self, model: nn.Module, images: Tensor) -> str | None:
        return None

    def __call__(self, model: nn.Module, images: Tensor) -> Explanation:
        scale = pixel_scale(images, self.mean, self.std)
        with in_eval_mode(model):
            targets = classes_asked(model, images, self.target)
        made = class_images(model, targets, noise_start(images, scale, self.seed), scale, steps=self.steps,
                            step_size=self.step_size, priors=self.priors(), scales=self.scales, seed=self.seed)
        return Explanation(sentence="What raises the score of a class most, from noise, among smooth pictures.",
                           pictures=made, picture_names=named(model, made, targets, scale))


@torch.no_grad()
def named(model: nn.Module, pixels: Tensor, targets: Tensor, scale: PixelScale, what: str = "") -> tuple[str, ...]:
    """'class 3, the model's answer with 98.1 %' of each picture."""
    with in_eval_mode(model):
        probs = model(scale.normalised(pixels)).softmax(1)
    return tuple(f"{what}class {int(c)}, to which the model gives {100 * float(p[c]):.1f} %"
                 for c, p in zip(targets, probs, strict=True))


def numbered(word: str, count: int) -> tuple[str, ...]:
    return (word,) if count == 1 else tuple(f"{word} {n}" for n in range(count))


def check_ascent(steps: int, step_size: float, scales: int, seed: int) -> None:
    positive(steps=steps, scales=scales)
    require(isinstance(step_size, int | float) and step_size > 0, "step_size", step_size, "be above 0")
    natural(seed=seed)


# -- facets --------------------------------------------------------------------------------------------------------


def clusters(points: Tensor, count: int, steps: int = 50) -> tuple[Tensor, Tensor]:
    """k-means: of points [N, D] the group of each, int64 [N], and the middles [count, D]. It begins at the point that
    is farthest from the mean, then each time at that farthest from all taken so far."""
    middles = points[(points - points.mean(0)).square().sum(1).argmax()][None]
    for _ in range(count - 1):
        middles = torch.cat([middles, points[squared_distances(points, middles).amin(1).argmax()][None]])
    for _ in range(steps):
        group = squared_distances(points, middles).argmin(1)
        one_hot = F.one_hot(group, count).to(points)
        held = one_hot.sum(0)
        new = torch.where((held > 0)[:, None], one_hot.T @ points / held.clamp(min=1)[:, None], middles)
        if torch.equal(new, middles):
            break
        middles = new
    return squared_distances(points, middles).argmin(1), middles


def facet_starts(features: Tensor, pixels: Tensor, count: int, closest: int = 15) -> tuple[Tensor, Tensor]:
    """Of images of one class, features [N, D] and pixels [N, C, H, W]: the mean picture of the `closest` images nearest
    to the middle of each of `count` groups, [count, C, H, W], and the groups' sizes."""
    points = pca(features, min(50, *features.shape))[0]
    if len(points) > max(LEAST, 3 * count):
        points = tsne(points, perplexity=min(30.0, (len(points) - 1) / 3))
    count = min(count, len(points))
    group, middles = clusters(points, count)
    apart = squared_distances(middles, points)
    apart = apart.masked_fill(group[None] != torch.arange(count, device=group.device)[:, None], math.inf)
    nearest, index = apart.topk(min(closest, len(points)), largest=False)  # [count, closest]
    there = nearest.isfinite().to(pixels.dtype)[:, :, None, None, None]
    starts = (pixels[index] * there).sum(1) / there.sum(1).clamp(min=1)
    return starts, group.bincount(minlength=count)


@dataclass(frozen=True, kw_only=True)
class Facets:
    """Give images of one class. target: the class; None is the one that most of them get. facets: groups to look for;
    closest: images whose mean begins each ascent. The rest as in class_image."""

    target: int | None = None
    facets: int = 4
    closest: int = 15
    steps: int = 160
    step_size: float = 0.02
    seed: int = 0
    mean: Scale = None
    std: Scale = None
    needs_images: ClassVar[bool] = True
    together: ClassVar[bool] = True
    folded: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(facets=self.facets, closest=self.closest)
        check_ascent(self.steps, self.step_size, 1, self.seed)

    def problem(self, model: nn.Module, images: Tensor) -> str | None:
        return None

    def __call__(self, model: nn.Module, images: Tensor) -> Explanation:
        scale = pixel_scale(images, self.mean, self.std)
        with in_eval_mode(model):
            target = int(classes_asked(model, images, self.target).mode().values)
        starts, sizes = facet_starts(last_features(model, images), scale.pixels(images), self.facets, self.closest)
        targets = torch.full((len(starts),), target, device=images.device)
        made = class_images(model, targets, starts, scale, steps=self.steps, step_size=self.step_size, seed=self.seed,
                            priors=Priors(decay=0.005, jitter=8, tv=1.0, coarse=1.0))
        names = [f"begun at the mean of a group of {int(size)}: " for size in sizes]
        return Explanation(
            sentence=f"Of class {target} {len(made)} facets: groups of its {len(images)} images, each the start of an "
                     "ascent on the score of the class.",
            pictures=torch.cat([starts, made]),
            picture_names=tuple(f"group {n + 1}, mean image" for n in range(len(made)))
            + tuple(name + one for name, one in zip(names, named(model, made, targets, scale), strict=True)))


explain.add(ClassImage, {"class_image": {}}, summary="what the classifier would like to see of a class",
            paper="Simonyan et al., ICLR workshop 2014, arXiv:1312.6034; Yosinski et al., 2015, arXiv:1506.06579")
explain.add(Facets, {"facets": {}}, summary="the several looks of one class, from groups of its images",
            paper="Nguyen, Yosinski, Clune, ICML workshop 2016, arXiv:1602.03616")
