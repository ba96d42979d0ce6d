"""The training loop by hand: draw a batch, ask for gradients, let the update rule move each parameter, keep the best.

    solver = Solver(net, train=(x, labels), val=(x_val, labels_val), rule=Adam(lr=1e-3), rng=rng)
    solver.train()
    solver.history.losses, solver.history.val_accuracies

Source: the solver of Stanford CS231n, assignment 2.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from visus.core.errors import TrainingDiverged, UserError
from visus.foundations.update_rules import UpdateRule

Examples = tuple[np.ndarray, np.ndarray]


class Network(Protocol):
    """What the solver asks of a network."""

    params: dict[str, np.ndarray]

    def scores(self, x: np.ndarray) -> np.ndarray: ...

    def loss(self, x: np.ndarray, labels: np.ndarray) -> tuple[float, dict[str, np.ndarray]]: ...


@dataclass
class History:
    """The loss of each step, and the accuracies after each epoch."""

    losses: list[float] = field(default_factory=list)
    train_accuracies: list[float] = field(default_factory=list)
    val_accuracies: list[float] = field(default_factory=list)


class Solver:
    """Trains a network in place; at the end the network holds the parameters of the best validation accuracy.

    rule: its numbers are shared by all parameters, its state is one for each; lr_decay: the factor on the learning rate
    after each epoch (the rule given is not changed). An epoch is a new permutation; a last, smaller batch is used too.
    """

    def __init__(self, network: Network, *, train: Examples, val: Examples, rule: UpdateRule,
                 rng: np.random.Generator, batch_size: int = 100, epochs: int = 10, lr_decay: float = 1.0):
        for name, (x, labels) in (("train", train), ("val", val)):
            if len(x) != len(labels) or not len(x):
                raise UserError(f"{len(x)} examples and {len(labels)} labels", where=name)
        if batch_size < 1 or epochs < 1:
            raise UserError(f"batch_size is {batch_size} and epochs is {epochs}", where="Solver",
                            remedy="Both are at least 1")
        self.network, self.train_set, self.val_set, self.rule, self.rng = network, train, val, rule, rng
        self.batch_size, self.epochs, self.lr_decay = batch_size, epochs, lr_decay
        self.history = History()
        self.best_val_accuracy = -1.0
        self.best_params: dict[str, np.ndarray] = {}
        self.states = {name: rule.start(w) for name, w in network.params.items()}

    def train(self) -> None:
        """All epochs. Raises TrainingDiverged when the loss is not finite."""
        first_lr = self.rule.lr
        try:
            for _ in range(self.epochs):
                order = self.rng.permutation(len(self.train_set[0]))
                for start in range(0, len(order), self.batch_size):
                    self.step(order[start:start + self.batch_size])
                self._end_epoch(order[:1000])
                self.rule.lr *= self.lr_decay
        finally:
            self.rule.lr = first_lr
        self.network.params.update(self.best_params)

    def step(self, indices: np.ndarray) -> None:
        """One update from the training examples at `indices`."""
        x, labels = self.train_set
        loss, grads = self.network.loss(x[indices], labels[indices])
        if not np.isfinite(loss):
            raise TrainingDiverged(f"the loss is {loss} at step {len(self.history.losses) + 1}",
                                   remedy="Lower the learning rate")
        for name, w in self.network.params.items():
            self.network.params[name] = self.rule.step(w, grads[name], self.states[name])
        self.history.losses.append(loss)

    def _end_epoch(self, some: np.ndarray) -> None:
        x, labels = self.train_set
        self.history.train_accuracies.append(accuracy(self.network, x[some], labels[some]))
        self.history.val_accuracies.append(accuracy(self.network, *self.val_set))
        if self.history.val_accuracies[-1] > self.best_val_accuracy:
            self.best_val_accuracy = self.history.val_accuracies[-1]
            self.best_params = {name: w.copy() for name, w in self.network.params.items()}


def accuracy(network: Network, x: np.ndarray, labels: np.ndarray, batch_size: int = 1000) -> float:
    """The share of examples whose highest score is that of their label."""
    hits = sum(int((network.scores(x[i:i + batch_size]).argmax(axis=1) == labels[i:i + batch_size]).sum())
               for i in range(0, len(x), batch_size))
    return hits / len(x)
