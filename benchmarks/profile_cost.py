"""What a profile costs: training epochs with the clock of `visus train --profile`, and with the one that does nothing.

    python benchmarks/profile_cost.py

Both sides are the same trainer on the same batches and equal weights. Process time on one thread, sides in turn,
medians of rounds. What the switched off clock costs is too little to see in an epoch: it is timed by itself, as
nanoseconds a block times blocks a step, over the time of a step. Bars: on at most 2 % more, off at most 0.1 %. Exit
code 1 when one is missed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.paired import interval
from visus.core.batch import ImageBatch
from visus.core.device import environment
from visus.core.preprocessing import Preprocessing
from visus.optim.ema import EMA
from visus.optim.schedules import Schedule
from visus.run.models import create_model
from visus.tasks.classification import Classification
from visus.train.checkpoint import CheckpointStore
from visus.train.clock import NO_CLOCK, StepClock
from visus.train.trainer import Settings, Trainer

OUT = Path(__file__).parent / "results" / "profile_cost.json"
ON, OFF = 1.02, 1.001
NETS = {"mlp": (16, 32), "resnet20": (32, 32)}  # name -> (side in px, batch)


class Batches:
    """The same batches in each epoch."""

    def __init__(self, count: int, batch: int, side: int):
        generator = torch.Generator().manual_seed(0)
        self.batches = [ImageBatch(torch.rand(batch, 3, side, side, generator=generator),
                                   torch.randint(0, 10, (batch,), generator=generator), torch.arange(batch))
                        for _ in range(count)]

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[ImageBatch]:
        return iter(self.batches[start_batch:])


class Blocks:
    """A clock that counts how often it is asked."""

    asked = 0

    def __call__(self, part: str):
        type(self).asked += 1
        return NO_CLOCK(part)


def trainer(name: str, side: int, batches: Batches, clock, folder: Path) -> Trainer:
    torch.manual_seed(0)
    model = create_model(name, num_classes=10, in_channels=3, image_size=side)
    preprocessing = Preprocessing(size=(side, side), labels=tuple("0123456789"))
    task = Classification(preprocessing=preprocessing, loss_function=torch.nn.functional.cross_entropy)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, fused=True)
    return Trainer(model, task, batches, optimizer, Schedule(optimizer, lambda step: 1.0),
                   Settings(epochs=10**6, clip_norm=1.0, log_steps=10**6), device=torch.device("cpu"),
                   store=CheckpointStore(folder), validate=dict, find=lambda finding: None, ema=EMA(model), clock=clock)


def block_seconds(count: int = 200_000) -> float:
    """Process time of one block of the switched off clock, less that of the loop around it."""
    def timed(work) -> float:
        start = time.process_time()
        for _ in range(count):
            work()
        return time.process_time() - start

    def block() -> None:
        with NO_CLOCK("forward"):
            pass

    def nothing() -> None:
        pass

    return max(0.0, min(timed(block) for _ in range(5)) - min(timed(nothing) for _ in range(5))) / count


def measure(name: str, side: int, batch: int, steps: int, rounds: int, folder: Path) -> dict:
    batches = Batches(steps, batch, side)
    counting = trainer(name, side, batches, Blocks(), folder)
    Blocks.asked = 0
    counting._train_epoch()
    blocks = Blocks.asked / steps
    sides = {"off": trainer(name, side, batches, NO_CLOCK, folder),
             "on": trainer(name, side, batches, StepClock(), folder)}
    for one in sides.values():
        one._train_epoch()
    ratios, seconds = [], []
    for number in range(rounds):
        times = {}
        for what, one in list(sides.items())[:: 1 if number % 2 else -1]:
            one.position.batch = 0
            start = time.process_time()
            one._train_epoch()
            times[what] = time.process_time() - start
        ratios.append(times["on"] / times["off"])
        seconds.append(times["off"] / steps)
    low, high = interval(ratios)
    step = statistics.median(seconds)
    off = 1 + blocks * block_seconds() / step
    return {"on against off": round(statistics.median(ratios), 4), "low": low, "high": high, "rounds": rounds,
            "blocks a step": blocks, "step ms": round(1e3 * step, 3), "off against nothing": round(off, 6)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (side, batch) in NETS.items():
            steps = 200 if name == "mlp" else 6
            found = results[name] = measure(name, side, batch, steps, arguments.rounds, Path(folder))
            print(f"{name:<10} step {found['step ms']} ms: on {found['on against off']} ({found['low']} to "
                  f"{found['high']}) of off; off {found['off against nothing']} of no clock", flush=True)
    good = all(row["on against off"] <= ON and row["off against nothing"] <= OFF for row in results.values())
    arguments.out.write_text(json.dumps({"command": ["python", *sys.argv], "good": good, "results": results,
                                         "environment": environment()}, indent=2) + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
