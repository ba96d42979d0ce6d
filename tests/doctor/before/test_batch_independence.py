from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visus.doctor.before.batch_independence import batch_independence
from visus.doctor.patient import Patient


class Made(nn.Module):
    """One layer and whatever follows."""

    def __init__(self, layer: nn.Module, then):
        super().__init__()
        self.layer, self.then = layer, then

    def forward(self, inputs: Tensor) -> Tensor:
        return self.then(self.layer(inputs))


def found(model: nn.Module, inputs: Tensor | None = None) -> list:
    inputs = torch.randn(6, 5, 8, generator=torch.Generator().manual_seed(0)) if inputs is None else inputs
    return list(batch_independence(Patient(model=model, loss=F.cross_entropy, batches=(
        (inputs, torch.zeros(len(inputs), dtype=torch.int64)),))))


def test_a_view_that_mixes_the_batch():
    mixed = Made(nn.Linear(8, 4), lambda x: x.permute(1, 0, 2).reshape(len(x), -1))
    (finding,) = found(mixed)
    assert finding.severity == "error" and "bound 1e-06" in finding.evidence
    assert found(Made(nn.Linear(8, 4), lambda x: x.flatten(1))) == []


def test_a_softmax_over_the_batch_is_seen_though_its_sum_is_constant():
    assert len(found(Made(nn.Linear(8, 4), lambda x: x.mean(1).softmax(0)))) == 1
    assert found(Made(nn.Linear(8, 4), lambda x: x.mean(1).softmax(1))) == []


def test_a_recurrent_layer_that_takes_the_batch_for_time_is_named():
    class Reader(nn.Module):
        def __init__(self, batch_first: bool):
            super().__init__()
            self.cell, self.head = nn.LSTM(8, 6, batch_first=batch_first), nn.Linear(6, 3)

        def forward(self, rows: Tensor) -> Tensor:
            return self.head(self.cell(rows)[0][:, -1])

    (finding,) = found(Reader(False))
    assert finding.layer == "cell" and "batch_first=True" in finding.remedy
    assert found(Reader(True)) == []


def test_batch_norm_in_eval_mode_is_independent_and_the_mode_alone_is_not_judged():
    assert found(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(40), nn.Linear(40, 3)).train()) == []


def test_a_norm_that_uses_the_batch_in_eval_mode_is_named():
    model = nn.Sequential(nn.Flatten(), nn.Linear(40, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.Linear(6, 3))
    assert found(model)[0].layer == "2"


def test_words_are_exchanged_for_one_another():
    words = torch.arange(30).reshape(6, 5)
    assert found(Made(nn.Embedding(30, 4), lambda x: x.mean(1)), words) == []
    assert len(found(Made(nn.Embedding(30, 4), lambda x: x.mean(1) - x.mean((0, 1))), words)) == 1


def test_a_detached_input_says_nothing_here():
    assert found(Made(nn.Linear(8, 4), lambda x: x.detach().mean(1))) == []
