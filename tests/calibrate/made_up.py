"""Predictions whose true probabilities are known."""

from __future__ import annotations

import numpy as np

from visus.calibrate.scaling import softmax


def overconfident(count: int = 2000, classes: int = 5, *, temperature: float = 2.5, spread: float = 2.0,
                  seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(probs [N, C], targets [N]): targets are drawn from softmax(z / temperature), probs are softmax(z)."""
    rng = np.random.default_rng(seed)
    logits = spread * rng.normal(size=(count, classes))
    true = softmax(logits / temperature)
    targets = (true.cumsum(1) < rng.random((count, 1))).sum(1).clip(max=classes - 1)
    return softmax(logits), targets
