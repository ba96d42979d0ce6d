"""Units that a step kills; who produced them is read from the graph, whatever form the ReLU has."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.doctor.during.loops import data, found, look, net, told
from visus.doctor.during.dead_while_training import DeadWhileTraining
from visus.doctor.look import LayerLook
from visus.doctor.watcher import Watcher


class Functional(nn.Module):
    """F.relu, a pool and a flattening between convolution and linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 16, 3), nn.Linear(16 * 9, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(F.max_pool2d(F.relu(self.conv(images)), 2).flatten(1))


def normed() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 3))


@pytest.mark.parametrize("build, kill, layer", [
    (lambda: net(norm=False), lambda m: m[3], "3"), (lambda: normed(), lambda m: m[1], "0"),
    (Functional, lambda m: m.conv, "conv")])
def test_a_layer_whose_biases_fell_is_named(build, kill, layer):
    torch.manual_seed(0)
    model = build()

    def fall(step: int) -> None:
        if step == 3:
            with torch.no_grad():
                kill(model).bias.fill_(-50.0)

    finding = found(model, steps=30, lr=0.001, each=fall)["dead-while-training"]
    assert finding.severity == "error" and finding.layer == layer and "100 % of the units" in finding.title


def test_half_of_the_units_are_counted_as_half():
    model, loss = Functional(), nn.CrossEntropyLoss()
    with torch.no_grad():
        model.conv.bias[:8] = -50.0
        model.conv.bias[8:] = 5.0
    optimizer = torch.optim.SGD(model.parameters(), 1e-6)
    images, labels = data()
    with Watcher(model, optimizer, loss) as watcher:
        loss(model(images), labels).backward()
        optimizer.step()
    layer = watcher.looks[0].layers["conv"]
    assert (layer.dead, layer.units) == (0.5, 16)


@pytest.mark.parametrize("batch", [4, 32])
def test_healthy_nets_and_small_batches_are_none(batch):
    assert "dead-while-training" not in found(net(), steps=40, lr=0.02, batch=batch)


def test_the_bounds_are_those_of_the_table():
    def looks(dead: float, units: int):
        return [look(9, {"a": LayerLook(dead=dead, units=units)})]

    assert told(DeadWhileTraining(), looks(0.74, 64)) == []
    assert told(DeadWhileTraining(), looks(0.76, 64))[0].severity == "warning"
    assert told(DeadWhileTraining(), looks(0.76, 31)) == []
    assert told(DeadWhileTraining(), looks(0.96, 16))[0].severity == "error"
    assert told(DeadWhileTraining(), looks(1.0, 15)) == []
