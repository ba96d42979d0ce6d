"""The parts that attacks share: norms, projections, starts, gradients."""

from __future__ import annotations

import pytest
import torch

from visus.attack.attack import (
    NORMS,
    Ledger,
    cross_entropy,
    fooled,
    gradient,
    lengths,
    margin,
    project,
    random_start,
    remaining,
    steepest,
)


def points(count: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_lengths_are_those_of_numpy_and_l0_counts_places():
    x = points()
    assert torch.allclose(lengths(x, "l1"), x.abs().sum((1, 2, 3)))
    assert torch.allclose(lengths(x, "l2"), torch.linalg.vector_norm(x, dim=(1, 2, 3)))
    assert torch.allclose(lengths(x, "linf"), x.abs().amax((1, 2, 3)))
    y = torch.zeros(1, 3, 4, 4)
    y[0, :, 1, 1], y[0, 2, 3, 0] = 1, 1
    assert lengths(y, "l0").tolist() == [2], "three channels of one place are one"


@pytest.mark.parametrize("norm, eps", [("linf", 0.5), ("l2", 2.0), ("l1", 4.0), ("l0", 3)])
def test_a_projection_is_the_nearest_point_of_the_ball(norm, eps):
    x = points()
    projected = project(x, eps, norm)
    assert (lengths(projected, norm) <= eps * (1 + 1e-9)).all()
    inside = 0.01 * x if norm != "l0" else torch.where(torch.arange(4) == 0, 1.0, 0.0)[:, None] * x[..., :1]
    if norm != "l0":
        assert torch.allclose(project(inside, eps, norm), inside), "a point inside stays"
        other = project(points(5, seed=9), eps, norm)  # the obtuse angle of a projection on a convex set
        assert (((x - projected) * (other - projected)).sum((1, 2, 3)) <= 1e-9).all()
    else:
        left = x.square().sum(1).flatten(1).sort(dim=1).values[:, :-eps].sum(1)
        assert torch.allclose((x - projected).square().sum((1, 2, 3)), left)
    radii = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5], dtype=torch.float64)
    if norm != "l0":
        assert torch.allclose(lengths(project(x, radii, norm), norm), radii), "a radius for each row"


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_steepest_step_has_length_one_and_gains_the_dual_norm(norm):
    slope = points()
    step = steepest(slope, norm, share=1 / 48)
    assert torch.allclose(lengths(step, norm), torch.ones(5, dtype=torch.float64))
    dual = {"linf": "l1", "l2": "l2", "l1": "linf"}[norm]
    assert torch.allclose((step * slope).sum((1, 2, 3)), lengths(slope, dual))


@pytest.mark.parametrize("norm, eps", [("linf", 0.1), ("l2", 1.0), ("l1", 2.0), ("l0", 5)])
def test_starts_fill_the_ball_evenly(norm, eps):
    images = torch.zeros(2000, 1, 2, 3)
    drawn = random_start(images, eps, norm, torch.Generator().manual_seed(0))
    far = lengths(drawn, norm)
    assert (far <= eps * (1 + 1e-5)).all()
    if norm == "l0":
        assert (far == eps).all()
    else:  # of a ball in 6 dimensions a share of 2^-6 lies within half the radius
        assert float((far <= eps * 2 ** (-1 / 6)).float().mean()) == pytest.approx(0.5, abs=0.04)
    assert float(drawn.mean(0).abs().max()) < 0.05 * max(eps, 1)


def test_gradients_and_margins_of_a_linear_model_are_its_weights():
    weights = points(1)[0].flatten()
    classify = torch.nn.Linear(48, 2, dtype=torch.float64)
    with torch.no_grad():
        classify.weight.copy_(torch.stack([weights, -weights]))
    model = torch.nn.Sequential(torch.nn.Flatten(), classify)
    images, labels = points(3), torch.tensor([0, 1, 0])
    logits, slope = gradient(model, images, lambda z: margin(z, labels))
    sign = torch.tensor([-2.0, 2.0, -2.0], dtype=torch.float64)
    assert torch.allclose(slope.flatten(1), sign[:, None] * weights)
    assert classify.weight.grad is None and not images.requires_grad and not logits.requires_grad
    assert torch.equal(fooled(logits, labels), margin(logits, labels) > 0)
    assert torch.equal(fooled(logits, labels, labels), margin(logits, labels, labels) > 0)
    loss = cross_entropy(labels, None)(logits)
    assert torch.allclose(loss, -logits.log_softmax(1)[range(3), labels])
    assert torch.allclose(cross_entropy(labels, 1 - labels)(logits), logits.log_softmax(1)[range(3), 1 - labels])


def test_rows_leave_together_and_the_ledger_keeps_them():
    ledger = Ledger(torch.zeros(4, 1, 2, 2))
    keep = torch.tensor([True, False, True, False])
    rows, nothing, images = remaining(keep, ledger.rows, None, ledger.images)
    assert rows.tolist() == [0, 2] and nothing is None and len(images) == 2
    ledger.asked(rows, 3)
    ledger.moved(rows)
    ledger.done(rows, images + 0.5, torch.tensor([True, False]))
    found = ledger.result()
    assert found.queries.tolist() == [3, 0, 3, 0] and found.steps.tolist() == [1, 0, 1, 0]
    assert found.success.tolist() == [True, False, False, False]
    assert found.distances["linf"].tolist() == [0.5, 0, 0.5, 0] and set(found.distances) == set(NORMS)
