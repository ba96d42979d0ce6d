"""Augmentation of a batch in memory, against torchvision v2 image by image and kornia on the batch.

    python benchmarks/augmentation.py

Three pipelines from uint8 [B, 3, side, side] to float32 in [0, 1], each with draws of its own for every image: the
photometric set of self-supervised training (colour jitter in random order, grey, blur, solarise), RandAugment (two
operations at 9 of 30) and AutoAugment's ImageNet policy. kornia draws the operations of a policy once for the whole
batch, which is less work than once for each image. Process time on one thread, sides in turn, other draws each round,
medians of rounds. Bars: 1.5 x of torchvision, 1.2 x of kornia. Exit code 1 when one is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.paired import interval
from tools.peers import load_peer
from visus.core.device import environment
from visus.data.transforms import build_augmentation, to_unit

OUT = Path(__file__).parent / "results" / "augmentation.json"
BARS = {"torchvision": 1.5, "kornia": 1.2}
JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
OURS = {
    "photometric": [{"name": "color_jitter", **JITTER, "order": "random"}, {"name": "grayscale", "probability": 0.2},
                    {"name": "gaussian_blur", "sigma": [0.1, 2.0], "probability": 0.5},
                    {"name": "solarize", "probability": 0.2}],
    "randaugment": [{"name": "randaugment", "operations": 2, "magnitude": 9}],
    "autoaugment": [{"name": "auto_augment", "policy": "imagenet"}]}
Side = Callable[[Tensor, int], Tensor]


def ours(pipeline: str) -> Side:
    augment = build_augmentation(OURS[pipeline])
    assert augment is not None
    return lambda images, epoch: to_unit(augment(images, np.arange(len(images)), 0, epoch))


def torchvisions(pipeline: str) -> Side:
    import torchvision.transforms.v2 as v2

    steps = {"photometric": [v2.ColorJitter(**JITTER), v2.RandomGrayscale(0.2),
                             v2.RandomApply([v2.GaussianBlur(13, (0.1, 2.0))], 0.5), v2.RandomSolarize(128, 0.2)],
             "randaugment": [v2.RandAugment(2, 9, fill=128)],
             "autoaugment": [v2.AutoAugment(fill=128)]}[pipeline]
    one = v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True)])

    def work(images: Tensor, epoch: int) -> Tensor:
        torch.manual_seed(epoch)
        return torch.stack([one(image) for image in images])
    return work


def kornias(pipeline: str) -> Side:
    import kornia.augmentation as ka
    from kornia.augmentation.auto import AutoAugment, RandAugment

    steps = {"photometric": lambda: [
                 ka.ColorJitter(*JITTER.values(), p=1.0), ka.RandomGrayscale(p=0.2),
                 ka.RandomGaussianBlur((13, 13), (0.1, 2.0), p=0.5), ka.RandomSolarize(0.0, 0.0, p=0.2)],
             "randaugment": lambda: [RandAugment(n=2, m=9)],
             "autoaugment": lambda: [AutoAugment("imagenet")]}[pipeline]()
    batched = torch.nn.Sequential(*steps)

    def work(images: Tensor, epoch: int) -> Tensor:
        torch.manual_seed(epoch)
        with torch.no_grad():
            return batched(images.to(torch.float32) / 255)
    return work


def pictures(batch: int, side: int) -> Tensor:
    """uint8, of slow and fast changes."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(batch, 3, 8, 8, generator=generator)
    fine = torch.rand(batch, 3, side, side, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 1)
    return (255 * (0.85 * smooth + 0.15 * fine)).to(torch.uint8)


def measure(pipeline: str, batch: int, side: int, rounds: int) -> dict:
    images = pictures(batch, side)
    sides = {"ours": ours(pipeline), "torchvision": torchvisions(pipeline), "kornia": kornias(pipeline)}
    for work in sides.values():
        out = work(images, 10**6)
        assert out.shape == images.shape and out.dtype == torch.float32 and float(out.max()) <= 1.0001
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for number in range(rounds):
        for name in names[:: 1 if number % 2 else -1]:
            start = time.process_time()
            sides[name](images, number)
            seconds[name].append(time.process_time() - start)
    found: dict = {"images per second of one core": {
        name: round(batch / statistics.median(taken), 1) for name, taken in seconds.items()}}
    for peer in BARS:
        ratios = [theirs / mine for theirs, mine in zip(seconds[peer], seconds["ours"], strict=True)]
        # draws differ from round to round: the ratio of the sums is the throughput's
        found[f"speed against {peer}"] = {"of all rounds": round(sum(seconds[peer]) / sum(seconds["ours"]), 3),
                                          "median": round(statistics.median(ratios), 3), "interval": interval(ratios)}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipelines", default=",".join(OURS))
    parser.add_argument("--batches", default="32x224,128x32", help="images x side in pixels")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    versions = {}
    try:
        for peer in BARS:
            versions[peer] = load_peer(peer).__version__
    except ImportError as error:
        print(error, file=sys.stderr)
        return 2
    load = os.getloadavg()[0]
    batches = [tuple(map(int, batch.split("x"))) for batch in arguments.batches.split(",")]
    results = {f"{pipeline}, {batch} of {side} px": measure(pipeline, batch, side, arguments.rounds)
               for pipeline in arguments.pipelines.split(",") for batch, side in batches}
    bars = {f"{bar} x of {peer}": all(row[f"speed against {peer}"]["of all rounds"] >= bar for row in results.values())
            for peer, bar in BARS.items()}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({
        "command": ["python", *sys.argv], "peers": versions, "rounds": arguments.rounds,
        "load average at the start": round(load, 2), "bars": bars, "results": results,
        "environment": environment()}, indent=2) + "\n")
    for name, row in results.items():
        rates = row["images per second of one core"]
        print(f"{name:<27} {rates['ours']:>8} images/s  " + "  ".join(
            f"{row[f'speed against {peer}']['of all rounds']:.2f} x of {peer} ({rates[peer]})" for peer in BARS))
    return 0 if all(bars.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
