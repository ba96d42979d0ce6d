"""Two layers in the place of one are the best of their rank, and compute what the reconstructed layer computes."""

import math

import pytest
import torch
from torch import nn

from visus.core.errors import CheckpointError, UserError
from visus.deploy.low_rank import decomposed, low_rank, rank_by_energy, split_layer


@pytest.mark.parametrize("rank", [1, 5, 12])
def test_the_error_is_the_tail_of_the_singular_values(rank):
    torch.manual_seed(0)
    layer = nn.Linear(30, 20).double()
    split = decomposed(layer, "full", rank)
    with torch.no_grad():
        error = torch.linalg.matrix_norm(split[1].weight @ split[0].weight - layer.weight)
        tail = torch.linalg.svdvals(layer.weight)[rank:]
    assert float(error) == pytest.approx(float(tail.square().sum().sqrt()), rel=1e-10)  # Eckart and Young
    assert torch.equal(split[1].bias, layer.bias) and split[0].bias is None


@pytest.mark.parametrize(("kind", "geometry"), [
    ("channel", {"stride": 2, "padding": 1}), ("channel", {"padding": 2, "dilation": 2, "bias": False}),
    ("channel", {"padding": 1, "padding_mode": "circular"}),
    ("spatial", {"stride": (2, 1), "padding": (1, 2)}), ("spatial", {"padding": 2, "dilation": (2, 1)})])
def test_a_convolution_of_full_rank_is_the_same_convolution(kind, geometry):
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, (3, 5) if kind == "spatial" else 3, **geometry).double()
    most = min(6, 4 * 9) if kind == "channel" else min(4 * 3, 6 * 5)
    images = torch.randn(2, 4, 12, 11, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(decomposed(layer, kind, most)(images), layer(images), atol=1e-12)


@pytest.mark.parametrize("kind", ["channel", "spatial"])
def test_a_convolution_of_lower_rank_loses_the_tail_and_no_more(kind):
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, 3, bias=False, padding=1).double()
    split = decomposed(layer, kind, 3)
    impulse = torch.zeros(4, 4, 7, 7, dtype=torch.float64)
    impulse[range(4), range(4), 3, 3] = 1
    with torch.no_grad():
        error = (split(impulse) - layer(impulse)).square().sum().sqrt()  # each weight answers once
    weight = layer.weight.detach()
    matrix = weight.flatten(1) if kind == "channel" else weight.permute(1, 2, 0, 3).reshape(12, 18)
    assert float(error) == pytest.approx(float(torch.linalg.svdvals(matrix)[3:].square().sum().sqrt()), rel=1e-9)


def test_the_rank_is_the_least_that_keeps_the_energy():
    values = torch.tensor([3.0, 2.0, 1.0, 0.0])  # squares 9, 4, 1: shares 0.643, 0.929, 1
    assert [rank_by_energy(values, share) for share in (0.5, 0.7, 0.93, 1.0)] == [1, 2, 3, 3]


def test_an_amount_of_the_multiplications_falls_away():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(100, 80), nn.ReLU(), nn.Linear(80, 3))
    found = low_rank(model, amount=0.4)
    rank, most, kept = found.ranks["0"]
    assert rank == math.floor(0.6 * 8000 / 180) and most == 80 and 0 < kept < 1
    assert sum(p.numel() for p in found.model[0].parameters()) - 80 <= 0.6 * 8000
    assert dict(found.kept) == {"2": "rank 1 of 3 would save nothing"} or found.ranks["2"][0] >= 1
    assert isinstance(model[0], nn.Linear)


def test_what_saves_nothing_stays_whole_and_wrong_choices_are_refused():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
    with pytest.raises(UserError, match="no layer"):
        low_rank(model, energy=0.9999)
    for wrong in ({}, {"energy": 0.9, "amount": 0.5}, {"energy": 1.5}, {"amount": 0.0},
                  {"amount": 0.5, "kinds": ("channel", "spatial")}, {"amount": 0.5, "kinds": ("rows",)}):
        with pytest.raises(UserError):
            low_rank(model, **wrong)
    for split in (None, {"kind": "full", "rank": 0}, {"kind": "full", "rank": True}, {"kind": "channel", "rank": 2},
                  {"kind": "full", "rank": 1 << 40}):
        with pytest.raises(CheckpointError):
            split_layer(nn.Linear(4, 4), split)
