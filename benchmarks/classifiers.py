"""Our convolutional classifiers against timm's or torchvision's with the same weights: forward, training step, memory.

    python benchmarks/classifiers.py [--families resnet50,vgg16_bn] [--image-size 96] [--rounds 11] [--seconds 3]

Eager mode, float32, one thread, processor time (another process on the machine lengthens it little). The two sides hold
equal weights, get equal images and alternate in one process; the median of the per-round ratios (the peer's time over
ours: above 1 we are faster) is kept. A training step is forward, cross-entropy, backward; no optimizer, which would be
the same for both. Memory is the most that a training step at the largest batch holds at one time beyond the weights.
Exit code 1 when a ratio is below 0.97, the geometric mean below 1 or our memory more than 1 % above the peer's.
Needs the extra 'parity'. Results: benchmarks/results/classifiers.json, in which families that are not run again stay.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.peers import load_peer, peer_model
from visus.core.device import environment
from visus.run.models import create_model, load_weights

FAMILIES = {  # ours -> (package, its name)
    "resnet50": ("timm", "resnet50"), "resnet18": ("torchvision", "resnet18"),
    "resnext50_32x4d": ("timm", "resnext50_32x4d"),
    "vgg11_bn": ("torchvision", "vgg11_bn"), "densenet121": ("timm", "densenet121"),
    "inception_v3": ("timm", "inception_v3"),
    "googlenet": ("torchvision", "googlenet"), "squeezenet1_1": ("torchvision", "squeezenet1_1"),
    "mobilenet_v2": ("timm", "mobilenetv2_100"), "mobilenet_v3_large": ("timm", "mobilenetv3_large_100"),
    "shufflenet_v2_x1_0": ("torchvision", "shufflenet_v2_x1_0"), "efficientnet_b0": ("timm", "efficientnet_b0"),
    "regnet_y_800mf": ("timm", "regnety_008_tv"), "convnext_tiny": ("timm", "convnext_tiny"),
    "seresnet50": ("timm", "seresnet50"), "repvgg_a0": ("timm", "repvgg_a0"), "xception": ("timm", "legacy_xception"),
    "alexnet": ("torchvision", "alexnet"),
}
SIZES = {"inception_v3": 128, "xception": 128}
BARE = {  # without what the peers leave out by default
    "googlenet": {"aux_heads": False}, "inception_v3": {"aux_head": False, "dropout": 0.0},
    "mobilenet_v2": {"dropout": 0.0}, "mobilenet_v3_large": {"dropout": 0.0, "bn_eps": 1e-5},
    "efficientnet_b0": {"dropout": 0.0, "drop_path": 0.0},
}


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    package, theirs_name = FAMILIES[name]
    torch.manual_seed(0)
    if (package, name) == ("torchvision", "googlenet"):
        load_peer("torchvision")
        from torchvision.models import googlenet

        theirs = googlenet(weights=None, aux_logits=False, init_weights=False)
    else:
        theirs = peer_model(package, theirs_name)
    ours = create_model(name, **BARE.get(name, {}))
    load_weights(ours, theirs.state_dict(), origin=package)
    return ours, theirs


def step(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    model.zero_grad(set_to_none=True)
    nn.functional.cross_entropy(model(images), labels).backward()


def forward(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    with torch.no_grad():
        model(images)


def measure(ours: nn.Module, theirs: nn.Module, image_size: int, batches: list[int],
            rounds: int, budget_s: float) -> dict[str, dict[str, float]]:
    generator = torch.Generator().manual_seed(0)
    found = {}
    for what, work in (("forward", forward), ("step", step)):
        for model in (ours, theirs):
            model.train(what == "step")
        for batch in batches:
            images = torch.randn(batch, 3, image_size, image_size, generator=generator)
            labels = torch.randint(0, 1000, (batch,), generator=generator)
            if batch == 1 and what == "step":  # batch norm over one place has no variance: two images
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=11, help="at least so many")
    parser.add_argument("--seconds", type=float, default=3.0, help="and more until so long, for each row")
    parser.add_argument("--sizes", default="1,16")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "classifiers.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    batches = [int(size) for size in arguments.sizes.split(",")]
    results = json.loads(arguments.out.read_text())["results"] if arguments.out.is_file() else {}
    for name in arguments.families.split(","):
        size = SIZES.get(name, arguments.image_size)
        ours, theirs = pair(name)
        found = measure(ours, theirs, size, batches, arguments.rounds, arguments.seconds)
        memory = {side: round(peak_memory(model, size, batches[-1]), 2)
                  for side, model in (("ours", ours), ("theirs", theirs))}
        results[name] = {"peer": " ".join(FAMILIES[name]), "image_size": size, **found, "peak MiB": memory}
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


if __name__ == "__main__":
    sys.exit(main())
