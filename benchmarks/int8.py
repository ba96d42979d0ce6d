"""Inference in 8 bits against timm's eager forward, of nets that are trained here.

    python benchmarks/int8.py --cifar-train cifar10_train.npz --cifar-test cifar10_test.npz

timm's ResNet-18, ResNet-50 and MobileNetV3-Large are trained on CIFAR-10 (an .npz of "q", planes differenced as in
../shared/data), enlarged to --side pixels, for --images images each; the same weights go into our nets, whose ONNX file
is quantised for each runtime on 1,000 training images by visus.deploy.quantise, as `visus optimize` does it. Judged on
--held-out test images at --side pixels: equal answers and accuracy of float32 and 8 bits. Timed at 224 px: the same
8-bit file, one image, one thread, against the peer's forward (inference mode) of the same image, in turns, processor
time, medians of the per-round ratios. float32 by the same runtime is a third row. Our float32 answers are compared with
the peer's first (largest difference of a probability 1e-4).

Bars: 2.5 times the peer's speed, 99 % equal answers, at most 0.5 points of accuracy lost, all three by one runtime.
Exit code 1 when one is missed. Trained weights are kept in --weights, and taken from there the next time. With the
defaults the training takes about an hour on two cores. Results: benchmarks/results/int8.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.paired import interval
from tools.peers import load_peer
from visus.core.device import environment
from visus.core.preprocessing import Preprocessing
from visus.core.weights import read_state_dict, write_state_dict
from visus.deploy.onnx_file import write_onnx
from visus.deploy.openvino_package import may_compute
from visus.deploy.program import Program
from visus.deploy.quantise import QuantiseConfig, quantised, weight_bits_here
from visus.deploy.session import open_session
from visus.run.models import create_model, load_weights

OUT = Path(__file__).parent / "results" / "int8.json"
NETS = {"resnet18": ("resnet18", {}), "resnet50": ("resnet50", {}),
        "mobilenet_v3_large": ("mobilenetv3_large_100", {"dropout": 0.0, "bn_eps": 1e-5})}
BATCH, RATE = 128, 0.2
BARS = {"speed": 2.5, "agreement": 0.99, "loss": 0.005}
CALIBRATION = 1000
RUNTIMES = {"onnxruntime": "any", "openvino": "openvino"}  # backend -> what the file is made for
RULES = {"labels": tuple("abcdefghij")}


def cifar(path: Path, count: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [N, side, side, 3] and labels."""
    with np.load(path) as held:
        planes = held["q"][:, :count].cumsum(-1, dtype=np.uint8).cumsum(-2, dtype=np.uint8)
        labels = held["y"][:count].astype(np.int64)
    images = torch.from_numpy(np.stack([planes[1] + planes[0], planes[0], planes[2] + planes[0]], 1))
    return enlarged(images, side).permute(0, 2, 3, 1).contiguous().numpy(), labels


def enlarged(images: Tensor, side: int) -> Tensor:
    return nn.functional.interpolate(images, size=(side, side), mode="bilinear", antialias=True)


def trained(name: str, images: np.ndarray, labels: np.ndarray, seen: int, side: int) -> nn.Module:
    """timm's net after `seen` images: SGD, one cycle, mirrored and shifted images."""
    torch.manual_seed(0)
    model = load_peer("timm").create_model(NETS[name][0], num_classes=10).to(memory_format=torch.channels_last).train()
    groups = [{"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 5e-4},
              {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, RATE, 0.9, nesterov=True, fused=True)
    steps = max(2, seen // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.2)
    rules = Preprocessing(size=(side, side), **RULES)
    order = torch.cat([torch.randperm(len(images)) for _ in range(steps * BATCH // len(images) + 1)])
    start = time.perf_counter()
    for number in range(steps):
        index = order[number * BATCH:(number + 1) * BATCH].numpy()
        batch = torch.from_numpy(images[index]).permute(0, 3, 1, 2).float() / 255
        batch = torch.where(torch.rand(len(batch), 1, 1, 1) < 0.5, batch.flip(-1), batch)
        batch = batch.roll(torch.randint(-side // 12, side // 12 + 1, (2,)).tolist(), (2, 3))
        loss = nn.functional.cross_entropy(model(rules.normalise(batch)), torch.from_numpy(labels[index]),
                                           label_smoothing=0.05)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if number % 50 == 0:
            print(f"  {name} step {number} of {steps}, loss {float(loss.detach()):.3f}, "
                  f"{time.perf_counter() - start:.0f} s", flush=True)
    return model.eval().to(memory_format=torch.contiguous_format)


def at_size(path: Path, side: int, target: Path) -> Path:
    """The same file for images of another size."""
    import onnx

    model = onnx.load(path)
    width = model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    for tensor in model.graph.initializer:
        if list(tensor.dims) == [1, 3, 1, width]:  # by which the channels are scaled, repeated along it
            once = onnx.numpy_helper.to_array(tensor)[..., :1]
            tensor.CopyFrom(onnx.numpy_helper.from_array(once.repeat(side, 3), tensor.name))
    for place in (1, 2):
        model.graph.input[0].type.tensor_type.shape.dim[place].dim_value = side
    target.write_bytes(model.SerializeToString())
    return target


def asked(session: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> np.ndarray:
    return np.concatenate([session(image[None]) for image in images])


def measure(name: str, peer: nn.Module, train: np.ndarray, test: tuple[np.ndarray, np.ndarray], side: int, rounds: int,
            scratch: Path) -> dict[str, Any]:
    ours = create_model(name, num_classes=10, **NETS[name][1])
    load_weights(ours, peer.state_dict(), origin="timm")
    rules = Preprocessing(size=(side, side), **RULES)
    about = {"format": 1, "model": name, "task": "classification", "preprocessing": rules.to_dict(),
             "precision": "float32"}
    float32 = scratch / "float32.onnx"
    write_onnx(Program(ours.eval(), rules, "classification"), torch.zeros(2, side, side, 3, dtype=torch.uint8), float32,
               about)

    def eager(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            batch = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
            return peer(rules.normalise(batch)).softmax(1).numpy()

    images, labels = test
    before = asked(open_session(float32), images)
    assert np.abs(before[:32] - asked(eager, images[:32])).max() < 1e-4
    accuracy = float((before.argmax(1) == labels).mean())
    row: dict[str, Any] = {"accuracy, float32": round(accuracy, 4)}
    big = enlarged(torch.from_numpy(images[:1]).permute(0, 3, 1, 2), 224).permute(0, 2, 3, 1).contiguous().numpy()
    for backend in backends():
        int8 = scratch / f"{backend}.onnx"
        start = time.process_time()
        config = QuantiseConfig(weight_bits=weight_bits_here(RUNTIMES[backend]), runtime=RUNTIMES[backend])
        found = quantised(float32, int8, list(train[:CALIBRATION]), config=config)
        building = time.process_time() - start
        after = asked(open_session(int8, backend), images)
        sides = {"eager": eager} | {kind: open_session(at_size(file, 224, scratch / f"{kind}_224.onnx"), backend)
                                    for kind, file in (("float32", float32), ("int8", int8))}
        times = in_turns(sides, big, rounds)
        speed = {kind: [them / us for them, us in zip(times["eager"], times[kind], strict=True)]
                 for kind in ("float32", "int8")}
        row[backend] = {
            "agreement": round(float((after.argmax(1) == before.argmax(1)).mean()), 4),
            "loss": round(accuracy - float((after.argmax(1) == labels).mean()), 4),
            "largest difference": round(float(np.abs(after - before).max()), 3),
            **{f"{kind} against eager": {"median": round(statistics.median(of), 2), "interval": interval(of)}
               for kind, of in speed.items()},
            "ms": {key: round(1e3 * statistics.median(of), 2) for key, of in times.items()},
            "bits of weights": config.weight_bits, "layers": len(found.layers),
            "kept in floats": list(found.kept_float),
            "MiB": [round(file.stat().st_size / 2**20, 2) for file in (float32, int8)],
            "seconds to quantise": round(building, 1)}
    return row


def backends() -> list[str]:
    try:
        import openvino  # noqa: F401
    except ImportError:
        return ["onnxruntime"]
    return list(RUNTIMES) if may_compute() else ["onnxruntime"]


def in_turns(sides: dict[str, Callable[[np.ndarray], np.ndarray]], image: np.ndarray, rounds: int
             ) -> dict[str, list[float]]:
    """Seconds of the processor for each call."""
    times: dict[str, list[float]] = {key: [] for key in sides}
    for number in range(-2, rounds):
        for key in list(sides)[::1 if number % 2 else -1]:
            start = time.process_time()
            sides[key](image)
            if number >= 0:
                times[key].append(time.process_time() - start)
    return times


def good(row: dict[str, Any]) -> bool:
    return any(found["int8 against eager"]["median"] >= BARS["speed"] and found["agreement"] >= BARS["agreement"]
               and found["loss"] <= BARS["loss"] for found in row.values() if isinstance(found, dict))


def summary(results: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """A row for each net and runtime, for docs/results.md."""
    return {f"{name}, {backend}": {
        "accuracy": row["accuracy, float32"], **{what: found[what] for what in ("agreement", "loss")},
        **{f"{kind} against eager": found[f"{kind} against eager"]["median"] for kind in ("float32", "int8")},
        "kept in floats": f"{len(found['kept in floats'])} of {found['layers'] + len(found['kept in floats'])}"}
        for name, row in results.items() for backend, found in row.items() if isinstance(found, dict)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar-train", type=Path, required=True)
    parser.add_argument("--cifar-test", type=Path, required=True)
    parser.add_argument("--nets", default=",".join(NETS))
    parser.add_argument("--side", type=int, default=48)
    parser.add_argument("--images", type=int, default=150_000, help="seen in training")
    parser.add_argument("--held-out", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--weights", type=Path, help="folder where trained weights are kept")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    try:
        timm = load_peer("timm")
    except ImportError as error:
        print(error, file=sys.stderr)
        return 2
    load = os.getloadavg()[0]
    train = cifar(arguments.cifar_train, 50_000, arguments.side)
    test = cifar(arguments.cifar_test, arguments.held_out, arguments.side)
    results: dict[str, dict[str, Any]] = {}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for name in arguments.nets.split(","):
        kept = arguments.weights / f"{name}.safetensors" if arguments.weights else None
        if kept is not None and kept.is_file():
            peer = timm.create_model(NETS[name][0], num_classes=10).eval()
            peer.load_state_dict(read_state_dict(kept))
        else:
            peer = trained(name, *train, arguments.images, arguments.side)
            if kept is not None:
                kept.parent.mkdir(parents=True, exist_ok=True)
                write_state_dict(kept, peer.state_dict())
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as scratch:
            results[name] = measure(name, peer, train[0], test, arguments.side, arguments.rounds, Path(scratch))
        print(name, json.dumps(results[name]), flush=True)
        arguments.out.write_text(json.dumps({
            "command": ["python", *sys.argv], "peer": f"timm {timm.__version__}", "rounds": arguments.rounds,
            "load average at the start": round(load, 2), "bars": BARS, "summary": summary(results),
            "results": results, "environment": environment()}, indent=2) + "\n")
    return 0 if all(good(row) for row in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
