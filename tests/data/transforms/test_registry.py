"""What holds for every registered augmentation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.data.transforms.peers import smooth
from visus.core.errors import RecipeError
from visus.data.transforms import augmentations, build_augmentation, groups

NAMES = sorted(augmentations.names())
SMALL = {"large_scale_jitter": {"size": 40}, "resize": {"size": 40}, "scale_jitter": {"size": 40, "short": [42, 50]}}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_each_sample_is_the_same_in_any_batch_and_no_batch_is_changed_in_place(name, channels):
    augment = build_augmentation([{"name": name, **SMALL.get(name, {})}])
    batch, index = smooth(24, 33, 32)[:, :channels], np.arange(24) * 1000 + 7
    try:
        whole = augment(batch, index, 3, 2)
    except RecipeError as error:
        assert "several images" in str(error) or "different sizes" in str(error)  # of scenes, or of one image at a time
        return
    order = np.array([16, 1, 4])
    torch.testing.assert_close(augment(batch[order], index[order], 3, 2), whole[order], rtol=0, atol=1e-6)
    assert len(whole) == 24 and whole.shape[1] == channels
    if whole.is_floating_point():
        assert whole.min() >= -1e-6 and whole.max() <= 1 + 1e-6
    else:
        assert whole.dtype == torch.uint8
    assert torch.equal(augment(batch, index, 3, 2), whole)
    assert torch.equal(batch, smooth(24, 33, 32)[:, :channels])


@pytest.mark.parametrize("name", NAMES)
def test_large_batches_are_worked_on_in_groups_and_come_out_the_same(name, monkeypatch):
    augment = build_augmentation([{"name": name, **SMALL.get(name, {})}])
    if hasattr(augment.steps[0][1], "resamples"):
        return  # goes image by image
    batch, index = smooth(17, 20, 21), np.arange(17) * 10 + 3
    try:
        whole = augment(batch, index, 3, 2)
    except RecipeError:
        return
    for values in (1, 5 * batch[0].numel()):
        monkeypatch.setattr(groups, "_VALUES", values)
        torch.testing.assert_close(augment(batch, index, 3, 2), whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_images_that_lie_in_memory_as_files_have_them_come_out_the_same(name):
    augment = build_augmentation([{"name": name, **SMALL.get(name, {})}])
    batch, index = smooth(9, 20, 21), np.arange(9) * 10 + 3
    try:
        whole = augment(batch, index, 3, 2)
    except RecipeError:
        return
    rows_first = batch.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(augment(rows_first, index, 3, 2), whole, rtol=0, atol=1e-6, check_stride=False)
    one = torch.from_numpy(batch[4].permute(1, 2, 0).contiguous().numpy()).permute(2, 0, 1)[None]
    torch.testing.assert_close(augment(one, index[4:5], 3, 2)[0], whole[4], rtol=0, atol=1e-6)
    some = torch.cat([batch, batch])[::2]  # every second image of a larger batch
    order = [0, 2, 4, 6, 8, 1, 3, 5, 7]
    torch.testing.assert_close(augment(some, index[order], 3, 2), whole[order], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name, fields", [
    ("color_jitter", {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.2}), ("gaussian_blur", {}),
    ("color_jitter", {"saturation": 0.4, "hue": 0.2, "order": "random"}), ("hsv_jitter", {"hue": 0.1}),
    ("pca_lighting", {}), ("gaussian_noise", {}), ("cutout", {}), ("ssd_distortion", {}), ("grayscale", {})])
def test_colours_noise_and_covers_pass_gradients(name, fields):
    augment = build_augmentation([{"name": name, **fields}])
    images = (smooth(9, 12, 12).double() / 255).requires_grad_(True)
    out = augment(images, np.arange(9), 0, 0)
    out.square().sum().backward()
    assert images.grad is not None and bool(torch.isfinite(images.grad).all()) and float(images.grad.abs().sum()) > 0


def test_the_index_names_the_module_of_each():
    if not augmentations.index_path.is_file():
        pytest.skip("there is no index")
    assert augmentations.index() == augmentations.fresh_index()
