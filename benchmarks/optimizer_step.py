"""The end of a training step alone: clipping, AdamW, moving average; against timm's defaults for the same.

    python benchmarks/optimizer_step.py

Ours: clip_gradients, the optimizer that build_optimizer gives for adamw over parameter_groups, EMA. The peer's, as its
training script has them: dispatch_clip_grad, create_optimizer_v2('adamw'), ModelEmaV2. Parameters are those of
timm's own ViT-Tiny and ResNet-18. Before each step both have the same fresh gradients; 'clipped': their norm is above
the limit, so that all of them are scaled; 'within': below it. The same run checks that weights and averages agree to
1e-5 after all rounds. Process time on one thread, sides in turn, medians of rounds. Bars: 3.5 x in each row (aim 5).
Exit code 1 when one is missed.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.paired import interval
from tools.peers import load_peer
from visus.core.device import environment
from visus.optim.build import build_optimizer
from visus.optim.clip import clip_gradients
from visus.optim.ema import EMA
from visus.optim.parameter_groups import parameter_groups

OUT = Path(__file__).parent / "results" / "optimizer_step.json"
MODELS = {"vit_tiny": "vit_tiny_patch16_224", "resnet18": "resnet18"}
LR, DECAY, AVERAGE, BAR, NEAR = 1e-3, 0.05, 0.9998, 3.5, 1e-5


def ours(model: nn.Module, limit: float) -> tuple[Callable[[], None], Callable[[], list[torch.Tensor]]]:
    optimizer = build_optimizer("adamw", parameter_groups(model, DECAY), lr=LR, eps=1e-8)
    average = EMA(model, AVERAGE, warmup=False)
    parameters = list(model.parameters())

    def step() -> None:
        clip_gradients(parameters, limit, optimizer)
        optimizer.step()
        average.update(model)

    def averaged() -> list[torch.Tensor]:
        with average.copy_to(model):
            return [p.detach().clone() for p in parameters]

    return step, averaged


def theirs(model: nn.Module, limit: float) -> tuple[Callable[[], None], Callable[[], list[torch.Tensor]]]:
    from timm.optim import create_optimizer_v2
    from timm.utils import ModelEmaV2, dispatch_clip_grad

    optimizer = create_optimizer_v2(model, opt="adamw", lr=LR, weight_decay=DECAY)
    average = ModelEmaV2(model, decay=AVERAGE)
    parameters = list(model.parameters())

    def step() -> None:
        dispatch_clip_grad(parameters, limit)
        optimizer.step()
        average.update(model)

    return step, lambda: [p.detach() for p in average.module.parameters()]


def measure(name: str, limit: float, rounds: int) -> dict[str, float]:
    import timm

    torch.manual_seed(0)
    one = timm.create_model(name)
    two = copy.deepcopy(one)
    generator = torch.Generator().manual_seed(1)
    size = sum(p.numel() for p in one.parameters()) ** 0.5  # gradients of norm 2 altogether
    gradients = [torch.randn(p.shape, generator=generator) * 2 / size for p in one.parameters()]
    sides = {"ours": (one, *ours(one, limit)), "theirs": (two, *theirs(two, limit))}
    ratios, times = [], {"ours": [], "theirs": []}
    for number in range(-2, rounds):
        found = {}
        for side in (("ours", "theirs"), ("theirs", "ours"))[number % 2]:
            model, step, _ = sides[side]
            for p, gradient in zip(model.parameters(), gradients, strict=True):
                p.grad = gradient * (-1 if number % 3 else 1)
            start = time.process_time()
            step()
            found[side] = time.process_time() - start
        if number >= 0:
            ratios.append(found["theirs"] / found["ours"])
            for side, seconds in found.items():
                times[side].append(seconds)
    apart = max((a - b).abs().max().item() for a, b in [
        *zip(one.parameters(), two.parameters(), strict=True),
        *zip(sides["ours"][2](), sides["theirs"][2](), strict=True)])
    if not apart <= NEAR:
        raise SystemExit(f"{name}: weights or averages differ by {apart:.2g}")
    low, high = interval(ratios)
    return {"speed against the peer": round(statistics.median(ratios), 3), "low": low, "high": high, "rounds": rounds,
            "ms": round(1e3 * statistics.median(times["ours"]), 2),
            "peer ms": round(1e3 * statistics.median(times["theirs"]), 2), "largest difference": apart}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    load_peer("timm")
    results = {}
    for label, name in MODELS.items():
        for kind, limit in (("clipped", 1.0), ("within", 10.0)):
            row = results[f"{label}, {kind}"] = measure(name, limit, arguments.rounds)
            print(f"{label:<10} {kind:<8} {row['speed against the peer']:.2f} ({row['low']:.2f} to {row['high']:.2f})  "
                  f"{row['ms']} against {row['peer ms']} ms", flush=True)
    lowest = min(row["speed against the peer"] for row in results.values())
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"command": ["python", *sys.argv], "lowest": lowest, "bar": BAR,
                                         "results": results, "environment": environment()}, indent=2) + "\n")
    return 0 if lowest >= BAR else 1


if __name__ == "__main__":
    raise SystemExit(main())
