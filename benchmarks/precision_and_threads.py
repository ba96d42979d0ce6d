"""What `visus.optimize` chooses against an exhaustive sweep of ways, threads and precisions, also beside busy others.

    python benchmarks/precision_and_threads.py [--model mobilenet_v3_large] [--rounds 15] [--busy 0,2]

For each number of busy processes (each computes all the time; they end with this one): visus.optimize chooses, then
every way that can be chosen is built on every number of threads, and all are timed in turns with the choice. The regret
is the median of the per-round ratios of the choice over the best of the sweep. With 16-bit floats allowed (the answers
must agree) a second choice is held against a sweep that has them too: where the processor only imitates them they are
many times slower, and must not be chosen. 'against torch by default': the choice beside eager torch on all cores, the
trap of busy machines.

Bar: a regret of at most 1.05 everywhere. Exit code 1 when missed. Results:
benchmarks/results/precision_and_threads.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import visus
from benchmarks.paired import interval
from visus.core.device import environment
from visus.core.errors import UserError
from visus.deploy.backends_torch import on_threads, quick_graph
from visus.deploy.machine import cores
from visus.deploy.optimise import thread_counts
from visus.deploy.session import EXACT, HALF, session_of_graph
from visus.deploy.timing import Entrant, Race, ratio, ratios
from visus.run.models import create_model

OUT = Path(__file__).parent / "results" / "precision_and_threads.json"
BAR = 1.05
LIFE_S = 900  # of a busy process, whatever happens to this one
BUSY = f"import time; end = time.time() + {LIFE_S}\nwhile time.time() < end: sum(range(10000))"


@contextmanager
def busy(count: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        time.sleep(0.5 if count else 0)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def swept(graph: bytes, model: torch.nn.Module, images: torch.Tensor, half: bool) -> dict[str, Entrant]:
    """Everything that could be chosen, by hand."""
    array, found = images.numpy(), {}
    for threads in thread_counts(cores()):
        eager = on_threads(model, threads)
        found[f"torch on {threads}"] = Entrant("torch", threads, lambda eager=eager: eager(images))
        for name in (*EXACT, *(HALF if half else ())):
            if name.endswith("-spinning") and threads == 1:
                continue
            try:
                session = session_of_graph(graph, name, threads)
            except UserError:
                continue  # the processor has no such numbers
            found[f"{name} on {threads}"] = Entrant(name, threads, lambda session=session: session(array))
    return found


def measure(model: torch.nn.Module, images: torch.Tensor, graph: bytes, half: bool, rounds: int) -> dict[str, Any]:
    chosen = visus.optimize(model, images, half=half)
    entrants = swept(graph, model, images, half)
    race = Race()
    race.run(list(entrants.values()), 2)
    best = min(entrant.p50 for entrant in entrants.values())
    left = {name: entrant for name, entrant in entrants.items() if entrant.p50 < 2 * best}  # the rest cannot win
    own = Entrant("chosen", chosen.choice.threads, lambda: chosen(images))
    race.run([*left.values(), own], rounds)
    quickest = min(left, key=lambda name: left[name].p50)
    slow = entrants[f"torch on {cores()}"]
    return {"chosen": f"{chosen.choice.candidate} on {chosen.choice.threads}", "best of the sweep": quickest,
            "regret": round(ratio(own, left[quickest]), 3), "interval": interval(ratios(own, left[quickest])),
            "busy": chosen.tuned.busy, "contention": round(chosen.tuned.contention, 2),
            "tuning, s": round(chosen.tuned.wall_s, 1),
            "against torch by default": round(statistics.median(slow.wall.values()) / own.p50, 2),
            "ms": {name: round(1e3 * entrant.p50, 3) for name, entrant in {**entrants, "chosen": own}.items()}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mobilenet_v3_large")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--busy", default="0,2")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = create_model(arguments.model).eval()
    images = torch.rand(1, 3, arguments.image_size, arguments.image_size)
    graph, load, results = quick_graph(model, images), os.getloadavg()[0], {}
    for count in map(int, arguments.busy.split(",")):
        for half in (False, True):
            with busy(count):
                row = measure(model, images, graph, half, arguments.rounds)
            name = f"{count} busy processes, {'16 bits allowed' if half else 'float32'}"
            results[name] = row
            print(f"{name}: {row['chosen']}, the best is {row['best of the sweep']}, regret {row['regret']} "
                  f"{row['interval']}, {row['against torch by default']} x torch by default", flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({
        "command": ["python", *sys.argv], "model": arguments.model, "bar": BAR,
        "load average at the start": round(load, 2), "results": results,
        "environment": environment()}, indent=2) + "\n")
    return 0 if all(row["regret"] <= BAR for row in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
