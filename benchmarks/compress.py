"""Accuracy, size and speed of a small ResNet on CIFAR-10 after each way of making it smaller.

    python benchmarks/compress.py --cifar data/cifar10 --epochs 30 --retrain 8
    python benchmarks/compress.py --small                    # the built-in digits, minutes of one core

Rows: the net as trained, 50, 70 and 90 % of the weights at zero, 30 and 50 % of the channels removed, low rank (full
layers and convolutions by channel, 30 % of the multiplications), training that knows of int8, Deep Compression. One
training and one seed: differences below the confidence intervals mean nothing. Times are of PyTorch, eager, one image,
one thread. Bars: 50 % magnitude and qat lose at most 1 point; deep is at least 10 times smaller on disk.
Exit code 1 when one is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import visus
from visus.core.device import environment
from visus.run.compress import Options, compress

OUT = Path(__file__).parent / "results" / "compress.json"
WORK = (("magnitude", [0.5, 0.7, 0.9], Options(rounds=2)), ("channels", [0.3, 0.5], Options()),
        ("low-rank", [0.3], Options(layers=("full", "channel"))), ("qat", None, Options()),
        ("deep", [0.7], Options()))
MOST_LOST, LEAST_SMALLER = 0.01, 10.0


def measure(data: str, epochs: int, retrain: int, values: dict, work: Path) -> list[dict]:
    fixed = {"train.threads": 1, "train.layout": "contiguous", "report.budget_s": 0, "report.ladder_s": 0}
    run = visus.train(data, out=str(work / "run"), progress=True, values={"model.name": "resnet20",
                                                                          "train.epochs": epochs} | fixed | values)
    rows: list[dict] = []
    for method, amounts, options in WORK:
        made = compress(run, method, amount=amounts, epochs=retrain, out=work / method, options=options, values=fixed,
                        progress=True)
        rows += made.record["rows"] if not rows else made.record["rows"][1:]
    for row in rows:
        row["notes"] = {name: value for name, value in row.get("notes", {}).items() if name == "deep"}
        row.pop("run")
    return rows


def summary(rows: list[dict]) -> dict[str, dict]:
    """A row for each way, for docs/results.md."""
    return {row["name"]: {
        "accuracy": f"{row['value']:.4f} ({row['low']:.4f} to {row['high']:.4f})",
        "parameters that are not 0": row["nonzero"], "MMACs": round(row["macs"] / 1e6, 2),
        "kB": round(row["bytes"] / 1000, 1), "times smaller": round(rows[0]["bytes"] / row["bytes"], 1),
        "times as fast": None if row["latency_ms"] is None else round(rows[0]["latency_ms"] / row["latency_ms"], 2)}
        for row in rows}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", help="a path that `visus train` takes; none: the built-in digits")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--retrain", type=int, default=8)
    parser.add_argument("--small", action="store_true", help="digits, 3 epochs and 1, a net of depth 1")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    epochs, retrain = (3, 1) if arguments.small else (arguments.epochs, arguments.retrain)
    values = {"model.config.depth": 1} if arguments.small else {}
    data = "digits" if arguments.small or arguments.cifar is None else arguments.cifar
    with tempfile.TemporaryDirectory() as work:
        rows = measure(data, epochs, retrain, values, Path(work))
    first = rows[0]
    by_name = {row["name"]: row for row in rows}
    lost = {name: first["value"] - by_name[name]["value"] for name in ("magnitude 0.5", "qat")}
    smaller = first["bytes"] / by_name["deep 0.7"]["bytes"]
    passed = max(lost.values()) <= MOST_LOST and smaller >= LEAST_SMALLER
    for row in rows:
        time = "-" if row["latency_ms"] is None else f"{row['latency_ms']:.2f} ms"
        print(f"{row['name']:<16} {row['value']:.4f}  {row['nonzero']:>9,} of {row['parameters']:>9,}  "
              f"{row['macs'] / 1e6:8.2f} MMACs  {row['bytes'] / 1000:8.1f} kB  {time}")
    print(f"lost {lost}, deep {smaller:.1f} x smaller: {'passed' if passed else 'MISSED'}")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({
        "command": "python benchmarks/compress.py " + " ".join(sys.argv[1:]), "environment": environment(),
        "data": Path(data).name, "epochs": epochs, "retrain": retrain, "summary": summary(rows),
        "results": {"rows": rows, "lost": lost, "deep_times_smaller": smaller, "passed": passed}}, indent=2) + "\n")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
