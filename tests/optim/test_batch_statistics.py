"""Batch norms measured anew, against PyTorch's own."""

from __future__ import annotations

import torch
from torch import nn

from visus.optim.batch_statistics import measure_batch_norms


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(5, 4, 3),
                         nn.BatchNorm2d(4, momentum=0.3))


def batches() -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(6, 2, 9, 9) * k + k for k in (1, 2, 3)]


def test_the_statistics_are_those_of_torchs_update_bn():
    ours, theirs = net(), net()
    theirs[3].p = 0.0
    torch.optim.swa_utils.update_bn(batches(), theirs)
    ours.eval()
    assert measure_batch_norms(ours, batches()) == 2
    for k in (1, 5):
        torch.testing.assert_close(ours[k].running_mean, theirs[k].running_mean)
        torch.testing.assert_close(ours[k].running_var, theirs[k].running_var)
    assert ours[5].momentum == 0.3 and not any(module.training for module in ours.modules())


def test_nothing_else_moves_and_modes_come_back():
    model = net().train()
    model[3].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items() if "running" not in name}
    measure_batch_norms(model, batches())
    after = model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items() if "tracked" not in name)
    assert model[0].training and not model[3].training and model[5].training


def test_a_model_without_batch_norm_asks_for_no_image():
    def none():
        raise AssertionError("asked")
        yield

    assert measure_batch_norms(nn.Linear(2, 2), none()) == 0
