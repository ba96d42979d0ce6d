"""k-means, principal components, Gaussians and their mixtures against scikit-learn, torch and their own definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.classical.digits import digits
from visus.core.errors import UserError
from visus.ops.gaussian import Gaussian, shrunk
from visus.ops.kmeans import assign, kmeans, plus_plus
from visus.ops.mixture import KINDS, Mixture
from visus.ops.principal import Principal

POINTS = digits()[0][0].flatten(1).double()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(count: int = 400, dim: int = 3, seed: int = 0) -> torch.Tensor:
    centres = 4 * torch.randn(4, dim, generator=generator(seed), dtype=torch.float64)
    return centres.repeat(count // 4, 1) + torch.randn(count, dim, generator=generator(seed + 1), dtype=torch.float64)


# -- k-means -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 10, 40])
def test_kmeans_is_scikit_learns_from_the_same_centres(count):
    cluster = pytest.importorskip("sklearn.cluster")
    start = POINTS[torch.randperm(len(POINTS), generator=generator())[:count]]
    ours = kmeans(POINTS, count, start=start)
    theirs = cluster.KMeans(count, init=start.numpy(), n_init=1).fit(POINTS.numpy())
    assert theirs.n_iter_ - ours.steps in (0, 1)  # theirs counts a last step that moves nothing
    assert ours.inertia == pytest.approx(theirs.inertia_, rel=1e-12)
    assert np.array_equal(ours.labels.numpy(), theirs.labels_)
    assert np.abs(ours.centres.numpy() - theirs.cluster_centers_).max() < 1e-10


def test_inertia_never_rises_and_is_that_of_the_labels():
    found = kmeans(POINTS, 12, seed=3, restarts=1)
    assert all(later <= earlier + 1e-9 for earlier, later in zip(found.history, found.history[1:]))
    assert found.inertia == pytest.approx(float((POINTS - found.centres[found.labels]).square().sum()))
    labels, squares = assign(POINTS, found.centres)
    assert torch.equal(labels, torch.cdist(POINTS, found.centres).argmin(1)) and float(squares.min()) >= 0


def test_restarts_are_never_worse_and_the_seed_decides():
    one, more = kmeans(POINTS, 10, restarts=1), kmeans(POINTS, 10, restarts=6)
    assert more.inertia <= one.inertia
    assert torch.equal(kmeans(POINTS, 10, restarts=1).centres, one.centres)
    assert not torch.equal(kmeans(POINTS, 10, restarts=1, seed=1).centres, one.centres)


def test_plus_plus_starts_beat_random_points():
    points = blobs()
    ours = [kmeans(points, 4, start=plus_plus(points, 4, generator(s)), steps=1).history[0] for s in range(20)]
    plain = [kmeans(points, 4, start=points[torch.randperm(400, generator=generator(s))[:4]], steps=1).history[0]
             for s in range(20)]
    assert np.median(ours) < 0.8 * np.median(plain)


def test_a_cluster_that_loses_its_points_gets_the_farthest_one():
    points = torch.cat([torch.zeros(5, 2), torch.ones(5, 2), torch.full((1, 2), 9.0)]).double()
    start = torch.tensor([[0.0, 0.0], [1.0, 1.0], [100.0, 100.0]]).double()
    found = kmeans(points, 3, start=start)
    assert found.inertia == pytest.approx(0, abs=1e-12) and sorted(found.centres[:, 0].tolist()) == [0, 1, 9]
    same = kmeans(torch.ones(6, 2), 3)
    assert same.inertia == 0 and torch.isfinite(same.centres).all()


def test_more_clusters_than_points_is_named():
    with pytest.raises(UserError, match="num_clusters=5"):
        kmeans(torch.zeros(4, 2), 5)


# -- principal components ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [40, 1257])  # fewer and more points than numbers in one
def test_components_are_scikit_learns_up_to_sign(count):
    decomposition = pytest.importorskip("sklearn.decomposition")
    points = POINTS[:count]
    ours, theirs = Principal.fit(points, 20), decomposition.PCA(20, svd_solver="full").fit(points.numpy())
    signs = np.sign((ours.components.numpy() * theirs.components_).sum(1))
    assert np.abs(ours.components.numpy() - signs[:, None] * theirs.components_).max() < 1e-8
    assert np.allclose(ours.variances.numpy(), theirs.explained_variance_, rtol=1e-10)
    assert np.allclose(ours.shares.numpy(), theirs.explained_variance_ratio_, rtol=1e-10)
    assert np.allclose(ours.transform(points).numpy() * signs, theirs.transform(points.numpy()), atol=1e-7)


def test_all_components_give_the_points_back_and_a_share_keeps_enough():
    every = Principal.fit(POINTS)
    torch.testing.assert_close(every.inverse(every.transform(POINTS)), POINTS)
    some = Principal.fit(POINTS, share=0.9)
    assert float(some.shares.sum()) >= 0.9 > float(some.shares[:-1].sum())
    lost = (POINTS - some.inverse(some.transform(POINTS))).square().sum() / (len(POINTS) - 1)
    assert float(lost) == pytest.approx(every.total * (1 - float(some.shares.sum())))
    assert (some.components.gather(1, some.components.abs().argmax(1, keepdim=True)) > 0).all()
    with pytest.raises(UserError, match="at least two points"):
        Principal.fit(POINTS[:1])


def test_points_of_one_value_have_one_component_and_no_variance():
    flat = Principal.fit(torch.ones(5, 3))
    assert flat.components.shape == (1, 3) and float(flat.variances) == 0 and torch.isfinite(flat.shares).all()


# -- Gaussians -----------------------------------------------------------------------------------------------------


def test_a_gaussian_is_the_sample_mean_and_covariance_and_torchs_density():
    points = blobs()
    ours = Gaussian.fit(points)
    torch.testing.assert_close(ours.mean, points.mean(0))
    torch.testing.assert_close(ours.covariance, points.T.cov(correction=0), rtol=1e-5, atol=1e-4)  # with its floor
    theirs = torch.distributions.MultivariateNormal(ours.mean, ours.covariance)
    torch.testing.assert_close(ours.log_prob(points), theirs.log_prob(points), rtol=1e-10, atol=1e-10)
    centred = points - ours.mean
    by_hand = (centred @ torch.linalg.inv(ours.covariance) * centred).sum(1)
    torch.testing.assert_close(ours.mahalanobis(points), by_hand)
    assert float(ours.mahalanobis(points).mean()) == pytest.approx(3, rel=1e-4)  # the trace of the identity


def test_samples_have_the_mean_and_the_covariance_of_the_density():
    wanted = Gaussian(torch.tensor([1.0, -2.0]).double(), torch.tensor([[2.0, 0.8], [0.8, 1.0]]).double())
    drawn = wanted.sample(40_000, generator())
    torch.testing.assert_close(drawn.mean(0), wanted.mean, rtol=0, atol=0.03)
    torch.testing.assert_close(drawn.T.cov(), wanted.covariance, rtol=0, atol=0.05)
    assert torch.equal(drawn, wanted.sample(40_000, generator()))


def test_shrinkage_is_scikit_learns():
    covariance = pytest.importorskip("sklearn.covariance")
    sample = POINTS.T.cov(correction=0)
    for share in (0.1, 0.7):
        ours = shrunk(sample, share).numpy()
        theirs = covariance.shrunk_covariance(sample.numpy(), share)
        assert np.abs(ours - theirs).max() < 2e-6 * np.trace(theirs) / 64
    assert torch.linalg.cholesky(shrunk(torch.zeros(3, 3).double(), 0.0)).isfinite().all()
    with pytest.raises(UserError, match="shrinkage=1.5"):
        shrunk(sample, 1.5)


# -- mixtures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_em_is_scikit_learns_from_the_same_start(kind):
    mixture = pytest.importorskip("sklearn.mixture")
    points = Principal.fit(POINTS, 5).transform(POINTS)
    start = Mixture.fit(points, 4, kind, steps=1)
    precisions = (1 / start.covariances if kind == "diag" else torch.linalg.inv(start.covariances)).numpy()
    peer = mixture.GaussianMixture(4, covariance_type=kind, weights_init=start.weights.numpy(), tol=1e-6,
                                   means_init=start.means.numpy(), max_iter=40, reg_covar=1e-6,
                                   precisions_init=precisions[0] if kind == "tied" else precisions)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer.fit(points.numpy())
    ours = Mixture.fit(points, 4, kind, start=start, steps=peer.n_iter_, tolerance=0)
    assert np.abs(ours.means.numpy() - peer.means_).max() < 1e-8
    assert np.abs(ours.weights.numpy() - peer.weights_).max() < 1e-9
    theirs = peer.covariances_[None] if kind == "tied" else peer.covariances_
    assert np.abs(ours.covariances.numpy() - theirs).max() < 1e-8
    assert np.abs(ours.log_prob(points).numpy() - peer.score_samples(points.numpy())).max() < 1e-8
    assert np.abs(ours.responsibilities(points).numpy() - peer.predict_proba(points.numpy())).max() < 1e-8


@pytest.mark.parametrize("kind", KINDS)
def test_the_likelihood_never_falls(kind):
    points = Principal.fit(POINTS, 6).transform(POINTS)
    for seed in range(3):
        means = points[torch.randperm(len(points), generator=generator(seed))[:5]]
        start = Mixture(torch.full((5,), 0.2).double(), means,
                        {"full": torch.eye(6).repeat(5, 1, 1), "diag": torch.ones(5, 6), "tied": torch.eye(6)[None]
                         }[kind].double(), kind)
        history = Mixture.fit(points, 5, kind, start=start, tolerance=0, steps=40, ridge=0).history
        assert len(history) == 41 and min(np.diff(history)) > -1e-12


def test_a_mixture_finds_the_clusters_that_made_the_points_and_draws_like_them():
    points = blobs(2000)
    found = Mixture.fit(points, 4, seed=2)
    centres = 4 * torch.randn(4, 3, generator=generator(), dtype=torch.float64)
    apart = torch.cdist(found.means, centres)
    assert apart.amin(0).max() < 0.3 and found.weights.min() > 0.2
    drawn, which = found.sample(20_000, generator(1))
    torch.testing.assert_close(drawn.mean(0), points.mean(0), rtol=0, atol=0.15)
    assert (found.responsibilities(drawn).argmax(1) == which).float().mean() > 0.95
    assert float(found.log_prob(drawn).mean()) == pytest.approx(found.history[-1], abs=0.05)


def test_one_component_is_the_gaussian():
    points = blobs()
    torch.testing.assert_close(Mixture.fit(points, 1).covariances[0], Gaussian.fit(points).covariance, rtol=1e-4,
                               atol=1e-4)
    with pytest.raises(UserError, match="components=9"):
        Mixture.fit(points[:8], 9)
