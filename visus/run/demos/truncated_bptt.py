"""Backpropagation through time, whole and cut into chunks: what the cut gradient misses, what is then not learnt."""

from __future__ import annotations

import numpy as np

from visus.foundations import layers as L
from visus.foundations import recurrent as R
from visus.foundations.initialisers import orthogonal
from visus.foundations.update_rules import Adam
from visus.report.demo import Drawing, Shown, Table, above, below, near
from visus.report.sketch import plot
from visus.run.demo import Tell

TOPIC = "training"
SUMMARY = "backpropagation through time, whole and truncated, on a net that has to remember"
SOURCE = ("Werbos, Proceedings of the IEEE 78 (1990); Williams, Peng, Neural Computation 2 (1990); Jaeger, GMD Report "
          "159 (2002); Stanford CS231n, Recurrent Neural Networks")

LAG, STEPS, HIDDEN, SEQUENCES = 6, 24, 16, 32
CHUNKS = (1, 2, 3, 4, 6, 8, 12, 24)


def make(seed: int, advance: Tell, small: bool = False) -> Shown:
    updates = 160 if small else 260
    chunks = (2, 24) if small else (2, 4, 8, 24)
    weights = _start(np.random.default_rng(seed), 0.95)  # a net that forgets slowly
    x, targets = _task(np.random.default_rng(seed + 1))
    full = _gradients(weights, x, targets, STEPS)
    share, angle = [], []
    for chunk in CHUNKS:
        cut = _gradients(weights, x, targets, chunk)
        share.append(float(np.linalg.norm(cut["wh"] - full["wh"]) / np.linalg.norm(full["wh"])))
        angle.append(_cosine(cut["wh"], full["wh"]))
    reach = _by_lag(weights, x, targets)
    advance(1, len(chunks) + 1)
    losses = {}
    for done, chunk in enumerate(chunks, 2):
        losses[chunk] = _learn(seed, chunk, updates)
        advance(done, len(chunks) + 1)
    chance = float(np.log(2))
    last = {chunk: float(np.mean(found[-20:])) for chunk, found in losses.items()}
    numeric = _numeric(weights, x, targets)
    whole = float(np.abs(sum(reach) - full["wh"]).max())
    sizes = [float(np.linalg.norm(one)) for one in reach]
    facts = [
        near("gradient through all steps against a centred difference, one entry", float(full["wh"][0, 1]), numeric,
             1e-8),
        below("one chunk of the whole sequence is the full gradient: relative difference", share[-1], 1e-12),
        below("the parts by distance in time add up to the full gradient, largest difference", whole, 1e-12),
        above("chunks of 1 step: relative difference from the full gradient", share[0], 0.3),
        above("that difference, of the one of chunks of 12 steps", share[0] / share[6], 2.0),
        near(f"task: name the input of {LAG} steps ago; loss of chunks of 2 steps, and of guessing, ln 2", last[2],
             chance, 0.06),
        below("loss of the whole sequence", last[24], 0.35),
    ]
    if 8 in last:
        facts.append(below("loss of chunks of 8 steps, longer than the lag", last[8], last[2] - 0.3))
    learnt = [(f"chunks of {chunk}" if chunk < STEPS else "whole", _smooth(found)) for chunk, found in losses.items()]
    return Shown(
        "Backpropagation through time, whole and truncated",
        f"A recurrent net reads zeros and ones and must say which came {LAG} steps ago. Unrolled, it is a net as deep "
        "as the sequence is long, with the same weights in each layer, and the gradient of a weight is the sum over "
        "the steps. Truncated backpropagation cuts the sequence into chunks: the state is carried on, the gradient is "
        "not.\n\nThat saves memory, and biases the gradient: what a state owes to inputs before its chunk is left out. "
        "A net whose chunks are shorter than what it should remember has no reason to remember it.",
        [Drawing(plot([*learnt, ("guessing", [(0.0, chance), (float(updates), chance)])], x_label="updates",
                      y_label="loss", title="Learning with each chunk"),
                 f"The same net, task and updates; only the cut differs. Lag {LAG}.", "What is learnt"),
         Drawing(plot([("difference from the full gradient", list(zip(map(float, CHUNKS), share, strict=True))),
                       ("cosine with it", list(zip(map(float, CHUNKS), angle, strict=True)))],
                      x_label="steps in a chunk", title="Bias of the cut gradient"),
                 "For recurrent weights of singular values 0.95.", "What is cut off"),
         Drawing(plot([("", [(float(k), max(s, 1e-12)) for k, s in enumerate(sizes)])],
                      x_label="steps between the state and what it is blamed for", y_label="norm of that part",
                      log_y=True, title="Gradient by distance in time"),
                 "The full gradient, sorted by how far it came back through time.", "By distance in time")], facts,
        [Table("Chunks", ["steps in a chunk", "difference", "cosine"], [
            [str(c), f"{s:.3g}", f"{a:.4f}"] for c, s, a in zip(CHUNKS, share, angle, strict=True)])])


def _start(rng: np.random.Generator, keeps: float) -> dict[str, np.ndarray]:
    return {"wx": rng.normal(size=(1, HIDDEN)), "wh": keeps * orthogonal(rng, (HIDDEN, HIDDEN)), "b": np.zeros(HIDDEN),
            "wo": rng.normal(size=(HIDDEN, 2)) / HIDDEN**0.5, "bo": np.zeros(2)}


def _task(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Inputs of -1 and 1, [N, T, 1], and which it was LAG steps ago, [N, T]; -1 where there was none."""
    bits = rng.integers(0, 2, (SEQUENCES, STEPS))
    targets = np.full((SEQUENCES, STEPS), -1)
    targets[:, LAG:] = bits[:, :-LAG]
    return (2.0 * bits - 1)[..., None], targets


def _judge(weights: dict[str, np.ndarray], states: np.ndarray, targets: np.ndarray) -> tuple[float, dict, np.ndarray]:
    """Loss of the states [N, t, H] in their share of the batch; gradients of the output layer and of the states."""
    counted = targets >= 0
    dh, grads = np.zeros_like(states), {"wo": np.zeros_like(weights["wo"]), "bo": np.zeros(2)}
    if not counted.any():
        return 0.0, grads, dh
    whole = SEQUENCES * (STEPS - LAG)
    scores, cache = L.affine_forward(states[counted], weights["wo"], weights["bo"])
    loss, dscores = L.softmax_loss(scores, targets[counted])
    part = counted.sum() / whole
    dh[counted], grads["wo"], grads["bo"] = L.affine_backward(dscores * part, cache)
    return loss * part, grads, dh


def _gradients(weights: dict[str, np.ndarray], x: np.ndarray, targets: np.ndarray, chunk: int) -> dict[str, np.ndarray]:
    """Of every weight, and the loss as "loss", by (truncated) backpropagation through time."""
    total: dict[str, np.ndarray] = {"wo": np.zeros_like(weights["wo"]), "bo": np.zeros(2), "loss": np.zeros(())}

    def upstream(states: np.ndarray, start: int) -> np.ndarray:
        loss, grads, dh = _judge(weights, states, targets[:, start:start + states.shape[1]])
        for name, gradient in grads.items():
            total[name] = total[name] + gradient
        total["loss"] = total["loss"] + loss
        return dh
    inner = (weights["wx"], weights["wh"], weights["b"])
    _, grads = R.truncated_rnn_gradients(x, np.zeros((len(x), HIDDEN)), *inner, upstream, chunk)
    return total | grads


def _by_lag(weights: dict[str, np.ndarray], x: np.ndarray, targets: np.ndarray) -> list[np.ndarray]:
    """The gradient of wh in parts: entry k is what came back through k steps."""
    states, caches = R.rnn_forward(x, np.zeros((len(x), HIDDEN)), weights["wx"], weights["wh"], weights["b"])
    d = _judge(weights, states, targets)[2]
    parts = []
    for _ in range(STEPS):
        back, total = np.zeros_like(d), np.zeros_like(weights["wh"])
        for t in range(STEPS):
            _, before, grads = R.rnn_step_backward(d[:, t], caches[t])
            total += grads["wh"]
            if t:
                back[:, t - 1] = before
        parts.append(total)
        d = back
    return parts


def _numeric(weights: dict[str, np.ndarray], x: np.ndarray, targets: np.ndarray, h: float = 1e-5) -> float:
    found = []
    for sign in (1, -1):
        moved = weights | {"wh": weights["wh"].copy()}
        moved["wh"][0, 1] += sign * h
        found.append(float(_gradients(moved, x, targets, STEPS)["loss"]))
    return (found[0] - found[1]) / (2 * h)


def _learn(seed: int, chunk: int, updates: int) -> list[float]:
    weights, rng, rule = _start(np.random.default_rng(seed), 0.3), np.random.default_rng(seed + 2), Adam(lr=0.01)
    states = {name: rule.start(w) for name, w in weights.items()}
    losses = []
    for _ in range(updates):
        grads = _gradients(weights, *_task(rng), chunk)
        losses.append(float(grads["loss"]))
        size = np.sqrt(sum((grads[name] ** 2).sum() for name in weights))
        weights = {name: rule.step(w, grads[name] * min(1.0, 1.0 / size), states[name]) for name, w in weights.items()}
    return losses


def _smooth(values: list[float], width: int = 10) -> list[tuple[float, float]]:
    return [(float(k + width), float(np.mean(values[k:k + width]))) for k in range(0, len(values) - width + 1, width)]


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))
