"""Update rules by hand beside the optimizers of `visus train`, on the same gradients, in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from visus.foundations import adaptive_rules as A
from visus.foundations import layer_rules as L
from visus.foundations import update_rules as U
from visus.optim.build import OPTIMIZERS, build_optimizer

# label -> (the rule by hand, optimizer's name, options of build_optimizer, steps)
PAIRS = {
    "sgd": (U.SGD(0.05), "sgd", {"momentum": 0.0}, 25),
    "momentum": (U.Momentum(0.05), "sgd", {"momentum": 0.9}, 25),
    "nesterov": (U.Nesterov(0.05), "sgd", {"momentum": 0.9, "nesterov": True}, 25),
    "adagrad": (U.AdaGrad(0.1), "adagrad", {}, 25),
    "rmsprop": (U.RMSProp(0.01), "rmsprop", {"momentum": 0.0}, 25),
    "adam": (U.Adam(0.01, weight_decay=0.1), "adam", {"weight_decay": 0.1}, 25),
    "adamw": (U.AdamW(0.01, weight_decay=0.1), "adamw", {"weight_decay": 0.1}, 25),
    "rprop": (A.Rprop(0.01), "rprop", {}, 40),
    "adadelta": (A.AdaDelta(1.0), "adadelta", {}, 25),
    "adamax": (A.Adamax(0.01), "adamax", {}, 25),
    "nadam": (A.NAdam(0.01), "nadam", {}, 25),
    "radam": (A.RAdam(0.01), "radam", {}, 25),
    "lars": (L.LARS(0.5, weight_decay=0.01), "lars", {"weight_decay": 0.01}, 25),
    "lars_plain": (L.LARS(0.05), "lars", {}, 25),
    "lamb": (L.LAMB(0.01, weight_decay=0.1), "lamb", {"weight_decay": 0.1}, 25),
    "lamb_plain": (L.LAMB(0.01), "lamb", {}, 25),
    "lion": (A.Lion(0.01, weight_decay=0.1), "lion", {"betas": (0.9, 0.99), "weight_decay": 0.1}, 25),
    "muon": (L.Muon(0.02, weight_decay=0.1), "muon", {"nesterov": True, "weight_decay": 0.1}, 25),
    "asgd": (U.AveragedSGD(0.05), "asgd", {}, 130),
}
WITHOUT = {"muon_sgd", "muon_unit", "lbfgs", "sfo", "newton", "diagonal_lm", "random_search",
           "local_search"}  # more than dw


@pytest.fixture(autouse=True)
def double():
    """torch's NAdam keeps the product of its momenta in the default type."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def slope(w: np.ndarray, t: int) -> np.ndarray:
    """Of a bowl with a wave, and a push that changes from step to step; every sign turns now and then."""
    return np.arange(1, w.size + 1).reshape(w.shape) / 7 * w + 0.3 * np.sin(5 * w) + 0.2 * np.cos(1.7 * t + w)


@pytest.mark.parametrize("label", PAIRS)
def test_the_rule_by_hand_walks_with_the_optimizer(label):
    rule, name, options, steps = PAIRS[label]
    w = np.random.default_rng(4).normal(size=(4, 5))
    parameter = torch.nn.Parameter(torch.tensor(w))
    optimizer, state = build_optimizer(name, [parameter], lr=rule.lr, **options), rule.start(w)
    for t in range(steps):
        kept = w.copy()
        new = rule.step(w, slope(w, t), state)
        assert np.array_equal(w, kept)  # a new array
        parameter.grad = torch.tensor(slope(w, t))
        optimizer.step()
        np.testing.assert_allclose(new, parameter.detach().numpy(), rtol=1e-12, atol=1e-12, err_msg=f"step {t + 1}")
        w = new
    if label == "asgd":
        np.testing.assert_allclose(state["average"], optimizer.state[parameter]["average"].numpy(), rtol=1e-12)
        assert not np.allclose(state["average"], w)


def test_every_optimizer_that_is_a_rule_of_the_gradient_is_here():
    assert set(OPTIMIZERS) - WITHOUT == {name for _, name, _, _ in PAIRS.values()}


def test_sutskevers_nesterov_stands_behind_bengios_by_one_look_ahead():
    def gradient(w: np.ndarray) -> np.ndarray:
        return slope(w, 0)

    w, velocity = np.random.default_rng(5).normal(size=(4, 5)), np.zeros((4, 5))
    rule, ahead = U.Nesterov(lr=0.05), w.copy()
    state = rule.start(ahead)
    parameter = torch.nn.Parameter(torch.tensor(w))
    optimizer = build_optimizer("sgd", [parameter], lr=0.05, momentum=0.9, nesterov=True)
    for _ in range(25):
        w, velocity = U.nesterov_lookahead(w, velocity, gradient, lr=0.05)
        ahead = rule.step(ahead, gradient(ahead), state)
        parameter.grad = torch.tensor(gradient(parameter.detach().numpy()))
        optimizer.step()
        np.testing.assert_allclose(w + 0.9 * velocity, parameter.detach().numpy(), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(ahead, parameter.detach().numpy(), rtol=1e-12, atol=1e-12)


def test_radam_begins_with_momentum_and_rprops_step_sizes_stay_in_bounds():
    w = np.array([1.0, -2.0])
    first = A.RAdam(0.1)
    assert np.allclose(first.step(w, np.array([3.0, 0.5]), first.start(w)), w - 0.1 * np.array([3.0, 0.5]))
    rule = A.Rprop(1.0)
    state = rule.start(w)
    for _ in range(60):
        rule.step(w, np.ones(2), state)
    assert (state["sizes"] == 50).all()
