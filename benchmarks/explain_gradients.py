"""Saliency, integrated gradients, SmoothGrad and guided backpropagation against captum: same net, images and steps.

    python benchmarks/explain_gradients.py [--rounds 9]

Ours asks the folded copy (visus.deploy.frozen), as `visus explain` does; captum asks the model as it is. Process time
on one thread, sides in turn, medians of the rounds' ratios with their intervals. Saliency is compared with captum's in
float64. Exit code 1 where ours is the slower or a map differs. Results: benchmarks/results/explain_gradients.json
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.paired import interval
from visus.core.device import environment
from visus.core.files import write_json
from visus.deploy.frozen import frozen
from visus.explain import registry
from visus.run.models import create_model

OUT = Path(__file__).parent / "results" / "explain_gradients.json"
STEPS, SAMPLES, DEVIATION = 32, 16, 0.1
Make = Callable[[], Tensor]


def sides(name: str, net: torch.nn.Module, images: Tensor) -> tuple[Make, Make]:
    """(ours, captum's)."""
    from captum.attr import GuidedBackprop, IntegratedGradients, NoiseTunnel, Saliency

    target = net(images).argmax(1)
    options = {"integrated_gradients": {"steps": STEPS}, "smooth_grad": {"samples": SAMPLES}}.get(name, {})
    entry, copy = registry.get(name), frozen(net, (1, *images.shape[1:]))
    method = entry.build(**{**entry.variant, **options})
    theirs = {
        "saliency": lambda: Saliency(net).attribute(images, target=target),
        "integrated_gradients": lambda: IntegratedGradients(net).attribute(images, target=target, n_steps=STEPS),
        "smooth_grad": lambda: NoiseTunnel(Saliency(net)).attribute(
            images, target=target, nt_type="smoothgrad", nt_samples=SAMPLES, stdevs=DEVIATION),
        "guided_backprop": lambda: GuidedBackprop(net).attribute(images, target=target)}[name]
    return lambda: method(copy, images).heat, theirs


def difference(net: torch.nn.Module, images: Tensor) -> float:
    """Of the saliency maps in float64, relative to the largest value."""
    from captum.attr import Saliency

    double = net.double()
    mine = registry.get("saliency").build()(frozen(double, (1, *images.shape[1:])), images.double()).heat
    other = Saliency(double).attribute(images.double(), target=double(images.double()).argmax(1)).amax(1)
    net.float()
    return float((mine - other).abs().max() / other.abs().max())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    results, failed = {}, False
    for model in ("resnet18", "mobilenet_v3_large"):
        net = create_model(model, num_classes=10).eval()
        images = torch.randn(8, 3, 64, 64)
        apart = difference(net, images)
        failed |= apart > 1e-9
        results[model] = {"largest relative difference of saliency, float64": apart}
        names = ["saliency", "integrated_gradients", "smooth_grad"]
        if model == "resnet18":  # the rule is for ReLU
            names.append("guided_backprop")
        for name in names:
            pair = sides(name, net, images)
            seconds: list[list[float]] = [[], []]
            for number in range(arguments.rounds + 1):  # the first warms up
                for side in (0, 1) if number % 2 else (1, 0):
                    start = time.process_time()
                    pair[side]()
                    if number:
                        seconds[side].append(time.process_time() - start)
            ratios = [theirs / ours for ours, theirs in zip(*seconds, strict=True)]
            low, high = interval(ratios)
            results[model][name] = {"ratio": round(statistics.median(ratios), 3), "low": low, "high": high,
                                    "ms": [round(1000 * statistics.median(s), 1) for s in seconds]}
            failed |= statistics.median(ratios) < 1
            print(model, name, results[model][name], flush=True)
    write_json(arguments.out, {"what": "CPU time of captum over ours, 8 images of 64 px, one thread",
                               "load average": round(os.getloadavg()[0], 2), "environment": environment(),
                               "results": results})
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
