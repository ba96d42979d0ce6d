"""Initialisers, update rules, networks and the solver: against torch, closed forms and each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from visus.core.errors import TrainingDiverged, UserError
from visus.foundations import initialisers as init
from visus.foundations import update_rules as U
from visus.foundations.gradient_check import check_gradient
from visus.foundations.networks import FullyConnectedNet, TwoLayerNet
from visus.foundations.solver import Solver, accuracy


def rng(seed=0):
    return np.random.default_rng(seed)


# ---------------------------------------------------------------- initialisers

DENSE, CONV = (400, 300), (64, 32, 3, 3)
PEERS = {
    "xavier_normal": (init.xavier_normal, torch.nn.init.xavier_normal_),
    "xavier_uniform": (init.xavier_uniform, torch.nn.init.xavier_uniform_),
    "kaiming_normal": (init.kaiming_normal, lambda t: torch.nn.init.kaiming_normal_(t, nonlinearity="relu")),
    "kaiming_uniform": (init.kaiming_uniform, lambda t: torch.nn.init.kaiming_uniform_(t, nonlinearity="relu")),
    "kaiming_slope": (lambda r, s: init.kaiming_normal(r, s, 0.5), lambda t: torch.nn.init.kaiming_normal_(t, a=0.5)),
}


@pytest.mark.parametrize("shape", [DENSE, CONV], ids=str)
@pytest.mark.parametrize("name", PEERS)
def test_initial_weights_have_torchs_distribution(name, shape):
    ours, peer = PEERS[name]
    torch.manual_seed(0)
    w = ours(rng(), shape)
    theirs = peer(torch.empty(shape[::-1] if len(shape) == 2 else shape)).numpy()  # torch's dense layer is [M, D]
    assert w.shape == shape and abs(w.mean()) < 4 * w.std() / np.sqrt(w.size)
    assert w.std() == pytest.approx(theirs.std(), rel=0.02)
    assert np.abs(w).max() == pytest.approx(np.abs(theirs).max(), rel=0.001 if "uniform" in name else 0.3)


def test_fans_orthogonal_and_sparse():
    assert init.fans((7, 5)) == (7, 5) and init.fans((8, 4, 3, 3)) == (36, 72)
    for shape in ((6, 6), (9, 4), (4, 9), (4, 3, 2, 2)):
        w = init.orthogonal(rng(), shape, gain=2.0).reshape(shape[0], -1)
        gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
        np.testing.assert_allclose(gram, 4 * np.eye(len(gram)), atol=1e-12)
    w = init.sparse(rng(), (100, 40), 15)
    assert ((w != 0).sum(0) == 15).all() and w[w != 0].std() == pytest.approx(1, rel=0.1)
    assert init.small_random(rng(), DENSE).std() == pytest.approx(0.01, rel=0.01)
    assert init.calibrated(rng(), DENSE).std() == pytest.approx(1 / 20, rel=0.01) and not init.zeros((2, 3)).any()
    for call in (lambda: init.fans((3,)), lambda: init.orthogonal(rng(), (3,)), lambda: init.sparse(rng(), (3, 4), 5)):
        with pytest.raises(UserError):
            call()


def test_kaiming_keeps_the_signal_through_twenty_relu_layers_and_small_random_loses_it():
    for start, low, high in ((init.kaiming_normal, 0.3, 3), (init.small_random, 0, 1e-6)):
        random, x = rng(1), rng(2).standard_normal((200, 256))
        for _ in range(20):
            x = np.maximum(x @ start(random, (256, 256)), 0)
        assert low <= np.sqrt((x ** 2).mean()) <= high


@pytest.mark.parametrize("start", [0.0, 0.1])
def test_equal_weights_never_break_their_symmetry(start):
    net = TwoLayerNet(12, 7, 5, rng=rng())
    net.params = {name: np.full_like(w, start if name.startswith("w") else 0) for name, w in net.params.items()}
    solver = Solver(net, train=(X, LABELS), val=(X, LABELS), rule=U.SGD(lr=0.1), rng=rng(), epochs=20)
    solver.train()
    assert np.ptp(net.params["w1"], axis=1).max() < 1e-12  # every hidden unit has the same weights
    assert np.ptp(net.params["w2"], axis=0).max() < 1e-12


# ---------------------------------------------------------------- update rules

RULES = {
    "sgd": (U.SGD(lr=0.05), lambda p: torch.optim.SGD(p, lr=0.05)),
    "momentum": (U.Momentum(lr=0.05), lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9)),
    "nesterov": (U.Nesterov(lr=0.05), lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True)),
    "adagrad": (U.AdaGrad(lr=0.1), lambda p: torch.optim.Adagrad(p, lr=0.1)),
    "rmsprop": (U.RMSProp(lr=0.01), lambda p: torch.optim.RMSprop(p, lr=0.01)),
    "adam": (U.Adam(lr=0.01), lambda p: torch.optim.Adam(p, lr=0.01)),
    "adam_l2": (U.Adam(lr=0.01, weight_decay=0.1), lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1)),
    "adamw": (U.AdamW(lr=0.01, weight_decay=0.1), lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1)),
}
QUADRATIC = rng(3).normal(size=(4, 5))


def bowl(w):
    """The gradient of 1/2 |Q w|^2 + 1/4 |w|^4 entry by entry."""
    return QUADRATIC ** 2 * w + w ** 3


@pytest.mark.parametrize("name", RULES)
def test_ten_steps_equal_torch_optim(name):
    rule, peer = RULES[name]
    w = rng(4).normal(size=(4, 5))
    parameter = torch.nn.Parameter(torch.tensor(w))
    optimizer, state = peer([parameter]), rule.start(w)
    for _ in range(10):
        kept, gradient = w.copy(), bowl(w)
        parameter.grad = torch.tensor(bowl(parameter.detach().numpy()))
        optimizer.step()
        new = rule.step(w, gradient, state)
        assert np.array_equal(w, kept)
        w = new
        np.testing.assert_allclose(w, parameter.detach().numpy(), rtol=1e-10, atol=1e-14)


def test_both_forms_of_nesterov_walk_the_same_path():
    w, velocity = rng(5).normal(size=(4, 5)), np.zeros((4, 5))
    rule, ahead = U.Nesterov(lr=0.05), w.copy()
    state = rule.start(ahead)
    for _ in range(10):
        w, velocity = U.nesterov_lookahead(w, velocity, bowl, lr=0.05)
        ahead = rule.step(ahead, bowl(ahead), state)
        np.testing.assert_allclose(ahead, w + 0.9 * velocity, rtol=1e-10, atol=1e-14)


# ---------------------------------------------------------------- networks

X, LABELS = rng(6).normal(size=(8, 3, 4)), rng(7).integers(0, 5, 8)


def torch_loss(net, params):
    x = torch.tensor(X).flatten(1)
    last = len(net.hidden) + 1
    for i in range(1, last):
        x = x @ params[f"w{i}"] + params[f"b{i}"]
        if net.normalisation == "batch":
            x = F.batch_norm(x, None, None, params[f"gamma{i}"], params[f"beta{i}"], training=True)
        elif net.normalisation == "layer":
            x = F.layer_norm(x, x.shape[1:], params[f"gamma{i}"], params[f"beta{i}"])
        x = x.relu()
    loss = F.cross_entropy(x @ params[f"w{last}"] + params[f"b{last}"], torch.tensor(LABELS))
    return loss + 0.5 * net.reg * sum((w ** 2).sum() for name, w in params.items() if name.startswith("w"))


@pytest.mark.parametrize("normalisation", [None, "batch", "layer"])
@pytest.mark.parametrize("hidden", [(), (7,), (7, 6, 9)], ids=str)
def test_a_network_of_any_depth_equals_torch(hidden, normalisation):
    net = FullyConnectedNet(12, hidden, 5, rng=rng(), normalisation=normalisation, reg=0.3)
    for name in net.params:  # biases, gammas and betas that play a part
        net.params[name] = net.params[name] + 0.1 * rng(8).normal(size=net.params[name].shape)
    loss, grads = net.loss(X, LABELS)
    params = {name: torch.tensor(w, requires_grad=True) for name, w in net.params.items()}
    expected = torch_loss(net, params)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-12) and set(grads) == set(net.params)
    for name, w in params.items():
        np.testing.assert_allclose(grads[name], w.grad.numpy(), rtol=1e-10, atol=1e-12, err_msg=name)


def test_the_two_layer_net_equals_the_general_one_with_one_hidden_layer():
    two = TwoLayerNet(12, 7, 5, rng=rng(), scale=0.5, reg=0.2)
    general = FullyConnectedNet(12, (7,), 5, rng=rng(), reg=0.2)
    general.params = two.params
    (loss, grads), (expected, others) = two.loss(X, LABELS), general.loss(X, LABELS)
    assert loss == pytest.approx(expected, rel=1e-14)
    for name, gradient in grads.items():
        np.testing.assert_allclose(gradient, others[name], rtol=1e-12)
    np.testing.assert_allclose(two.scores(X), general.scores(X), rtol=1e-14)


@pytest.mark.parametrize("normalisation, keep", [("batch", 1.0), ("layer", 0.6), (None, 0.6)])
def test_gradients_with_dropout_pass_the_check_under_the_same_masks(normalisation, keep):
    net = FullyConnectedNet(12, (17, 16), 5, rng=rng(), normalisation=normalisation, keep=keep, reg=0.1)
    for name in net.params:  # with biases of zero, an example whose units are all dropped would sit on the ReLU's kink
        net.params[name] = net.params[name] + 0.1 * rng(8).normal(size=net.params[name].shape)

    def loss_at(_):
        net.rng = rng(9)
        return net.loss(X, LABELS)[0]

    net.rng = rng(9)
    grads = net.loss(X, LABELS)[1]
    for name, w in net.params.items():
        found = check_gradient(loss_at, w, grads[name], rng=rng(10), entries=10, floor=1e-3)
        assert found.error < 1e-7, f"{name}: {found}"


def test_scores_use_running_statistics_and_no_dropout():
    net = FullyConnectedNet(12, (7,), 5, rng=rng(), normalisation="batch", keep=0.5)
    for _ in range(300):
        net.loss(X, LABELS)
    assert np.array_equal(net.scores(X), net.scores(X))
    np.testing.assert_allclose(net.scores(X)[:1], net.scores(X[:1]), rtol=1e-12)  # no example sees another
    with pytest.raises(UserError, match="normalisation"):
        FullyConnectedNet(12, (7,), 5, rng=rng(), normalisation="group")


# ---------------------------------------------------------------- solver


def spirals(n, seed):
    """Three arms that no line separates. [3n, 2] and labels."""
    random = rng(seed)
    radius = np.linspace(0, 1, n)
    angle = [np.linspace(k * 4, (k + 1) * 4, n) + 0.1 * random.standard_normal(n) for k in range(3)]
    return (np.concatenate([np.stack([radius * np.sin(a), radius * np.cos(a)], 1) for a in angle]),
            np.repeat(np.arange(3), n))


def test_a_network_learns_the_spirals_that_no_line_separates():
    train, val = spirals(100, 0), spirals(40, 1)
    found = {}
    for hidden in ((), (32, 32)):
        net = FullyConnectedNet(2, hidden, 3, rng=rng())
        solver = Solver(net, train=train, val=val, rule=U.Adam(lr=0.01), rng=rng(2), batch_size=50, epochs=60)
        solver.train()
        found[hidden] = solver.best_val_accuracy
        assert accuracy(net, *val) == solver.best_val_accuracy == max(solver.history.val_accuracies)
        assert len(solver.history.losses) == 60 * 6 and len(solver.history.train_accuracies) == 60
    assert found[()] < 0.7 and found[(32, 32)] > 0.95


def test_the_solver_equals_torchs_loop_with_the_same_batches_and_decay():
    train = (X, LABELS)
    net = FullyConnectedNet(12, (7,), 5, rng=rng())
    params = {name: torch.tensor(w, requires_grad=True) for name, w in net.params.items()}
    solver = Solver(net, train=train, val=train, rule=U.SGD(lr=0.1), rng=rng(3), batch_size=3, epochs=4, lr_decay=0.5)
    optimizer = torch.optim.SGD(params.values(), lr=0.1)
    order = rng(3)
    losses = []
    for epoch in range(4):
        indices = order.permutation(8)
        for start in (0, 3, 6):
            batch = indices[start:start + 3]
            x = torch.tensor(X[batch]).flatten(1)
            scores = (x @ params["w1"] + params["b1"]).relu() @ params["w2"] + params["b2"]
            loss = F.cross_entropy(scores, torch.tensor(LABELS[batch]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        optimizer.param_groups[0]["lr"] = 0.1 * 0.5 ** (epoch + 1)
    solver.train()
    np.testing.assert_allclose(solver.history.losses, losses, rtol=1e-10)
    assert solver.rule.lr == 0.1


def test_divergence_and_wrong_settings_are_said():
    net = TwoLayerNet(12, 7, 5, rng=rng())
    net.params["b2"][0] = np.nan
    with pytest.raises(TrainingDiverged, match="step 1"):
        Solver(net, train=(X, LABELS), val=(X, LABELS), rule=U.SGD(lr=0.1), rng=rng()).train()
    for change in ({"train": (X, LABELS[:3])}, {"val": (X[:0], LABELS[:0])}, {"batch_size": 0}, {"epochs": 0}):
        with pytest.raises(UserError):
            Solver(net, **{"train": (X, LABELS), "val": (X, LABELS), "rule": U.SGD(lr=0.1), "rng": rng()} | change)
