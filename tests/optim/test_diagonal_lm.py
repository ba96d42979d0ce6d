"""The Gauss-Newton diagonal against whole Jacobians and Hessians; the step against LeCun et al. 1998, section 9.1."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from visus.optim.diagonal_lm import DiagonalLM, GaussNewtonDiagonal, gauss_newton_diagonal


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 4)).double()


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_the_diagonal_is_that_of_j_transposed_l_j(kind):
    model, images = net().eval(), torch.randn(5, 2, 4, 4, dtype=torch.float64)
    names = [name for name, _ in model.named_parameters()]
    values = {name: p.detach() for name, p in model.named_parameters()}
    jacobian = torch.func.jacrev(lambda v: functional_call(model, v, (images,)))(values)
    logits = model(images).detach()
    found = gauss_newton_diagonal(model, images, names, kind)
    for name, diagonal in zip(names, found, strict=True):
        slopes = jacobian[name].reshape(5, 4, -1)
        expected = torch.zeros(slopes.shape[2], dtype=torch.float64)
        for b in range(5):
            if kind == "softmax":
                p = logits[b].softmax(0)
                curvature = torch.diag(p) - p[:, None] * p
            else:
                p = logits[b].sigmoid()
                curvature = torch.diag(p * (1 - p)) / 4
            expected += torch.einsum("kp,kl,lp->p", slopes[b], curvature, slopes[b]) / 5
        assert torch.allclose(diagonal.reshape(-1), expected, rtol=1e-9, atol=1e-14), name
        assert diagonal.min() >= 0


def test_for_a_linear_classifier_it_is_the_diagonal_of_the_hessian():
    torch.manual_seed(0)
    model, images, labels = nn.Linear(6, 3).double(), torch.randn(9, 6).double(), torch.arange(9) % 3
    hessian = torch.autograd.functional.hessian(
        lambda w: nn.functional.cross_entropy(images @ w.T + model.bias, labels), model.weight.detach())
    expected = hessian.reshape(18, 18).diagonal().reshape(3, 6)
    assert torch.allclose(gauss_newton_diagonal(model, images, ["weight"])[0], expected, rtol=1e-9)


def test_steps_are_the_papers_with_curvature_looked_at_every_second_time():
    p = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    seen = iter([torch.tensor([4.0, 0.0]).double(), torch.tensor([0.0, 2.0]).double()])
    optimizer = DiagonalLM([{"params": [p], "weight_decay": 0.1}], lr=0.5, mu=0.25, memory=0.2, every=2,
                           curvature=lambda: [next(seen)])
    assert not optimizer.needs_closure
    x, h = np.array([1.0, -2.0]), np.array([4.0, 0.0])
    for step in range(4):
        p.grad = torch.tensor([1.0, 0.5 * step], dtype=torch.float64)
        optimizer.step()
        if step == 2:
            h = 0.8 * h + 0.2 * np.array([0.0, 2.0])
        x = x - 0.5 / (h + 0.25) * (np.array([1.0, 0.5 * step]) + 0.1 * x)
        np.testing.assert_allclose(p.detach(), x, rtol=1e-12)


def test_without_a_source_the_curvature_of_a_separable_function_is_exact_and_mu_0_makes_it_newtons_step():
    p = nn.Parameter(torch.tensor([3.0, -1.0, 2.0], dtype=torch.float64))
    scales = torch.tensor([100.0, 1.0, 0.01], dtype=torch.float64)

    def closure() -> float:
        p.grad = scales * p.detach()
        return float((0.5 * scales * p.detach().square()).sum())
    optimizer = DiagonalLM([p], lr=1.0, mu=0.0)
    assert optimizer.needs_closure
    assert optimizer.step(closure) == pytest.approx(450.52)
    assert p.detach().abs().max() < 1e-8


def test_the_source_looks_at_the_last_training_images_in_eval_mode_and_leaves_the_modes():
    model = net()
    source = GaussNewtonDiagonal(model, [model[4].weight, model[0].bias], images=3)
    model.train()
    images = torch.randn(5, 2, 4, 4, dtype=torch.float64)
    model(images)
    statistics = model[1].running_mean.clone()
    model.eval()
    model(torch.zeros_like(images))
    model.train()
    weight, bias = source()
    expected = gauss_newton_diagonal(model, images[:3], ["4.weight", "0.bias"])
    assert torch.equal(weight, expected[0]) and torch.equal(bias, expected[1])
    assert model.training and model[1].training and torch.equal(model[1].running_mean, statistics)


def test_values_out_of_range_are_refused():
    for wrong in ({"memory": 0.0}, {"mu": -1.0}, {"every": 0}):
        with pytest.raises(ValueError, match="Invalid"):
            DiagonalLM([nn.Parameter(torch.zeros(1))], **wrong)
