from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from visus.doctor.before.regularisation import regularisation
from visus.doctor.patient import Patient


def found(penalty=None, optimizer=None) -> list:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    batch = (torch.randn(4, 5), torch.tensor([0, 1, 2, 0]))
    return list(regularisation(Patient(model=model, loss=F.cross_entropy, batches=(batch,), penalty=penalty,
                                       optimizer=optimizer(model) if optimizer else None)))


def l2(model: nn.Module) -> torch.Tensor:
    return 1e-3 * sum((p ** 2).sum() for p in model.parameters())


def test_l2_and_l1_say_nothing():
    assert found() == found(l2) == found(lambda m: 1e-4 * sum(p.abs().sum() for p in m.parameters())) == []


def test_the_wrong_sign_makes_weights_grow():
    (finding,) = found(lambda m: -l2(m))
    assert finding.severity == "error" and "negative" in finding.title
    (finding,) = found(lambda m: 1 / l2(m))
    assert "must rise" in finding.evidence


def test_a_detached_penalty_does_nothing():
    for penalty in (lambda m: l2(m).detach(), lambda m: sum((p.data ** 2).sum() for p in m.parameters())):
        (finding,) = found(penalty)
        assert finding.severity == "error" and "no gradient" in finding.title and "0 of 6" in finding.evidence


def test_a_number_is_no_penalty():
    assert "not a finite number" in found(lambda m: l2(m).item())[0].title
    assert "not a finite number" in found(lambda m: l2(m) * float("nan"))[0].title


def test_decay_of_biases_and_decay_twice_are_notes():
    sgd = lambda m: torch.optim.SGD(m.parameters(), lr=0.1, weight_decay=1e-4)  # noqa: E731
    (note,) = found(None, sgd)
    assert note.severity == "note" and "4 biases and norms" in note.title and "0.bias" in note.evidence
    assert [f.title for f in found(l2, sgd)][1] == "Weights are decayed twice"

    def split(model: nn.Module) -> torch.optim.Optimizer:
        wide = [p for p in model.parameters() if p.ndim > 1]
        rest = [p for p in model.parameters() if p.ndim <= 1]
        return torch.optim.SGD([{"params": wide, "weight_decay": 1e-4}, {"params": rest}], lr=0.1)

    assert found(None, split) == []
