"""Activations and gradients by depth: the numbers of hand-made nets, and what the theory says of sigmoids and ReLUs."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visus.doctor.depth import BINS, depth_profile
from visus.layers.initialise import initialise


def _batch(width: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(128, width, generator=generator), torch.randint(0, 10, (128,), generator=generator)


def _net(activation: type[nn.Module], depth: int = 12, width: int = 64) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), activation()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


class _Functional(nn.Module):
    """Functions in place, which hooks on modules do not see."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.first(x), inplace=True))


def test_a_row_holds_what_a_pass_by_hand_gives():
    net, (x, y) = _Functional(), _batch()
    with torch.no_grad():
        net.first.bias[:8] = -100.0
    hidden = net.first(x)
    hidden.retain_grad()
    active = hidden.relu()
    F.cross_entropy(net.second(active), y).backward()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net.zero_grad()
    first, second = depth_profile(net, x, y, F.cross_entropy)
    assert (first.name, second.name) == ("first", "second")
    assert first.mean == pytest.approx(hidden.mean().item(), rel=1e-5)
    assert first.std == pytest.approx(hidden.std(correction=0).item(), rel=1e-5)
    assert first.gradient == pytest.approx(hidden.grad.square().mean().sqrt().item(), rel=1e-4)
    assert first.zeros is None and second.zeros == pytest.approx((active == 0).float().mean().item())
    assert first.dead == 8 / 32 and second.dead is None and first.saturated is None
    wanted = torch.histc(hidden.detach(), BINS, -first.reach, first.reach)
    assert list(first.counts) == wanted.int().tolist() and sum(first.counts) > 0.7 * hidden.numel()
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_a_sigmoid_layer_of_orthogonal_weights_passes_at_most_a_quarter_of_the_gradient_a_relu_most_of_it():
    """Bengio et al. 1994: the slope of a sigmoid is at most 1/4, and orthogonal weights keep lengths."""
    x, y = _batch()
    slopes = {}
    for kind, how in ((nn.Sigmoid, "lsuv"), (nn.ReLU, "orthogonal")):
        net = _net(kind)
        initialise(net, how)
        rows = depth_profile(net, x, y, F.cross_entropy)[:-1]
        slopes[kind] = [row.gradient for row in rows]
    sigmoid = slopes[nn.Sigmoid]
    assert all(earlier <= 0.25 * later * 1.0001 for earlier, later in zip(sigmoid, sigmoid[1:], strict=False))
    assert sigmoid[0] < 0.25**11 * sigmoid[-1] * 1.001
    relu = slopes[nn.ReLU]
    assert relu[0] > 0.3 * relu[-1], "ReLUs with weights of length sqrt 2 keep it"


@pytest.mark.parametrize("how, ratio", [("kaiming", 1.0), ("xavier", 2 ** -5.5), ("small", 0.16**11)])
def test_the_spread_over_twelve_relu_layers_is_what_the_variance_rules_say(how, ratio):
    x, y = _batch(512)
    net = _net(nn.ReLU, width=512)
    initialise(net, how)
    rows = depth_profile(net, x, y, F.cross_entropy)
    power = [math.hypot(row.mean, row.std) for row in rows[:-1]]
    assert power[-1] / power[0] == pytest.approx(ratio, rel=0.5)


def test_saturation_of_large_weights_and_silence_of_zero_weights_are_seen():
    x, y = _batch()
    net = _net(nn.Tanh, 4)
    with torch.no_grad():
        for layer in net[::2]:
            layer.weight.normal_(0, 1, generator=torch.Generator().manual_seed(0))
    assert all(row.saturated > 0.5 for row in depth_profile(net, x, y, F.cross_entropy)[:-1])
    initialise(net, "zeros")
    silent = depth_profile(net, x, y, F.cross_entropy)
    assert all(row.std == 0 and row.reach == 0 and not any(row.counts) for row in silent)
    assert silent[1].zeros == 1 and silent[0].gradient == 0 < silent[-1].gradient


def test_numbers_that_overflow_are_told_and_do_not_stop_the_measuring():
    x, y = _batch()
    net = _net(nn.ReLU, 3)
    initialise(net, "kaiming")
    with torch.no_grad():
        net[2].weight.mul_(1e38)
    rows = depth_profile(net, x, y, F.cross_entropy)
    assert math.isfinite(rows[0].std) and math.isnan(rows[2].std)
