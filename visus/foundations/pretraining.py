"""Layer-wise pre-training: each layer learns to explain the one below without labels, then all are trained together.

How deep nets of sigmoids began before rectifiers and good scales of random weights: a stack of restricted Boltzmann
machines, each fitted to what the one below makes of the data. The energy of a state is E(v, h) = -v.b - h.c - v W h
with v, h of 0 and 1, its probability exp(-E) / Z; contrastive divergence follows the difference of v h' between the
data and their reconstruction after one step.

Sources: Hinton, Training products of experts by minimizing contrastive divergence, Neural Computation 2002; Hinton,
Salakhutdinov, Reducing the dimensionality of data with neural networks, Science 2006.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from visus.core.errors import UserError
from visus.foundations.layers import sigmoid


@dataclass
class BoltzmannMachine:
    """weights [D, H]; visible [D] and hidden [H] biases. Values of both layers lie in [0, 1]."""

    weights: np.ndarray
    visible: np.ndarray
    hidden: np.ndarray

    @classmethod
    def of(cls, rng: np.random.Generator, inputs: int, units: int) -> BoltzmannMachine:
        """Weights N(0, 0.01^2), biases 0, as in the paper."""
        return cls(0.01 * rng.standard_normal((inputs, units)), np.zeros(inputs), np.zeros(units))

    def up(self, v: np.ndarray) -> np.ndarray:
        """p(h = 1 | v): [N, D] -> [N, H]."""
        return sigmoid(v @ self.weights + self.hidden)

    def down(self, h: np.ndarray) -> np.ndarray:
        """p(v = 1 | h): [N, H] -> [N, D]."""
        return sigmoid(h @ self.weights.T + self.visible)

    def energy(self, v: np.ndarray, h: np.ndarray) -> np.ndarray:
        """[N, D], [N, H] -> [N]."""
        return -(v @ self.visible) - h @ self.hidden - ((v @ self.weights) * h).sum(1)

    def free_energy(self, v: np.ndarray) -> np.ndarray:
        """-log of the sum of exp(-E(v, h)) over all h: [N, D] -> [N]."""
        return -(v @ self.visible) - np.logaddexp(0, v @ self.weights + self.hidden).sum(1)

    def divergence(self, v: np.ndarray, rng: np.random.Generator, steps: int = 1, drawn: bool = False
                   ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Contrastive divergence: ascent directions of weights, visible and hidden biases, means over the rows of v.
        Hidden states are drawn. Reconstructions are probabilities, which is less noisy, or drawn too: then the mean
        over draws comes to the gradient of the log-likelihood as the steps grow."""
        if steps < 1:
            raise UserError(f"{steps} steps of contrastive divergence", where="divergence", remedy="Take 1 or more")
        first = self.up(v)
        last, back = first, v
        for _ in range(steps):
            back = self.down((rng.random(last.shape) < last).astype(v.dtype))
            back = (rng.random(back.shape) < back).astype(v.dtype) if drawn else back
            last = self.up(back)
        count = len(v)
        return (v.T @ first - back.T @ last) / count, (v - back).mean(0), (first - last).mean(0)


def fit(machine: BoltzmannMachine, data: np.ndarray, rng: np.random.Generator, *, epochs: int = 10, rate: float = 0.1,
        momentum: float = 0.5, batch: int = 20) -> list[float]:
    """Fit in place to data [N, D] in [0, 1]; returns the mean squared error of the reconstruction after each epoch.
    Raises UserError for data out of range."""
    if data.min(initial=0) < 0 or data.max(initial=1) > 1:
        raise UserError(f"values from {data.min():g} to {data.max():g}", where="fit", remedy="Scale the data to [0, 1]")
    parts = (machine.weights, machine.visible, machine.hidden)
    velocity = [np.zeros_like(part) for part in parts]
    errors = []
    for _ in range(epochs):
        order = rng.permutation(len(data))
        for start in range(0, len(data), batch):
            moves = machine.divergence(data[order[start:start + batch]], rng)
            for part, speed, move in zip(parts, velocity, moves, strict=True):
                speed *= momentum
                speed += rate * move
                part += speed
        errors.append(float(((machine.down(machine.up(data)) - data) ** 2).mean()))
    return errors


def pretrain(data: np.ndarray, widths: Sequence[int], *, seed: int = 0, epochs: int = 10, rate: float = 0.1
             ) -> list[BoltzmannMachine]:
    """A machine for each hidden width, bottom first, each fitted to the probabilities that the one below gives."""
    rng = np.random.default_rng(seed)
    machines = []
    for width in widths:
        machine = BoltzmannMachine.of(rng, data.shape[1], width)
        fit(machine, data, rng, epochs=epochs, rate=rate)
        machines.append(machine)
        data = machine.up(data)
    return machines


def encode(machines: Sequence[BoltzmannMachine], data: np.ndarray) -> np.ndarray:
    """Up through all machines: [N, D] -> [N, last width]. The weights of a sigmoid net begin so."""
    for machine in machines:
        data = machine.up(data)
    return data


def decode(machines: Sequence[BoltzmannMachine], code: np.ndarray) -> np.ndarray:
    """Down again, the stack unrolled into an autoencoder of tied weights: [N, last width] -> [N, D]."""
    for machine in reversed(machines):
        code = machine.down(code)
    return code
