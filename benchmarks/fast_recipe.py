"""`--recipe fast` against a plain recipe, on CIFAR-10: processor time to the same test accuracy.

    python benchmarks/fast_recipe.py FOLDER [--seeds 3] [--plain-epochs 4]

FOLDER holds CIFAR-10 as recipes/reproduce.py takes it. The plain side is what one trains on CIFAR-10 by default:
ResNet-20 (He et al. 2016), SGD with Nesterov momentum 0.9 at a rate of 0.1 and a batch of 128, weight decay 5e-4, a
cosine without restarts after half an epoch of warm-up, random crops with a padding of 4 and mirror images. Each run is
a process of its own, `visus train` with one thread and without the doctor and the report's extras, and its whole
processor time counts: start, loading, training, validation and test. The two sides alternate seed by seed; runs that
the results already hold for the same number of epochs are not repeated. Exit code 1 when the fast side's mean accuracy
is below the plain side's, or its time is not at most a quarter. Results: benchmarks/results/fast_recipe.json
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recipes.reproduce import unpack_cifar10
from visus.core.device import environment

PLAIN = {"data.val": 0.1, "model.name": "resnet20", "optimizer.name": "sgd", "optimizer.lr": 0.1,
         "optimizer.weight_decay": 0.0005, "schedule.name": "cosine", "schedule.warmup_epochs": 0.5,
         "train.batch_size": 128,
         "augmentation": "[{name: random_crop, padding: 4}, {name: horizontal_flip}]"}
COMMON = {"data.val": 0.1, "doctor.before": False, "doctor.watch": False, "report.budget_s": 0, "train.threads": 1,
          "data.workers": 0}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--plain-epochs", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "fast_recipe.json")
    arguments = parser.parse_args()
    before = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
    known = before.get("results", {}) if before.get("plain_epochs") == arguments.plain_epochs else {}
    runs: dict[str, list[dict[str, float]]] = {
        side: known.get(side, {}).get("runs", []) for side in ("plain", "fast")}
    folder = Path(tempfile.mkdtemp())
    try:
        data = unpack_cifar10(arguments.data, folder / "cifar10.npz")
        plain = [f"--set={name}={value}" for name, value in PLAIN.items()] + [f"--epochs={arguments.plain_epochs}"]
        for seed in range(arguments.seeds):
            for side, words in [("fast", ["--recipe=fast"]), ("plain", plain)][:: -1 if seed % 2 else 1]:
                if seed not in [row["seed"] for row in runs[side]]:
                    runs[side].append(train(data, folder / f"{side}-{seed}", seed, words))
                    print(side, runs[side][-1], flush=True)
                write(arguments.out, runs, arguments.plain_epochs)
    finally:
        shutil.rmtree(folder)
    results = write(arguments.out, runs, arguments.plain_epochs)
    print(results)
    return 0 if results["fast"]["test accuracy"] >= results["plain"]["test accuracy"] and \
        results["speed"]["plain over fast"] >= 4 else 1


def write(out: Path, runs: dict[str, list[dict[str, float]]], plain_epochs: int) -> dict[str, Any]:
    """The rows so far, their means, and the median of the ratios of seeds that both sides have."""
    results: dict[str, Any] = {
        side: {"test accuracy": round(statistics.fmean(r["accuracy"] for r in rows), 4),
               "CPU s": round(statistics.median(r["cpu_s"] for r in rows), 1), "runs": rows}
        for side, rows in runs.items() if rows}
    cpu = {side: {row["seed"]: row["cpu_s"] for row in rows} for side, rows in runs.items()}
    both = sorted(cpu["plain"].keys() & cpu["fast"].keys())
    if both:
        results["speed"] = {"plain over fast": round(statistics.median(
            cpu["plain"][seed] / cpu["fast"][seed] for seed in both), 2), "seeds": len(both)}
    out.write_text(json.dumps({"command": ["python", *sys.argv], "plain_epochs": plain_epochs, "results": results,
                               "environment": environment()}, indent=2) + "\n")
    return results


def train(data: Path, out: Path, seed: int, words: list[str]) -> dict[str, float]:
    common = [f"--set={name}={str(value).lower() if isinstance(value, bool) else value}"
              for name, value in COMMON.items()]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "visus", "train", str(data), "--out", str(out), "--quiet",
                    f"--seed={seed}", *common, *words], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
                   cwd=Path(__file__).resolve().parents[1])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    metrics = json.loads((out / "metrics.json").read_text())
    accuracy = metrics["splits"]["test"]["metrics"]["accuracy"]["value"]
    return {"seed": seed, "accuracy": accuracy, "minutes": round((time.perf_counter() - start) / 60, 2),
            "cpu_s": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1)}


if __name__ == "__main__":
    sys.exit(main())
