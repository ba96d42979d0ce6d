"""Downpour SGD in one process: replicas that fetch weights, compute, and push gradients that are out of date by then.

Source: Dean et al., Large Scale Distributed Deep Networks, NIPS 2012, section 4.1 and Algorithm 7.1. Time is simulated:
a queue of events, in which ties go to the replica with the lower number, decides who pushes when, so that the same
speeds give the same bits. It shows what staleness does to an optimizer; it makes nothing faster.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from visus.core.validate import positive, require

# weights and the number of a batch -> loss, gradients; it changes neither
Gradient = Callable[[list[Tensor], int], tuple[float, list[Tensor]]]


@dataclass
class Downpour:
    """What a simulation gives. losses, staleness, times: of each push, in the server's order; staleness: updates that
    the server made between the fetch and the push; loss: that of the push's last batch, at the replica's weights."""

    weights: list[Tensor]
    losses: list[float] = field(default_factory=list)
    staleness: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)


@dataclass
class _Replica:
    """A copy of the model: its weights, the server's version that they are of, what it has not pushed yet."""

    weights: list[Tensor]
    version: int
    accrued: list[Tensor] | None = None
    steps: int = 0
    batch: int = 0


def downpour(weights: Sequence[Tensor], gradient: Gradient,
             server: Callable[[list[Tensor]], torch.optim.Optimizer], *, updates: int, replicas: int = 1,
             n_fetch: int = 1, n_push: int = 1, local_lr: float = 0.0,
             durations: Sequence[float] | None = None) -> Downpour:
    """`updates` pushes to a parameter server, whose rule is any optimizer of torch's form: server(weights) builds it.

    weights: where it begins; they stay as they are. gradient: batches are numbered 0, 1, ... in the order in which
    replicas ask for them. n_fetch, n_push: a replica's steps between fetches, and between pushes of what it accrued,
    the sum of its gradients. local_lr: of plain steps that it takes by itself in between (the paper's alpha).
    durations: simulated seconds of each replica's step; None: 1 for all, the first steps begun one after the other in
    equal parts of that second, so that R replicas are R - 1 updates behind. One replica with n_fetch = n_push = 1 is
    the optimizer itself, to the bit. Raises UserError for wrong numbers.
    """
    positive(updates=updates, replicas=replicas, n_fetch=n_fetch, n_push=n_push)
    spread = durations is None
    times = [1.0] * replicas if durations is None else [float(d) for d in durations]
    require(len(times) == replicas and all(d > 0 for d in times), "durations", times,
            f"be {replicas} numbers above 0, one for each replica")
    kept = [w.detach().clone().requires_grad_() for w in weights]
    optimizer = server(kept)
    found = Downpour([w.detach() for w in kept])
    crew = [_Replica([w.detach().clone() for w in kept], 0) for _ in range(replicas)]
    version = batches = 0
    queue: list[tuple[float, int]] = []
    for number, replica in enumerate(crew):
        replica.batch, batches = batches, batches + 1
        heapq.heappush(queue, ((number / replicas if spread else 0.0) + times[number], number))
    while version < updates:
        now, number = heapq.heappop(queue)
        replica = crew[number]
        loss, slopes = gradient(replica.weights, replica.batch)
        replica.accrued = [g.clone() for g in slopes] if replica.accrued is None else \
            [a + g for a, g in zip(replica.accrued, slopes, strict=True)]
        replica.steps += 1
        if replica.steps % n_push == 0:
            for w, slope in zip(kept, replica.accrued, strict=True):
                w.grad = slope
            optimizer.step()
            replica.accrued = None
            found.losses.append(loss)
            found.staleness.append(version - replica.version)
            found.times.append(now)
            version += 1
        if replica.steps % n_fetch == 0:
            replica.weights, replica.version = [w.detach().clone() for w in kept], version
        elif local_lr:
            replica.weights = [w - local_lr * g for w, g in zip(replica.weights, slopes, strict=True)]
        replica.batch, batches = batches, batches + 1
        heapq.heappush(queue, (now + times[number], number))
    return found
