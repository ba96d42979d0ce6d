"""Boltzmann machines against the sums over all states, and what a stack of them is good for."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from visus.core.errors import UserError
from visus.foundations.pretraining import BoltzmannMachine, decode, encode, fit, pretrain


def _states(count: int) -> np.ndarray:
    return np.array(list(itertools.product((0.0, 1.0), repeat=count)))


def _machine(seed: int = 0) -> BoltzmannMachine:
    rng = np.random.default_rng(seed)
    return BoltzmannMachine(rng.normal(size=(4, 3)), rng.normal(size=4), rng.normal(size=3))


def _joint(machine: BoltzmannMachine) -> np.ndarray:
    """p(v, h) over all 16 x 8 states."""
    v, h = _states(4), _states(3)
    energies = np.array([machine.energy(np.repeat(one[None], len(h), 0), h) for one in v])
    weights = np.exp(-energies)
    return weights / weights.sum()


def test_both_conditionals_and_the_free_energy_are_those_of_the_joint_distribution():
    machine, v, h = _machine(), _states(4), _states(3)
    joint = _joint(machine)
    np.testing.assert_allclose(machine.up(v), (joint @ h) / joint.sum(1, keepdims=True))
    np.testing.assert_allclose(machine.down(h), (joint.T @ v) / joint.sum(0)[:, None])
    marginal = np.exp(-machine.free_energy(v))
    np.testing.assert_allclose(marginal / marginal.sum(), joint.sum(1))


def test_contrastive_divergence_comes_to_the_gradient_of_the_likelihood_as_its_steps_grow():
    machine, v, h = _machine(1), _states(4), _states(3)
    joint = _joint(machine)
    data = np.repeat(v[[3, 5, 14]], 40_000, axis=0)
    exact = data.T @ machine.up(data) / len(data) - np.einsum("vh,vi,hj->ij", joint, v, h)
    rng, far = np.random.default_rng(0), []
    for steps in (1, 20):
        weights, _, _ = machine.divergence(data, rng, steps, drawn=True)
        far.append(float(np.abs(weights - exact).max()))
        assert (weights * exact).sum() > 0, "an ascent direction"
    assert far[1] < 0.01 < far[0]
    usual = machine.divergence(data, rng)[0]
    assert (usual * exact).sum() > 0.5 * np.linalg.norm(usual) * np.linalg.norm(exact)


def test_fitting_raises_the_likelihood_of_the_data():
    rng = np.random.default_rng(0)
    data = np.repeat(np.array([[1.0, 1, 0, 0], [0, 0, 1, 1]]), 50, axis=0)
    machine = BoltzmannMachine.of(rng, 4, 3)

    def likelihood() -> float:
        energies = machine.free_energy(_states(4))
        return float(-machine.free_energy(data).mean() - np.logaddexp.reduce(-energies))

    before = likelihood()
    errors = fit(machine, data, rng, epochs=80, rate=0.2)
    assert likelihood() > before + 1 and errors[-1] < 0.05 < errors[0]


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    from visus.data.opening import open_samples

    return open_samples("digits").images[:600].reshape(600, 64) / 255.0


def _error(machines: list[BoltzmannMachine], data: np.ndarray) -> float:
    return float(((decode(machines, encode(machines, data)) - data) ** 2).mean())


def test_a_deep_sigmoid_autoencoder_that_begins_pretrained_learns_where_one_of_small_weights_stays_at_the_mean(digits):
    """Hinton and Salakhutdinov 2006, small: 64-32-16-8 and back, the same steps of plain gradient descent for both."""
    pretrained = pretrain(digits, (32, 16, 8), epochs=15)
    rng = np.random.default_rng(0)
    random = [BoltzmannMachine.of(rng, i, o) for i, o in ((64, 32), (32, 16), (16, 8))]
    spread = float(digits.var(0).mean())
    assert _error(pretrained, digits) < 0.8 * _error(random, digits)
    after = {}
    for name, machines in (("pretrained", pretrained), ("random", random)):
        layers = [(torch.tensor(m.weights), torch.tensor(m.hidden)) for m in machines]
        layers += [(torch.tensor(m.weights.T.copy()), torch.tensor(m.visible)) for m in reversed(machines)]
        parameters = [p.requires_grad_() for pair in layers for p in pair]
        optimizer = torch.optim.SGD(parameters, lr=5.0, momentum=0.5)
        target = torch.tensor(digits)
        for _ in range(40):
            out = target
            for weight, bias in layers:
                out = torch.sigmoid(out @ weight + bias)
            loss = (out - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        after[name] = float(loss.detach())
    assert after["random"] > 0.95 * spread, "the mean image is all that it gives"
    assert after["pretrained"] < 0.75 * spread


def test_wrong_data_and_steps_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(UserError, match=r"\[0, 1\]"):
        fit(BoltzmannMachine.of(rng, 4, 2), np.full((3, 4), 2.0), rng)
    with pytest.raises(UserError, match="steps"):
        _machine().divergence(np.zeros((2, 4)), rng, steps=0)
