from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visus.doctor.before.input_scale import input_scale
from visus.doctor.patient import Patient

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1)


def pictures(count: int = 64, size: int = 12) -> Tensor:
    """Values in 0..1, all of the range used."""
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)) ** 1.2


def patient(inputs: Tensor, model: nn.Module | None = None) -> Patient:
    model = model or nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(3))
    return Patient(model=model, loss=F.cross_entropy, batches=((inputs, torch.zeros(len(inputs), dtype=torch.int64)),))


def found(inputs: Tensor, model: nn.Module | None = None) -> list:
    return list(input_scale(patient(inputs, model)))


def test_bytes_that_were_never_scaled_are_an_error_that_says_so():
    (finding,) = found((pictures() * 255).round())
    assert finding.severity == "error" and finding.layer == "0"
    assert "0 to 255" in finding.evidence and "/ 255" in finding.remedy


def test_normalised_twice_is_told_from_the_numbers():
    (finding,) = found(((pictures() - MEAN) / STD - MEAN) / STD)
    assert finding.severity == "error" and "normalised twice" in finding.evidence


def test_normalised_twice_with_the_sets_own_numbers():
    inputs = pictures()[:, :1] ** 4  # mostly dark, as digits are
    mean, std = inputs.mean(), inputs.std()
    (finding,) = found(((inputs - mean) / std - mean) / std, nn.Conv2d(1, 4, 3))
    assert f"mean {mean:.2f} and deviation {std:.2f}" in finding.evidence


def test_divided_by_255_twice():
    (finding,) = found(pictures() / 255)
    assert finding.severity == "error" and "divided by 255 twice" in finding.evidence


def test_normalised_pictures_say_nothing_and_plain_0_to_1_is_a_note():
    assert found((pictures() - pictures().mean()) / pictures().std()) == []
    assert [f.severity for f in found(pictures())] == ["note"]


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_black_and_white_paper_in_imagenet_numbers_is_no_error(level: float):
    paper = torch.full((32, 3, 12, 12), level)
    paper[:, :, 3:6, 3:6] = 1 - level
    assert all(f.severity == "note" for f in found((paper - MEAN) / STD))


def test_a_model_that_scales_its_inputs_or_begins_with_a_norm_is_fine():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, images: Tensor) -> Tensor:
            return self.conv((images.float() / 255 - 0.45) / 0.28).mean((2, 3))

    bytes_ = (pictures() * 255).to(torch.uint8)
    assert found(bytes_, Scaled()) == []
    normed = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(3))
    assert found(pictures() * 255, normed) == []


def test_sparse_vectors_and_words_are_not_judged_by_their_zeros():
    bag = (torch.rand(64, 400, generator=torch.Generator().manual_seed(1)) > 0.98).float() * torch.rand(64, 400)
    assert found(bag, nn.Linear(400, 3)) == []
    words = torch.arange(64 * 5).reshape(64, 5) % 90
    assert found(words, nn.Sequential(nn.Embedding(90, 4), nn.Flatten(), nn.Linear(20, 3))) == []


@pytest.mark.parametrize("mean, count", [(2.9, 0), (3.1, 1)])
def test_the_bound_of_the_mean(mean: float, count: int):
    inputs = torch.randn(64, 20, generator=torch.Generator().manual_seed(2))
    assert len(found(inputs - inputs.mean() + mean, nn.Linear(20, 3))) == count
