"""The sum of functions optimizer against linear solves and scipy, and its parts against what defines them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.datasets import load_digits
from torch import nn

from visus.optim.sfo import SumOfFunctions, _least_curvature, _model_hessian, batch_functions, write_parameters


def quadratics(count: int, size: int):
    """Their functions, and the minimum of their sum."""
    generator = torch.Generator().manual_seed(3)
    matrices, targets = [], torch.randn(count, size, generator=generator, dtype=torch.float64)
    for _ in range(count):
        root = torch.randn(size, size, generator=generator, dtype=torch.float64)
        matrices.append(root @ root.T / size + 0.1 * torch.eye(size))

    def of(matrix, target):
        return lambda x: (float(0.5 * (x - target) @ matrix @ (x - target)), matrix @ (x - target))
    functions = [of(m, t) for m, t in zip(matrices, targets, strict=True)]
    pulls = sum(m @ t for m, t in zip(matrices, targets, strict=True))
    return functions, torch.linalg.solve(sum(matrices), pulls)


@pytest.mark.parametrize("count", [1, 2, 6])
def test_a_sum_of_quadratics_is_minimised_to_the_linear_solve(count):
    functions, solution = quadratics(count, 12)
    optimizer = SumOfFunctions(functions, torch.zeros(12), history=12)
    optimizer.minimise(80 / count + 20)
    assert torch.allclose(optimizer.x, solution, atol=1e-5)


def test_softmax_regression_of_digits_ends_at_scipys_optimum_in_fewer_passes_than_its_l_bfgs():
    digits = load_digits()
    images, labels = torch.tensor(digits.data / 16.0)[:480], torch.tensor(digits.target)[:480]
    model = nn.Linear(64, 10).double()

    def loss(logits, targets):
        price = sum(p.square().sum() for p in model.parameters())
        return nn.functional.cross_entropy(logits, targets) + 0.5e-2 * price
    functions = batch_functions(model, loss, list(zip(images.split(40), labels.split(40), strict=True)))

    def mean(x):
        seen = [function(torch.tensor(x)) for function in functions]
        return sum(v for v, _ in seen) / 12, (sum(g for _, g in seen) / 12).numpy()
    optimum = minimize(mean, np.zeros(650), jac=True, method="L-BFGS-B", options={"gtol": 1e-8, "ftol": 1e-15})
    eight = minimize(mean, np.zeros(650), jac=True, method="L-BFGS-B", options={"maxfun": 8})
    optimizer = SumOfFunctions(functions, torch.zeros(650))
    found = mean(optimizer.minimise(8).numpy())[0] - optimum.fun
    assert 0 <= found < 0.5 * (eight.fun - optimum.fun)
    assert mean(optimizer.minimise(10).numpy())[0] - optimum.fun < 1e-5
    assert optimizer.active == 12 and optimizer.basis.shape[1] <= 39, "the subspace stays small"
    assert torch.allclose(optimizer.basis.T @ optimizer.basis, torch.eye(optimizer.basis.shape[1]).double(), atol=1e-8)


def test_a_models_hessian_maps_the_last_step_to_the_last_change_and_bends_upwards():
    functions, _ = quadratics(4, 30)
    optimizer = SumOfFunctions(functions, torch.ones(30))
    optimizer.minimise(6)
    for part in optimizer.parts.values():
        hessian = _model_hessian(part)
        assert torch.allclose(hessian, hessian.T, atol=1e-10)
        assert torch.linalg.eigvalsh(hessian).min() > 0
        assert torch.allclose(hessian @ part.steps[-1], part.changes[-1], atol=1e-8)


def test_the_least_curvature_is_that_of_the_span_of_the_steps():
    functions, _ = quadratics(1, 5)
    optimizer = SumOfFunctions(functions, torch.ones(5), history=20)
    optimizer.minimise(15)
    part = optimizer.parts[0]
    matrix = torch.stack([functions[0](row)[1] for row in torch.eye(5, dtype=torch.float64)]) - \
        functions[0](torch.zeros(5, dtype=torch.float64))[1]
    assert len(part.place) == 5
    assert _least_curvature(part) == pytest.approx(float(torch.linalg.eigvalsh(matrix).min()), rel=1e-3)


def test_a_smaller_subspace_keeps_x_and_all_that_the_models_say_there():
    functions, _ = quadratics(3, 40)
    optimizer = SumOfFunctions(functions, torch.ones(40))
    optimizer.minimise(3)
    before, said = optimizer.x, [part.model(optimizer.here) for part in optimizer.parts.values()]
    slopes = [optimizer.basis @ part.slope for part in optimizer.parts.values()]
    optimizer.basis = torch.cat([optimizer.basis, torch.linalg.qr(torch.cat([optimizer.basis, torch.randn(
        40, 4, generator=torch.Generator().manual_seed(0)).double()], 1))[0][:, -4:]], 1)
    optimizer.here = optimizer._padded(optimizer.here)
    for part in optimizer.parts.values():
        optimizer._pad(part)
    size = optimizer.basis.shape[1]
    optimizer._collapse()
    assert optimizer.basis.shape[1] < size
    assert torch.allclose(optimizer.x, before, atol=1e-10)
    for part, value, slope in zip(optimizer.parts.values(), said, slopes, strict=True):
        assert part.model(optimizer.here) == pytest.approx(value, rel=1e-8)
        assert torch.allclose(optimizer.basis @ part.slope, slope, atol=1e-10)


def test_a_step_that_leaves_the_finite_numbers_is_taken_back():
    def walled(x):
        value = float((x - 1).square().sum())
        return (float("inf") if float(x.norm()) > 3 else value), 2 * (x - 1) * (100.0 if float(x.norm()) < 0.1 else 1.0)
    optimizer = SumOfFunctions([walled, walled], torch.zeros(2))
    optimizer.minimise(30)
    assert torch.isfinite(optimizer.x).all() and torch.allclose(optimizer.x, torch.ones(2).double(), atol=1e-3)


def test_functions_of_batches_are_the_loss_and_its_gradient_and_parameters_are_written_back():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    inputs, labels = torch.randn(6, 3), torch.arange(6) % 2
    x = torch.randn(26, dtype=torch.float64)
    value, gradient = batch_functions(model, nn.functional.cross_entropy, [(inputs, labels)])[0](x)
    write_parameters(model, x)
    loss = nn.functional.cross_entropy(model(inputs), labels)
    loss.backward()
    assert value == pytest.approx(float(loss.detach()))
    assert torch.allclose(gradient, torch.cat([p.grad.reshape(-1) for p in model.parameters()]), atol=1e-6)


def test_nothing_to_sum_is_refused():
    with pytest.raises(ValueError, match="functions"):
        SumOfFunctions([], torch.zeros(2))
