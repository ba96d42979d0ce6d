"""Histograms of oriented gradients of a batch of images against scikit-image's, image by image as it works.

    python benchmarks/hog.py --cifar cifar10_test.npz

Two rows: 32 x 32 colour images (of CIFAR-10 in an .npz of "q", planes differenced as in ../shared/data, else drawn at
random), and windows of 128 x 64. Both sides count the same: 9 directions, cells of 8 px, L2-Hys over blocks of 3 x 3
(32 x 32) or 2 x 2 cells, whole votes; the same run checks that the numbers are equal to 1e-4 for all but the images
with ties between channels, at most 5 % of the numbers. A third time is ours with shared votes and the Gaussian window
of the paper, which the peer does not offer. Process time on one thread, sides in turn, medians of rounds. Bar: at
least 2 x of the peer for both rows. Exit code 1 when it is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.paired import interval
from visus.core.device import environment
from visus.ops.hog import Hog, hog

OUT = Path(__file__).parent / "results" / "hog.json"
BAR, NEAR, TIED = 4.0, 1e-4, 0.05


def cifar(path: Path | None, count: int) -> Tensor:
    """float32 [count, 3, 32, 32] in [0, 1]."""
    if path is None:
        return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with np.load(path) as held:
        planes = held["q"][:, :count].cumsum(-1, dtype=np.uint8).cumsum(-2, dtype=np.uint8)
    return torch.from_numpy(np.stack([planes[1] + planes[0], planes[0], planes[2] + planes[0]], 1)).float() / 255


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(images: Tensor, block: int, rounds: int) -> dict:
    from skimage.feature import hog as peer

    count = len(images)
    arrays = [image.permute(1, 2, 0).double().numpy() for image in images]
    plain = Hog(block=block, sharing="none", window=None)
    sides: dict[str, Callable[[], object]] = {
        "ours": lambda: hog(images, plain),
        "scikit-image": lambda: [peer(array, 9, (8, 8), (block, block), "L2-Hys", channel_axis=2) for array in arrays],
        "ours, shared votes and window": lambda: hog(images, Hog(block=block))}
    with torch.inference_mode():
        ours = hog(images, plain).flatten(1).numpy()
        apart = np.abs(ours - np.stack(sides["scikit-image"]()))  # also warms both
        assert (apart > NEAR).mean() <= TIED, f"{(apart > NEAR).mean():.1%} of the numbers differ"
        sides["ours, shared votes and window"]()
        times: dict[str, list[float]] = {side: [] for side in sides}
        for number in range(rounds):
            for side in list(sides)[::1 if number % 2 else -1]:
                times[side].append(seconds(sides[side]))
    ratios = [them / us for them, us in zip(times["scikit-image"], times["ours"], strict=True)]
    return {"images": count, "size": list(images.shape[1:]), "numbers": ours.shape[1],
            "share of numbers that differ by more than 1e-4": round(float((apart > NEAR).mean()), 5),
            "median difference": float(np.median(apart)),
            "microseconds per image": {side: round(1e6 * statistics.median(of) / count, 1)
                                       for side, of in times.items()},
            "speed against the peer": {"median": round(statistics.median(ratios), 2), "interval": interval(ratios)}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    try:
        import skimage
    except ImportError as error:
        print(error, file=sys.stderr)
        return 2
    load = os.getloadavg()[0]
    windows = torch.rand(arguments.windows, 3, 128, 64, generator=torch.Generator().manual_seed(1))
    results = {"CIFAR-10" if arguments.cifar else "random, 32 x 32":
               measure(cifar(arguments.cifar, arguments.images), 3, arguments.rounds),
               "windows of 128 x 64": measure(windows, 2, arguments.rounds)}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({
        "command": ["python", *sys.argv], "peer": f"scikit-image {skimage.__version__}", "rounds": arguments.rounds,
        "load average at the start": round(load, 2), "bar": BAR, "results": results,
        "environment": environment()}, indent=2) + "\n")
    for name, row in results.items():
        print(f"{name}: {row['speed against the peer']} x of the peer; µs per image {row['microseconds per image']}; "
              f"{row['share of numbers that differ by more than 1e-4']:.2%} of the numbers tied")
    return 0 if all(row["speed against the peer"]["median"] >= BAR for row in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
