from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visus.doctor.before.constant_input import constant_input
from visus.doctor.patient import Patient


def found(inputs: Tensor) -> list:
    half = len(inputs) // 2
    labels = torch.zeros(len(inputs), dtype=torch.int64)
    batches = ((inputs[:half], labels[:half]), (inputs[half:], labels[half:]))
    return list(constant_input(Patient(model=nn.Identity(), loss=F.cross_entropy, batches=batches)))


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_zeros_are_an_error_with_the_value():
    (finding,) = found(torch.zeros(16, 3, 8, 8))
    assert finding.severity == "error" and "all 16 inputs are the same: every value is 0" in finding.title.lower()


def test_the_same_picture_again_and_again_is_an_error():
    (finding,) = found(noise(1, 3, 8, 8).repeat(16, 1, 1, 1))
    assert finding.severity == "error" and "the same" in finding.title and "every value" not in finding.title


def test_flat_pictures_of_different_shades_are_an_error():
    (finding,) = found(noise(16, 1, 1, 1).expand(16, 3, 8, 8))
    assert finding.severity == "error" and "no picture" in finding.title


def test_some_empty_pictures_are_a_warning_from_a_twentieth_on():
    inputs = noise(40, 3, 8, 8)
    inputs[:2] = 0.5
    assert found(inputs) == []
    inputs[:3] = 0.5
    (finding,) = found(inputs)
    assert finding.severity == "warning" and finding.title.startswith("3 of 40")


def test_a_channel_that_never_changes_is_a_note():
    inputs = noise(16, 4, 8, 8)
    inputs[:, 3] = 1
    (finding,) = found(inputs)
    assert finding.severity == "note" and "Channel 3" in finding.title


def test_noise_vectors_words_and_single_numbers_say_nothing():
    assert found(noise(16, 3, 8, 8)) == found(noise(16, 7)) == found(noise(16, 5, 4)) == found(noise(16, 1)) == []
    assert found(torch.arange(64).reshape(16, 4)) == []
