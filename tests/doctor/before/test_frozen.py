from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from visus.doctor.before.frozen import frozen
from visus.doctor.patient import Patient


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(8, 3))


def found(model: nn.Module, **known) -> list:
    batch = (torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0]))
    return list(frozen(Patient(model=model, loss=F.cross_entropy, batches=(batch,), **known)))


def test_nothing_frozen_says_nothing():
    assert found(net()) == []


def test_all_but_the_head():
    model = net()
    model[:6].requires_grad_(False)
    (finding,) = found(model)
    assert finding.severity == "error" and finding.layer == "6" and "random features" in finding.title
    assert "6 of 8 parameters" in finding.evidence
    assert [f.severity for f in found(model, pretrained=True)] == ["warning"]
    assert [f.severity for f in found(model, pretrained=True, frozen_on_purpose=True)] == ["note"]


def test_the_head_is_found_by_the_forward_pass_not_by_its_name():
    class Reversed(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.body = nn.Linear(8, 3), nn.Conv2d(3, 8, 3)

        def forward(self, images):
            return self.head(self.body(images).mean((2, 3)))

    model = Reversed()
    model.head.requires_grad_(False)
    (finding,) = found(model)
    assert finding.severity == "warning" and finding.layer == "head" and "'head'" in finding.remedy


def test_everything_and_everything_but_the_norms():
    model = net().requires_grad_(False)
    assert [f.severity for f in found(model, frozen_on_purpose=True)] == ["error"]
    model[1].requires_grad_(True)
    (finding,) = found(model)
    assert finding.severity == "warning" and "norms" in finding.title


def test_a_frozen_stem_is_a_note():
    model = net()
    model[0].requires_grad_(False)
    (finding,) = found(model)
    assert finding.severity == "note" and "0.weight" in finding.evidence
