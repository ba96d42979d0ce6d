"""A small trained net on pictures that a seed makes: stripes in four directions, under noise."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

SIDE, CLASSES = 12, 4


def stripes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """([count, 3, 12, 12] in [0, 1], int64 [count])."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    place = torch.arange(SIDE) / SIDE
    y, x = place[:, None], place[None, :]
    waves = torch.stack([x + 0 * y, y + 0 * x, (x + y) / 2**0.5, (x - y) / 2**0.5])[labels]
    phase = torch.rand(count, 1, 1, generator=generator)
    grey = 0.5 + 0.12 * torch.sin(2 * torch.pi * (3 * waves + phase))
    noise = 0.08 * torch.randn(count, 3, SIDE, SIDE, generator=generator)
    return (grey[:, None] + noise).clamp(0, 1), labels


class SmallNet(nn.Module):
    """Normalises, then three convolutions with batch norm."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 8, 16, 16)
        self.body = nn.Sequential(*[nn.Sequential(
            nn.Conv2d(a, b, 3, stride=1 if a == 3 else 2, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in zip(widths, widths[1:], strict=False)])
        self.head = nn.Linear(widths[-1] * 9, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body((images - 0.5) / 0.25).flatten(1))


@cache
def small_net() -> SmallNet:
    """Trained for a second, in eval mode. Tests must not alter it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = SmallNet()
    images, labels = stripes(512, seed=1)
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for step in range(120):
        part = torch.arange(64) + 64 * (step % 8)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images[part]), labels[part]).backward()
        optimizer.step()
    for parameter in net.parameters():
        parameter.grad = None
    return net.eval()


@cache
def right_answers(count: int = 12) -> tuple[Tensor, Tensor]:
    """The first images of another seed that the net answers rightly."""
    images, labels = stripes(4 * count, seed=2)
    net = small_net()
    with torch.no_grad():
        right = (net(images).argmax(1) == labels).nonzero()[:count, 0]
    return images[right], labels[right]


def other_classes(labels: Tensor) -> Tensor:
    return (labels + 1) % CLASSES
