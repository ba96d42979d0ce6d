"""OverFeat against what its paper states."""

from __future__ import annotations

import pytest
import torch

from visus.core.errors import UserError
from visus.run.models import create_model, describe_model

FAST = {"dims": (4, 5, 6, 7, 8), "hidden_dims": (9, 10), "image_size": 71, "num_classes": 3, "in_channels": 1}
ACCURATE = {"dims": (4, 5, 6, 6, 7, 8), "hidden_dims": (9, 10), "image_size": 77, "num_classes": 3, "in_channels": 1}


def model_and_images(name: str, side: int):
    torch.manual_seed(0)
    model = create_model(name, **(FAST if name == "overfeat_fast" else ACCURATE)).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1)
    return model, torch.randn(2, 1, side, side, dtype=torch.float64)


@pytest.mark.parametrize(("name", "pooled", "shapes"), [
    # what enters the layers after a pooling (Tables 1 and 3; for the 28 of the fast model see the file)
    ("overfeat_fast", [28, 12, 6], [(96, 56), (256, 24), (512, 12), (1024, 12), (1024, 12), (3072, 1), (4096, 1),
                                    (1000, 1)]),
    ("overfeat_accurate", [36, 15, 5], [(96, 108), (256, 30), (512, 15), (512, 15), (1024, 15), (1024, 15), (4096, 1),
                                        (4096, 1), (1000, 1)])])
def test_layers_have_the_papers_sizes(name, pooled, shapes):
    rows = describe_model(name).rows
    assert [row.output_shape[2] for row in rows if row.type == "MaxPool2d"] == pooled
    assert [row.output_shape[1:3] for row in rows if row.type == "Conv2d"] == shapes


@pytest.mark.parametrize(("name", "fans"), [
    ("overfeat_fast", [3 * 121, 96 * 25, 256 * 9, 512 * 9, 1024 * 9, 1024 * 36, 3072, 4096]),
    ("overfeat_accurate", [3 * 49, 96 * 49, 256 * 9, 512 * 9, 512 * 9, 1024 * 9, 1024 * 25, 4096, 4096])])
def test_parameters_and_connections_are_the_sum_over_the_tables_rows(name, fans):
    summary = describe_model(name)
    shapes = [row.output_shape for row in summary.rows if row.type == "Conv2d"]
    assert summary.params == sum(out * (fan + 1) for (_, out, _, _), fan in zip(shapes, fans, strict=True))
    assert summary.macs == sum(out * h * w * fan for (_, out, h, w), fan in zip(shapes, fans, strict=True))


@pytest.mark.parametrize("name", ["overfeat_fast", "overfeat_accurate"])
def test_a_larger_image_is_scored_as_its_windows_are(name):
    """Where 3 x 3 convolutions see no border, the map is the same as a window cut out; without their padding it
    would be everywhere."""
    stride = 32 if name == "overfeat_fast" else 36
    size = (FAST if name == "overfeat_fast" else ACCURATE)["image_size"]
    model, images = model_and_images(name, size + 2 * stride)
    for module in model.features:
        if getattr(module, "kernel_size", None) == (3, 3) and hasattr(module, "weight"):
            with torch.no_grad():  # only the middle of each 3 x 3 kernel, so that its padding is not seen
                middle = module.weight[:, :, 1:2, 1:2].clone()
                module.weight.zero_()
                module.weight[:, :, 1:2, 1:2] = middle
    with torch.no_grad():
        scores = model.score_map(images)
        assert scores.shape == (2, 3, 3, 3)
        for y in range(3):
            for x in range(3):
                window = images[:, :, y * stride:y * stride + size, x * stride:x * stride + size]
                torch.testing.assert_close(scores[:, :, y, x], model(window), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(model(images), scores.amax((2, 3)), rtol=0, atol=0)
        assert (scores.amax((2, 3)) > scores.mean((2, 3))).all()


@pytest.mark.parametrize(("name", "pool"), [("overfeat_fast", 2), ("overfeat_accurate", 3)])
def test_the_fine_stride_is_every_offset_of_the_last_pooling(name, pool):
    model, images = model_and_images(name, 200)
    with torch.no_grad():
        maps = model.features(images)[-2]
        coarse, fine = model.score_map(images), model.score_map(images, fine=True)
        h, w = fine.shape[2] // pool, fine.shape[3] // pool
        torch.testing.assert_close(fine[:, :, ::pool, ::pool], coarse[:, :, :h, :w], rtol=0, atol=0)
        for y in range(fine.shape[2]):  # the classifier on the window that starts y, x places into the unpooled maps
            for x in range(fine.shape[3]):
                side = pool * model.classifier[0].kernel_size[0]
                window = torch.nn.functional.max_pool2d(maps[:, :, y:y + side, x:x + side], pool)
                torch.testing.assert_close(fine[:, :, y, x], model.classifier(window)[:, :, 0, 0], rtol=1e-9,
                                           atol=1e-12)


def test_an_image_too_small_is_refused_with_the_size_it_needs():
    model, images = model_and_images("overfeat_fast", 70)
    with pytest.raises(UserError, match="image_size=71: images of 70 x 70"):
        model(images)
    with pytest.raises(UserError, match="no places between"):
        model.score_map(torch.randn(1, 1, 71, 71, dtype=torch.float64), fine=True)


@pytest.mark.parametrize(("field", "value"), [
    ("dims", ()), ("kernels", (3, 3)), ("kernels", (4, 5, 3, 3, 3)), ("pools", (2, 2, 1, 1, 1)), ("hidden_dims", (3,)),
    ("hidden_dims", (3, 0)), ("stride", 0), ("image_size", 30), ("dropout", 1)])
def test_wrong_configs_are_refused_by_name(field, value):
    with pytest.raises(UserError, match=field):
        create_model("overfeat_fast", **{field: value})
