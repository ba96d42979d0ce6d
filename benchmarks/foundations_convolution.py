"""Five ways to execute one convolution in visus.foundations: naive loops, im2col, FFT, Winograd, a sparse matrix.

    OMP_NUM_THREADS=1 python benchmarks/foundations_convolution.py

Every way must agree with torch within 1e-9 in float64 before it is timed. Process time on one thread, the ways in turn,
each repeated until it has run for a fiftieth of a second, medians of rounds; the loops run once a round. Bar: im2col at
least 50 times as fast as the naive loops, forwards in every case, and backwards for kernels of 3 and 5: each turn of
the loops does more work the larger the window, so that 11 x 11 backwards, shown too, gains less. FFT, Winograd, the
sparse matrix and torch's own convolution (float64) stand beside as ratios to im2col. Exit code 1 when the bar is
missed.
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
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.paired import interval
from visus.core.device import environment
from visus.foundations import convolution as C

OUT = Path(__file__).parent / "results" / "foundations_convolution.json"
BAR = 50.0
# images, channels, side, filters, kernel, stride, padding
CASES = {"CS231n's assignment 2": (100, 3, 31, 25, 3, 2, 1), "3 x 3 on 32 x 32": (8, 16, 32, 32, 3, 1, 1),
         "deep, 3 x 3": (4, 64, 16, 64, 3, 1, 1), "5 x 5": (8, 8, 28, 16, 5, 1, 2), "11 x 11": (4, 4, 40, 8, 11, 1, 5)}


def problem(images: int, channels: int, side: int, filters: int, kernel: int, stride: int, padding: int
            ) -> tuple[dict[str, Callable[[], np.ndarray]], dict[str, Callable[[], tuple[np.ndarray, ...]]], tuple]:
    rng = np.random.default_rng(0)
    x, b = rng.normal(size=(images, channels, side, side)), rng.normal(size=filters)
    w = rng.normal(size=(filters, channels, kernel, kernel))
    tensors = [torch.tensor(v, requires_grad=True) for v in (x, w, b)]
    expected = F.conv2d(*tensors, stride=stride, padding=padding)
    dout = rng.normal(size=tuple(expected.shape))
    gradients = torch.autograd.grad(expected, tensors, torch.tensor(dout))
    cache = C.convolution_forward(x, w, b, stride, padding)[1]
    matrix = C.convolution_matrix(w, (side, side), stride, padding)

    def by_matrix() -> np.ndarray:
        return np.stack([matrix @ one.ravel() for one in x]).reshape(expected.shape) + b[:, None, None]

    def torchs() -> np.ndarray:
        with torch.no_grad():
            return F.conv2d(*tensors, stride=stride, padding=padding).numpy()

    forward = {"naive": lambda: C.convolution_naive(x, w, b, stride, padding),
               "im2col": lambda: C.convolution_forward(x, w, b, stride, padding)[0],
               "fft": lambda: C.convolution_fft(x, w, b, stride, padding), "sparse matrix": by_matrix, "torch": torchs}
    if kernel == 3 and stride == 1:
        forward["winograd"] = lambda: C.convolution_winograd(x, w, b, padding)
    backward = {"naive": lambda: C.convolution_naive_backward(dout, x, w, stride, padding),
                "im2col": lambda: C.convolution_backward(dout, cache)}
    return forward, backward, (expected.detach().numpy(), [g.numpy() for g in gradients])


def timed(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    repeats = {}
    for name, work in ways.items():
        start = time.process_time()
        work()
        repeats[name] = 1 if name == "naive" else max(1, round(0.02 / max(1e-6, time.process_time() - start)))
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways)[::1 if number % 2 else -1]:
            start = time.process_time()
            for _ in range(repeats[name]):
                ways[name]()
            found[name].append((time.process_time() - start) / repeats[name])
    return found


def measure(case: tuple[int, ...], rounds: int) -> dict[str, dict]:
    forward, backward, (expected, gradients) = problem(*case)
    apart = {name: float(np.abs(way() - expected).max()) for name, way in forward.items()}
    apart["backward"] = max(float(np.abs(a - b).max()) for way in backward.values()
                            for a, b in zip(way(), gradients, strict=True))
    assert max(apart.values()) < 1e-9, apart
    rows = {}
    for what, ways in (("forward", forward), ("backward", backward)):
        times = timed(ways, rounds)
        ratios = {name: [one / own for one, own in zip(times[name], times["im2col"], strict=True)] for name in times}
        rows[what] = {"ms": {name: round(1e3 * statistics.median(of), 3) for name, of in times.items()},
                      "over im2col": {name: round(statistics.median(of), 3) for name, of in ratios.items()
                                             if name != "im2col"},
                      "naive, interval": interval(ratios["naive"])}
    return {**rows, "largest difference from torch": {name: float(f"{value:.2g}") for name, value in apart.items()}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    results = {name: measure(case, arguments.rounds) for name, case in CASES.items()}
    worst = {"forward": min(row["forward"]["over im2col"]["naive"] for row in results.values()),
             "backward, kernels of 3 and 5": min(row["backward"]["over im2col"]["naive"]
                                                 for name, row in results.items() if CASES[name][4] <= 5)}
    bars = {f"im2col at least {BAR:g} times as fast as the loops, {what}": found >= BAR
            for what, found in worst.items()}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({
        "command": ["python", *sys.argv], "rounds": arguments.rounds, "load average at the start": round(load, 2),
        "cases": {name: dict(zip(("images", "channels", "side", "filters", "kernel", "stride", "padding"), case,
                                 strict=True)) for name, case in CASES.items()},
        "bars": bars, "smallest ratio": worst, "results": results, "environment": environment()}, indent=2) + "\n")
    for name, row in results.items():
        print(f"{name}: loops {row['forward']['ms']['naive']:.0f} ms, im2col {row['forward']['ms']['im2col']:.2f} ms, "
              f"times im2col's: {row['forward']['over im2col']}; backward "
              f"{row['backward']['over im2col']['naive']}")
    return 0 if all(bars.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
