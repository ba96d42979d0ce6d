"""Several views of each image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.data.transforms.peers import smooth
from visus.core.errors import RecipeError
from visus.data.transforms import build_augmentation
from visus.data.transforms.crop import RandomResizedCrop
from visus.data.transforms.views import DINO_STEPS, SIMCLR_STEPS, View, Views, k_views, multi_crop
from visus.ops.resample import resize


def test_two_large_and_six_small_crops_of_the_stated_sizes_and_shares():
    batch, index = smooth(5, 60, 70), np.arange(5)
    views = multi_crop(48, 20, steps=DINO_STEPS)
    out = views(batch, index, 1, 3)
    assert [tuple(view.shape) for view in out] == [(5, 3, 48, 48)] * 2 + [(5, 3, 20, 20)] * 6
    assert all(view.dtype == torch.float32 and view.min() >= 0 and view.max() <= 1 for view in out)
    crops = [view.augmentation.decode_crop for view in views.views]
    assert [crop.scale for crop in crops] == [(0.4, 1.0)] * 2 + [(0.05, 0.4)] * 6
    for a in range(8):
        for b in range(a):
            assert out[a].shape != out[b].shape or not torch.equal(out[a], out[b])


def test_a_crop_goes_to_its_size_in_one_antialiased_resampling():
    batch, index = smooth(4, 64, 80), np.array([3, 9, 2, 5])
    views = multi_crop(32, 16, 1, 1)
    large, small = views(batch, index, 0, 0)
    for seed, out, crop in ((0, large, RandomResizedCrop(scale=(0.4, 1.0))),):
        augmentation = build_augmentation([{"name": "random_resized_crop", "scale": [0.4, 1.0]}])
        boxes = crop.boxes(np.full(4, 64), np.full(4, 80), augmentation.draws(0, index, seed, 0))
        for i, (top, left, height, width) in enumerate(boxes):
            expected = resize(batch[i:i + 1, :, top:top + height, left:left + width], (32, 32)).float() / 255
            assert torch.equal(out[i:i + 1], expected)
    assert small.shape[-1] == 16


@pytest.mark.parametrize("views", [k_views(SIMCLR_STEPS, 3, 24), multi_crop(24, 12, steps=DINO_STEPS)],
                         ids=["simclr", "dino"])
def test_a_sample_has_the_same_views_in_any_batch_and_others_in_another_epoch(views):
    batch, index = smooth(6, 30, 30), np.array([4, 8, 15, 16, 23, 42])
    whole = views(batch, index, 7, 1)
    part = views(batch[[5, 2]], index[[5, 2]], 7, 1)
    for all_of, some in zip(whole, part, strict=True):
        torch.testing.assert_close(some, all_of[[5, 2]], rtol=0, atol=1e-6)
    assert not torch.equal(views(batch, index, 7, 2)[0], whole[0])
    assert not torch.equal(whole[0], whole[1])


def test_the_first_of_k_views_is_the_plain_augmentation_and_no_steps_are_the_image():
    batch, index = smooth(6, 30, 30), np.arange(6)
    steps = [{"name": "color_jitter", "brightness": 0.4}]
    first, second = k_views(steps)(batch, index, 5, 0)
    assert torch.equal(first, build_augmentation(steps)(batch, index, 5, 0))
    assert not torch.equal(first, second)
    (plain,) = Views((View(None),))(batch, index, 0, 0)
    assert torch.equal(plain, batch.float() / 255)


@pytest.mark.parametrize("build, words", [
    (lambda: k_views([], 0), "views.count=0"), (lambda: multi_crop(0), "views.size=0"),
    (lambda: multi_crop(large=0), "views.large=0"), (lambda: multi_crop(small=-1), "views.small=-1"),
    (lambda: k_views([{"name": "blur"}]), "no such augmentation")])
def test_wrong_numbers_are_refused(build, words):
    with pytest.raises(RecipeError, match=words):
        build()
