"""Every optimizer, regulariser and averager on one small real task, each with the same budget for its rate.

    python benchmarks/convergence.py [--only "sgd, nesterov;adam"] [--data FOLDER]

Fashion-MNIST: 4,000 training images, 1,000 for validation, the test set's first 4,000; a convolutional net of two
layers and a classifier; batches of 64, the same in the same order for all; a cosine schedule; no augmentation. Every
entry has its rate chosen on the validation images by one seed: five rates from 1e-4 to 1, then one half a decade on
either side of the best; then two more seeds at the chosen rate. Every run has the same number of looks at a batch: a
rule that looks at one twice (sharpness-aware steps) or twenty times (L-BFGS) takes so many fewer steps. Newton's method
is left out: it is for 1,000 numbers at most. Results go to benchmarks/results/convergence.json after each entry (one
that is there is kept: --again measures it anew); docs/optimizers.md and docs/figures/convergence.svg are drawn from
them by tools/optimizers_page.py.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from visus.core.device import environment
from visus.core.errors import UserError
from visus.optim.averaging import WeightAverage
from visus.optim.build import OPTIMIZERS
from visus.optim.clip import adaptive_clip, clip_gradients, clipped_parameters
from visus.optim.ema import EMA
from visus.optim.kept import KeptWeights
from visus.optim.regularise import WeightRegulariser
from visus.optim.schedules import Schedule, schedule
from visus.run.build import make_optimizer
from visus.run.recipe import Recipe

OUT = Path(__file__).parent / "results" / "convergence.json"
DATA = Path("/usr/share/datasets/fashion-mnist")
TRAIN, VAL, TEST, BATCH, EPOCHS = 4000, 1000, 4000, 64, 4
RATES, SEEDS, LOOKS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0), 3, 12  # looks: points of the curve
LEFT_OUT = {"newton"}


@dataclass(frozen=True)
class Entry:
    """optimizer: of the recipe's section. label_smoothing, dropout: of loss and net. after: what keeps the weights."""

    group: str
    optimizer: dict[str, Any]
    label_smoothing: float = 0.0
    dropout: float = 0.0
    clip: float | None = None
    agc: float | None = None
    regulariser: dict[str, float] = field(default_factory=dict)
    average: str = ""


def entries() -> dict[str, Entry]:
    sgd = {"name": "sgd", "momentum": 0.9, "nesterov": True}
    found = {"sgd, plain": Entry("optimizer", {"name": "sgd", "momentum": 0.0, "nesterov": False}),
             "sgd, momentum": Entry("optimizer", sgd | {"nesterov": False}), "sgd, nesterov": Entry("optimizer", sgd)}
    found |= {name: Entry("optimizer", {"name": name}) for name in OPTIMIZERS if name not in {"sgd", *LEFT_OUT}}
    base = "sgd, nesterov"
    return found | {
        f"{base} + weight decay 1e-3": Entry("regulariser", sgd | {"weight_decay": 1e-3}),
        f"{base} + l1 1e-5": Entry("regulariser", sgd, regulariser={"l1": 1e-5}),
        f"{base} + max norm 2": Entry("regulariser", sgd, regulariser={"max_norm": 2.0}),
        f"{base} + dropout 0.3": Entry("regulariser", sgd, dropout=0.3),
        f"{base} + label smoothing 0.1": Entry("regulariser", sgd, label_smoothing=0.1),
        f"{base} + clipping 1": Entry("regulariser", sgd, clip=1.0),
        f"{base} + adaptive clipping 0.05": Entry("regulariser", sgd, agc=0.05),
        f"{base} + sam 0.05": Entry("regulariser", sgd | {"sam": 0.05}),
        f"{base} + ema 0.98": Entry("averager", sgd, average="ema"),
        f"{base} + mean of the last third": Entry("averager", sgd, average="mean"),
        f"{base} + lookahead 5": Entry("averager", sgd | {"lookahead": 5}),
    }


def read(folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    def array(name: str, skip: int) -> np.ndarray:
        with gzip.open(folder / name) as file:
            return np.frombuffer(file.read(), np.uint8)[skip:]

    found = {}
    for part, stem in (("train", "train"), ("test", "t10k")):
        images = torch.from_numpy(array(f"{stem}-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28).copy())
        labels = torch.from_numpy(array(f"{stem}-labels-idx1-ubyte.gz", 8).astype(np.int64))
        found[part] = ((images.float() / 255 - 0.286) / 0.353, labels)
    images, labels = found["train"]
    cut = slice(TRAIN, TRAIN + VAL)
    return {"train": (images[:TRAIN], labels[:TRAIN]), "val": (images[cut], labels[cut]),
            "test": (found["test"][0][:TEST], found["test"][1][:TEST])}


def make_net(dropout: float, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 12, 5, 2, 2), nn.ReLU(), nn.Conv2d(12, 24, 3, 2, 1), nn.ReLU(), nn.Flatten(),
                         nn.Dropout(dropout), nn.Linear(24 * 49, 10))


@torch.no_grad()
def measure(net: nn.Module, data: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Accuracy and mean loss."""
    net.eval()
    logits = torch.cat([net(part) for part in data[0].split(1000)])
    net.train()
    return float((logits.argmax(1) == data[1]).double().mean()), float(F.cross_entropy(logits, data[1]))


def run(entry: Entry, lr: float, seed: int, data: dict[str, tuple[Tensor, Tensor]], epochs: int) -> dict[str, Any]:
    """One training. curve: (looks, mean training loss since the last point); diverged runs say so."""
    net = make_net(entry.dropout, seed).train()
    recipe = Recipe.model_validate({"optimizer": {"weight_decay": 0.0} | entry.optimizer | {"lr": lr}})
    began = time.process_time()
    optimizer = make_optimizer(recipe, net)
    images, labels = data["train"]
    steps = epochs * (len(images) // BATCH)
    plan = Schedule(optimizer, schedule("cosine", steps, 0))
    keeper: Any = None
    if entry.average == "ema":
        keeper = EMA(net, 0.98)
    elif entry.average == "mean":
        keeper = WeightAverage(net, start=2 * steps // 3)
    elif getattr(optimizer, "keeps", None):
        keeper = KeptWeights(optimizer)
    held = WeightRegulariser(**entry.regulariser) if entry.regulariser else None
    generator = torch.Generator().manual_seed(seed)
    parameters, per_epoch = list(net.parameters()), len(images) // BATCH
    curve: list[tuple[int, float]] = []
    seen: list[float] = []
    looks = update = 0
    while looks < steps:
        if update % per_epoch == 0:
            order = torch.randperm(len(images), generator=generator)
        rows = order[update % per_epoch * BATCH:][:BATCH]
        plan.apply(looks)

        def look(rows: Tensor = rows, update: int = update) -> float:
            torch.manual_seed(seed * 100_003 + update)  # the same dropout at every look
            optimizer.zero_grad()
            loss = F.cross_entropy(net(images[rows]), labels[rows], label_smoothing=entry.label_smoothing)
            price = held.penalty(net) if held else None
            (loss if price is None else loss + price).backward()
            if entry.clip:
                clip_gradients(parameters, entry.clip)
            if entry.agc:
                adaptive_clip(clipped_parameters(net), entry.agc)
            return loss.item()

        first = [look()]
        before, looks, update = looks, looks + 1, update + 1
        seen.append(first[0])
        if not math.isfinite(seen[-1]):
            return {"lr": lr, "val": 0.0, "test": 0.0, "diverged": True}
        if getattr(optimizer, "needs_closure", False):
            again = [0]

            def closure(first: list[float] = first, again: list[int] = again) -> float:
                if first:
                    return first.pop()  # the weights have not moved since
                again[0] += 1
                return look()

            optimizer.step(closure)
            looks += again[0]
        else:
            optimizer.step()
        if held:
            held.constrain(net)
        if keeper:
            keeper.update(net)
        if looks * LOOKS // steps > before * LOOKS // steps:
            curve.append((looks, round(statistics.fmean(seen), 5)))
            seen.clear()
    seconds = time.process_time() - began
    swap = keeper.copy_to(net) if keeper else None
    (val, val_loss), (test, test_loss) = measure(net, data["val"]), measure(net, data["test"])
    if swap:
        swap.restore()
    if not all(map(math.isfinite, (val_loss, test_loss))):
        return {"lr": lr, "val": 0.0, "test": 0.0, "diverged": True}
    return {"lr": lr, "val": val, "val_loss": round(val_loss, 4), "test": test, "test_loss": round(test_loss, 4),
            "seconds": round(seconds, 3), "curve": curve, "diverged": False}


def tuned(entry: Entry, data: dict[str, tuple[Tensor, Tensor]], epochs: int) -> dict[str, Any]:
    """The rate by validation accuracy (ties: the lower loss), then the other seeds."""
    found: dict[float, dict[str, Any]] = {}

    def best() -> float:
        return max(found, key=lambda lr: (found[lr]["val"], -found[lr].get("val_loss", math.inf)))

    for lr in RATES:
        found[lr] = run(entry, lr, 0, data, epochs)
    middle = best()
    for lr in (middle / math.sqrt(10), middle * math.sqrt(10)):
        found[float(f"{lr:.3g}")] = run(entry, lr, 0, data, epochs)
    chosen = best()
    runs = [found[chosen], *(run(entry, chosen, seed, data, epochs) for seed in range(1, SEEDS))]
    tests = [one["test"] for one in runs]
    return {"group": entry.group, "lr": chosen, "at the edge": chosen in (min(found), max(found)),
            "rates": {f"{lr:g}": found[lr]["val"] for lr in sorted(found)},
            "test": round(statistics.fmean(tests), 5), "spread": round(statistics.stdev(tests), 5), "tests": tests,
            "seconds": round(statistics.fmean(one.get("seconds", 0.0) for one in runs), 3),
            "curve": [[runs[0]["curve"][k][0], round(statistics.fmean(one["curve"][k][1] for one in runs), 5)]
                      for k in range(min(len(one["curve"]) for one in runs))]
            if not any(one["diverged"] for one in runs) else []}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="entries, separated by semicolons")
    parser.add_argument("--again", action="store_true", help="measure what is already there")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.data.is_dir():
        raise SystemExit(f"{arguments.data}: no Fashion-MNIST here; give its folder with --data")
    data = read(arguments.data)
    every = entries()
    chosen = list(every) if arguments.only is None else [name.strip() for name in arguments.only.split(";")]
    results = json.loads(arguments.out.read_text())["results"] if arguments.out.is_file() else {}
    for name in chosen:
        if name in results and not arguments.again:
            continue
        start = time.process_time()
        try:
            results[name] = tuned(every[name], data, arguments.epochs)
        except UserError as error:
            print(f"{name}: left out: {error}", flush=True)
            continue
        found = results[name]
        print(f"{name:<40} lr {found['lr']:<9g} test {100 * found['test']:.2f} +- {100 * found['spread']:.2f} %, "
              f"{time.process_time() - start:.0f} s", flush=True)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps({
            "command": ["python", *sys.argv], "epochs": arguments.epochs, "train": TRAIN, "val": VAL, "test": TEST,
            "batch": BATCH, "looks": arguments.epochs * (TRAIN // BATCH), "seeds": SEEDS, "rates": list(RATES),
            "results": results, "environment": environment()}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
