"""t-SimCNE: a copy of the network is taught, by contrast and without labels, to place the images on a plane itself.

Paper: Boehm, Berens, Kobak, Unsupervised visualization of image datasets using contrastive learning, ICLR 2023,
arXiv:2210.09879, section 3: two random views of an image are drawn together and all others pushed apart, by SimCLR's
loss with the Cauchy kernel 1 / (1 + d^2); in three stages: in 128 dimensions, then a fresh last layer of two outputs
alone, then everything, slowly. Views (section 4): random crop and resize, mirror, jitter of the colours, grey.

Departures: it begins with the classifier's own layers and not with random ones, stages are short (the paper's have
1,000, 50 and 450 epochs of some 50,000 images), and the optimiser is Adam. Labels play no part beyond what the
classifier has learnt; its own weights are left as they are.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from visus import explain
from visus.core.errors import UserError
from visus.core.validate import natural, positive, require
from visus.explain.embedding import map_of_images
from visus.explain.explanation import Explanation
from visus.explain.pixels import PixelScale, Scale, pixel_scale
from visus.ops.projection import t_simcne_loss

LEAST = 2       # images: one alone has none to be told apart from
WIDE, HIDDEN = 128, 1024
RATES = (1e-3, 1e-2, 1e-4)  # of the three stages
CROP_AREA = (0.2, 1.0)
JITTER = 0.4    # of brightness and contrast
GREY_SHARE = 0.2


class Trunk(nn.Module):
    """Images -> what goes into the last linear layer of a copy of `model`: [B, D]. D is in `features`."""

    def __init__(self, model: nn.Module, images: Tensor):
        super().__init__()
        self.model = copy.deepcopy(model).requires_grad_(True).eval()
        linear = [module for module in self.model.modules() if isinstance(module, nn.Linear)]
        if not linear:
            raise UserError("has no linear layer at its end, whose input could be placed on a plane",
                            where="t_simcne", remedy="Use --method embedding")
        self.kept: list[Tensor] = []
        linear[-1].register_forward_hook(lambda module, given, made: self.kept.append(given[0]))
        with torch.no_grad():
            self.features = int(self(images[:2]).shape[1])

    def forward(self, images: Tensor) -> Tensor:
        self.kept.clear()
        self.model(images)
        features = self.kept[-1]
        return features if features.ndim == 2 else features.flatten(1, -2).mean(1)  # [B, ..., D] -> [B, D]


def random_views(pixels: Tensor, generator: Generator, flip: bool = True) -> Tensor:
    """[B, C, H, W] in [0, 1] -> one view of each: crop of random area and aspect, mirror, brightness and contrast, and
    of colour images some in grey."""
    count, channels = pixels.shape[:2]
    draw = torch.rand(count, 8, generator=generator).to(pixels)
    area = CROP_AREA[0] + draw[:, 0] * (CROP_AREA[1] - CROP_AREA[0])
    aspect = ((2 * draw[:, 1] - 1) * math.log(4 / 3)).exp()
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    mirrored = (draw[:, 4] < 0.5) & flip
    theta = torch.zeros(count, 2, 3).to(pixels)  # from the view's [-1, 1] to the image's
    theta[:, 0, 0], theta[:, 1, 1] = width * (1 - 2 * mirrored.to(width)), height
    theta[:, 0, 2], theta[:, 1, 2] = (1 - width) * (2 * draw[:, 2] - 1), (1 - height) * (2 * draw[:, 3] - 1)
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)
    views = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    bright, contrast = (1 + JITTER * (2 * draw[:, n] - 1) for n in (5, 6))
    views = views * bright[:, None, None, None]
    means = views.mean((1, 2, 3), keepdim=True)
    views = (views - means) * contrast[:, None, None, None] + means
    if channels > 1:
        grey = (draw[:, 7] < GREY_SHARE)[:, None, None, None]
        views = torch.where(grey, views.mean(1, keepdim=True).expand_as(views), views)
    return views.clamp(0, 1)


def taught_places(model: nn.Module, images: Tensor, scale: PixelScale, *, epochs: tuple[int, int, int],
                  batch_size: int, seed: int, flip: bool = True) -> tuple[Tensor, list[float]]:
    """(places of normalised `images` [N, C, H, W] on a plane, [N, 2], centred; the mean loss of each epoch)."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        trunk = Trunk(model, images)
        body = nn.Sequential(nn.Linear(trunk.features, HIDDEN), nn.ReLU())
        head: nn.Module = nn.Linear(HIDDEN, WIDE)
        body, head = body.to(images.device), head.to(images.device)
        generator, losses = Generator().manual_seed(seed), []
        pixels = scale.pixels(images)
        for stage, (rounds, rate) in enumerate(zip(epochs, RATES, strict=True)):
            if stage == 1:
                head = nn.Linear(HIDDEN, 2).to(images.device)
            moved = list(head.parameters()) if stage == 1 else \
                [*trunk.parameters(), *body.parameters(), *head.parameters()]
            optimizer = torch.optim.Adam(moved, rate)
            trunk.train(stage != 1)  # the norms of a trunk that is not taught stay as they are
            for _ in range(rounds):
                total, batches = 0.0, list(_batches(len(images), batch_size, generator))
                for rows in batches:
                    views = [scale.normalised(random_views(pixels[rows], generator, flip)) for _ in range(2)]
                    with torch.set_grad_enabled(stage != 1):
                        features = body(trunk(torch.cat(views)))
                    placed = head(features)
                    loss = t_simcne_loss(*placed.chunk(2))
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    total += float(loss.detach())
                losses.append(total / len(batches))
        trunk.eval()
        with torch.no_grad():
            points = torch.cat([head(body(trunk(part))) for part in images.split(batch_size)])
    return points - points.mean(0), losses


def _batches(count: int, size: int, generator: Generator) -> Iterator[Tensor]:
    """Every image once, in random order; batches of nearly equal size, so that none is left with one image."""
    yield from torch.randperm(count, generator=generator).tensor_split(max(1, round(count / size)))


@dataclass(frozen=True, kw_only=True)
class TSimCNE:
    """epochs: of the three stages. batch_size: an image is told apart from the others of its batch, so large is good.
    flip: whether mirrored images count as the same (not for digits and letters). seed: of views and fresh layers."""

    epochs: tuple[int, int, int] = (30, 10, 20)
    batch_size: int = 256
    flip: bool = True
    seed: int = 0
    mean: Scale = None
    std: Scale = None
    needs_images: ClassVar[bool] = True
    together: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(isinstance(self.epochs, tuple | list) and len(self.epochs) == 3
                and all(isinstance(n, int) and n >= 1 for n in self.epochs), "epochs", self.epochs,
                "be three whole numbers of at least 1")
        positive(batch_size=self.batch_size)
        require(self.batch_size >= LEAST, "batch_size", self.batch_size, f"be at least {LEAST}")
        require(isinstance(self.flip, bool), "flip", self.flip, "be true or false")
        natural(seed=self.seed)

    def problem(self, model: nn.Module, images: Tensor) -> str | None:
        return None

    def __call__(self, model: nn.Module, images: Tensor) -> Explanation:
        scale = pixel_scale(images, self.mean, self.std)
        if len(images) < LEAST:
            raise UserError("a map needs two images at least", where=f"{len(images)} given",
                            remedy="Give a folder of images")
        points, losses = taught_places(model, images.float(), scale, epochs=tuple(self.epochs),  # type: ignore[arg-type]
                                       batch_size=self.batch_size, seed=self.seed, flip=self.flip)
        return map_of_images(
            f"The {len(images)} images where a copy of the network learnt to place them on a plane by t-SimCNE in "
            f"{sum(self.epochs)} epochs: two views of an image near each other, all others apart (loss {losses[-1]:.3g}"
            f"; by chance {math.log(2 * min(self.batch_size, len(images)) - 1):.3g}).", points, images, scale)


explain.add(TSimCNE, {"t_simcne": {}}, summary="your images on a plane, by a copy of the network that learns it",
            paper="Boehm, Berens, Kobak, ICLR 2023, arXiv:2210.09879")
