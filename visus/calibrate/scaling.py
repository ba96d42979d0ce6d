"""Scaling logits: one temperature, a factor and an offset for each class, or a full matrix.

Papers: Guo, Pleiss, Sun, Weinberger, On Calibration of Modern Neural Networks, ICML 2017, arXiv:1706.04599
(temperature, vector scaling); Kull et al., Beyond temperature scaling, NeurIPS 2019, arXiv:1910.12656 (Dirichlet
calibration with its off-diagonal regularisation). Logits z are the logarithms of the probabilities: they differ from
the network's own by a number for each sample, which a temperature does not see. All are fitted to the lowest mean
negative log-likelihood, which is convex in what is fitted (1 / T; w and b; W and b).

Departures: vector scaling too takes log-probabilities, and factors that differ do see that number; it is drawn to
(1, 0) with a weight of 1e-6, so that it has an optimum where no sample is wrong; the temperature lies in [0.01, 100].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from visus.metrics.calibration import SMALLEST_PROB

COLDEST, HOTTEST = 0.01, 100.0
VECTOR_RIDGE = 1e-6
MATRIX_RIDGE = 1e-2
MOST_STEPS = 100        # of the temperature's search
NEWTON_STEPS = 40       # enough where an optimum exists; where none does the fit overshoots and is refused
MOST_DIRECT = 700       # unknowns of a system solved by elimination
MOST_PRODUCTS = 100     # of conjugate gradients in one Newton step
SMALLEST_GAIN = 1e-13   # of a Newton step, in nats
DAMPING = 1e-10


def log_probs(probs: np.ndarray) -> np.ndarray:
    """float64 [N, C]; a probability below float32's smallest normal counts as that."""
    return np.log(np.maximum(np.asarray(probs, np.float64), SMALLEST_PROB))


def softmax(logits: np.ndarray) -> np.ndarray:
    """float64 [N, C] -> the same shape, rows that sum to 1."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


@dataclass(frozen=True, kw_only=True)
class Temperature:
    """softmax(z / T) (Guo et al., equation 9). The predicted class stays the same."""

    temperature: float
    name: ClassVar[str] = "temperature"

    def __call__(self, probs: np.ndarray) -> np.ndarray:
        return softmax(log_probs(probs) / self.temperature)

    def to_dict(self) -> dict[str, Any]:
        return {"temperature": self.temperature}

    @property
    def sentence(self) -> str:
        how = "less sure" if self.temperature > 1 else "surer"
        return f"logits divided by {self.temperature:.3f}: the model becomes {how}, its answers stay the same"


@dataclass(frozen=True, kw_only=True)
class VectorScaling:
    """softmax(w * z + b), w and b of length C (Guo et al., section 4.2)."""

    weights: tuple[float, ...]
    offsets: tuple[float, ...]
    name: ClassVar[str] = "vector"

    def __call__(self, probs: np.ndarray) -> np.ndarray:
        return softmax(log_probs(probs) * np.array(self.weights) + np.array(self.offsets))

    def to_dict(self) -> dict[str, Any]:
        return {"weights": list(self.weights), "offsets": list(self.offsets)}

    @property
    def sentence(self) -> str:
        return (f"each class has a factor ({min(self.weights):.3f} to {max(self.weights):.3f}) and an offset "
                f"({min(self.offsets):.3f} to {max(self.offsets):.3f}); answers can change")


@dataclass(frozen=True, kw_only=True)
class MatrixScaling:
    """softmax(W z + b), W of C rows (Kull et al., equation 4: the linear form of Dirichlet calibration)."""

    weights: tuple[tuple[float, ...], ...]
    offsets: tuple[float, ...]
    name: ClassVar[str] = "matrix"

    def __call__(self, probs: np.ndarray) -> np.ndarray:
        return softmax(log_probs(probs) @ np.array(self.weights).T + np.array(self.offsets))

    def to_dict(self) -> dict[str, Any]:
        return {"weights": [list(row) for row in self.weights], "offsets": list(self.offsets)}

    @property
    def sentence(self) -> str:
        return f"a matrix of {len(self.weights)} by {len(self.weights)} on the log-probabilities; answers can change"


def fit_temperature(probs: np.ndarray, targets: np.ndarray) -> Temperature:
    """The temperature of lowest NLL. probs: [N, C]. targets: integers [N].

    With b = 1 / T the slope is mean(E_p[z] - z_y) and the curvature mean(Var_p[z]): Newton's steps inside of a bracket
    that each slope narrows.
    """
    logits = log_probs(probs)
    true = np.take_along_axis(logits, np.asarray(targets)[:, None], 1)[:, 0]
    low, high, b = 1 / HOTTEST, 1 / COLDEST, 1.0
    for _ in range(MOST_STEPS):
        p = softmax(b * logits)
        mean = np.einsum("nc,nc->n", p, logits)
        slope = float((mean - true).mean())
        low, high = (b, high) if slope < 0 else (low, b)
        curvature = float(np.einsum("nc,nc->n", p, (logits - mean[:, None]) ** 2).mean())
        step = b - slope / curvature if curvature > 0 else low
        if not low <= step <= high:
            step = (low * high) ** 0.5
        if abs(step - b) <= 1e-14 * b or high - low <= 1e-14 * b:
            break
        b = step
    return Temperature(temperature=1 / b)


def fit_vector(probs: np.ndarray, targets: np.ndarray, ridge: float = VECTOR_RIDGE) -> VectorScaling:
    """w, b of the lowest NLL + ridge (|w - 1|^2 + |b|^2). probs: [N, C]. targets: integers [N]."""
    logits = log_probs(probs)
    inputs = np.stack([logits, np.ones_like(logits)], 2)  # [N, C, 2]: a factor and an offset for each class
    start = np.tile([1.0, 0.0], (logits.shape[1], 1))
    found = _lowest(inputs, targets, start, np.full_like(start, ridge), start)
    return VectorScaling(weights=tuple(found[:, 0].tolist()), offsets=tuple(found[:, 1].tolist()))


def fit_matrix(probs: np.ndarray, targets: np.ndarray, ridge: float = MATRIX_RIDGE) -> MatrixScaling:
    """W, b of the lowest NLL + ridge (mean of W_ij^2 over i != j + mean of b_i^2) (Kull et al., section 4: ODIR).

    probs: [N, C], C at least 2. targets: integers [N].
    """
    logits = log_probs(probs)
    count, num_classes = logits.shape
    inputs = np.concatenate([logits, np.ones((count, 1))], 1)[:, None, :]  # [N, 1, C + 1], the same for each class
    start = np.eye(num_classes, num_classes + 1)
    weights = ridge * (1 - start) / (num_classes * (num_classes - 1))
    weights[:, -1] = ridge / num_classes
    found = _lowest(np.broadcast_to(inputs, (count, *start.shape)), targets, start, weights, np.zeros_like(start))
    return MatrixScaling(weights=tuple(map(tuple, found[:, :-1].tolist())), offsets=tuple(found[:, -1].tolist()))


def _lowest(inputs: np.ndarray, targets: np.ndarray, start: np.ndarray, ridge: np.ndarray, centre: np.ndarray
            ) -> np.ndarray:
    """Where mean NLL of softmax_k(inputs_k . v_k) + sum ridge (v - centre)^2 is lowest, by damped Newton steps.

    inputs: [N, C, D]. targets: integers [N]. start, ridge, centre -> [C, D].
    """
    count, num_classes, width = inputs.shape
    rows, v = np.arange(count), start

    def look(v: np.ndarray) -> tuple[float, np.ndarray]:
        z = np.einsum("nkd,kd->nk", inputs, v)
        z -= z.max(1, keepdims=True)
        powers = np.exp(z)
        sums = powers.sum(1)
        value = float((np.log(sums) - z[rows, targets]).mean() + (ridge * (v - centre) ** 2).sum())
        return value, powers / sums[:, None]

    value, p = look(v)
    for _ in range(NEWTON_STEPS):
        away = p.copy()
        away[rows, targets] -= 1
        slope = np.einsum("nk,nkd->kd", away, inputs) / count + 2 * ridge * (v - centre)
        step = _newton_step(inputs, p, slope, ridge)
        gain = float((slope * step).sum())
        size = 1.0
        while size > 1e-6 and (after := look(v + size * step))[0] > value + 1e-4 * size * gain:
            size /= 2
        if gain > -SMALLEST_GAIN or size <= 1e-6:
            break
        v, (value, p) = v + size * step, after
    return v


def _newton_step(inputs: np.ndarray, p: np.ndarray, slope: np.ndarray, ridge: np.ndarray) -> np.ndarray:
    """-H^-1 slope with the Hessian H of `_lowest`: by elimination where it is small, else by conjugate gradients."""
    count, num_classes, width = inputs.shape
    size = num_classes * width
    if size <= MOST_DIRECT and count * size <= 50e6:
        weighted = (p[:, :, None] * inputs).reshape(count, size)
        hessian = -(weighted.T @ weighted / count).reshape(num_classes, width, num_classes, width)
        blocks = np.einsum("nkd,nke->kde", weighted.reshape(count, num_classes, width), inputs, optimize=True) / count
        hessian[np.arange(num_classes), :, np.arange(num_classes), :] += blocks
        flat = hessian.reshape(size, size)
        damping = DAMPING * max(1.0, float(flat.diagonal().max()))  # an offset common to all classes is free
        flat[np.diag_indices(size)] += 2 * ridge.ravel() + damping
        return -np.linalg.solve(flat, slope.ravel()).reshape(slope.shape)

    def product(v: np.ndarray) -> np.ndarray:
        s = np.einsum("nkd,kd->nk", inputs, v)
        t = p * (s - (p * s).sum(1, keepdims=True))
        return np.einsum("nk,nkd->kd", t, inputs) / count + (2 * ridge + DAMPING) * v

    step, rest = np.zeros_like(slope), -slope
    direction, norm = rest, float((rest**2).sum())
    goal = norm * 1e-12
    for _ in range(MOST_PRODUCTS):
        if norm <= goal:
            break
        turned = product(direction)
        share = norm / float((direction * turned).sum())
        step, rest = step + share * direction, rest - share * turned
        norm, before = float((rest**2).sum()), norm
        direction = rest + norm / before * direction
    return step
