"""Two nets with equal weights side by side: forward, training step, memory. benchmarks/classifiers.py and
benchmarks/vision_transformers.py say which."""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from visus.core.device import environment

Pair = Callable[[str], tuple[nn.Module, nn.Module]]


def step(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    model.zero_grad(set_to_none=True)
    nn.functional.cross_entropy(model(images), labels).backward()


def forward(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    with torch.no_grad():
        model(images)


def measure(ours: nn.Module, theirs: nn.Module, image_size: int, batches: list[int],
            rounds: int, budget_s: float) -> dict[str, dict[str, float]]:
    generator = torch.Generator().manual_seed(0)
    normed = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in ours.modules())
    found = {}
    for what, work in (("forward", forward), ("step", step)):
        for model in (ours, theirs):
            model.train(what == "step")
        for batch in batches:
            images = torch.randn(batch, 3, image_size, image_size, generator=generator)
            labels = torch.randint(0, 1000, (batch,), generator=generator)
            if batch == 1 and what == "step" and normed:  # batch norm over one place has no variance: two images
                images, labels = images.repeat(2, 1, 1, 1), labels.repeat(2)
            if what == "forward":
                with torch.no_grad():
                    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-4)
            work(ours, images, labels)
            work(theirs, images, labels)
            start = time.process_time()
            work(ours, images, labels)
            work(theirs, images, labels)
            both = time.process_time() - start
            ratios, seconds = [], []
            for number in range(max(rounds, min(20 * rounds, round(budget_s / both)))):
                times = {}
                for side, model in ((("ours", ours), ("theirs", theirs))[:: 1 if number % 2 else -1]):
                    start = time.process_time()
                    work(model, images, labels)
                    times[side] = time.process_time() - start
                ratios.append(times["theirs"] / times["ours"])
                seconds.append(times["ours"])
            low, high = interval(ratios)
            found[f"{what}, batch {len(images)}"] = {
                "speed against the peer": round(statistics.median(ratios), 3), "low": low, "high": high,
                "rounds": len(ratios), "ms": round(1e3 * statistics.median(seconds), 2)}
    return found


def interval(ratios: list[float]) -> tuple[float, float]:
    """The 95 % interval of the median by order statistics: a binomial count of rounds lies on either side of it. Below
    six rounds it is the whole range."""
    count, ordered = len(ratios), sorted(ratios)
    tail, rank = 0.5**count, 0
    while tail <= 0.025 and rank < (count - 1) // 2:
        rank += 1
        tail += math.comb(count, rank) * 0.5**count
    outside = max(rank - 1, 0)
    return round(ordered[outside], 3), round(ordered[count - 1 - outside], 3)


def peak_memory(model: nn.Module, image_size: int, batch: int) -> float:
    """Most bytes that a training step holds at one time beyond weights and images, in MiB, by torch's own records."""
    images, labels = torch.randn(batch, 3, image_size, image_size), torch.randint(0, 1000, (batch,))
    model.train()
    step(model, images, labels)
    model.zero_grad(set_to_none=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step(model, images, labels)
    records = sorted((event.start_ns(), event.nbytes()) for event in profile.profiler.kineto_results.events()
                     if event.name() == "[memory]")
    held = itertools.accumulate(size for _, size in records)
    return max(held) / 2**20


def main(about: str, families: Mapping[str, tuple[str, str]], pair: Pair, out: Path, image_size: int,
         sizes: Mapping[str, int], seconds: float) -> int:
    """families: ours -> (package, its name); pair(ours) -> (our net, the peer's) with equal weights. sizes: sides of
    images in pixels where they are not image_size. Returns the exit code."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", default=",".join(families))
    parser.add_argument("--image-size", type=int, default=image_size)
    parser.add_argument("--rounds", type=int, default=11, help="at least so many")
    parser.add_argument("--seconds", type=float, default=seconds, help="and more until so long, for each row")
    parser.add_argument("--sizes", default="1,16")
    parser.add_argument("--out", type=Path, default=out)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    batches = [int(size) for size in arguments.sizes.split(",")]
    results = json.loads(arguments.out.read_text())["results"] if arguments.out.is_file() else {}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for name in arguments.families.split(","):
        size = sizes.get(name, arguments.image_size)
        ours, theirs = pair(name)
        found = measure(ours, theirs, size, batches, arguments.rounds, arguments.seconds)
        memory = {side: round(peak_memory(model, size, batches[-1]), 2)
                  for side, model in (("ours", ours), ("theirs", theirs))}
        results[name] = {"peer": " ".join(families[name]), "image_size": size, **found, "peak MiB": memory}
        print(f"{name:<20} " + "  ".join(
            f"{what} {row['speed against the peer']:.3f} ({row['low']:.2f} to {row['high']:.2f})"
            for what, row in found.items()) + f"  memory {memory['ours'] / memory['theirs']:.3f}", flush=True)
        verdict = summary(results)
        arguments.out.write_text(json.dumps({
            "command": ["python", *sys.argv], "rounds": arguments.rounds, **verdict, "results": results,
            "environment": environment()}, indent=2) + "\n")
    print(", ".join(f"{what} {value}" for what, value in verdict.items()))
    good = verdict["lowest family"] >= 0.97 and verdict["geometric mean"] >= 1 and verdict["memory at most"] <= 1.01
    return 0 if good and not verdict["surely below 0.97"] else 1


def summary(results: Mapping[str, dict]) -> dict[str, Any]:
    """lowest family: the least geometric mean of a family's rows. surely below 0.97: rows whose whole interval is."""
    rows = {name: {what: row for what, row in family.items() if isinstance(row, dict) and "rounds" in row}
            for name, family in results.items()}
    means = {name: math.exp(statistics.fmean(math.log(row["speed against the peer"]) for row in of.values()))
             for name, of in rows.items()}
    memory = [family["peak MiB"]["ours"] / family["peak MiB"]["theirs"] for family in results.values()]
    return {"geometric mean": round(math.exp(statistics.fmean(map(math.log, means.values()))), 4),
            "lowest family": round(min(means.values()), 3),
            "lowest row": min(row["speed against the peer"] for of in rows.values() for row in of.values()),
            "surely below 0.97": [f"{name}, {what}" for name, of in rows.items() for what, row in of.items()
                                  if row.get("high", row["speed against the peer"]) < 0.97],
            "memory at most": round(max(memory), 4)}
