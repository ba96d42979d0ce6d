"""Robust projection of occluded images, and random projections."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.classical.digits import digits
from visus.core.errors import UserError
from visus.ops.principal import Principal
from visus.ops.random_projection import distortion, least_dims, projection
from visus.ops.robust_projection import robust_projection, usual_residual

(TRAIN, _), (VAL, _) = digits()
TRAIN, VAL = TRAIN.flatten(1), VAL.flatten(1)


def subspace(count: int = 10, dim: int = 200) -> tuple[Principal, torch.Tensor]:
    """A random subspace and 20 points in it."""
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(dim, count, generator=generator, dtype=torch.float64)).Q.T
    principal = Principal(torch.zeros(dim, dtype=torch.float64), axes, torch.ones(count), float(count))
    return principal, torch.randn(20, count, generator=generator, dtype=torch.float64)


def test_points_of_the_subspace_are_recovered_from_the_pixels_that_are_left():
    principal, wanted = subspace()
    images = principal.inverse(wanted)
    covered = images.clone()
    covered[:, :60] = 5.0  # 30 % of the pixels: far outside
    found = robust_projection(covered, principal, 1e-3, hypotheses=60)
    torch.testing.assert_close(found.coefficients, wanted, rtol=0, atol=1e-6)
    assert found.explained[:, 60:].all() and not found.explained[:, :60].any()
    assert (principal.transform(covered) - wanted).abs().max() > 1  # what least squares over all pixels says
    whole = robust_projection(images, principal, 1e-3)
    torch.testing.assert_close(whole.coefficients, principal.transform(images), rtol=0, atol=1e-6)


def test_occluded_digits_are_reconstructed_better_than_by_the_plain_projection():
    """Somewhat: ten components leave a third of a digit out, so that hidden pixels hardly stand out."""
    principal = Principal.fit(TRAIN, 10)
    covered = VAL.clone().view(-1, 8, 8)
    covered[:, :2] = 1.8  # two rows white
    covered = covered.flatten(1)
    found = robust_projection(covered, principal, 3 * usual_residual(TRAIN, principal))
    robust = (principal.inverse(found.coefficients) - VAL).square().mean()
    plain = (principal.inverse(principal.transform(covered)) - VAL).square().mean()
    assert robust < 0.92 * plain
    again = robust_projection(covered, principal, 3 * usual_residual(TRAIN, principal))
    assert torch.equal(found.coefficients, again.coefficients)


def test_the_usual_residual_is_the_variance_that_was_left_out():
    principal = Principal.fit(TRAIN, 16)
    left = principal.total * (1 - float(principal.shares.sum())) * (len(TRAIN) - 1) / TRAIN.numel()
    assert usual_residual(TRAIN, principal) ** 2 == pytest.approx(left, rel=1e-4)


def test_wrong_arguments_of_the_robust_projection_are_named():
    principal = Principal.fit(TRAIN, 16)
    with pytest.raises(UserError, match=r"images \(2, 9\)"):
        robust_projection(torch.zeros(2, 9), principal, 1.0)
    with pytest.raises(UserError, match="pixels=5"):
        robust_projection(VAL, principal, 1.0, pixels=5)
    with pytest.raises(UserError, match="threshold=0"):
        robust_projection(VAL, principal, 0.0)


@pytest.mark.parametrize("points, epsilon", [(10, 0.5), (1000, 0.1), (60_000, 0.2), (2, 0.99)])
def test_the_bound_is_scikit_learns(points, epsilon):
    peer = pytest.importorskip("sklearn.random_projection")
    assert least_dims(points, epsilon) == peer.johnson_lindenstrauss_min_dim(points, eps=epsilon)


@pytest.mark.parametrize("kind", ["gaussian", "sparse"])
def test_at_the_bound_no_distance_leaves_it(kind):
    points = VAL[:100]
    dims = least_dims(100, 0.5)
    found = distortion(points, points @ projection(64, dims, kind))
    assert len(found) == 4950 and found.min() > 0.5 and found.max() < 1.5
    assert float(found.mean()) == pytest.approx(1, abs=0.15)


def test_entries_have_the_distribution_of_their_papers():
    for kind, density in (("sparse", None), ("sparse", 0.05)):
        drawn = projection(1000, 200, kind, density=density)
        share = density or 1 / 3
        values = drawn.unique()
        np.testing.assert_allclose(values, np.array([-1, 0, 1]) / np.sqrt(share * 200), rtol=1e-6)
        assert float((drawn != 0).float().mean()) == pytest.approx(share, rel=0.03)
        assert float((drawn > 0).float().mean()) == pytest.approx(share / 2, rel=0.05)
    drawn = projection(1000, 200)
    assert float(drawn.var()) == pytest.approx(1 / 200, rel=0.02)
    assert torch.equal(projection(1000, 200), drawn) and not torch.equal(projection(1000, 200, seed=1), drawn)


def test_wrong_arguments_of_random_projections_are_named():
    for work, says in ((lambda: least_dims(10, 1.0), "epsilon=1.0"), (lambda: projection(4, 0), "dims=0"),
                       (lambda: projection(4, 2, "sparse", density=2.0), "density=2.0"),
                       (lambda: projection(4, 2, "sphere"), "kind='sphere'")):
        with pytest.raises(UserError, match=says):
            work()
