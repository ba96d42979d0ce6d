"""The surrogate against scikit-learn's, the acquisition functions against numerical integration."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Matern, WhiteKernel

from visus.core.errors import UserError
from visus.search.acquisition import acquisition, expected_improvement, probability_of_improvement
from visus.search.gaussian_process import GaussianProcess, Hyper, fit

LENGTHS = (0.3, 0.7, 1.5)


def made_up(count: int = 15, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    inputs = rng.random((count, 3))
    return inputs, np.sin(5 * inputs[:, 0]) + inputs[:, 1] + 0.05 * rng.normal(size=count)


@pytest.mark.parametrize(("kernel", "theirs"), [("matern52", Matern(LENGTHS, nu=2.5)), ("rbf", RBF(LENGTHS))])
def test_posterior_and_likelihood_are_scikit_learns(kernel, theirs):
    inputs, values = made_up()
    ours = GaussianProcess(inputs, values, Hyper(LENGTHS, scale=1.7, noise=0.01), kernel=kernel)
    kernel_of_peer = ConstantKernel(1.7) * theirs + WhiteKernel(0.01)
    peer = GaussianProcessRegressor(kernel_of_peer, optimizer=None).fit(inputs, values)
    new = np.random.default_rng(1).random((20, 3))
    mean, std = ours.posterior(new)
    peer_mean, peer_std = peer.predict(new, return_std=True)
    np.testing.assert_allclose(mean, peer_mean, atol=1e-6)
    np.testing.assert_allclose(np.sqrt(std**2 + 0.01), peer_std, atol=1e-6)  # theirs adds the noise
    assert ours.log_likelihood == pytest.approx(peer.log_marginal_likelihood_value_, abs=1e-6)


def test_the_fit_beats_the_likelihood_of_the_true_generator_and_finds_what_does_not_matter():
    inputs, values = made_up(40)
    scaled = (values - values.mean()) / values.std()
    process = fit(inputs, scaled)
    assert process.log_likelihood > GaussianProcess(inputs, scaled, Hyper((0.5,) * 3, 1.0, 0.01)).log_likelihood
    lengths = process.hyper.lengths
    assert lengths[0] < lengths[1] < lengths[2]  # sine, line, nothing


def test_columns_of_one_choice_share_their_length():
    inputs, values = made_up(12)
    lengths = fit(inputs, values - values.mean(), groups=(0, 1, 1)).hyper.lengths
    assert lengths[1] == lengths[2] != lengths[0]


@pytest.mark.parametrize(("mean", "std", "best", "margin"), [(0.3, 0.5, 0.1, 0.0), (-1.0, 0.7, 0.4, 0.05),
                                                             (2.0, 0.01, 1.9, 0.0), (0.0, 3.0, 5.0, 0.5)])
def test_improvements_are_their_integrals(mean, std, best, margin):
    density = stats.norm(mean, std).pdf
    ends = (best + margin, max(best + margin, mean) + 12 * std)
    gain = integrate.quad(lambda f: (f - best - margin) * density(f), *ends, epsabs=1e-12)[0]
    chance = integrate.quad(density, *ends, epsabs=1e-12)[0]
    m, s = np.array([mean]), np.array([std])
    assert expected_improvement(m, s, best, margin)[0] == pytest.approx(gain, abs=1e-9)
    assert probability_of_improvement(m, s, best, margin)[0] == pytest.approx(chance, abs=1e-9)


def test_the_bound_is_mean_and_kappa_deviations_and_where_all_is_known_the_gain_is_plain():
    m, s = np.array([1.0, 3.0]), np.array([0.5, 0.0])
    np.testing.assert_allclose(acquisition("ucb", m, s, 0.0, kappa=2.0), [2.0, 3.0])
    assert expected_improvement(m, s, 2.5)[1] == 0.5
    with pytest.raises(UserError, match="no such acquisition"):
        acquisition("eii", m, s, 0.0)
