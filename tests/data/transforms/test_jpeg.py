"""JPEG compression of a batch against Pillow's encoder and decoder."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.transforms.peers import draws, noise, smooth
from visus.data.transforms.jpeg import JPEGCompression, jpeg

KODAK = Path(__file__).resolve().parents[4] / "shared" / "data" / "kodak24.zip"
QUALITIES = (5, 30, 49, 50, 75, 95, 100)


def photograph() -> np.ndarray:
    """uint8 [100, 101, 3] of a photograph, or of a smooth image where there is none."""
    if not KODAK.is_file():
        return smooth(2, 100, 101)[1].permute(1, 2, 0).numpy()
    with zipfile.ZipFile(KODAK) as file:
        name = sorted(n for n in file.namelist() if n.endswith(".png"))[3]
        return np.asarray(Image.open(io.BytesIO(file.read(name))))[200:300, 150:251]


def pillows(picture: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer)).astype(int)


@pytest.mark.parametrize("height, width", [(100, 101), (64, 48), (99, 33)])
def test_a_photograph_is_within_a_third_of_a_level_of_pillow_on_average(height, width):
    picture = photograph()[:height, :width].copy()
    batch = torch.from_numpy(picture).permute(2, 0, 1)[None].expand(len(QUALITIES), -1, -1, -1)
    ours = jpeg(batch, np.array(QUALITIES)).permute(0, 2, 3, 1).numpy().astype(int)
    for got, quality in zip(ours, QUALITIES, strict=True):
        theirs = pillows(picture, quality)
        apart = np.abs(got - theirs).mean()
        assert apart < 0.35, (quality, apart)
        if quality < 95:  # what is lost is many times what is left between the two
            assert np.abs(theirs - picture).mean() > 8 * apart


@pytest.mark.parametrize("height, width", [(1, 1), (8, 17), (3, 40)])
def test_sides_need_not_be_whole_blocks(height, width):
    picture = photograph()[:height, :width].copy()
    batch = torch.from_numpy(picture).permute(2, 0, 1)[None].expand(2, -1, -1, -1)
    for got, quality in zip(jpeg(batch, np.array([75, 100])), (75, 100), strict=True):
        assert np.abs(got.permute(1, 2, 0).numpy().astype(int) - pillows(picture, quality)).mean() < 0.6


def test_a_grey_photograph_is_within_a_seventh_of_a_level():
    picture = photograph()[..., 1].copy()
    ours = jpeg(torch.from_numpy(picture)[None, None].expand(len(QUALITIES), -1, -1, -1), np.array(QUALITIES))
    for got, quality in zip(ours, QUALITIES, strict=True):
        assert np.abs(got[0].numpy().astype(int) - pillows(picture, quality)).mean() < 0.15


def test_the_quality_is_drawn_for_each_image_from_the_whole_range():
    batch = noise(1, height=16, width=16).expand(200, -1, -1, -1)
    out = JPEGCompression((10, 12), 0.7)(batch, draws(200))
    u = draws(200).uniform(2)
    kinds = [jpeg(batch[:1], np.array([quality]))[0] for quality in (10, 11, 12)]
    for i in range(200):
        expected = kinds[int(3 * u[i, 0])] if u[i, 1] < 0.7 else batch[i]
        assert torch.equal(out[i], expected)
