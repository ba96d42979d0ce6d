"""Two nets with equal weights side by side: forward, training step, memory. benchmarks/classifiers.py and
benchmarks/transformers.py say which."""

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
            found[f"{what}, batch {len(images)}"] = {
                "speed against the peer": round(statistics.median(ratios), 3), "rounds": len(ratios),
                "ms": round(1e3 * statistics.median(seconds), 2)}
    return found


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
    for name in arguments.families.split(","):
        size = sizes.get(name, arguments.image_size)
        ours, theirs = pair(name)
        found = measure(ours, theirs, size, batches, arguments.rounds, arguments.seconds)
        memory = {side: round(peak_memory(model, size, batches[-1]), 2)
                  for side, model in (("ours", ours), ("theirs", theirs))}
        results[name] = {"peer": " ".join(families[name]), "image_size": size, **found, "peak MiB": memory}
        print(f"{name:<20} " + "  ".join(f"{what} {row['speed against the peer']:.3f}" for what, row in found.items())
              + f"  memory {memory['ours'] / memory['theirs']:.3f}", flush=True)
    ratios = [row["speed against the peer"] for family in results.values() for row in family.values()
              if isinstance(row, dict) and "rounds" in row]
    worst_memory = max(family["peak MiB"]["ours"] / family["peak MiB"]["theirs"] for family in results.values())
    mean = math.exp(statistics.fmean(map(math.log, ratios)))
    print(f"geometric mean {mean:.4f}, lowest {min(ratios):.3f}, memory at most {worst_memory:.3f} of the peer's")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({
        "command": ["python", *sys.argv], "rounds": arguments.rounds, "geometric mean": round(mean, 4),
        "lowest": min(ratios), "memory at most": round(worst_memory, 4), "results": results,
        "environment": environment()}, indent=2) + "\n")
    return 0 if min(ratios) >= 0.97 and mean >= 1 and worst_memory <= 1.01 else 1

