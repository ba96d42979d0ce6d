"""Downpour and Sandblaster: alone they are the plain optimizers; what staleness, slow workers and shards change."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from visus.core.errors import UserError
from visus.optim.downpour import downpour
from visus.optim.sandblaster import Shards, hand_out, sandblaster

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(240, 12, generator=GENERATOR, dtype=torch.float64)
LABELS = (X @ torch.randn(12, 3, generator=GENERATOR, dtype=torch.float64)).argmax(1)
START = [torch.zeros(3, 12, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)]


def loss_of(weights, rows):
    return F.cross_entropy(F.linear(X[rows], *weights), LABELS[rows])


def gradient(weights, batch):
    leaves = [w.detach().requires_grad_() for w in weights]
    loss = loss_of(leaves, slice(batch % 12 * 20, batch % 12 * 20 + 20))
    return loss.item(), list(torch.autograd.grad(loss, leaves))


def portion(flat, number):
    """Of eight, whose losses and gradients add up to those of the mean over all, with a small price on the weights."""
    leaf = flat.detach().requires_grad_()
    rows = slice(number * 30, number * 30 + 30)
    loss = F.cross_entropy(F.linear(X[rows], leaf[:36].view(3, 12), leaf[36:]), LABELS[rows], reduction="sum") / len(X)
    loss = loss + 0.01 / 8 * (leaf ** 2).sum()
    return loss.item(), torch.autograd.grad(loss, leaf)[0]


SERVERS = {"sgd": lambda w: torch.optim.SGD(w, lr=0.3), "momentum": lambda w: torch.optim.SGD(w, lr=0.1, momentum=0.9),
           "adagrad": lambda w: torch.optim.Adagrad(w, lr=0.3)}


@pytest.mark.parametrize("name", SERVERS)
def test_one_replica_that_fetches_and_pushes_each_step_is_the_optimizer_to_the_bit(name):
    weights = [w.clone().requires_grad_() for w in START]
    optimizer = SERVERS[name](weights)
    for step in range(30):
        for w, g in zip(weights, gradient(weights, step)[1], strict=True):
            w.grad = g
        optimizer.step()
    found = downpour(START, gradient, SERVERS[name], updates=30)
    assert all(torch.equal(a, b) for a, b in zip(found.weights, weights, strict=True))
    assert found.staleness == [0] * 30 and found.times == [float(k + 1) for k in range(30)]
    assert not START[0].any()  # left as they were


def test_equal_replicas_are_stale_by_their_number_less_one_and_the_rule_can_be_written_out():
    found = downpour(START, gradient, SERVERS["sgd"], updates=40, replicas=4)
    assert found.staleness[3:] == [3] * 37 and found.staleness[:3] == [0, 1, 2]
    assert found.times[-1] == pytest.approx(1 + 39 / 4)  # four times as many updates a second
    history = [START]  # weights after each update; update t takes the gradient of three updates ago
    for step in range(40):
        slopes = gradient(history[max(0, step - 3)], step)[1]
        history.append([w - 0.3 * g for w, g in zip(history[-1], slopes, strict=True)])
    for ours, by_hand in zip(found.weights, history[-1], strict=True):
        torch.testing.assert_close(ours, by_hand, rtol=1e-12, atol=1e-12)


def test_a_slow_replica_pushes_seldom_and_what_it_pushes_is_old():
    found = downpour(START, gradient, SERVERS["adagrad"], updates=60, replicas=3, durations=[1, 1, 7])
    again = downpour(START, gradient, SERVERS["adagrad"], updates=60, replicas=3, durations=[1, 1, 7])
    assert found.staleness == again.staleness and torch.equal(found.weights[0], again.weights[0])
    assert max(found.staleness) >= 13 and sum(s > 5 for s in found.staleness) == 4
    assert found.losses[-1] < found.losses[0]


def test_pushes_and_fetches_can_be_rarer_and_the_replica_walks_alone_in_between():
    whole = downpour(START, gradient, SERVERS["sgd"], updates=5, n_fetch=3, n_push=3)
    walked = downpour(START, gradient, SERVERS["sgd"], updates=5, n_fetch=3, n_push=3, local_lr=0.3)
    server, batch, local = START, 0, START
    for _ in range(5):
        local, accrued = server, [torch.zeros_like(w) for w in server]
        for _ in range(3):
            slopes = gradient(local, batch)[1]
            batch += 1
            accrued = [a + g for a, g in zip(accrued, slopes, strict=True)]
            local = [w - 0.3 * g for w, g in zip(local, slopes, strict=True)]
        server = [w - 0.3 * g for w, g in zip(server, accrued, strict=True)]
    torch.testing.assert_close(walked.weights[0], server[0], rtol=1e-12, atol=1e-12)
    assert not torch.equal(whole.weights[0], walked.weights[0]) and whole.times[-1] == 15


def test_staleness_costs_progress_at_a_large_rate():
    def last(replicas):
        server = lambda w: torch.optim.SGD(w, lr=4.0)  # noqa: E731
        found = downpour(START, gradient, server, updates=120, replicas=replicas)
        return float(loss_of(found.weights, slice(None)))

    assert last(1) < 0.2 and last(16) > 2 * last(1)


def test_sandblaster_is_torchs_lbfgs_however_it_is_cut():
    flat = torch.zeros(39, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([flat], lr=0.8, max_iter=15, history_size=5, tolerance_grad=0, tolerance_change=0)

    def closure():
        flat.grad = sum(portion(flat, k)[1] for k in range(8))
        return sum(portion(flat, k)[0] for k in range(8))

    optimizer.step(closure)
    for shards in (1, 3, 39):
        found = sandblaster(torch.zeros(39, dtype=torch.float64), portion, steps=15, portions=8, shards=shards,
                            durations=[1.0] * 4, history=5, lr=0.8)
        torch.testing.assert_close(found.weights, flat.detach(), rtol=1e-7, atol=1e-9)
    assert found.losses[-1] < 0.5 * found.losses[0]


def test_a_slow_worker_and_backup_tasks_change_the_time_and_not_a_bit():
    runs = {name: sandblaster(torch.zeros(39, dtype=torch.float64), portion, steps=6, portions=8, shards=3,
                              durations=durations, backup=backup)
            for name, durations, backup in (("even", [1, 1, 1, 1], True), ("slow", [1, 1, 1, 20], False),
                                            ("backup", [1, 1, 1, 20], True))}
    assert all(torch.equal(run.weights, runs["even"].weights) for run in runs.values())
    assert runs["even"].seconds == 12 and runs["slow"].seconds == 120
    assert runs["backup"].seconds == 18 and runs["backup"].copies == 6 and runs["even"].copies == 0


def test_portions_go_to_whoever_is_free():
    found = hand_out(5, [1.0, 2.0], backup=False)
    assert found.done_by == (0, 1, 0, 0, 1) and found.seconds == 4.0  # at 0 0 1 2 2
    assert hand_out(3, [1.0, 10.0]).done_by == (0, 0, 0)  # the copy of portion 1 is back first
    cut = Shards.cut(torch.arange(7.0), 3)
    assert [len(p) for p in cut.pieces] == [3, 2, 2] and cut.dot(cut) == 91.0 and cut.size() == 21.0
    assert torch.equal(cut.plus(cut, 2.0).whole(), 3 * torch.arange(7.0))


def test_wrong_numbers_are_named():
    for call in (lambda: downpour(START, gradient, SERVERS["sgd"], updates=0),
                 lambda: downpour(START, gradient, SERVERS["sgd"], updates=1, replicas=2, durations=[1.0]),
                 lambda: sandblaster(torch.zeros(39), portion, steps=1, portions=8, durations=[0.0])):
        with pytest.raises(UserError, match="must"):
            call()
