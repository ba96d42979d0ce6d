"""The operations of policies against torchvision's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.data.transforms.peers import noise, smooth, torchvision_functional
from visus.data.transforms.operations import OPERATIONS, PUBLISHED, WIDE, apply_, warped

PEER_NAMES = {"shear_x": "ShearX", "shear_y": "ShearY", "translate_x": "TranslateX", "translate_y": "TranslateY",
              "rotate": "Rotate", "brightness": "Brightness", "color": "Color", "contrast": "Contrast",
              "sharpness": "Sharpness", "posterize": "Posterize", "solarize": "Solarize",
              "autocontrast": "AutoContrast", "equalize": "Equalize", "invert": "Invert"}


def peer(name: str):
    torchvision_functional()
    import torchvision.transforms.v2 as v2

    return getattr(v2, name)


def theirs(batch: torch.Tensor, name: str, magnitudes: np.ndarray, interpolation: str = "nearest") -> torch.Tensor:
    transform = peer("RandAugment")(fill=128, interpolation=peer("InterpolationMode")(interpolation))
    return torch.cat([transform._apply_image_or_video_transform(
        one[None], PEER_NAMES[name], float(m), transform.interpolation, transform._fill)
        for one, m in zip(batch, magnitudes, strict=True)])


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("size", [(24, 31), (32, 32)])
def test_every_operation_equals_torchvisions_over_the_published_and_the_wide_range(name, size):
    batch = torch.cat([noise(4, height=size[0], width=size[1]), smooth(4, *size)])
    for ranges in (PUBLISHED, WIDE):
        if name not in ranges and name != "invert":
            continue
        strength = np.array([0, 1 / 9, 1, 0.5, 0.7, 1 / 9, 0.25, 1])
        magnitudes = np.zeros(8) if name == "invert" else ranges[name].magnitudes(strength, *size)
        if OPERATIONS[name].signed:
            magnitudes = magnitudes * [1, -1, 1, -1, 1, 1, -1, -1]
        ours = apply_(batch.clone(), np.full(8, name), magnitudes)
        apart = (ours.int() - theirs(batch, name, magnitudes).int()).abs()
        if OPERATIONS[name].matrix is not None:  # places between two pixels fall to either
            assert (apart > 0).double().mean() < 0.01
        elif name in ("brightness", "color", "contrast", "sharpness"):
            assert apart.max() <= 1 and (apart > 0).double().mean() < 0.03
        else:
            assert apart.max() == 0


@pytest.mark.parametrize("name", ["shear_x", "shear_y", "translate_x", "translate_y", "rotate"])
def test_bilinear_moves_are_within_a_level_of_torchvisions_inside_the_image(name):
    batch = smooth(4, 32, 33)
    magnitudes = PUBLISHED[name].magnitudes(np.array([0.2, 0.5, 0.8, 1.0]), 32, 33) * [1, -1, 1, -1]
    ours = apply_(batch.clone(), np.full(4, name), magnitudes, interpolation="bilinear")
    # beyond the border torchvision blends with a sampled mask, we with the fill: inside they are one
    white = torch.full_like(batch, 255)
    inside = (apply_(white, np.full(4, name), magnitudes, 0.0, "bilinear") == 255)
    apart = (ours.int() - theirs(batch, name, magnitudes, "bilinear").int()).abs()
    assert apart[inside].max() <= 1 and inside.double().mean() > 0.4


@pytest.mark.parametrize("kind, ours", [("AutoAugment", PUBLISHED), ("RandAugment", PUBLISHED),
                                        ("TrivialAugmentWide", WIDE)])
@pytest.mark.parametrize("bins", [10, 31])
def test_magnitudes_are_torchvisions(kind, ours, bins):
    space = peer(kind)._AUGMENTATION_SPACE
    for name, reach in ours.items():
        function, signed = space[PEER_NAMES[name]]
        assert signed == OPERATIONS[name].signed
        magnitudes = function(bins, 200, 331)
        if magnitudes is not None:
            got = reach.magnitudes(np.arange(bins) / (bins - 1), 200, 331)
            if reach.unit in ("width", "height", "pixels"):
                magnitudes = (magnitudes + 1e-4).int()  # 15.9999 in float32 is 16
            np.testing.assert_allclose(got, magnitudes.double().numpy(), rtol=0, atol=2e-6)


def test_images_are_worked_on_each_by_its_own_operation_and_the_unnamed_stay():
    batch = noise(5)
    names = np.array(["invert", "", "posterize", "invert", "translate_x"])
    out = apply_(batch.clone(), names, np.array([0, 0, 1, 0, 3.0]))
    assert torch.equal(out[0], 255 - batch[0]) and torch.equal(out[3], 255 - batch[3])
    assert torch.equal(out[1], batch[1]) and torch.equal(out[2], batch[2] & 128)
    assert torch.equal(out[4][..., 3:], batch[4][..., :-3]) and (out[4][..., :3] == 128).all()


def test_a_quarter_turn_is_exact():
    batch = noise(1, height=9, width=9)
    matrix = OPERATIONS["rotate"].matrix(np.array([90.0]), 9, 9)
    for interpolation in ("nearest", "bilinear"):
        assert torch.equal(warped(batch, matrix, interpolation=interpolation), torch.rot90(batch, 1, (2, 3)))
