"""What the doctor's watcher costs: a training with it against the same training without.

    python benchmarks/watcher.py [--rounds 12] [--nets mlp,cnn,resnet20]

Two equal nets are trained in turns, a block of steps each, on one thread; the one has a watcher from its first step on.
Processor time is compared, for the machine may be shared. Two equal nets differ by some per cent by where their memory
lies, so eight such pairs are built: the cost is the mean over them of the ratio of medians, with its standard
error. What looking costs at the beginning is counted apart, for it comes once a training, however long that is: the
first ten steps, and a head start of so many seconds at the most. Exit code 1 when the cost after it is above 3 %.
Results: benchmarks/results/watcher.json
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from visus.core.device import environment
from visus.doctor.watcher import HEAD_START_S, Watcher
from visus.run.models import create_model

BAR = 0.03
PAIRS = 8


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(),
                         nn.Linear(128, 10))


def cnn() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2),
                         nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def resnet20() -> nn.Module:
    return create_model("resnet20", num_classes=10, in_channels=3, image_size=32)


NETS: dict[str, tuple[Callable[[], nn.Module], int, int, int]] = {  # net, batch, steps before, steps of a block
    "mlp": (mlp, 32, 100, 100), "cnn": (cnn, 32, 100, 50), "resnet20": (resnet20, 128, 12, 2)}


class Side:
    """One training. images [256, 3, 32, 32], labels [256]: fixed; batches are drawn from them in the same order."""

    def __init__(self, build: Callable[[], nn.Module], batch: int, watched: bool):
        torch.manual_seed(0)
        self.model = build()
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)
        self.loss = nn.CrossEntropyLoss()
        self.watcher = Watcher(self.model, self.optimizer, self.loss) if watched else None
        self.batch, self.generator = batch, torch.Generator().manual_seed(1)
        self.images = torch.randn(256, 3, 32, 32, generator=self.generator)
        self.labels = torch.randint(0, 10, (256,), generator=self.generator)

    def train(self, steps: int) -> float:
        """Processor seconds of so many steps."""
        if self.watcher is not None:
            self.watcher._ended = time.perf_counter()  # the other side's turn is no time of this training
        start = time.process_time()
        for _ in range(steps):
            chosen = torch.randint(0, 256, (self.batch,), generator=self.generator)
            self.optimizer.zero_grad()
            self.loss(self.model(self.images[chosen]), self.labels[chosen]).backward()
            self.optimizer.step()
        return time.process_time() - start


def measure(name: str, rounds: int) -> dict[str, object]:
    """rounds: blocks of each side in each of the pairs."""
    costs, own, first, looks, steps_ms, same = [], [], [], 0, [], True
    for number in range(PAIRS):
        pair = _pair(name, rounds, watched_first=bool(number % 2))
        costs.append(pair["cost"])
        own.append(pair["own"])
        first.append(pair["first"])
        steps_ms.append(pair["step_ms"])
        looks += int(pair["looks"])
        same &= bool(pair["same"])
    error = float(np.std(costs, ddof=1)) / PAIRS ** 0.5
    return {"batch": NETS[name][1], "step ms": round(float(np.mean(steps_ms)), 3),
            "steps": PAIRS * rounds * NETS[name][3], "cost %": round(100 * float(np.mean(costs)), 2),
            "standard error %": round(100 * error, 2), "by its own clock %": round(100 * float(np.mean(own)), 2),
            "full looks": looks, "first ten steps s": round(float(np.mean(first)), 3), "same bits": same}


def _pair(name: str, rounds: int, watched_first: bool) -> dict[str, float]:
    build, batch, before, block = NETS[name]
    sides = [Side(build, batch, watched) for watched in ((True, False) if watched_first else (False, True))]
    alone, watched = sides[::-1] if watched_first else sides
    watcher = watched.watcher
    assert watcher is not None
    alone.train(10)
    watched.train(10)
    first = watcher.spent_s
    alone.train(before - 10)
    watched.train(before - 10)
    watcher._grace = 0.0  # the head start is over
    spent, time_of, looks = watcher.spent_s, watcher.watched_s, len(watcher.looks)
    seconds = np.zeros((rounds, 2))
    for number in range(rounds):
        for side in ((0, 1) if number % 2 else (1, 0)):
            seconds[number, side] = (alone, watched)[side].train(block)
    watcher.close()
    same = all(torch.equal(a, b) for a, b in zip(alone.model.state_dict().values(),
                                                  watched.model.state_dict().values(), strict=True))
    plain, seen = np.median(seconds, axis=0)
    return {"cost": float(seen / plain - 1), "own": (watcher.spent_s - spent) / (watcher.watched_s - time_of),
            "first": first, "step_ms": 1e3 * float(plain) / block, "looks": len(watcher.looks) - looks, "same": same}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--nets", default=",".join(NETS))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "watcher.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = json.loads(arguments.out.read_text())["results"] if arguments.out.is_file() else {}
    for name in arguments.nets.split(","):
        results[name] = measure(name, arguments.rounds)
        print(name, results[name], flush=True)
        arguments.out.write_text(json.dumps({
            "command": ["python", *sys.argv], "head start s": HEAD_START_S, "bar %": 100 * BAR, "results": results,
            "environment": environment()}, indent=2) + "\n")
    good = all(float(row["cost %"]) < 100 * BAR and row["same bits"] for row in results.values())
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
