"""Mirror images in turn: each image once as it is and once mirrored in any two epochs."""

from __future__ import annotations

import numpy as np
import torch

from visus.data.transforms import build_augmentation


def mirrored(epoch: int, count: int = 400) -> np.ndarray:
    """bool [count]: which of `count` samples an epoch mirrors."""
    images = torch.arange(2, dtype=torch.uint8).repeat(count, 1, 1, 1)  # [count, 1, 1, 2]: 0, 1
    augment = build_augmentation([{"name": "alternating_flip"}])
    return augment(images, np.arange(count), 7, epoch)[:, 0, 0, 0].numpy() == 1


def test_any_two_epochs_in_a_row_show_both_sides_of_every_image():
    for epoch in range(4):
        assert (mirrored(epoch) != mirrored(epoch + 1)).all()
        assert (mirrored(epoch) == mirrored(epoch + 2)).all()


def test_about_half_of_the_images_begin_mirrored():
    assert 0.4 < mirrored(0).mean() < 0.6
