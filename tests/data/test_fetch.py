"""The fused path from files to float batches against its parts, one by one."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from visus.core import jpeg
from visus.core.preprocessing import Preprocessing
from visus.data import Loader, Samples, build_augmentation
from visus.data.sampling import RepeatedSampling
from visus.data.transforms import to_unit
from visus.data.transforms.crop import RandomResizedCrop, SimpleRandomCrop

STEPS = [{"name": "random_resized_crop"}, {"name": "horizontal_flip"}, {"name": "vertical_flip", "probability": 0.3}]


@pytest.fixture
def photos(tmp_path) -> Samples:
    """Twelve JPEGs and PNGs, colour and grey, of several sizes."""
    rng = np.random.default_rng(3)
    names = []
    for n in range(12):
        noise = rng.integers(0, 256, (40 + 17 * n, 230 - 12 * n, 3), np.uint8)
        image = Image.fromarray(noise).filter(ImageFilter.GaussianBlur(3))
        names.append(f"{n}.{'png' if n % 4 == 3 else 'jpg'}")
        (image.convert("L") if n % 5 == 2 else image).save(tmp_path / names[-1])
    return Samples(format="folder", classes=("a", "b"), paths=tuple(names), root=str(tmp_path),
                   targets=np.arange(12) % 2)


def loader_of(samples: Samples, size: tuple[int, int] = (24, 20), **options) -> Loader:
    steps = options.pop("augmentation", build_augmentation(STEPS))
    return Loader(samples, np.arange(len(samples)), Preprocessing(size=size), **{
        "batch_size": 12, "seed": 3, "augmentation": steps} | options)


def images_of(loader: Loader, epoch: int = 0) -> torch.Tensor:
    return torch.cat([batch.images for batch in loader.epoch(epoch)])


def test_a_crop_of_a_small_image_is_the_box_of_the_full_image_resized_and_mirrored(photos):
    """The model's size is above half of every box, so that nothing is reduced: each number is checked on its own."""
    augmentation = build_augmentation(STEPS)
    loader = loader_of(photos, size=(160, 200))
    found = images_of(loader, 1)
    index = np.arange(12)
    boxed = []
    for i in range(12):
        pixels = photos.read(i)
        top, left, height, width = augmentation.steps[0][1].boxes(
            np.array([pixels.shape[0]]), np.array([pixels.shape[1]]), augmentation.draws(0, index[i:i + 1], 3, 1))[0]
        boxed.append(Preprocessing(size=(160, 200)).resized(pixels[top:top + height, left:left + width]))
    expected = to_unit(augmentation(torch.stack(boxed), index, 3, 1, cropped=True))
    assert torch.equal(found, expected) and found.is_contiguous()


def test_a_large_box_is_decoded_smaller_and_stays_close(photos, monkeypatch):
    reduced = images_of(loader_of(photos))
    monkeypatch.setattr("visus.data.fetch.REDUCTIONS", (1,))
    full = images_of(loader_of(photos))
    changed = (reduced != full).flatten(1).any(1)
    assert 3 <= changed.sum() < 12
    assert 255 * (reduced - full).abs().mean() < 4


def test_batches_do_not_depend_on_who_decodes(photos, tmp_path, monkeypatch):
    options = [{}, {"cache": tmp_path / "cache"}, {"augmentation": None}]
    quick = [images_of(loader_of(photos, **option)) for option in options]
    monkeypatch.setattr(jpeg, "_simplejpeg", lambda: None)
    options[1] = {"cache": tmp_path / "other"}
    for one, option in zip(quick, options, strict=True):
        assert torch.equal(one, images_of(loader_of(photos, **option)))


@pytest.mark.parametrize("steps", [STEPS, [*STEPS, {"name": "color_jitter", "brightness": 0.2}], []],
                         ids=["fused", "general", "none"])
def test_normalised_batches_are_the_others_normalised(photos, steps):
    plain = loader_of(photos, augmentation=build_augmentation(steps))
    ready = loader_of(photos, augmentation=build_augmentation(steps), normalised=True)
    torch.testing.assert_close(images_of(ready), plain.preprocessing.normalise(images_of(plain)), rtol=0, atol=3e-6)


def test_steps_of_no_probability_change_nothing_and_cost_no_pass(photos, monkeypatch):
    idle = [{"name": name, "probability": 0.0} for name in ("gaussian_blur", "cutout", "horizontal_flip")]
    expected = images_of(loader_of(photos))
    for name in ("blur.GaussianBlur", "erase.Cutout"):
        monkeypatch.setattr(f"visus.data.transforms.{name}.__call__", lambda *a: pytest.fail("called"))
    assert torch.equal(images_of(loader_of(photos, augmentation=build_augmentation(STEPS + idle))), expected)


def test_copies_of_an_image_in_a_batch_are_cut_apart(photos):
    sampling = RepeatedSampling(12, 6, repeats=3)
    first = next(loader_of(photos, sampling=sampling, batch_size=6).epoch(0))
    assert first.index[0] == first.index[1] == first.index[2]
    assert not torch.equal(first.images[0], first.images[1]) and not torch.equal(first.images[1], first.images[2])


def test_a_batch_with_bad_files_holds_the_others_as_they_would_be(photos):
    whole = next(loader_of(photos).epoch(0))
    os.truncate(photos.path(4), 100)
    os.truncate(photos.path(0), 0)
    left = next(loader_of(photos, on_bad_image="skip").epoch(0))
    kept = [i for i in range(12) if i not in (0, 4)]
    assert left.index.tolist() == kept and torch.equal(left.images, whole.images[kept])


@pytest.mark.parametrize("crop", [RandomResizedCrop(), RandomResizedCrop((0.9, 1.0), (0.5, 0.6)), SimpleRandomCrop()])
def test_a_box_for_one_image_is_that_of_the_batch(crop):
    from visus.data.transforms import Draws

    rng = np.random.default_rng(0)
    heights, widths, draws = rng.integers(2, 600, 500), rng.integers(2, 600, 500), Draws(np.arange(500), 1, 2, "x")
    numbers = crop.numbers(draws).tolist()
    one_by_one = [crop.box(n, int(h), int(w)) for n, h, w in zip(numbers, heights, widths, strict=True)]
    assert np.array_equal(crop.boxes(heights, widths, draws), one_by_one)


def test_resized_images_are_pillows_within_a_level():
    """The kernel for interleaved pixels is the one that is used, and it is right."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)).filter(
        ImageFilter.GaussianBlur(2))
    file = io.BytesIO()
    image.save(file, "PNG")
    ours = Preprocessing(size=(33, 40)).resized(np.array(image)).permute(1, 2, 0).numpy()
    theirs = np.array(image.resize((40, 33), Image.Resampling.BILINEAR))
    assert np.abs(ours.astype(int) - theirs).max() <= 1
