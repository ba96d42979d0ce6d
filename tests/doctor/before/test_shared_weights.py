from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visus.doctor.before.shared_weights import shared_weights
from visus.doctor.patient import Patient


def found(model: nn.Module, inputs: Tensor | None = None) -> list:
    inputs = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)) if inputs is None else inputs
    return list(shared_weights(Patient(model=model, loss=F.cross_entropy,
                                       batches=((inputs, torch.zeros(len(inputs), dtype=torch.int64)),))))


def test_one_layer_several_times_is_a_warning_that_names_them():
    layer = nn.Linear(6, 6)
    (finding,) = found(nn.Sequential(*[layer, nn.ReLU()] * 3, nn.Linear(6, 2)))
    assert finding.severity == "warning" and finding.title.startswith("0 and 2 and 4 are one layer")
    assert "72 numbers" in finding.evidence


def test_two_layers_with_one_weight():
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Linear(6, 2))
    assert found(model) == []
    model[2].weight = model[0].weight
    (finding,) = found(model)
    assert finding.severity == "warning" and finding.layer == "0"


def test_an_embedding_tied_to_its_output_is_a_note():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.out = nn.Embedding(9, 6), nn.Linear(6, 9)
            self.out.weight = self.embed.weight

        def forward(self, words: Tensor) -> Tensor:
            return self.out(self.embed(words).mean(1))

    assert [f.severity for f in found(Tied(), torch.arange(20).reshape(4, 5) % 9)] == ["note"]


def test_one_head_at_several_places_is_a_note():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.stages = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))
            self.heads = nn.ModuleList([nn.Linear(6, 3)] * 2)

        def forward(self, vectors: Tensor) -> Tensor:
            scores = []
            for stage, head in zip(self.stages, self.heads, strict=True):
                vectors = stage(vectors)
                scores.append(head(vectors))
            return sum(scores)

    assert [f.severity for f in found(Heads())] == ["note"]


def test_one_module_called_in_a_loop_and_shared_activations_say_nothing():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.relu = nn.Linear(6, 6), nn.ReLU()

        def forward(self, vectors: Tensor) -> Tensor:
            for _ in range(3):
                vectors = self.relu(self.cell(vectors))
            return vectors

    relu = nn.ReLU()
    assert found(Loop()) == [] == found(nn.Sequential(nn.Linear(6, 6), relu, nn.Linear(6, 6), relu))


def test_two_parameters_in_one_memory():
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    model[1].weight.data = model[0].weight.data
    (finding,) = found(model)
    assert finding.severity == "error" and "0.weight and 1.weight" in finding.title
