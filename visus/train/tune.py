"""Memory layout, precision and thread count, chosen by timing two steps of the real model on a real batch.

None can be known beforehand: channels-last is between 0.75 and 1.5 times as fast; on one and the same processor with
matrix units bfloat16 halves the time of a ResNet and doubles that of a MobileNet; and with one busy neighbour two
threads can be ten times slower than one.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from visus.core.batch import ImageBatch
from visus.core.device import autocast
from visus.train.mode import train_mode

SLOW_STEP_S = 4.0  # above this the timing would cost more than it can win in a short run
GIVE_UP = 5.0      # a first step so many times slower than the best so far is not tried again
HALF_PAYS = 0.8    # of float32's time: bfloat16 is worth its rounding below that


@dataclass(frozen=True, slots=True)
class Execution:
    """channels_last, precision and threads as chosen; seconds: what was timed, 'layout, precision, threads' -> s per
    step."""

    channels_last: bool
    precision: str
    threads: int
    seconds: dict[str, float]


def choose_execution(model: nn.Module, loss: Callable[[nn.Module, ImageBatch], tuple], batch: ImageBatch,
                     make_optimizer: Callable[[nn.Module], torch.optim.Optimizer], *, device: torch.device,
                     layout: str = "auto", precision: str = "fp32", threads: int | str = "auto") -> Execution:
    """Time two steps for each layout, in float32 and bfloat16 where precision is 'auto', and then, on a CPU, one thread
    against all of them; keep the fastest, bfloat16 only where it takes less than `HALF_PAYS` of float32's time.

    Works on copies and leaves weights, generators and the thread count as they were.
    """
    all_threads = torch.get_num_threads()
    layouts = [False, True] if layout == "auto" else [layout == "channels_last"]
    precisions = ["fp32", "bf16"] if precision == "auto" else [precision]
    counts = [1, all_threads] if threads == "auto" and device.type == "cpu" and all_threads > 1 else \
        [all_threads if threads == "auto" else int(threads)]
    if len(layouts) == len(precisions) == len(counts) == 1:
        return Execution(layouts[0], precisions[0], counts[0], {})
    seconds: dict[tuple[bool, str, int], float] = {}

    def time_it(channels_last: bool, kind: str, count: int) -> None:
        limit = min([SLOW_STEP_S, *(GIVE_UP * s for s in seconds.values())])
        seconds[channels_last, kind, count] = _seconds(model, loss, batch, make_optimizer, device, channels_last, kind,
                                                       count, limit)

    def cost(way: tuple[bool, str, int]) -> float:
        return seconds[way] / (HALF_PAYS if way[1] == "bf16" else 1.0)

    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            for kind in precisions:
                for channels_last in layouts:
                    time_it(channels_last, kind, counts[0])
            fastest = min(seconds, key=cost)
            for count in counts[1:]:
                time_it(*fastest[:2], count)
    finally:
        torch.set_num_threads(all_threads)
    named = {f"{'channels_last' if last else 'contiguous'}, {kind}, {n} thread{'s' if n > 1 else ''}": s
             for (last, kind, n), s in seconds.items()}
    return Execution(*min(seconds, key=cost), named)


def _seconds(model: nn.Module, loss: Callable[[nn.Module, ImageBatch], tuple], batch: ImageBatch,
             make_optimizer: Callable[[nn.Module], torch.optim.Optimizer], device: torch.device, channels_last: bool,
             precision: str, threads: int, limit: float) -> float:
    """The faster of two steps, after one that is not counted; that one alone when it takes longer than `limit`."""
    torch.set_num_threads(threads)
    model = copy.deepcopy(model)
    train_mode(model)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(model)
    batch = batch.to(device, channels_last=channels_last)

    @torch.enable_grad()
    def evaluate() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        with autocast(device, precision):
            value = loss(model, batch)[0]
        value.backward()
        return value.detach()

    best = float("inf")
    for attempt in range(3):
        start = time.perf_counter()
        if getattr(optimizer, "needs_closure", False):
            optimizer.step(lambda: float(evaluate()))
        else:
            evaluate()
            optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elapsed = time.perf_counter() - start
        if attempt:
            best = min(best, elapsed)
        elif elapsed > limit:
            return elapsed
    return best
