from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visus.doctor.before.inputs_differ import inputs_differ
from visus.doctor.patient import Patient

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1)


def pictures(seed: int, count: int = 96) -> Tensor:
    """Warm pictures in 0..1: red above green above blue, brighter above."""
    noise = torch.Generator().manual_seed(seed)
    base = torch.tensor([0.6, 0.45, 0.35]).reshape(3, 1, 1) + 0.12 * torch.randn(count, 3, 1, 1, generator=noise)
    texture = 0.15 * torch.randn(count, 1, 10, 10, generator=noise)
    grain = torch.tensor([0.03, 0.03, 0.09]).reshape(3, 1, 1)  # blue has less of the light and more noise
    return (base + texture + grain * torch.randn(count, 3, 10, 10, generator=noise)).clamp(0, 1)


def normed(images: Tensor) -> Tensor:
    return (images - MEAN) / STD


def found(train: Tensor, held: Tensor | None = None, labels: Tensor | None = None, **known) -> list:
    answers = torch.arange(len(train)) % 4
    validation = ((held, labels if labels is not None else torch.arange(len(held)) % 4),) if held is not None else ()
    return list(inputs_differ(Patient(model=nn.Identity(), loss=F.cross_entropy, batches=((train, answers),),
                                      validation=validation, **known)))


TRAIN, HELD = pictures(0), pictures(1)


def test_the_same_preprocessing_says_nothing():
    assert found(TRAIN, HELD) == found(normed(TRAIN), normed(HELD)) == found(TRAIN * 255, HELD * 255) == []
    assert found(normed(TRAIN)) == []


@pytest.mark.parametrize("train, held, side", [(normed(TRAIN), HELD, "validation"), (TRAIN, normed(HELD), "training")])
def test_only_one_side_is_normalised(train: Tensor, held: Tensor, side: str):
    (finding,) = found(train, held)
    assert finding.severity == "error" and f"{side} lies in 0 to 1" in finding.title


def test_bytes_against_unit_range():
    (finding,) = found(TRAIN, TRAIN.flip(0) * 255)
    assert "0 to 255 against 0 to 1" in finding.title and "255 times" in finding.evidence


def test_normalised_twice_on_one_side():
    (finding,) = found(normed(TRAIN), normed(normed(HELD)))
    assert finding.severity == "error" and "validation was normalised twice" in finding.title


def test_pale_pictures_of_another_camera_are_content():
    assert found(normed(TRAIN), normed(HELD / 3 + 0.45)) == []
    (finding,) = found(normed(normed(TRAIN)), normed(HELD))
    assert "training was normalised twice" in finding.title and "bound 4" in finding.evidence


def test_normalised_twice_with_one_half():
    half = lambda x: (x - 0.5) / 0.5  # noqa: E731
    (finding,) = found(half(TRAIN), half(half(HELD)))
    assert finding.severity == "warning" and "beyond all values of training" in finding.title


def test_channels_in_the_reverse_order():
    mean, std = TRAIN.mean((0, 2, 3), keepdim=True), TRAIN.std((0, 2, 3), keepdim=True)
    for change in (normed, lambda x: x, lambda x: (x - mean) / std):
        (finding,) = found(change(TRAIN), change(HELD.flip(1)))
        assert finding.severity == "error" and "BGR" in finding.title


def test_a_sorted_validation_set_of_other_colours_is_content():
    blue = HELD.flip(1)
    assert found(normed(TRAIN), normed(blue), labels=torch.zeros(96, dtype=torch.int64)) == []
    dark = HELD * 0.5
    assert found(normed(TRAIN), normed(dark)) == []


def test_noise_that_is_added_in_training_is_no_normalisation():
    noisy = TRAIN + 0.15 * torch.randn(TRAIN.shape, generator=torch.Generator().manual_seed(2))
    assert float((noisy < -0.1).double().mean()) > 0.01 and found(noisy, HELD) == []


def test_bytes_that_were_not_made_floats():
    (finding,) = found(TRAIN, (HELD * 255).to(torch.uint8))
    assert finding.severity == "error" and "validation uint8" in finding.evidence


def test_another_number_of_channels():
    assert "another shape" in found(TRAIN, HELD[:, :1])[0].title


KNOWN = {"expected_mean": (0.0, 0.0, 0.0), "expected_std": (1.0, 1.0, 1.0), "pretrained": True}


def test_against_what_pretrained_weights_know():
    assert found(normed(TRAIN), **KNOWN) == []
    assert "not normalised" in found(TRAIN, **KNOWN)[0].title
    assert "scaled otherwise" in found(normed(normed(TRAIN)), **KNOWN)[0].title
    assert found(TRAIN, expected_mean=(0.485, 0.456, 0.406), expected_std=(0.229, 0.224, 0.225)) == []
    assert found(TRAIN, expected_mean=(0.45,), expected_std=(0.22,)) == []


def test_bgr_against_the_numbers_of_strong_colours():
    mean, std = TRAIN.mean((0, 2, 3)).reshape(3, 1, 1), TRAIN.std((0, 2, 3)).reshape(3, 1, 1) * 0.5
    (finding,) = found((TRAIN.flip(1) - mean) / std, **KNOWN)
    assert finding.severity == "warning" and "BGR" in finding.title


def test_vectors_and_words():
    vectors = torch.randn(96, 7, generator=torch.Generator().manual_seed(0))
    words = torch.arange(96).reshape(48, 2)
    assert found(vectors, vectors.flip(0)) == [] == found(words, words + 500)
    assert len(found(vectors, vectors * 40)) == 1
