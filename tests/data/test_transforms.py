from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps

from visus.core.errors import RecipeError
from visus.data.transforms import Draws, augmentations, build_augmentation
from visus.data.transforms.affine import affine
from visus.data.transforms.blur import gaussian_blur
from visus.data.transforms.color import adjust_contrast, adjust_hue, luma
from visus.data.transforms.crop import RandomCrop, RandomResizedCrop, SimpleRandomCrop
from visus.data.transforms.erase import Cutout, RandomErasing
from visus.data.transforms.flip import HorizontalFlip, VerticalFlip
from visus.data.transforms.three_augment import Grayscale, Solarize, ThreeAugment, solarize
from visus.ops.resample import resize

EVERY = [
    {"name": "random_resized_crop", "scale": (0.3, 1.0)}, {"name": "horizontal_flip"}, {"name": "vertical_flip"},
    {"name": "random_crop", "padding": 3}, {"name": "affine", "degrees": 20, "translate": 0.1, "scale": [0.9, 1.1],
                                            "shear": 5}, {"name": "color_jitter", "brightness": 0.3, "contrast": 0.3,
                                                          "saturation": 0.3, "hue": 0.1}, {"name": "cutout"},
    {"name": "random_erasing"}, {"name": "simple_random_crop"}, {"name": "grayscale", "probability": 0.5},
    {"name": "solarize", "probability": 0.5}, {"name": "gaussian_blur"}, {"name": "three_augment"}]


@pytest.fixture(scope="module")
def functional():
    tools = Path(__file__).resolve().parents[2].parent / "shared" / "tools"
    if not (tools / "torchvision_cpu_shim.py").is_file():
        pytest.skip("the torchvision shim for CPU torch is not beside the checkout")
    sys.path.insert(0, str(tools))
    try:
        import torchvision_cpu_shim

        torchvision_cpu_shim.install()
        import torchvision.transforms.v2.functional as functional
    except ImportError as error:
        pytest.skip(f"torchvision is not installed: {error}")
    finally:
        sys.path.remove(str(tools))
    return functional


def images(batch: int = 6, channels: int = 3, height: int = 12, width: int = 10) -> torch.Tensor:
    return torch.randint(0, 256, (batch, channels, height, width), generator=torch.Generator().manual_seed(0),
                         dtype=torch.uint8)


def draws(batch: int, epoch: int = 0) -> Draws:
    return Draws(np.arange(batch), 0, epoch, "x")


def test_the_names_stay():
    assert {step["name"] for step in EVERY} <= set(augmentations.names())


@pytest.mark.parametrize("step", EVERY, ids=lambda s: s["name"])
@pytest.mark.parametrize("channels", [1, 3])
def test_each_sample_is_augmented_the_same_in_any_batch(step, channels):
    augment = build_augmentation([step])
    if step["name"] == "grayscale" and channels == 1:
        pytest.skip("of grey images nothing changes")
    batch = images(8, channels, height=14)
    index = np.array([5, 100, 7, 3, 2**40, 0, 9, 1])
    whole = augment(batch, index, 3, 2)
    order = np.array([6, 1, 4])
    torch.testing.assert_close(augment(batch[order], index[order], 3, 2), whole[order], rtol=0, atol=1e-6)
    assert whole.shape == batch.shape
    if whole.is_floating_point():
        assert whole.min() >= 0 and whole.max() <= 1
    assert not torch.equal(augment(batch, index, 3, 3), whole)  # another epoch
    assert not torch.equal(augment(batch, index, 4, 2), whole)  # another seed


def test_a_step_that_is_there_twice_draws_twice():
    augment = build_augmentation([{"name": "horizontal_flip"}] * 2)
    batch = images(64)
    assert not torch.equal(augment(batch, np.arange(64), 0, 0), batch)


@pytest.mark.parametrize("flip, dim", [(HorizontalFlip, -1), (VerticalFlip, -2)])
def test_flips_mirror_exactly_the_drawn_share(flip, dim):
    batch = images(400)
    out = flip(0.3)(batch, draws(400))
    flipped = (out != batch).flatten(1).any(1)
    torch.testing.assert_close(out[flipped], batch[flipped].flip(dim), rtol=0, atol=0)
    assert abs(flipped.double().mean() - 0.3) < 0.07
    assert torch.equal(flip(1.0)(batch, draws(400)), batch.flip(dim))
    assert torch.equal(flip(0.0)(batch, draws(400)), batch)


@pytest.mark.parametrize("mode, numpy_mode", [("zeros", "constant"), ("reflect", "reflect")])
def test_random_crop_is_a_window_of_the_padded_image_and_every_place_occurs(mode, numpy_mode):
    batch = images(300, height=6, width=5)
    out = RandomCrop(2, mode)(batch, draws(300))
    padded = np.pad(batch.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)), mode=numpy_mode)
    places = set()
    for i in range(300):
        found = [(y, x) for y in range(5) for x in range(5)
                 if np.array_equal(padded[i, :, y:y + 6, x:x + 5], out[i].numpy())]
        assert found
        places |= set(found)
    assert len(places) == 25


def test_random_resized_crop_equals_crop_and_antialiased_resize():
    batch = images(12, height=23, width=31).float() / 255
    crop = RandomResizedCrop(scale=(0.1, 0.9))
    out = crop(batch, draws(12))
    boxes = crop.boxes(np.full(12, 23), np.full(12, 31), draws(12))
    for image, (top, left, height, width), got in zip(batch, boxes, out, strict=True):
        expected = resize(image[None, :, top:top + height, left:left + width], (23, 31))[0]
        torch.testing.assert_close(got, expected, rtol=0, atol=2e-5)


def test_boxes_of_random_resized_crop_keep_area_and_aspect():
    crop = RandomResizedCrop(scale=(0.2, 0.5), ratio=(0.5, 2.0))
    top, left, height, width = crop.boxes(np.full(2000, 100), np.full(2000, 160), draws(2000)).T
    share, ratio = height * width / 16000, width / height
    assert (share > 0.19).all() and (share < 0.51).all() and (ratio > 0.48).all() and (ratio < 2.08).all()
    assert (top >= 0).all() and (left >= 0).all() and (top + height <= 100).all() and (left + width <= 160).all()
    assert share.max() > 0.48 and share.min() < 0.22 and (left + width == 160).any() and (left == 0).any()


def test_a_box_that_never_fits_becomes_the_largest_centred_one():
    crop = RandomResizedCrop(scale=(1.0, 1.0), ratio=(3 / 4, 4 / 3))
    assert crop.boxes(np.array([10]), np.array([100]), draws(1)).tolist() == [[0, 43, 10, 13]]


@pytest.mark.parametrize("angle, shift, scale, shear", [
    (0, (0, 0), 1, 0), (90, (0, 0), 1, 0), (17, (0, 0), 1, 0), (0, (3, -2), 1, 0), (0, (0, 0), 1.3, 0),
    (0, (0, 0), 1, 20), (-33, (2.5, 1.25), 0.8, -12)])
@pytest.mark.parametrize("size", [(14, 14), (11, 18)])
def test_affine_equals_torchvision(functional, angle, shift, scale, shear, size):
    batch = images(2, height=size[0], width=size[1]).float() / 255
    ours = affine(batch, np.radians(np.full(2, angle)), np.tile(np.array(shift, float), (2, 1)),
                  np.full(2, float(scale)), np.radians(np.full(2, shear)), chosen=np.ones(2, bool))
    theirs = functional.affine(batch, angle=angle, translate=list(shift), scale=scale, shear=[shear, 0.0],
                               interpolation=functional.InterpolationMode.BILINEAR)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_a_quarter_turn_is_exact_and_the_unchosen_stay():
    batch = images(2, height=8, width=8).float() / 255
    out = affine(batch, np.full(2, np.pi / 2), np.zeros((2, 2)), np.ones(2), np.zeros(2),
                 chosen=np.array([True, False]))
    torch.testing.assert_close(out[0], torch.rot90(batch[0], -1, (-2, -1)), rtol=0, atol=1e-5)
    assert torch.equal(out[1], batch[1])


def test_colour_operations_equal_torchvision(functional):
    batch = images(4).float() / 255
    batch[0, :, :3, :3] = 0.5  # grey pixels: no hue
    factors = torch.tensor([0.4, 0.9, 1.0, 1.7]).view(-1, 1, 1, 1)
    turns = torch.tensor([-0.5, -0.1, 0.2, 0.45]).view(-1, 1, 1, 1)
    for i in range(4):
        one, factor, turn = batch[i:i + 1], factors[i:i + 1], turns[i:i + 1]
        pairs = [
            (adjust_contrast(one, factor), functional.adjust_contrast(one, float(factor))),
            ((factor * one + (1 - factor) * luma(one)).clamp(0, 1), functional.adjust_saturation(one, float(factor))),
            ((one * factor).clamp(0, 1), functional.adjust_brightness(one, float(factor))),
            (adjust_hue(one, turn), functional.adjust_hue(one, float(turn)))]
        for ours, theirs in pairs:
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_hue_of_red_turned_by_a_third_is_green():
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)
    green = adjust_hue(red, torch.full((1, 1, 1, 1), 1 / 3))
    torch.testing.assert_close(green.flatten(), torch.tensor([0.0, 1, 0]), rtol=0, atol=1e-6)


def test_cutout_covers_a_square_and_erasing_a_rectangle_of_the_stated_area():
    batch = torch.full((500, 1, 20, 20), 0.25)
    covered = (Cutout(size=0.3, fill=1.0)(batch, draws(500)) == 1.0).flatten(1).sum(1)
    assert covered.max() == 36 and covered.min() >= 9
    erased = (RandomErasing(probability=0.4, scale=(0.1, 0.2), ratio=(0.8, 1.25), fill=0.0)(batch, draws(500)) == 0)
    areas = erased.flatten(1).sum(1)
    hit = areas > 0
    assert abs(hit.double().mean() - 0.4) < 0.07
    assert areas[hit].min() >= 0.08 * 400 and areas[hit].max() <= 0.23 * 400


def test_grey_and_solarised_equal_pillows():
    batch = images(5)
    batch[0, :, 0, :4] = torch.tensor([127, 128, 129, 255], dtype=torch.uint8)  # about the threshold
    grey = Grayscale(1.0)(batch.float() / 255, draws(5))
    bright = Solarize(probability=1.0)(batch.float() / 255, draws(5))
    for one, ours_grey, ours_bright in zip(batch, grey, bright, strict=True):
        picture = Image.fromarray(one.permute(1, 2, 0).numpy())
        assert np.abs(255 * ours_grey[0].numpy() - np.asarray(picture.convert("L"))).max() < 1  # Pillow's is whole
        assert torch.equal(ours_grey[0], ours_grey[2])
        theirs = np.asarray(ImageOps.solarize(picture, threshold=128))
        assert np.abs(255 * ours_bright.permute(1, 2, 0).numpy() - theirs).max() < 1e-4


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_equals_torchvision_and_is_near_pillows(functional, sigma):
    batch = images(2, height=40, width=33).float() / 255
    ours = gaussian_blur(batch, np.full(2, sigma), 2.0)
    padded = torch.nn.functional.pad(batch, (6, 6, 6, 6), mode="replicate")
    theirs = functional.gaussian_blur(padded, [13, 13], [sigma, sigma])[..., 6:-6, 6:-6]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    picture = Image.fromarray(images(2, height=40, width=33)[0].permute(1, 2, 0).numpy())
    pillows = np.asarray(picture.filter(ImageFilter.GaussianBlur(sigma))).astype(float)
    # levels on noise; Pillow's is three box blurs, roughest at small widths
    assert np.abs(255 * ours[0].permute(1, 2, 0).numpy() - pillows).mean() < 5


def test_each_image_is_blurred_by_its_own_width():
    dot = torch.zeros(3, 1, 25, 25)
    dot[:, :, 12, 12] = 1.0
    blurred = gaussian_blur(dot, np.array([0.8, 1.2, 2.0]), 2.0)
    place = torch.arange(25) - 12.0
    variances = (blurred.sum((1, 2)) * place**2).sum(1)
    torch.testing.assert_close(blurred.sum((1, 2, 3)), torch.ones(3), rtol=1e-5, atol=0)
    torch.testing.assert_close(variances.sqrt(), torch.tensor([0.8, 1.2, 2.0]), rtol=0.03, atol=0.02)


def test_three_augment_is_grey_solarised_or_blurred_by_equal_thirds():
    batch = images(900).float() / 255
    out = ThreeAugment(sigma=(1.0, 1.0))(batch, draws(900))
    kinds = torch.stack([(out - other).abs().flatten(1).amax(1) < 1e-6 for other in (
        luma(batch).expand_as(batch), solarize(batch, 128 / 255), gaussian_blur(batch, np.ones(900), 1.0))])
    assert (kinds.sum(0) == 1).all()
    assert (kinds.double().mean(1) - 1 / 3).abs().max() < 0.05
    widths = ThreeAugment(sigma=(0.1, 2.0))(batch, draws(900))[kinds[2]].std((1, 2, 3))
    assert widths.max() > 1.5 * widths.min()


def test_simple_random_crop_is_the_largest_square_anywhere_along_the_longer_side():
    crop = SimpleRandomCrop()
    heights, widths = np.array([20, 30, 25] * 200), np.array([30, 20, 25] * 200)
    top, left, height, width = crop.boxes(heights, widths, draws(600)).T
    assert (height == np.minimum(heights, widths)).all() and (width == height).all()
    assert set(left[::3]) == set(range(11)) and set(top[1::3]) == set(range(11)) and not top[::3].any()
    assert not top[2::3].any() and not left[2::3].any()
    square = images(4, height=9, width=9)
    assert torch.equal(crop(square, draws(4)), square)
    wide = images(8, height=10, width=20).float() / 255
    for image, (top, left, height, width), got in zip(wide, crop.boxes(np.full(8, 10), np.full(8, 20), draws(8)),
                                                      crop(wide, draws(8)), strict=True):
        cut = image[None, :, top:top + height, left:left + width]
        torch.testing.assert_close(got, resize(cut, (10, 20))[0], rtol=0, atol=2e-5)


@pytest.mark.parametrize("steps, words", [
    ([{"name": "horizontal_flop"}], ["augmentation[0].name='horizontal_flop'", "'horizontal_flip'"]),
    ([{"name": "affine", "degree": 3}], ["augmentation[0].degree=3", "'degrees'"]),
    ([{"probability": 0.5}], ["a step has no name"]),
    ([{"name": "horizontal_flip", "probability": 2}], ["from 0 to 1", "probability=2"]),
    ([{"name": "affine", "scale": [2, 1]}], ["two rising numbers"]),
    ([{"name": "affine", "scale": "big"}], ["two rising numbers"]),
    ([{"name": "affine", "padding_mode": "wrap"}], ["'zeros', 'border' or 'reflection'"]),
    ([{"name": "random_crop", "padding": 1.5}], ["whole number"]),
    ([{"name": "horizontal_flip"}, {"name": "random_resized_crop"}], ["must be the first step"]),
    ([{"name": "horizontal_flip"}, {"name": "simple_random_crop"}], ["must be the first step"]),
    ([{"name": "three_augment", "sigma": [2, 0.1]}], ["two rising numbers"]),
    ([{"name": "solarize", "threshold": 128}], ["from 0 to 1", "threshold=128"]),
])
def test_wrong_steps_are_refused_by_name(steps, words):
    with pytest.raises(RecipeError) as caught:
        build_augmentation(steps)
    for word in words:
        assert word in str(caught.value)


def test_no_steps_are_no_augmentation():
    assert build_augmentation([]) is None
