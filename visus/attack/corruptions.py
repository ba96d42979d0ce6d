"""The 15 common corruptions of ImageNet-C at 5 severities, on batches in [0, 1], and what they cost a classifier.

Paper: Hendrycks, Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations, ICLR 2019,
arXiv:1903.12261: section 3.1 (the kinds) and section 4.1 (corruption error). The kinds are the paper's; the numbers of
the severities follow those published for CIFAR-10-C on images of 32 px and for ImageNet-C on those of 224 px, lengths
growing with the shorter side in between, and were moved where a severity changed an image less than the one before it.

Departures: frost is grown here (needles between seeded points, brighter towards the edges) where the paper lays six
photographs over the image; the plasma of fog is made in Fourier space with the same fall of its power; motion blur
samples its path every half pixel at most; JPEG quantises the cosine coefficients without the lossless coding that
follows, and without thinning the colours. All are functions of (images, severity, generator), batched, and do not
alter what they are given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from visus.attack.attack import Classifier, seeded
from visus.core.validate import one_of, require

SEVERITIES = (1, 2, 3, 4, 5)
Corruption = Callable[[Tensor, int, Generator], Tensor]
_SMALL, _LARGE = 32, 224


def _level(small: Sequence[float], large: Sequence[float], severity: int, images: Tensor) -> float:
    """The number of a severity: that for 32 px or less, for 224 px or more, or between them by the logarithm."""
    side = min(images.shape[2:])
    share = (math.log(max(side, 1)) - math.log(_SMALL)) / (math.log(_LARGE) - math.log(_SMALL))
    share = min(1.0, max(0.0, share))
    return (1 - share) * small[severity - 1] + share * large[severity - 1]


def _normal(like: Tensor, generator: Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator).to(like)


def _blurred(images: Tensor, kernel: Tensor) -> Tensor:
    """Each channel with the same kernel, [k, k] of odd k; edges reflected as far as there is image, then repeated."""
    channels, reach = images.shape[1], kernel.shape[0] // 2
    inner = min(reach, *(side - 1 for side in images.shape[2:]))
    padded = F.pad(images, (inner,) * 4, mode="reflect")
    if inner < reach:
        padded = F.pad(padded, (reach - inner,) * 4, mode="replicate")
    return F.conv2d(padded, kernel.to(images).expand(channels, 1, -1, -1), groups=channels)


def _gaussian_kernel(sigma: float) -> Tensor:
    reach = max(1, math.ceil(3 * sigma))
    row = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = row[:, None] * row[None]
    return kernel / kernel.sum()


def _sampled(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """The images at places moved by so many pixels, [B, H, W] or [H, W] each; beyond the edge the edge repeats."""
    height, width = images.shape[2:]
    y = torch.arange(height, device=images.device)[:, None] + down
    x = torch.arange(width, device=images.device)[None, :] + right
    y, x = torch.broadcast_tensors(y, x)
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)
    grid = grid.expand(len(images), -1, -1, -1) if grid.ndim == 3 else grid
    return F.grid_sample(images, grid.to(images), padding_mode="border", align_corners=False)


# -- noise ---------------------------------------------------------------------------------------------------------


def gaussian_noise(images: Tensor, severity: int, generator: Generator) -> Tensor:
    scale = _level((0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38), severity, images)
    return images + scale * _normal(images, generator)


def shot_noise(images: Tensor, severity: int, generator: Generator) -> Tensor:
    """Poisson counts of so many photons at white."""
    photons = _level((500, 250, 100, 75, 50), (60, 25, 12, 5, 3), severity, images)
    counts = torch.poisson(images.float().cpu() * photons, generator=generator)
    return counts.to(images) / photons


def impulse_noise(images: Tensor, severity: int, generator: Generator) -> Tensor:
    """A share of the values becomes black or white, evenly."""
    share = _level((0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27), severity, images)
    drawn = torch.rand(images.shape, generator=generator).to(images.device)
    return torch.where(drawn < share, (drawn < share / 2).to(images), images)


# -- blur ----------------------------------------------------------------------------------------------------------


def _disc_kernel(radius: float, sigma: float) -> Tensor:
    """A disc, its edge softened."""
    reach = math.ceil(radius + 3 * sigma)
    place = torch.arange(-reach, reach + 1)
    far = (place[:, None].square() + place[None].square()).float().sqrt()
    disc = (radius + 0.5 - far).clamp(0, 1)[None, None]
    kernel = _blurred(disc, _gaussian_kernel(sigma))[0, 0]
    return kernel / kernel.sum()


def defocus_blur(images: Tensor, severity: int, generator: Generator) -> Tensor:
    radius = _level((0.3, 0.5, 0.7, 0.9, 1.2), (3, 4, 6, 8, 10), severity, images)
    soft = _level((0.4, 0.5, 0.5, 0.6, 0.7), (0.5, 0.5, 0.5, 0.5, 0.5), severity, images)
    return _blurred(images, _disc_kernel(radius, soft))


def glass_blur(images: Tensor, severity: int, generator: Generator) -> Tensor:
    """Pixels change places with near ones, between two light blurs; each looks at one drawn neighbour at a time."""
    sigma = _level((0.3, 0.3, 0.3, 0.35, 0.4), (0.7, 0.9, 1.0, 1.1, 1.5), severity, images)
    reach = max(1, round(_level((1, 1, 1, 1, 2), (1, 2, 2, 3, 4), severity, images)))
    share = _level((0.2, 0.4, 0.7, 1, 1), (1, 1, 1, 1, 1), severity, images)
    out = _blurred(images, _gaussian_kernel(sigma))
    count, _, height, width = images.shape
    rounds = 2 if severity < 5 else 3
    row, column = torch.arange(height)[:, None], torch.arange(width)[None]
    for _ in range(rounds):
        moves = torch.randint(-reach, reach + 1, (2, count, height, width), generator=generator)
        moves = moves * (torch.rand(1, count, height, width, generator=generator) < share)
        places = (row + moves[0]).clamp(0, height - 1) * width + (column + moves[1]).clamp(0, width - 1)  # [B, H, W]
        places = places.flatten(1)[:, None].expand(-1, images.shape[1], -1).to(images.device)
        out = out.flatten(2).gather(2, places).view_as(images)
    return _blurred(out, _gaussian_kernel(sigma))


def motion_blur(images: Tensor, severity: int, generator: Generator) -> Tensor:
    """The mean along a line through each pixel, in a direction of each image's own."""
    length = _level((3, 4, 5.5, 7, 9), (15, 20, 27, 36, 46), severity, images)
    angle = (torch.rand(len(images), generator=generator) * 2 - 1) * math.pi / 4
    steps = 2 * math.ceil(length) + 1
    along = torch.linspace(-length / 2, length / 2, steps)
    weights = torch.exp(-0.5 * (along / (length / 3)) ** 2)
    total = torch.zeros_like(images)
    for place, weight in zip(along.tolist(), (weights / weights.sum()).tolist(), strict=True):
        down, right = (place * side.view(-1, 1, 1).to(images) for side in (angle.sin(), angle.cos()))
        total += weight * _sampled(images, down, right)
    return total


def zoom_blur(images: Tensor, severity: int, generator: Generator) -> Tensor:
    """The mean of the image and enlargements of it about its centre."""
    most = _level((1.06, 1.11, 1.16, 1.21, 1.26), (1.11, 1.16, 1.22, 1.28, 1.36), severity, images)
    height, width = images.shape[2:]
    y = (torch.arange(height) - (height - 1) / 2).to(images)[:, None].expand(height, width)
    x = (torch.arange(width) - (width - 1) / 2).to(images)[None].expand(height, width)
    scales = torch.arange(1.0, most + 1e-6, 0.01).tolist()
    total = sum((_sampled(images, (1 / scale - 1) * y, (1 / scale - 1) * x) for scale in scales[1:]), images)
    return total / len(scales)


# -- weather -------------------------------------------------------------------------------------------------------


def _plasma(count: int, height: int, width: int, fall: float, generator: Generator) -> Tensor:
    """Clouds in [0, 1], [B, 1, H, W]: noise whose amplitude falls with frequency to the power `fall`."""
    spectrum = torch.fft.rfft2(torch.randn(count, height, width, generator=generator))
    frequency = (torch.fft.fftfreq(height)[:, None] ** 2 + torch.fft.rfftfreq(width)[None] ** 2).sqrt()
    clouds = torch.fft.irfft2(spectrum / frequency.clamp(min=1 / max(height, width)) ** fall, s=(height, width))
    low, high = clouds.amin((1, 2), keepdim=True), clouds.amax((1, 2), keepdim=True)
    return ((clouds - low) / (high - low).clamp(min=1e-12))[:, None]


def snow(images: Tensor, severity: int, generator: Generator) -> Tensor:
    """Flakes in streaks over a whitened image."""
    share = _level((0.03, 0.05, 0.07, 0.09, 0.12), (0.03, 0.05, 0.08, 0.10, 0.13), severity, images)
    streak = _level((2, 2.5, 3, 3.5, 4), (8, 9, 11, 13, 15), severity, images)
    white = _level((0.05, 0.12, 0.18, 0.24, 0.32), (0.10, 0.16, 0.22, 0.28, 0.36), severity, images)
    count, _, height, width = images.shape
    size = max(1, round(min(height, width) / 75))
    flakes = torch.rand(count, 1, math.ceil(height / size), math.ceil(width / size), generator=generator)
    layer = F.interpolate((flakes < share).float(), scale_factor=size, mode="nearest")[..., :height, :width].to(images)
    angle = math.radians(-90 + 45) + (torch.rand(count, generator=generator) - 0.5) * math.radians(30)
    along = torch.linspace(-streak / 2, streak / 2, 2 * math.ceil(streak) + 1).tolist()
    streaks = torch.stack([_sampled(layer, place * angle.sin().view(-1, 1, 1), place * angle.cos().view(-1, 1, 1))
                           for place in along]).mean(0) * max(1.0, streak / 3)
    grey = images.mean(1, keepdim=True)
    faded = (1 - white) * images + white * torch.maximum(images, 1.5 * grey + 0.5)
    return faded + streaks.clamp(max=1)


@cache
def _needles(height: int, width: int, seed: int, points: int) -> Tensor:
    """[H, W] in [0, 1]: bright ridges between seeded points, stretched at random as ice needles are."""
    generator = torch.Generator().manual_seed(seed)
    spot = torch.rand(points, 2, generator=generator)
    angle = math.pi * torch.rand(points, generator=generator)
    stretch = 0.25 + 0.5 * torch.rand(points, generator=generator)
    y = ((torch.arange(height) + 0.5) / height)[:, None, None] - spot[:, 0]
    x = ((torch.arange(width) + 0.5) / width)[None, :, None] - spot[:, 1]
    along = x * angle.cos() + y * angle.sin()
    across = y * angle.cos() - x * angle.sin()
    near = ((along * stretch) ** 2 + across**2).sqrt().topk(2, dim=2, largest=False).values
    return torch.exp(-(near[..., 1] - near[..., 0]) * points**0.5 * 4)


def frost(images: Tensor, severity: int, generator: Generator) -> Tensor:
    """The image darkened, and ice over it, thickest at the edges. No photograph: see the head of this file."""
    keep = _level((0.95, 0.88, 0.80, 0.75, 0.68), (0.95, 0.85, 0.75, 0.70, 0.62), severity, images)
    ice = _level((0.22, 0.32, 0.42, 0.50, 0.58), (0.35, 0.45, 0.55, 0.62, 0.70), severity, images)
    count, _, height, width = images.shape
    seeds = torch.randint(0, 6, (count,), generator=generator).tolist()  # six sheets of ice, as the paper has
    sheets = torch.stack([0.6 * _needles(height, width, seed, 40) + 0.4 * _needles(height, width, seed + 6, 150)
                          for seed in seeds])[:, None]
    clouds = _plasma(count, height, width, 1.5, generator)
    y, x = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)[None]
    edge = torch.maximum(y.abs(), x.abs())
    layer = (0.35 + 0.65 * edge) * (0.4 * clouds + 0.8 * sheets)
    tint = torch.tensor([0.92, 0.97, 1.0]) if images.shape[1] == 3 else torch.ones(images.shape[1])
    return keep * images + 1.3 * ice * (layer * tint.view(1, -1, 1, 1)).to(images)


def fog(images: Tensor, severity: int, generator: Generator) -> Tensor:
    """Clouds added, and the whole scaled so that its brightest place stays as bright."""
    thick = _level((0.2, 0.5, 0.75, 1.0, 1.5), (1.5, 2.0, 2.5, 2.75, 3.0), severity, images)
    fall = _level((2.4, 2.2, 2.0, 1.8, 1.7), (1.8, 1.8, 1.6, 1.6, 1.5), severity, images)
    top = images.amax((1, 2, 3), keepdim=True)
    clouds = _plasma(len(images), images.shape[2], images.shape[3], fall, generator).to(images)
    return (images + thick * clouds) * top / (top + thick)


# -- digital -------------------------------------------------------------------------------------------------------


def brightness(images: Tensor, severity: int, generator: Generator) -> Tensor:
    """The value of HSV raised: the colours are scaled to a larger maximum."""
    more = _level((0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5), severity, images)
    value = images.amax(1, keepdim=True)
    return torch.where(value > 0, images / value.clamp(min=1e-6) * (value + more).clamp(max=1),
                       (value + more).expand_as(images))


def contrast(images: Tensor, severity: int, generator: Generator) -> Tensor:
    keep = _level((0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05), severity, images)
    mean = images.mean((2, 3), keepdim=True)
    return mean + keep * (images - mean)


def elastic_transform(images: Tensor, severity: int, generator: Generator) -> Tensor:
    """A shear and stretch at random, then every place moved by a smooth field."""
    push = _level((0.010, 0.014, 0.019, 0.025, 0.032), (0.006, 0.010, 0.015, 0.021, 0.028), severity, images)
    smooth = _level((0.07, 0.065, 0.06, 0.055, 0.05), (0.05, 0.045, 0.04, 0.035, 0.03), severity, images)
    bend = _level((0.02, 0.03, 0.04, 0.05, 0.06), (0.01, 0.015, 0.02, 0.025, 0.03), severity, images)
    count, _, height, width = images.shape
    side = min(height, width)
    noise = torch.randn(count, 2, height, width, generator=generator)
    field = _blurred(noise, _gaussian_kernel(max(0.6, smooth * side)))
    field = field / field.square().mean((2, 3), keepdim=True).sqrt().clamp(min=1e-12) * push * side  # [B, 2, H, W]
    shear = (torch.rand(count, 4, 1, 1, generator=generator) * 2 - 1) * bend
    y = (torch.arange(height) - (height - 1) / 2)[None, :, None]
    x = (torch.arange(width) - (width - 1) / 2)[None, None, :]
    down = field[:, 0] + shear[:, 0] * y + shear[:, 1] * x
    right = field[:, 1] + shear[:, 2] * y + shear[:, 3] * x
    return _sampled(images, down.to(images), right.to(images))


def pixelate(images: Tensor, severity: int, generator: Generator) -> Tensor:
    """Made smaller by areas, and larger again by repetition."""
    share = _level((0.9, 0.6, 0.53, 0.44, 0.34), (0.6, 0.45, 0.37, 0.3, 0.25), severity, images)
    size = [max(1, round(share * side)) for side in images.shape[2:]]
    return F.interpolate(F.interpolate(images, size, mode="area"), images.shape[2:], mode="nearest-exact")


def jpeg_compression(images: Tensor, severity: int, generator: Generator) -> Tensor:
    return jpeg(images, _level((80, 65, 58, 50, 40), (25, 18, 15, 10, 7), severity, images))


_LUMA = torch.tensor([  # ITU-T T.81, tables K.1 and K.2
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51,
    87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99.0]).view(8, 8)
_CHROMA = torch.tensor([
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99,
    99, 99, 99.0] + 32 * [99.0]).view(8, 8)
_YCC = torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])


def jpeg(images: Tensor, quality: float) -> Tensor:
    """What baseline JPEG of this quality (1 to 100) keeps: [B, C, H, W] in [0, 1] -> the same.

    Colours are not thinned (4:4:4). Blocks of 8 x 8, their cosine coefficients rounded to multiples of the standard's
    tables, scaled as libjpeg scales them. Rounding has no gradient."""
    require(1 <= quality <= 100, "quality", quality, "lie between 1 and 100")
    _, channels, height, width = images.shape
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    tables = [((scale * table + 50) / 100).floor().clamp(1, 255) for table in (_LUMA, _CHROMA, _CHROMA)]
    steps = torch.stack(tables if channels == 3 else [tables[0]] * channels).to(images)  # [C, 8, 8]
    planes = (255 * images).round()
    colours = _YCC.to(images)
    if channels == 3:
        planes = torch.einsum("dc,bchw->bdhw", colours, planes)
        planes[:, 0] -= 128
        planes = planes.round()  # the planes, too, are of 8 bits
    else:
        planes = planes - 128
    planes = F.pad(planes, (0, -width % 8, 0, -height % 8), mode="replicate")
    k = torch.arange(8, dtype=torch.float64)
    cosines = torch.cos(math.pi / 8 * (k[None] + 0.5) * k[:, None]) * torch.where(k == 0, 1 / 8, 1 / 4)[:, None].sqrt()
    cosines = cosines.to(images)  # [frequency, place], orthonormal
    blocks = planes.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4)  # [B, C, h, w, 8, 8]
    kept = (cosines @ blocks @ cosines.T / steps[:, None, None]).round() * steps[:, None, None]
    blocks = cosines.T @ kept @ cosines
    planes = blocks.transpose(3, 4).flatten(4, 5).flatten(2, 3)[..., :height, :width]
    if channels == 3:
        planes[:, 0] += 128
        planes = torch.einsum("dc,bchw->bdhw", torch.linalg.inv(colours), planes)
    else:
        planes = planes + 128
    return (planes.round() / 255).clamp(0, 1)


CORRUPTIONS: Mapping[str, Corruption] = {made.__name__: made for made in (
    gaussian_noise, shot_noise, impulse_noise, defocus_blur, glass_blur, motion_blur, zoom_blur, snow, frost, fog,
    brightness, contrast, elastic_transform, pixelate, jpeg_compression)}


@torch.no_grad()
def corrupt(images: Tensor, name: str, severity: int = 3, generator: Generator | None = None) -> Tensor:
    """images: float [B, C, H, W] in [0, 1] -> corrupted ones in [0, 1]. severity: 1 to 5. generator: on the CPU; None
    is one with seed 0."""
    one_of(tuple(CORRUPTIONS), name=name)
    require(severity in SEVERITIES and not isinstance(severity, bool), "severity", severity, "be 1, 2, 3, 4 or 5")
    require(images.ndim == 4 and images.is_floating_point(), "images", tuple(images.shape),
            "be float [B, C, H, W]: divide uint8 by 255")
    if not len(images):
        return images.clone()
    require(bool(images.min() >= 0 and images.max() <= 1), "images",
            f"{float(images.min()):.4g} to {float(images.max()):.4g}", "lie in [0, 1]: corrupt before normalisation")
    return CORRUPTIONS[name](images, severity, seeded(generator)).clamp(0, 1)


def corruption_generator(name: str, severity: int, seed: int = 0) -> Generator:
    """The one that a (kind, severity) draws from, whatever else is corrupted beside it."""
    return torch.Generator().manual_seed(1000 * seed + 10 * list(CORRUPTIONS).index(name) + severity)


# -- what they cost ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class CorruptionTable:
    """errors: by name, for each severity in order, the share answered wrongly; clean: that of uncorrupted images."""

    clean: float
    errors: Mapping[str, tuple[float, ...]]

    @property
    def mean_error(self) -> float:
        """The mean over kinds and severities, unnormalised."""
        return sum(sum(row) / len(row) for row in self.errors.values()) / len(self.errors)

    def mean_corruption_error(self, reference: CorruptionTable) -> float:
        """mCE of section 4.1: of each kind the sum over severities by that of a reference classifier (AlexNet in the
        paper), then the mean over kinds. 1 is as good as the reference."""
        return self._mean_share(reference, 0.0, 0.0)

    def relative_corruption_error(self, reference: CorruptionTable) -> float:
        """Relative mCE: the same of what corruption adds to the clean error. NaN where it adds nothing to the
        reference."""
        return self._mean_share(reference, self.clean, reference.clean)

    def _mean_share(self, reference: CorruptionTable, own: float, theirs: float) -> float:
        require(reference.errors.keys() == self.errors.keys(), "reference", sorted(reference.errors),
                "have the same corruptions")
        shares = []
        for name, row in self.errors.items():
            below = sum(reference.errors[name]) - len(row) * theirs
            shares.append((sum(row) - len(row) * own) / below if below > 0 else math.nan)
        return sum(shares) / len(shares)


def corruption_table(classifier: Classifier, images: Tensor, labels: Tensor, *, names: Sequence[str] = (),
                     severities: Sequence[int] = SEVERITIES, batch_size: int = 256, seed: int = 0) -> CorruptionTable:
    """The error under each corruption and severity. names: all 15 where none are given. Each (kind, severity) draws
    from a generator of its own, so that a part of the table is that of the whole."""
    chosen = tuple(names) or tuple(CORRUPTIONS)
    for name in chosen:
        one_of(tuple(CORRUPTIONS), names=name)

    @torch.no_grad()
    def error(change: Callable[[Tensor], Tensor]) -> float:
        wrong = sum(int((classifier(change(part)).argmax(1) != truth).sum())
                    for part, truth in zip(images.split(batch_size), labels.split(batch_size), strict=True))
        return wrong / max(1, len(images))

    def corrupted(name: str, severity: int) -> float:
        generator = corruption_generator(name, severity, seed)
        return error(lambda part: corrupt(part, name, severity, generator))

    errors = {name: tuple(corrupted(name, severity) for severity in severities) for name in chosen}
    return CorruptionTable(clean=error(lambda part: part), errors=errors)
