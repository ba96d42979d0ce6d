"""DropConnect against a loop over samples, its moments against every mask, its gradients against those by hand."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from visus.foundations import regularisers
from visus.layers.dropconnect import DropConnectLinear, drop_connections, masked_linear, moments, sampled_forward


def layer(share: float = 0.5) -> DropConnectLinear:
    torch.manual_seed(0)
    return DropConnectLinear(3, 2, share).double()


def test_each_sample_has_a_mask_of_its_own_which_its_positions_share():
    one = layer()
    torch.manual_seed(5)
    mask = (torch.rand(4, 2, 3) >= 0.5) / 0.5
    inputs = torch.randn(4, 6, 3, dtype=torch.float64)
    torch.manual_seed(5)
    out = one(inputs)
    by_hand = torch.stack([F.linear(inputs[b], one.weight * mask[b], one.bias) for b in range(4)])
    torch.testing.assert_close(out, by_hand, rtol=0, atol=1e-14)
    assert not torch.equal(mask[0], mask[1])


def test_forward_and_gradients_equal_those_by_hand():
    one = layer()
    rng = np.random.default_rng(0)
    x, mask = rng.normal(size=(5, 3)), (rng.random((5, 2, 3)) < 0.5) / 0.5
    upstream = rng.normal(size=(5, 2))
    inputs = torch.from_numpy(x).requires_grad_()
    out = masked_linear(inputs, one.weight, one.bias, torch.from_numpy(mask))
    out.backward(torch.from_numpy(upstream))
    expected, cache = regularisers.dropconnect_forward(x, one.weight.detach().numpy(), one.bias.detach().numpy(), mask)
    dx, dw, db = regularisers.dropconnect_backward(upstream, cache)
    np.testing.assert_allclose(out.detach().numpy(), expected, atol=1e-13)
    for found, wanted in ((inputs.grad, dx), (one.weight.grad, dw), (one.bias.grad, db)):
        np.testing.assert_allclose(found.numpy(), wanted, atol=1e-13)


def test_mean_and_variance_are_those_over_all_64_masks_with_their_probabilities():
    one, share = layer(0.3), 0.3
    v = torch.tensor([0.5, -1.2, 2.0], dtype=torch.float64)
    total, squares, weight = 0.0, 0.0, 0.0
    for bits in itertools.product([0.0, 1.0], repeat=6):
        mask = torch.tensor(bits, dtype=torch.float64).view(2, 3)
        probability = float(((1 - share) * mask + share * (1 - mask)).prod())
        u = F.linear(v, one.weight * mask / (1 - share), one.bias)
        total, squares, weight = total + probability * u, squares + probability * u.square(), weight + probability
    mean, variance = moments(one, v, share)
    assert abs(weight - 1) < 1e-12
    torch.testing.assert_close(mean, total, rtol=0, atol=1e-12)
    torch.testing.assert_close(variance, squares - total.square(), rtol=0, atol=1e-12)


def test_gaussian_inference_is_nearer_to_the_mean_over_masks_than_inference_by_the_mean():
    """For relu the mean over masks is above relu of the mean; moment matching sees that (Wan et al. 2013)."""
    torch.manual_seed(1)
    one = DropConnectLinear(60, 8, 0.5).double()
    v = torch.randn(60, dtype=torch.float64)
    true = torch.relu(one(v.expand(6000, 60))).mean(0)
    with torch.no_grad():
        one.eval()
        by_mean = torch.relu(one(v))
        drawn = sampled_forward(one, v, 0.5, torch.relu, samples=6000, generator=torch.Generator().manual_seed(0))
    assert (drawn - true).abs().max() < 0.03
    assert (by_mean - true).abs().max() > 0.05


def test_in_eval_mode_it_is_the_plain_layer_and_it_keeps_parameters_and_names():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Sequential(nn.Linear(3, 2, bias=False)))
    model[2][0].weight.requires_grad_(False)
    plain = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weight = model[0].weight
    x = torch.randn(5, 4)
    expected = model(x)
    assert drop_connections(model, 0.4) == ["0"]
    assert model[0].weight is weight and isinstance(model[0], DropConnectLinear) and type(model[2][0]) is nn.Linear
    assert model.state_dict().keys() == plain.keys()
    assert not torch.equal(model(x), expected)
    torch.testing.assert_close(model.eval()(x), expected)
