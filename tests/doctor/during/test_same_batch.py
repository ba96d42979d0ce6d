"""next(iter(loader)) in the loop, against a loader that goes on and a tensor that is handed over on purpose."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.doctor.during.loops import by_check, data, net
from visus.doctor.watcher import Watcher


def trained(batches) -> dict:
    model, loss = net(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with Watcher(model, optimizer, loss, share=1.0) as watcher:
        for inputs, targets in batches:
            optimizer.zero_grad()
            loss(model(inputs), targets).backward()
            optimizer.step()
    assert watcher.failed is None and watcher.step >= 8
    return by_check(watcher)


def test_a_loader_that_is_started_again_at_each_step_is_told_at_the_sixth():
    loader = DataLoader(TensorDataset(*data()), batch_size=16)
    finding = trained(next(iter(loader)) for _ in range(10))["same-batch"]
    assert finding.severity == "error" and finding.step == 6 and "16 samples" in finding.evidence


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_loader_that_goes_on_is_none(shuffle):
    loader = DataLoader(TensorDataset(*data()), batch_size=16, shuffle=shuffle)
    assert "same-batch" not in trained(loader)


def test_the_same_tensor_is_a_note():
    images, labels = data()
    assert trained((images, labels) for _ in range(10))["same-batch"].severity == "note"


def test_images_with_equal_borders_are_not_equal():
    images, labels = data()
    images = images.clone()
    images[:, :, :, :2], images[:, :, :2] = -1.0, -1.0
    assert "same-batch" not in trained((images[16 * i:16 * i + 16], labels[16 * i:16 * i + 16]) for i in range(10))
