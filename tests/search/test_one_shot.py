"""Shared weights: a path equals the network that it stands for, and what trains is what was drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from visus.search.cell_space import Cells, CellSpace
from visus.search.one_shot import (
    Relaxation,
    SuperNet,
    evolve,
    inherited_score,
    kendall,
    measure_statistics,
    train_relaxation,
    train_shared,
)
from visus.search.proxy import Protocol, ProxyData, accuracy

SPACE = CellSpace(2, ("identity", "sep_3", "dil_3", "avg_3", "max_3"))


def drawn(count: int, seed: int = 0, space: CellSpace = SPACE) -> list[Cells]:
    generator = np.random.default_rng(seed)
    return [space.decode(space.draw(generator)) for _ in range(count)]


def supernet(space: CellSpace = SPACE) -> SuperNet:
    net = SuperNet(space, num_cells=4, dim=4, stem_dim=6, num_classes=3).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, buffer in net.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.1)
    return net


def bars(count: int = 240) -> ProxyData:
    """Three kinds of 8 x 8 images: upright bars, level bars, noise."""
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(count, 1, 8, 8, generator=generator) * 0.3, torch.arange(count) % 3
    images[labels == 0, :, :, ::2] += 1
    images[labels == 1, :, ::2] += 1
    return ProxyData(images[:160], labels[:160], images[160:], labels[160:], 3)


@pytest.mark.parametrize("train", [False, True])
def test_a_path_equals_the_network_of_its_cells(train):
    """Same outputs, and in training the same gradients, for every candidate that inherits its weights."""
    net, images = supernet(), torch.randn(3, 1, 7, 7, dtype=torch.float64)
    for cells in drawn(6):
        child = net.child(cells)
        net.train(train)
        child.train(train)
        state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        ours, theirs = net(images, cells), child(images)
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
        shared, = torch.autograd.grad(ours.square().sum(), net.stem[0].weight)
        own, = torch.autograd.grad(theirs.square().sum(), child.stem[0].weight)
        torch.testing.assert_close(shared, own, rtol=1e-9, atol=1e-12)
        net.load_state_dict(state)


def test_the_mixture_of_one_operation_each_is_a_path():
    """Weights of 1 on the operations of a cell and 0 elsewhere; edges of node 0: from 0, 1; of node 1: from 0, 1, 2."""
    net, images = supernet().eval(), torch.randn(2, 1, 8, 8, dtype=torch.float64)
    cells = Cells(("identity:0 sep_3:1", "dil_3:1 max_3:2"), ("avg_3:0 identity:1", "sep_3:0 identity:2"))
    weights = {}
    for kind, nodes in cells.config().items():
        table = torch.zeros(5, len(SPACE.operations), dtype=torch.float64)
        for number, node in enumerate(nodes):
            for part in node.split():
                name, source = part.split(":")
                table[2 * number + int(source), SPACE.operations.index(name)] = 1
        weights[kind] = table
    torch.testing.assert_close(net.mixture(images, **weights), net(images, cells), rtol=1e-12, atol=1e-12)


def test_a_step_trains_one_path_alone():
    net, cells = supernet(), Cells(("sep_3:0 sep_3:1", "sep_3:0 sep_3:1"), ("sep_3:0 sep_3:1", "sep_3:0 sep_3:1"))
    net(torch.randn(3, 1, 8, 8, dtype=torch.float64), cells).sum().backward()
    touched = {name for name, p in net.named_parameters() if p.grad is not None}
    operations = {name for name, _ in net.named_parameters() if ".edges." in name}
    assert {n for n in touched if ".edges." in n} == {n for n in operations if ".sep_3." in n and ".2_1." not in n}


def test_statistics_are_the_mean_over_batches():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    images = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    measure_statistics(model, images, batch_size=3)
    halves = [model[0](half) for half in images.split(3)]
    torch.testing.assert_close(model[1].running_mean, torch.stack([h.mean((0, 2, 3)) for h in halves]).mean(0))
    torch.testing.assert_close(model[1].running_var, torch.stack([h.var((0, 2, 3)) for h in halves]).mean(0))
    assert model[1].momentum == 0.1


def test_training_shared_weights_makes_inherited_scores_mean_something():
    data, space = bars(), CellSpace(1, ("identity", "sep_3"))
    net = SuperNet(space, num_cells=3, dim=4, stem_dim=4, num_classes=3)
    train_shared(net, data, Protocol(epochs=5, batch_size=16, lr=0.05))
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    scores = [inherited_score(net, cells, data) for cells in drawn(3, space=space)]
    assert max(scores) > 0.8
    assert all(torch.equal(state[name], tensor) for name, tensor in net.state_dict().items())  # scoring changes nothing


def test_a_derived_cell_takes_the_two_heaviest_inputs():
    relaxation = Relaxation(CellSpace(2, ("identity", "sep_3", "max_3")))
    with torch.no_grad():
        relaxation.normal.copy_(torch.tensor([[0.0, 2, 0], [0, 0, 1], [3, 0, 0], [0, 0, 0.1], [0, 2, 0]]))
    cells = relaxation.derive()
    assert cells.normal == ("sep_3:0 max_3:1", "identity:0 sep_3:2")
    assert cells.reduction[0] in ("identity:0 identity:1",)


def test_darts_learns_to_use_the_operation_that_helps():
    """An identity cannot tell upright from level bars after the mean over places; a convolution can."""
    data, space = bars(), CellSpace(1, ("max_3", "sep_3"))
    net = SuperNet(space, num_cells=3, dim=4, stem_dim=4, num_classes=3)
    start = accuracy_of_mixture(net, data)
    relaxation = train_relaxation(net, data, Protocol(epochs=6, batch_size=16, lr=0.05), alpha_lr=0.05)
    assert relaxation.normal.abs().max() > 0.05 and accuracy_of_mixture(net, data, relaxation) > max(0.7, start)
    assert all(p.grad is not None for n, p in net.named_parameters() if n.startswith("stem"))


def accuracy_of_mixture(net: SuperNet, data: ProxyData, relaxation: Relaxation | None = None) -> float:
    relaxation = relaxation or Relaxation(net.space)

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.relaxation = net, relaxation

        def forward(self, images):
            return self.relaxation(self.net, images)

    return accuracy(Mixed(), data.val_images, data.val_labels)


def test_evolution_beats_chance_on_a_known_score():
    space, hidden = CellSpace(3), CellSpace(3).draw(np.random.default_rng(9))

    def score(tokens):
        return sum(a == b for a, b in zip(tokens, hidden, strict=True)) / len(hidden)

    ranked = evolve(space, score, 0, population=20, generations=25)
    generator = np.random.default_rng(0)
    chance = max(score(space.draw(generator)) for _ in range(len(ranked)))
    assert [s for _, s in ranked] == sorted((s for _, s in ranked), reverse=True) and len(dict(ranked)) == len(ranked)
    assert ranked[0][1] > chance + 0.2 and ranked == evolve(space, score, 0, population=20, generations=25)


def test_rank_correlation_equals_scipys():
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(0)
    a, b = generator.integers(0, 6, 30), generator.random(30).round(1)
    assert kendall(a, b) == pytest.approx(stats.kendalltau(a, b).statistic, abs=1e-12)
    assert kendall(b, b) == pytest.approx(1) and kendall([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert kendall([1, 1], [1, 2]) == 0
