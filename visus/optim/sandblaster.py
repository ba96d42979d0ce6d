"""Sandblaster L-BFGS in one process: a coordinator, weights in shards, a batch handed out in small portions.

Source: Dean et al., Large Scale Distributed Deep Networks, NIPS 2012, section 4.2 and Algorithm 7.2. The coordinator
holds no weights: vectors live in shards, of which it is told only dot products and to which it sends "add so much of
that one". Portions go to whoever is free, and at the end copies of what is still out go to the idle (backup tasks).
Gradients are added up in the order of the portions, so that who was slow never shows in the result. Time is simulated.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from visus.core.validate import positive, require

LEAST_CURVATURE = 1e-10  # of a pair that is kept, as in torch.optim.LBFGS
# weights [D] and the number of a portion -> its part of the loss and of the gradient [D]; all parts add up to the whole
Portion = Callable[[Tensor, int], tuple[float, Tensor]]


class Shards:
    """A vector cut into pieces that stay where they are: only sums and dot products cross."""

    def __init__(self, pieces: Sequence[Tensor]):
        self.pieces = list(pieces)

    @classmethod
    def cut(cls, vector: Tensor, count: int) -> Shards:
        return cls([piece.clone() for piece in vector.tensor_split(count)])

    def dot(self, other: Shards) -> float:
        return sum(float(a @ b) for a, b in zip(self.pieces, other.pieces, strict=True))

    def size(self) -> float:
        """The sum of absolute values."""
        return sum(float(piece.abs().sum()) for piece in self.pieces)

    def plus(self, other: Shards, share: float = 1.0) -> Shards:
        return Shards([a + share * b for a, b in zip(self.pieces, other.pieces, strict=True)])

    def times(self, share: float) -> Shards:
        return Shards([share * piece for piece in self.pieces])

    def whole(self) -> Tensor:
        return torch.cat(self.pieces)


@dataclass(frozen=True)
class HandedOut:
    """How a batch went round. seconds: until the last portion was back. done_by: the worker whose answer counted, for
    each portion. copies: backup tasks that were begun."""

    seconds: float
    done_by: tuple[int, ...]
    copies: int


def hand_out(portions: int, durations: Sequence[float], *, backup: bool = True) -> HandedOut:
    """Portions in order to whoever is free first (ties: the lower number); durations: seconds of a worker's portion.
    backup: a worker that finds none left takes a copy of the one that would come back last and has no copy yet, if it
    would be back before."""
    queue = [(0.0, worker) for worker in range(len(durations))]
    back = [(float("inf"), -1)] * portions
    left, copied = 0, set()
    while queue:
        now, worker = heapq.heappop(queue)
        if left < portions:
            back[left] = (now + durations[worker], worker)
            heapq.heappush(queue, (back[left][0], worker))
            left += 1
        elif backup:
            out = [k for k in range(portions) if back[k][0] > now + durations[worker] and k not in copied]
            if out:
                last = max(out, key=lambda k: back[k][0])
                copied.add(last)
                back[last] = (now + durations[worker], worker)
                heapq.heappush(queue, (back[last][0], worker))
    return HandedOut(max(seconds for seconds, _ in back), tuple(worker for _, worker in back), len(copied))


@dataclass
class Sandblaster:
    """What a run gives: the weights [D], the loss before each step, the simulated seconds, and the copies begun."""

    weights: Tensor
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    copies: int = 0


def sandblaster(weights: Tensor, portion: Portion, *, steps: int, portions: int, shards: int = 1,
                durations: Sequence[float] = (1.0,), history: int = 10, lr: float = 1.0,
                backup: bool = True) -> Sandblaster:
    """`steps` of L-BFGS without a line search: x + lr H (-g), the first step lr min(1, 1 / |g|_1), as torch's own.

    weights: [D], float64 for a good end. durations: of each worker's portion, in simulated seconds. history: pairs of
    steps and changes of the gradient kept. Only the number of shards can change a bit of the result (the order of the
    sums in dot products); workers, their speeds and backup tasks change the time alone. Raises UserError for wrong
    numbers.
    """
    positive(steps=steps, portions=portions, shards=shards, history=history)
    require(len(durations) > 0 and all(d > 0 for d in durations), "durations", list(durations),
            "be numbers above 0, one for each worker")
    x = Shards.cut(weights.detach(), shards)
    found = Sandblaster(weights.detach().clone())
    pairs: list[tuple[Shards, Shards, float]] = []  # step, change of the gradient, 1 / their product
    before: Shards | None = None
    move, scale = x, 1.0
    for number in range(steps):
        loss, slope = _whole_gradient(x, portion, portions, found, durations, backup)
        found.losses.append(loss)
        if before is not None:
            change = slope.plus(before, -1.0)
            curvature = change.dot(move)
            if curvature > LEAST_CURVATURE:
                pairs = [*pairs, (move, change, 1 / curvature)][-history:]
                scale = curvature / change.dot(change)
        direction = _direction(slope, pairs, scale)
        move = direction.times(min(1.0, 1 / slope.size()) * lr if number == 0 else lr)
        x, before = x.plus(move), slope
        found.weights = x.whole()
    return found


def _whole_gradient(x: Shards, portion: Portion, portions: int, found: Sandblaster, durations: Sequence[float],
                    backup: bool) -> tuple[float, Shards]:
    schedule = hand_out(portions, durations, backup=backup)
    found.seconds += schedule.seconds
    found.copies += schedule.copies
    here = x.whole()
    answers = [portion(here, k) for k in range(portions)]  # a copy's answer is the same: it counts once
    total = torch.stack([slope for _, slope in answers]).sum(0)
    return sum(loss for loss, _ in answers), Shards.cut(total, len(x.pieces))


def _direction(slope: Shards, pairs: Sequence[tuple[Shards, Shards, float]], scale: float) -> Shards:
    """-H g by the two loops of Nocedal and Wright, Algorithm 7.4, in dot products and sums alone."""
    q = slope.times(-1.0)
    shares = []
    for step, change, inverse in reversed(pairs):
        shares.append(step.dot(q) * inverse)
        q = q.plus(change, -shares[-1])
    q = q.times(scale)
    for (step, change, inverse), share in zip(pairs, reversed(shares), strict=True):
        q = q.plus(step, share - change.dot(q) * inverse)
    return q
