"""A stack of sigmoids against a stack of the same depth that passes gradients on."""

from __future__ import annotations

import torch
from torch import nn

from tests.doctor.during.loops import found, look, told
from visus.doctor.during.vanishing_gradient import VanishingGradient
from visus.doctor.look import LayerLook


def stack(act: type[nn.Module], depth: int = 10) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(64, 32), act()]
    for _ in range(depth):
        layers += [nn.Linear(32, 32), act()]
    model = nn.Sequential(*layers, nn.Linear(32, 3))
    for layer in model:
        if isinstance(layer, nn.Linear) and act is nn.ReLU:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return model


def test_a_stack_of_sigmoids_is_told_with_the_first_layer_and_the_ratio():
    finding = found(stack(nn.Sigmoid), steps=8)["vanishing-gradient"]
    assert finding.severity == "warning" and finding.layer == "1" and finding.step == 5
    assert float(finding.evidence.split(" is ")[1].split(" ")[0]) < 1e-5


def test_relu_after_he_passes_the_gradient_on():
    assert "vanishing-gradient" not in found(stack(nn.ReLU), steps=8, lr=0.01)


def test_the_bound_is_that_of_the_table_and_sizes_do_not_count():
    def looks(first: float, entries: int = 100):
        layers = {name: LayerLook(gradient=g, std=1.0) for name, g in (("a", first), ("b", 1.0), ("c", 1.0))}
        return [look(step, layers, entries={"a": entries, "b": 100, "c": 100}) for step in range(1, 6)]

    assert told(VanishingGradient(), looks(0.9e-5))[0].layer == "a"
    assert told(VanishingGradient(), looks(1.1e-5)) == []
    assert told(VanishingGradient(), looks(0.9e-5, entries=25)) == []
