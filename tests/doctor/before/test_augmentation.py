from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visus.doctor.before.augmentation import augmentation, smoothness
from visus.doctor.patient import Patient


def pictures(count: int = 8, size: int = 16, seed: int = 0) -> Tensor:
    """Smooth pictures, each of its own colours."""
    noise = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 4, 4, generator=noise) + 0.5 * torch.randn(count, 3, 1, 1, generator=noise)
    return F.interpolate(coarse, size=(size, size), mode="bilinear")


def found(change, **known) -> list:
    torch.manual_seed(0)
    images = pictures()
    views = torch.stack([change(images) for _ in range(8)], 1)  # [N, T, C, H, W]
    labels = torch.zeros(8, dtype=torch.int64)
    return list(augmentation(Patient(model=nn.Identity(), loss=F.cross_entropy, batches=((images, labels),),
                                     augmented=views, **known)))


VALIDATION = ((pictures(32, seed=1), torch.zeros(32, dtype=torch.int64)),)


def flipped(images: Tensor) -> Tensor:
    return images.flip(-1) if torch.rand(()) < 0.5 else images.flip(-2)


def cropped(images: Tensor) -> Tensor:
    y, x = torch.randint(0, 6, (2,)).tolist()
    return F.interpolate(images[..., y:y + 10, x:x + 10], size=(16, 16), mode="bilinear")


@pytest.mark.parametrize("change", [flipped, cropped, lambda i: i * (0.6 + 0.8 * torch.rand(())),
                                    lambda i: i + 0.3 * torch.randn_like(i)])
def test_flips_crops_brightness_and_some_noise_say_nothing(change):
    assert found(change, validation=VALIDATION) == []


def test_empty_pictures_are_counted():
    def erased(images: Tensor) -> Tensor:
        images = images.clone()
        images[torch.rand(len(images)) < 0.3] = 0
        return images

    (finding,) = found(erased)
    assert finding.severity == "error" and "one value throughout" in finding.title and "of 64" in finding.evidence


def test_noise_that_leaves_nothing():
    (finding,) = found(lambda i: i + 40 * torch.randn_like(i))
    assert finding.severity == "error" and "by chance 11%" in finding.evidence


def test_noise_that_leaves_the_colours_is_seen_beside_validation():
    def shuffled(images: Tensor) -> Tensor:
        return images.flatten(2)[..., torch.randperm(256)].reshape(images.shape)

    assert found(shuffled) == []
    (finding,) = found(shuffled, validation=VALIDATION)
    assert "noise" in finding.title and "of validation by 0.9" in finding.evidence


def test_no_change_at_all_is_a_note():
    assert [f.severity for f in found(lambda i: i)] == ["note"]


def test_without_draws_the_batches_are_compared_with_validation():
    images = pictures(32)
    labels = torch.zeros(32, dtype=torch.int64)

    def plain(train: Tensor) -> list:
        return list(augmentation(Patient(model=nn.Identity(), loss=F.cross_entropy, batches=((train, labels),),
                                         validation=VALIDATION)))

    assert plain(images) == []
    images[:3] = 1.0
    assert len(plain(images)) == 1


def test_smoothness_is_1_for_shades_and_0_for_noise():
    shade = torch.linspace(0, 1, 32).expand(1, 1, 32, 32)
    noise = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    assert smoothness(shade) > 0.9 and smoothness(noise).abs() < 0.05
