from __future__ import annotations

import copy
import warnings

import torch
from torch import nn
from torch.nn import functional as F

from visus.doctor.before.optimizer_coverage import optimizer_coverage
from visus.doctor.patient import Patient


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def found(model: nn.Module, optimizer: torch.optim.Optimizer | None, loss=F.cross_entropy, **known) -> list:
    batch = (torch.randn(4, 6, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0]))
    return list(optimizer_coverage(Patient(model=model, loss=loss, batches=(batch,), optimizer=optimizer, **known)))


def test_all_parameters_once_says_nothing():
    model = net()
    assert found(model, torch.optim.SGD(model.parameters(), lr=0.1)) == [] == found(model, None)


def test_a_head_replaced_after_the_optimizer_was_built_is_named():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model[2] = nn.Linear(5, 3)
    (finding,) = found(model, optimizer)
    assert finding.severity == "error" and finding.layer == "2" and "built before" in finding.title
    assert "2 of 4 trainable" in finding.evidence and "2 in the groups" in finding.evidence


def test_the_parameters_of_a_copy():
    model = net()
    (finding,) = found(model, torch.optim.Adam(copy.deepcopy(model).parameters()))
    assert finding.severity == "error" and "another copy" in finding.title


def test_a_part_left_out_is_an_error_unless_on_purpose():
    model = net()
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
    (finding,) = found(model, optimizer)
    assert finding.severity == "error" and finding.layer == "0"
    assert [f.severity for f in found(model, optimizer, frozen_on_purpose=True)] == ["note"]


def test_twice_and_empty_groups():
    model = net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = torch.optim.SGD([*model.parameters(), model[0].weight], lr=0.1)
    optimizer.param_groups.append({"params": [], "lr": 0.1})
    twice, empty = found(model, optimizer)
    assert twice.severity == "error" and "0.weight" in twice.title
    assert empty.severity == "warning" and "Group 1" in empty.title


def test_parameters_of_the_loss_are_not_foreign_and_frozen_ones_are_a_note():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, outputs, targets):
            return F.cross_entropy(outputs * self.scale, targets)

    model, loss = net(), Scaled()
    optimizer = torch.optim.SGD([*model.parameters(), *loss.parameters()], lr=0.1)
    assert found(model, optimizer, loss) == [] == found(model, optimizer, lambda o, t: loss(o, t))
    model[0].requires_grad_(False)
    assert [f.severity for f in found(model, torch.optim.SGD(model.parameters(), lr=0.1))] == ["note"]


def test_layers_in_a_plain_list_are_used_and_not_known():
    class Hidden(nn.Module):
        def __init__(self, held: type):
            super().__init__()
            self.layers, self.head = held([nn.Linear(6, 6)]), nn.Linear(6, 3)

        def forward(self, vectors):
            for layer in self.layers:
                vectors = layer(vectors)
            return self.head(vectors)

    model = Hidden(list)
    (finding,) = found(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert finding.severity == "error" and "2 parameters that the model does not know" in finding.title
    assert "[6, 6]" in finding.evidence and "ModuleList" in finding.remedy
    known = Hidden(nn.ModuleList)
    assert found(known, torch.optim.SGD(known.parameters(), lr=0.1)) == []
