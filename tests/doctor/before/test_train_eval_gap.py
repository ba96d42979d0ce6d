from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visus.doctor.before.train_eval_gap import train_eval_gap
from visus.doctor.patient import Patient


def found(model: nn.Module, loss=F.cross_entropy, size: int = 16) -> list:
    noise = torch.Generator().manual_seed(0)
    batches = tuple((torch.randn(size, 3, 8, 8, generator=noise), torch.arange(size) % 4) for _ in range(4))
    return list(train_eval_gap(Patient(model=model, loss=loss, batches=batches)))


def net(*more: nn.Module, **norm) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, **norm), nn.ReLU(), nn.Flatten(), *more,
                         nn.Linear(288, 4))


def test_fresh_norms_dropout_and_their_absence_say_nothing():
    assert found(net()) == found(net(nn.Dropout(0.5))) == found(net(), size=4) == []
    assert found(nn.Sequential(nn.Flatten(), nn.Linear(192, 4))) == []


def test_a_momentum_meant_the_other_way_round_names_the_norm():
    (finding,) = found(net(momentum=0.001))
    assert finding.severity == "warning" and finding.layer == "1" and "10%" in finding.evidence
    assert found(net(momentum=0.01)) == []


def test_dropout_that_is_never_switched_off():
    class Lottery(nn.Module):
        def __init__(self, switched: bool):
            super().__init__()
            self.linear, self.switched = nn.Linear(192, 4), switched

        def forward(self, images: Tensor) -> Tensor:
            return self.linear(F.dropout(images.flatten(1), 0.3, training=self.training or not self.switched))

    (finding,) = found(Lottery(False))
    assert "random in eval mode" in finding.title and "self.training" in finding.remedy
    assert found(Lottery(True)) == []


def test_a_branch_of_one_mode_only_is_named():
    class Scaled(nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            return features if self.training else 30 * features

    (finding,) = found(net(Scaled()))
    assert finding.layer == "4" and "with only Scaled in eval mode" in finding.evidence
    assert "bound 2" in finding.evidence


def test_statistics_of_other_data_are_a_gap_once_they_were_measured():
    model = net()
    model[1].num_batches_tracked.fill_(50)
    model[1].running_mean.fill_(-40.0)
    (finding,) = found(model)
    assert finding.layer == "1" and "with only BatchNorm2d in eval mode" in finding.evidence
    model[1].num_batches_tracked.zero_()
    assert found(model) == []


def test_the_model_itself_stays_as_it_was():
    model = net().train()
    found(model)
    assert model.training and int(model[1].num_batches_tracked) == 0 and model[1].momentum == 0.1
