"""Drawn faces of four parts, which stand a little differently each time, among stray parts and noise."""

from __future__ import annotations

import torch
from torch import Tensor

PARTS = ("nose", "left eye", "right eye", "mouth")
REST = ((0.0, 0.0), (-12.0, -9.0), (-12.0, 9.0), (12.0, 0.0))  # (y, x) from the nose, px
SPREAD = ((0.0, 0.0), (2.0, 1.5), (2.0, 1.5), (1.5, 3.0))
SIZE = (64, 80)


def face_places(draw: torch.Generator) -> Tensor:
    """(y, x) of the centres of the parts, int64 [4, 2]."""
    nose = torch.tensor([20.0, 18.0]) + torch.rand(2, generator=draw) * torch.tensor([22.0, 42.0])
    away = torch.tensor(REST) + torch.randn(4, 2, generator=draw) * torch.tensor(SPREAD)
    places = (nose + away).round().long()
    return places.clamp(min=4).minimum(torch.tensor(SIZE) - 5)


def part_templates() -> Tensor:
    """[4, 9, 9], of mean 0."""
    y, x = torch.meshgrid(torch.arange(9.0) - 4, torch.arange(9.0) - 4, indexing="ij")
    eye = (((x / 4) ** 2 + (y / 2.5) ** 2) < 1).float() - 0.8 * ((x**2 + y**2) < 2.5).float()
    nose = ((x.abs() < 1.2) & (y.abs() < 4)).float() + ((y > 2) & (x.abs() < 3)).float().clamp(max=1) * 0.6
    mouth = (y.abs() < 1.2).float()
    shapes = torch.stack([nose, eye, eye, mouth])
    return shapes - shapes.mean((1, 2), keepdim=True)


def drawn_face(draw: torch.Generator, noise: float = 0.35, stray: int = 8, face: bool = True) -> tuple[Tensor, Tensor]:
    """A picture [H, W] with noise and stray parts, and the places of its face's parts, [4, 2]. face: without it, the
    parts are stray as well."""
    places, templates = face_places(draw), part_templates()
    image = noise * torch.randn(*SIZE, generator=draw)
    strays = stray if face else stray + len(templates)
    anywhere = torch.stack([torch.randint(5, side - 5, (strays,), generator=draw) for side in SIZE], 1)
    kinds = torch.randint(0, 4, (strays,), generator=draw)
    drawn = list(zip(templates[kinds], anywhere.tolist(), strict=True))
    if face:
        drawn += zip(templates, places.tolist(), strict=True)
    for template, (y, x) in drawn:
        image[y - 4:y + 5, x - 4:x + 5] = noise * torch.randn(9, 9, generator=draw) + template
    return image, places
