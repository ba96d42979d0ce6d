"""Train a shipped recipe with several seeds and write down what came out.

    python recipes/reproduce.py fashion-mnist-resnet20 FOLDER     folder with the four IDX files (.gz or not)
    python recipes/reproduce.py cifar10-resnet20 FOLDER           folder with cifar10_train.npz and cifar10_test.npz
    python recipes/reproduce.py digits                            the built-in set, with what visus chooses

Accuracy, seeds and time go to recipes/results.json; `python tools/results.py` draws docs/results.md from it.
The CIFAR-10 files may hold arrays images and labels, or the lossless packing q (planes G, R - G, B - G, differenced
along x and y modulo 256) with labels y; the latter is unpacked to an ordinary .npz first.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

import visus
from visus.core.device import environment

RESULTS = Path(__file__).parent / "results.json"
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--note", default="", help="what a reader should know about the machine, such as other load")
    arguments = parser.parse_args()
    data: Path | str = "digits" if arguments.recipe == "digits" else arguments.data
    if arguments.recipe.startswith("cifar10"):
        data = unpack_cifar10(arguments.data, arguments.out / "cifar10.npz")
    rows = []
    for seed in range(arguments.seeds):
        out = arguments.out / f"{arguments.recipe}-seed{seed}"
        start, cpu = time.perf_counter(), os.times()
        run = visus.train(data, recipe=None if arguments.recipe == "digits" else arguments.recipe,
                          values={"train.seed": seed}, out=out)
        used = os.times()
        rows.append({"seed": seed, "test_accuracy": run.metrics["accuracy"],
                     "minutes": round((time.perf_counter() - start) / 60, 2),
                     "cpu_minutes": round((used.user + used.system - cpu.user - cpu.system) / 60, 2)})
        print(rows[-1], flush=True)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    recipe = run.recipe
    results[arguments.recipe] = {
        "command": f"python recipes/reproduce.py {arguments.recipe} ... --seeds {arguments.seeds}",
        "model": recipe.model.name, "epochs": recipe.train.epochs, "runs": rows, "note": arguments.note,
        "environment": {k: environment()[k] for k in ("torch", "processor", "cores", "visus")}}
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    return 0


def unpack_cifar10(folder: Path, out: Path) -> Path:
    """An .npz with train_images, train_labels, test_images, test_labels and class_names."""
    arrays: dict[str, np.ndarray] = {"class_names": np.array(CIFAR10)}
    for split in ("train", "test"):
        with np.load(folder / f"cifar10_{split}.npz") as file:
            if "q" in file:
                planes = file["q"].cumsum(-1, dtype=np.uint8).cumsum(-2, dtype=np.uint8)  # [3, N, 32, 32]: G, R-G, B-G
                images, labels = np.stack([planes[1] + planes[0], planes[0], planes[2] + planes[0]], -1), file["y"]
            else:
                images, labels = file["images"], file["labels"]
        arrays |= {f"{split}_images": images, f"{split}_labels": labels}
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez(out, **arrays)
    return out


if __name__ == "__main__":
    sys.exit(main())
