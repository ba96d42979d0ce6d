"""What holds for every registered augmentation. A new one needs a row here."""

from __future__ import annotations

import dataclasses
import pickle
import re
from typing import Any

import numpy as np
import pytest
import torch

from tests.data.transforms.scenes import marked
from visus.core.errors import RecipeError
from visus.data.transforms import DECODE_CROPS, augmentations, build_augmentation, to_unit
from visus.data.transforms.scene import Scene, SceneTransform


@dataclasses.dataclass(frozen=True)
class Row:
    """fields: with which most images change. still: with which none does; None where there is no such setting, with
    `because`. grey: whether grey images change. drawn: whether anything is drawn but the chance of being done. scenes:
    whether it joins scenes, which a batch has not. resized: whether the size becomes another. level: between a batch,
    resampled in float, and a scene, resampled in uint8."""

    fields: dict[str, Any] = dataclasses.field(default_factory=dict)
    still: dict[str, Any] | None = dataclasses.field(default_factory=lambda: {"probability": 0.0})
    because: str = ""
    grey: bool = True
    drawn: bool = True
    scenes: bool = False
    resized: bool = False
    level: float = 0.0


HEIGHT, WIDTH = 22, 20
ALWAYS = {"probability": 1.0}
POLICY = Row(still=None, because="doing nothing is one of its choices, of others the strength varies")
ROWS = {
    "affine": Row({"degrees": 30.0, "shear": 10.0}), "yolo_affine": Row(),
    "perspective": Row(ALWAYS), "elastic": Row(ALWAYS), "elastic_grid": Row({**ALWAYS, "sigma": 2.0}),
    "lens_distortion": Row({**ALWAYS, "k1": 0.3}), "horizontal_flip": Row(drawn=False),
    "vertical_flip": Row(drawn=False),
    "alternating_flip": Row(still=None, because="half of the images are mirrored in every epoch", drawn=False),
    "random_crop": Row({"padding": 3}, {"padding": 0}),
    "center_crop": Row({"size": 9}, None, "its size is fixed", resized=True, drawn=False),
    "random_resized_crop": Row({"scale": (0.2, 0.6)}, {"scale": (1.0, 1.0), "ratio": (WIDTH / HEIGHT,) * 2},
                               level=1 / 255),
    "simple_random_crop": Row(still=None, because="of images that are not square it cuts", level=1 / 255),
    "resize": Row({"size": 18}, {"size": (HEIGHT, WIDTH), "rule": "squash"}, resized=True, drawn=False),
    "letterbox": Row({"size": 20}, {"size": (HEIGHT, WIDTH)}, resized=True, drawn=False),
    "multi_scale_resize": Row({"sizes": tuple(range(8, 44, 4)), "per": "epoch"}, None, "its sizes are fixed",
                              resized=True),
    "scale_jitter": Row({"size": 10, "short": (12, 20)}, {"size": (HEIGHT, WIDTH), "short": (WIDTH, WIDTH)},
                        resized=True),
    "large_scale_jitter": Row({"size": 16}, {"size": (HEIGHT, WIDTH), "scale": (1.0, 1.0)}, resized=True),
    "expand": Row({**ALWAYS, "ratio": (1.5, 1.5)}, resized=True),
    "min_iou_crop": Row({}, None, "of an image without boxes nothing is cut", resized=True, drawn=False),
    "mosaic": Row({"size": 32}, scenes=True, resized=True), "copy_paste": Row({"probability": 1.0, "share": 1.0},
                                                                              scenes=True),
    "color_jitter": Row({"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.2}),
    "hsv_jitter": Row({"hue": 0.2}), "pca_lighting": Row({"std": 0.3}), "ssd_distortion": Row({**ALWAYS}),
    "grayscale": Row(ALWAYS, drawn=False, grey=False), "solarize": Row({**ALWAYS, "threshold": 0.3}, drawn=False),
    "posterize": Row({**ALWAYS, "bits": 2}, drawn=False), "equalize": Row(ALWAYS, drawn=False),
    "autocontrast": Row(ALWAYS, drawn=False),
    "invert": Row(ALWAYS, drawn=False), "sharpness": Row({**ALWAYS, "factor": (2.0, 3.0)}),
    "channel_shuffle": Row(ALWAYS, grey=False), "channel_dropout": Row(ALWAYS, grey=False),
    "gaussian_blur": Row(ALWAYS), "gaussian_noise": Row({**ALWAYS, "std": (0.05, 0.1)}),
    "salt_pepper_noise": Row({**ALWAYS, "amount": (0.2, 0.3)}), "jpeg_compression": Row({**ALWAYS, "quality": (5, 10)}),
    "cutout": Row(), "random_erasing": Row(ALWAYS), "three_augment": Row(still=None, because="it has no probability"),
    "randaugment": POLICY, "trivial_augment": POLICY, "augmix": POLICY, "auto_augment": POLICY}
ROUNDING = 1e-5  # of sums in another order, for a batch and for an image alone
names = pytest.mark.parametrize("name", augmentations.names())
SIZES = [(1, 1), (1, 7), (17, 30)]


def images(batch=4, channels=3):
    return torch.randint(20, 200, (batch, channels, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(0),
                         dtype=torch.uint8)


def built(name, fields=None):
    return build_augmentation([{"name": name, **(ROWS[name].fields if fields is None else fields)}])


def step(name):
    return built(name).steps[0][1]


def others(number):
    return marked(number % 7, 24, 30)


def test_every_registered_augmentation_has_a_row():
    assert set(ROWS) == set(augmentations.names())


@names
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_is_augmented_the_same_in_any_batch(name, channels):
    row, batch = ROWS[name], images(channels=channels)
    index = np.array([5, 2**40, 7, 1])
    if row.scenes:
        with pytest.raises(RecipeError, match="mixup or CutMix"):
            built(name)(batch, index, 3, 2)
        return
    whole = built(name)(batch, index, 3, 2)
    order = np.array([3, 1])
    torch.testing.assert_close(built(name)(batch[order], index[order], 3, 2), whole[order], rtol=0, atol=ROUNDING)
    assert len(whole) == len(batch) and whole.shape[1] == channels
    assert row.resized or whole.shape == batch.shape
    changed = whole.shape != batch.shape or not torch.allclose(to_unit(whole), to_unit(batch), rtol=0, atol=1e-3)
    assert changed == ((channels == 3 or row.grey) and name != "min_iou_crop")


@names
def test_other_epochs_and_seeds_draw_anew(name):
    row = ROWS[name]
    fields = row.fields
    if not row.drawn:
        if "probability" not in (row.still or {}):
            return
        fields = {**fields, "probability": 0.5}
    augment, given = built(name, fields), Scene(image=images(1)[0], objects=marked(0, HEIGHT, WIDTH).objects)
    runs = [[augment.scene(given, i, seed, epoch, others).image for i in range(5)]
            for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for run in runs[1:]:
        assert any(one.shape != other.shape or not torch.equal(one, other)
                   for one, other in zip(runs[0], run, strict=True))


@names
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_types_are_as_declared(name, kind):
    given = images() if kind == torch.uint8 else images().float() / 255
    if ROWS[name].scenes:
        moved = built(name).scene(Scene(image=given[0], objects=marked(0, HEIGHT, WIDTH).objects), 1, 0, 0, others)
        assert moved.image.dtype == (kind if kind == torch.float32 else torch.uint8)
        return
    out = built(name)(given, np.arange(4), 0, 0)
    if kind == torch.uint8 and step(name).any_dtype and name not in DECODE_CROPS:
        assert out.dtype == torch.uint8
    if out.is_floating_point():
        assert out.dtype == torch.float32 and out.min() >= 0 and out.max() <= 1
    else:
        assert kind == torch.uint8 and out.dtype == torch.uint8


@names
def test_the_images_given_are_not_written_to(name):
    if ROWS[name].scenes:
        given = marked(1)
        copy = given.image.clone()
        built(name).scene(given, 1, 0, 0, others)
        assert torch.equal(given.image, copy)
        return
    for given in (images(), images().float() / 255):
        copy = given.clone()
        built(name)(given, np.arange(4), 0, 0)
        assert torch.equal(given, copy)


@names
def test_it_can_be_pickled(name):
    assert pickle.loads(pickle.dumps(step(name))) == step(name)


@names
def test_its_words_name_the_paper_or_the_fact_and_every_field(name):
    build = augmentations.get(name).build
    words = build.__doc__ or ""
    assert len(words) > 40 and not words.startswith(f"{build.__name__}(")
    for field in dataclasses.fields(build):
        assert re.search(rf"\b{field.name}\b", words), f"{build.__name__}.{field.name} is not explained"


@names
def test_switched_off_it_changes_nothing(name):
    row = ROWS[name]
    if row.still is None:
        assert row.because
        return
    augment, given = built(name, row.still), marked(0, HEIGHT, WIDTH)
    moved = augment.scene(given, 1, 0, 0, others)
    torch.testing.assert_close(to_unit(moved.image), to_unit(given.image), rtol=0, atol=1e-6)
    assert torch.equal(moved.label_map, given.label_map)
    np.testing.assert_array_equal(moved.objects.boxes, given.objects.boxes)
    np.testing.assert_array_equal(moved.objects.keypoints, given.objects.keypoints)
    if not row.scenes:
        batch = given.image[None].repeat(4, 1, 1, 1)
        torch.testing.assert_close(to_unit(augment(batch, np.arange(4), 0, 0)), to_unit(batch), rtol=0, atol=1e-6)


@names
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_a_scene_has_the_image_of_the_batch(name, kind):
    row = ROWS[name]
    if row.scenes:
        return
    given = images() if kind == torch.uint8 else images().float() / 255
    whole = built(name)(given, np.arange(4), 4, 1)
    for i in range(2):
        moved = built(name).scene(Scene(image=given[i]), i, 4, 1)
        torch.testing.assert_close(to_unit(moved.image), to_unit(whole[i]), rtol=0,
                                   atol=4 * ROUNDING + (row.level if kind == torch.uint8 else 0))


@names
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_works(name, channels):
    for height, width in SIZES:
        fields = dict(ROWS[name].fields)
        if name == "random_crop":
            fields["padding"] = 2
        given = marked(0, height, width, channels)
        moved = built(name, fields).scene(given, 2, 0, 0, others)
        assert moved.image.shape[0] in (channels, 3) and min(moved.size) >= 1
        assert moved.label_map.shape == moved.image.shape[1:]
        boxes = moved.objects.boxes
        assert len(boxes) == len(moved.objects.outlines) == len(moved.objects.keypoints) == len(moved.objects)
        assert np.isfinite(boxes).all() and (boxes[:, :2] <= boxes[:, 2:]).all()
        if not isinstance(step(name), SceneTransform) or name == "mosaic":
            limits = np.tile([moved.size[1], moved.size[0]], 2)
            assert (boxes >= -1e-9).all() and (boxes <= limits + 1e-9).all()
        if not ROWS[name].scenes:
            out = built(name, fields)(given.image[None].repeat(2, 1, 1, 1), np.arange(2), 0, 0)
            assert out.isfinite().all()
