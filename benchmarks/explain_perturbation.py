"""Occlusion, RISE and LIME against captum: same weights, image, windows, masks and samples, equal maps.

    python benchmarks/explain_perturbation.py [--models resnet18,mobilenet_v3_large] [--image-size 64] [--rounds 7]

Ours asks the folded, channels-last copy (visus.deploy.frozen) in batches; captum asks the model as it is, with its
default of one image at a time, and with the fastest of several perturbations_per_eval, found first. captum has no RISE:
its peer is the authors' procedure on the model as it is, one mask at a time and with the fastest batch. Rounds of
ours, default and best alternate; CPU time of the process on one thread, medians of the ratios of rounds. The copy is
made once, and its time is given apart. Exit code 1 where a map differs or a bar (4.8 and 1.5) is missed. Results:
benchmarks/results/explain_perturbation.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from visus.core.device import environment
from visus.deploy.frozen import frozen
from visus.explain.lime import lime, random_samples
from visus.explain.occlusion import occlusion
from visus.explain.rise import RandomMasks, rise
from visus.run.models import create_model

WINDOW, STRIDE, MASKS, SAMPLES, SEGMENTS, WIDTH = 16, 8, 64, 64, 36, 0.25
BATCHES = (8, 32, 64)
BARS = {"default": 4.8, "best": 1.5}
Make = Callable[[], Tensor]


@torch.no_grad()
def answering(model: nn.Module, image_size: int) -> nn.Module:
    """In eval mode, with norms of real statistics and logits that hang on the image, so that equal maps say much."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
            nn.init.uniform_(module.weight, 0.5, 1.5)
    for _ in range(2):
        model.train()(torch.randn(16, 3, image_size, image_size))
    model.eval()
    logits = model(torch.randn(8, 3, image_size, image_size))
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    last.weight.mul_(3 / logits.std(0).mean())
    return model


def questions(model: nn.Module, image: Tensor, target: int) -> dict[str, tuple[Make, Callable[[int], Make]]]:
    """Name -> (ours, the peer's with so many perturbations at a time)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from captum._utils.models.linear_model import SkLearnRidge
        from captum.attr import Lime, Occlusion

    size = image.shape[2:]
    fast, targets = frozen(model, tuple(image.shape)), torch.tensor([target])
    probability = nn.Sequential(model, nn.Softmax(1))
    side = round(SEGMENTS**0.5)
    rows, columns = torch.arange(size[0])[:, None] * side // size[0], torch.arange(size[1]) * side // size[1]
    segments = (rows * side + columns)[None]
    masks = RandomMasks(MASKS, tuple(size))

    def their_occlusion(at_once: int) -> Make:
        return lambda: Occlusion(probability).attribute(
            image, sliding_window_shapes=(3, WINDOW, WINDOW), strides=(3, STRIDE, STRIDE), target=target,
            perturbations_per_eval=at_once)[:, 0]

    @torch.no_grad()
    def their_rise(at_once: int) -> Tensor:
        drawn = masks(torch.arange(MASKS))
        scores = torch.cat([probability(image * part[:, None])[:, target] for part in drawn.split(at_once)])
        return (scores @ drawn.flatten(1) / MASKS / 0.5).view(1, *size)

    def nearness(original: Tensor, perturbed: Tensor, row: Tensor, **options: Any) -> Tensor:
        return torch.exp(-((1 - row.double().mean().sqrt()) / WIDTH) ** 2)[None]

    def their_lime(at_once: int) -> Tensor:
        drawn = iter(random_samples(SAMPLES, SEGMENTS, 0).long())
        peer = Lime(probability, interpretable_model=SkLearnRidge(alpha=1.0), similarity_func=nearness,
                    perturb_func=lambda original, **options: next(drawn)[None])
        return peer.attribute(image, target=target, feature_mask=segments[:, None], n_samples=SAMPLES,
                              perturbations_per_eval=at_once)[:, 0]

    return {
        "occlusion": (lambda: occlusion(fast, image, targets, window=WINDOW, stride=STRIDE), their_occlusion),
        "rise": (lambda: rise(fast, image, targets, masks=MASKS, centred=False),
                 lambda at_once: lambda: their_rise(at_once)),
        "lime": (lambda: lime(fast, image, segments, targets, samples=SAMPLES, width=WIDTH),
                 lambda at_once: lambda: their_lime(at_once))}


def cpu_seconds(make: Make) -> float:
    start = time.process_time()
    make()
    return time.process_time() - start


def measure(ours: Make, theirs: Callable[[int], Make], rounds: int) -> dict[str, Any]:
    found, expected = ours(), theirs(BATCHES[1])()
    difference = float((found - expected).abs().max() / expected.abs().max())
    times = {at_once: cpu_seconds(theirs(at_once)) for at_once in BATCHES}
    best = min(times, key=lambda at_once: times[at_once])
    sides = {"ours": ours, "default": theirs(1), "best": theirs(best)}
    ratios: dict[str, list[float]] = {"default": [], "best": []}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(rounds):
        order = list(sides) if number % 2 else list(sides)[::-1]
        taken = {side: cpu_seconds(sides[side]) for side in order}
        for side in ratios:
            ratios[side].append(taken[side] / taken["ours"])
        for side in sides:
            seconds[side].append(taken[side])
    return {**{f"over {side}": {"median": round(statistics.median(values), 3), "lowest": round(min(values), 3),
                                "highest": round(max(values), 3)} for side, values in ratios.items()},
            "best perturbations_per_eval": best, "largest difference": float(f"{difference:.2g}"),
            "CPU ms": {side: round(1000 * statistics.median(values), 1) for side, values in seconds.items()}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="resnet18,mobilenet_v3_large")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--load", default="", help="what else ran, to be noted in the results")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "explain_perturbation.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    for name in arguments.models.split(","):
        torch.manual_seed(0)
        model = answering(create_model(name), arguments.image_size)
        image = torch.randn(1, 3, arguments.image_size, arguments.image_size)
        with torch.no_grad():
            target = int(model(image).argmax())
        made = cpu_seconds(lambda model=model, image=image: frozen(model, tuple(image.shape)))
        results[name] = {"the copy, CPU ms": round(1000 * made, 1)}
        for what, (ours, theirs) in questions(model, image, target).items():
            results[name][what] = measure(ours, theirs, arguments.rounds)
            print(f"{name:<20} {what:<10} {json.dumps(results[name][what])}", flush=True)
            arguments.out.write_text(json.dumps({
                "command": ["python", *sys.argv], "image_size": arguments.image_size, "rounds": arguments.rounds,
                "windows": (-(-(arguments.image_size - WINDOW) // STRIDE) + 1) ** 2, "masks": MASKS, "samples": SAMPLES,
                "segments": SEGMENTS, "load": arguments.load, "bars": BARS, "results": results,
                "environment": environment()}, indent=2) + "\n")
    rows = [row for found in results.values() for row in found.values() if isinstance(row, dict)]
    equal = all(row["largest difference"] < 1e-3 for row in rows)
    fast = all(row[f"over {side}"]["median"] >= bar for row in rows for side, bar in BARS.items())
    return 0 if equal and fast else 1


if __name__ == "__main__":
    sys.exit(main())
