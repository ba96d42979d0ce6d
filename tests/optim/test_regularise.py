"""Penalties and constraints on weights against torch, scikit-learn, Keras' formula and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from visus.optim.parameter_groups import parameter_groups
from visus.optim.regularise import WeightRegulariser, bound_units, unit_weights


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4))


def test_the_l1_price_is_on_the_weights_that_decay_and_its_slope_is_their_sign():
    model = network()
    with torch.no_grad():
        model[4].weight[0, 0] = 0.0
    price = WeightRegulariser(l1=0.01).penalty(model)
    expected = 0.01 * (model[0].weight.abs().sum() + model[4].weight.abs().sum())
    torch.testing.assert_close(price, expected)
    price.backward()
    torch.testing.assert_close(model[4].weight.grad, 0.01 * model[4].weight.detach().sign())
    assert model[4].weight.grad[0, 0] == 0
    assert model[4].bias.grad is None and model[1].weight.grad is None
    assert WeightRegulariser(max_norm=1.0).penalty(model) is None


def test_l1_with_weight_decay_is_scikit_learns_elastic_net():
    """min 1/(2n) |y - Xw|^2 + a r |w|_1 + a (1 - r) / 2 |w|^2, found by plain gradient steps that get shorter."""
    from sklearn.linear_model import ElasticNet

    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 5))
    y = x @ np.array([1.5, -2.0, 0.7, 0.4, -0.9]) + 0.1 * rng.normal(size=60)
    a, r = 0.1, 0.5
    theirs = ElasticNet(alpha=a, l1_ratio=r, fit_intercept=False, tol=1e-10, max_iter=100_000).fit(x, y).coef_
    model = nn.Linear(5, 1, bias=False).double()
    images, targets = torch.from_numpy(x), torch.from_numpy(y)[:, None]
    optimizer = torch.optim.SGD(parameter_groups(model, a * (1 - r)), lr=0.2)
    regulariser = WeightRegulariser(l1=a * r)
    for _ in range(400):
        optimizer.zero_grad()
        loss = (model(images) - targets).square().mean() / 2 + regulariser.penalty(model)
        loss.backward()
        optimizer.step()
    np.testing.assert_allclose(model.weight.detach().numpy()[0], theirs, atol=1e-6)
    plain = np.linalg.lstsq(x, y, rcond=None)[0]
    assert np.abs(theirs - plain).max() > 0.05


def test_max_norm_equals_torchs_renorm_and_leaves_units_within_bounds_alone():
    model = network()
    with torch.no_grad():
        model[4].weight[1] *= 20
        model[0].weight[2] *= 20
    before = [model[0].weight.detach().clone(), model[4].weight.detach().clone()]
    biases = model[4].bias.detach().clone()
    WeightRegulariser(max_norm=0.8).constrain(model)
    for weight, old in zip((model[0].weight, model[4].weight), before, strict=True):
        torch.testing.assert_close(weight.detach(), torch.renorm(old, 2, 0, 0.8), rtol=1e-6, atol=1e-7)
        norms = old.flatten(1).norm(dim=1)
        kept = norms <= 0.8
        assert kept.any() and not kept.all()
        assert torch.equal(weight.detach()[kept], old[kept])
        assert weight.detach().flatten(1).norm(dim=1).max() <= 0.8 * (1 + 1e-6)
    assert torch.equal(model[4].bias.detach(), biases)


def test_units_of_a_transposed_convolution_are_on_its_second_axis_and_shared_weights_count_once():
    up = nn.ConvTranspose2d(3, 5, 2)
    model = nn.Sequential(up, up, nn.Linear(2, 2))
    model[2].weight.requires_grad_(False)
    assert [(weight is up.weight, axis) for weight, axis in unit_weights(model)] == [(True, 1)]
    weight = torch.randn(3, 5, 2, 2)
    old = weight.clone()
    bound_units(weight, 1.0, axis=1)
    torch.testing.assert_close(weight, torch.renorm(old, 2, 1, 1.0), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("settings", [{"l1": -1.0}, {"max_norm": 0.0}])
def test_wrong_settings_are_no_regulariser(settings):
    with pytest.raises(AssertionError):
        WeightRegulariser(**settings)
