"""Grad-CAM of a whole batch against pytorch-grad-cam's, batched and image by image, and against one plain forward pass.

    python benchmarks/explain_cam.py

Both sides give maps of the images' size, stretched to [0, 1] in the same steps, of the same layer and the same classes;
the same run checks that ours is within 1e-5 of the map in float64, and within the rounding of both of the peer's. Ours
asks a frozen copy (batch norms folded, channels-last), which is made once and timed apart, as is the choice of the
layer; the plain forward pass is that of the model as it is. Process time on one thread, sides in turn, medians of
rounds. Bars: 2.8 x of the peer batched (aim 4.5), 6.5 x of the peer image by image, at most 1.15 plain forward passes.
Exit code 1 when one is missed.

pytorch-grad-cam 1.5.7 needs OpenCV, matplotlib and ttach; install them beside it, such as with pip install --target.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.paired import interval
from tools.peers import load_peer
from visus.core.device import environment
from visus.deploy.frozen import frozen
from visus.explain.feature_layer import feature_layer
from visus.explain.grad_cam import grad_cam
from visus.run.models import create_model

OUT = Path(__file__).parent / "results" / "explain_cam.json"
NEAR, BATCHED, ONE_BY_ONE, FORWARDS = 1e-5, 2.8, 6.5, 1.15


def stretched(maps: Tensor) -> Tensor:
    """[B, H, W] -> [0, 1], image by image."""
    maps = maps - maps.amin((1, 2), keepdim=True)
    return maps / (1e-7 + maps.amax((1, 2), keepdim=True))


def finished(heat: Tensor, size: tuple[int, int]) -> Tensor:
    return stretched(F.interpolate(stretched(heat)[:, None], size, mode="bilinear", align_corners=False)[:, 0])


def filled(name: str, size: int) -> nn.Module:
    """Random weights, and norms that hold the statistics of a batch: maps that do not cancel out."""
    torch.manual_seed(0)
    model = create_model(name)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.randn(4, 3, size, size))
    return model.eval()


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(name: str, batch: int, size: int, rounds: int) -> dict:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model = filled(name, size)
    images = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        classes = model(images).argmax(1)
    targets = [ClassifierOutputTarget(int(number)) for number in classes]
    start = time.process_time()
    fast = frozen(model, tuple(images.shape))
    layer = feature_layer(fast, images)
    once = time.process_time() - start
    theirs = copy.deepcopy(model)
    module = theirs.get_submodule(feature_layer(model, images).name)
    with GradCAM(theirs, [module]) as peer:
        def plain() -> Tensor:
            with torch.no_grad():
                return model(images)

        def folded() -> Tensor:
            with torch.no_grad():
                return fast(images)

        def one_by_one() -> Tensor:
            return torch.cat([torch.from_numpy(peer(images[i:i + 1], targets[i:i + 1])) for i in range(batch)])

        sides: dict[str, Callable[[], Tensor]] = {
            "ours": lambda: finished(grad_cam(fast, images, classes, layer), (size, size)),
            "peer, batched": lambda: torch.from_numpy(peer(images, targets)),
            "peer, image by image": one_by_one, "plain forward": plain, "folded forward": folded}
        found = {side: work() for side, work in sides.items()}  # warm
        assert found["peer, batched"].std() > 0.05, "a flat map shows nothing"
        exact = finished(grad_cam(copy.deepcopy(model).double(), images.double(), classes), (size, size))
        apart = {side: float((found[side] - exact).abs().max()) for side in ("ours", "peer, batched")}
        between = max(float((found["ours"] - found[side]).abs().max()) for side in ("peer, batched",
                                                                                   "peer, image by image"))
        assert apart["ours"] <= NEAR and between <= 2 * NEAR, f"{name}: {apart} from float64, {between} apart"
        times: dict[str, list[float]] = {side: [] for side in sides}
        for number in range(rounds):
            for side in list(sides)[::1 if number % 2 else -1]:
                times[side].append(seconds(sides[side]))
    ratios = {side: [them / us for them, us in zip(times[side], times["ours"], strict=True)] for side in sides}
    return {"layer": layer.name, "largest difference from float64": apart, "largest difference between the two":
            between, "frozen copy and choice of layer, once, ms":
            round(1e3 * once, 1), "ms": {side: round(1e3 * statistics.median(of), 1) for side, of in times.items()},
            **{f"speed against the {side}": {"median": round(statistics.median(ratios[side]), 2),
                                             "interval": interval(ratios[side])}
               for side in ("peer, batched", "peer, image by image")},
            "plain forwards": round(statistics.median(1 / ratio for ratio in ratios["plain forward"]), 3),
            "folded forwards": round(statistics.median(1 / ratio for ratio in ratios["folded forward"]), 3)}


def verdict(results: dict[str, dict]) -> dict[str, bool]:
    rows = results.values()
    return {f"{BATCHED} x of the peer, batched": all(
                row["speed against the peer, batched"]["median"] >= BATCHED for row in rows),
            f"{ONE_BY_ONE} x of the peer, image by image": all(
                row["speed against the peer, image by image"]["median"] >= ONE_BY_ONE for row in rows),
            f"at most {FORWARDS} plain forward passes": all(row["plain forwards"] <= FORWARDS for row in rows)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="resnet18,mobilenet_v3_large")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    try:
        load_peer("torchvision")
        load_peer("pytorch_grad_cam")
    except ImportError as error:
        print(error, file=sys.stderr)
        return 2
    load = os.getloadavg()[0]
    results = {name: measure(name, arguments.batch, arguments.image_size, arguments.rounds)
               for name in arguments.models.split(",")}
    bars = verdict(results)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({
        "command": ["python", *sys.argv], "peer": "pytorch-grad-cam 1.5.7", "rounds": arguments.rounds,
        "batch": arguments.batch, "image_size": arguments.image_size, "load average at the start": round(load, 2),
        "bars": bars, "results": results, "environment": environment()}, indent=2) + "\n")
    for name, row in results.items():
        print(f"{name}: {row['speed against the peer, batched']['median']} x of the peer batched, "
              f"{row['speed against the peer, image by image']['median']} x image by image, "
              f"{row['plain forwards']} plain forwards, {row['largest difference from float64']['ours']:.1e} from "
              f"float64, {row['largest difference between the two']:.1e} from the peer's")
    return 0 if all(bars.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
