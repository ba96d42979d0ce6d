"""What helps when half of the classes have a tenth of the images: the same training with one thing changed.

    python recipes/imbalance/run.py measure       train, write results.json and docs/imbalance.md
    python recipes/imbalance/run.py draw          the page again, from results.json

The built-in digits: a quarter of each class is kept for the test; of what is left, classes 5 to 9 keep one image of
ten. Which images those are and the start of the training follow the seed; all methods of a seed see the same images.
Finished runs under --out are not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import visus  # noqa: E402
from visus.core.device import environment  # noqa: E402
from visus.core.files import write_text  # noqa: E402
from visus.core.seeds import permutation  # noqa: E402
from visus.data.opening import open_samples  # noqa: E402
from visus.data.split import split_samples  # noqa: E402
from visus.run.recipe import Recipe, read_yaml  # noqa: E402

HERE = Path(__file__).parent
RARE = (5, 6, 7, 8, 9)
THINNED = 10
TEST = 0.25
COST = "cpu_minutes.txt"  # in the run folder
# name -> (words, fields of the recipe that it changes)
METHODS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "none": ("nothing", {}),
    "weighted": ("classes drawn equally often", {"data.sampling": "weighted"}),
    "sqrt": ("classes drawn by the root of their size", {"data.sampling": "sqrt"}),
    "balanced": ("loss weighed by 1 / images", {"loss.class_weights": "balanced"}),
    "class_balanced": ("class-balanced loss, beta 0.999", {"loss.name": "class_balanced"}),
    "focal": ("focal loss, gamma 2", {"loss.name": "focal"}),
    "logit_adjusted": ("logits adjusted by the class shares", {"loss.name": "logit_adjusted"}),
}


def thinned(seed: int, out: Path) -> Path:
    """The images of this seed as an .npz with a training and a test part."""
    path = out / f"digits-{seed}.npz"
    if path.exists():
        return path
    samples = open_samples("digits")
    splits = split_samples(samples, val=0.0, test=TEST, seed=0)
    kept = []
    for label in range(10):
        places = splits["train"][samples.targets[splits["train"]] == label]
        places = places[permutation(len(places), seed, "thin", label)]
        kept.append(places[:len(places) // THINNED] if label in RARE else places)
    train = np.sort(np.concatenate(kept))
    out.mkdir(parents=True, exist_ok=True)
    np.savez(path, train_images=samples.images[train], train_labels=samples.targets[train],
             test_images=samples.images[splits["test"]], test_labels=samples.targets[splits["test"]])
    return path


def recipe_of(name: str) -> Recipe:
    return Recipe.load(HERE / "recipe.yaml").with_values(METHODS[name][1])


def make_run(name: str, seed: int, out: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of one training, as it lies in `out`, trained or resumed where it is not finished."""
    folder, start = out / f"{name}-seed{seed}", os.times()
    if not (folder / "run.json").exists():
        visus.train(thinned(seed, out), recipe=recipe_of(name).with_values({**values, "train.seed": seed}), out=folder,
                    progress=False)
    elif visus.load(folder).status != "finished":
        visus.resume(folder, progress=False)
    if not (folder / COST).exists():
        used = os.times()
        write_text(folder / COST, f"{(used.user + used.system - start.user - start.system) / 60:.2f}\n")
    measured = json.loads((folder / "metrics.json").read_text())["splits"]["test"]
    counts = json.loads((folder / "data.json").read_text())["counts"]["train"]
    return {"seed": seed, "cpu_minutes": float((folder / COST).read_text()),
            "images": list(counts.values()), "count": measured["count"],
            "accuracy": round(measured["metrics"]["accuracy"]["value"], 4),
            "balanced_accuracy": round(measured["metrics"]["balanced_accuracy"]["value"], 4),
            "recall": [round(row["recall"], 4) for row in measured["per_class"]]}


def measure(out: Path, seeds: int, names: Sequence[str], values: Mapping[str, Any]) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for name in names:
        rows[name] = {"changes": dict(METHODS[name][1]), "seeds": [make_run(name, seed, out, values)
                                                                   for seed in range(seeds)]}
        print(name, [row["balanced_accuracy"] for row in rows[name]["seeds"]], flush=True)
    return {"recipe": {k: v for k, v in read_yaml(HERE / "recipe.yaml").items() if k != "description"},
            "command": "python recipes/imbalance/run.py measure", "environment":
                {k: environment()[k] for k in ("torch", "processor", "cores", "visus")}, "methods": rows}


# -- page --------------------------------------------------------------------------------------------------------

HEAD = """# Classes of different sizes

Made by `python recipes/imbalance/run.py draw` from `recipes/imbalance/results.json`, which
`python recipes/imbalance/run.py measure` wrote. The built-in digits, of which classes 5 to 9 keep one training image
of ten: {frequent} training images of a frequent class and {rare} of a rare one, {count} test images in even shares, a
small residual net ({epochs} epochs), {seeds}, each with another draw of the images; one CPU thread, {minutes:.1f} CPU
minutes in all. Numbers are means over the seeds with one standard deviation.

| method | field | balanced accuracy | recall, rare classes | recall, frequent classes |
| --- | --- | ---: | ---: | ---: |
"""


def spread(values: Sequence[float]) -> str:
    deviation = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{deviation} %"


def shares(run: Mapping[str, Any]) -> dict[str, list[float]]:
    """By seed: balanced accuracy, mean recall of the rare and of the frequent classes."""
    frequent = [k for k in range(10) if k not in RARE]
    return {"balanced": [row["balanced_accuracy"] for row in run["seeds"]],
            "rare": [statistics.mean(row["recall"][k] for k in RARE) for row in run["seeds"]],
            "frequent": [statistics.mean(row["recall"][k] for k in frequent) for row in run["seeds"]]}


def verdict(methods: Mapping[str, Any]) -> str:
    """Which methods beat the plain training in every seed, by how much, and which do not."""
    plain = shares(methods["none"])["balanced"]
    better, rest = [], []
    for name, run in methods.items():
        if name == "none":
            continue
        gains = [a - b for a, b in zip(shares(run)["balanced"], plain, strict=True)]
        words = f"`{name}` {100 * statistics.mean(gains):+.1f}".replace("-", "\N{MINUS SIGN}")
        (better if min(gains) > 0 else rest).append(words)
    told = f"Balanced accuracy against doing nothing, in points, better in every seed: {', '.join(better)}." \
        if better else "No method is better than doing nothing in every seed."
    return told + (f" Not better in every seed: {', '.join(rest)}." if rest else "")


def page(results: Mapping[str, Any]) -> str:
    methods = results["methods"]
    seeds = methods["none"]["seeds"]
    images = np.array([row["images"] for row in seeds])
    frequent = [k for k in range(10) if k not in RARE]

    def between(block: np.ndarray) -> str:
        low, high = int(block.min()), int(block.max())
        return str(low) if low == high else f"{low} to {high}"

    seeded = f"{len(seeds)} seed" + "s" * (len(seeds) > 1)
    text = HEAD.format(frequent=between(images[:, frequent]), rare=between(images[:, list(RARE)]),
                       count=seeds[0]["count"], epochs=results["recipe"]["train"]["epochs"], seeds=seeded,
                       minutes=sum(row["cpu_minutes"] for run in methods.values() for row in run["seeds"]))
    for name, run in methods.items():
        found = shares(run)
        fields = ", ".join(f"`{field}={value}`" for field, value in METHODS[name][1].items()) or "–"
        text += (f"| {METHODS[name][0]} | {fields} | {spread(found['balanced'])} | {spread(found['rare'])} | "
                 f"{spread(found['frequent'])} |\n")
    text += f"\n{verdict(methods)}\n\nRecall by class, means over the seeds, in percent; 5 to 9 are the rare ones.\n\n"
    text += "| method | " + " | ".join(map(str, range(10))) + " |\n| --- |" + " ---: |" * 10 + "\n"
    for name, run in methods.items():
        recall = np.array([row["recall"] for row in run["seeds"]]).mean(0)
        text += f"| `{name}` | " + " | ".join(f"{100 * r:.0f}" for r in recall) + " |\n"
    return text + ("\nOne small set and one small net: a remedy is chosen by such a comparison on the images at hand, "
                   "not from this table.\n")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "draw"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--epochs", type=int, help="for a trial: another result")
    parser.add_argument("--out", type=Path, default=Path("runs/imbalance"))
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    arguments = parser.parse_args(argv)
    if arguments.what == "measure":
        values = {} if arguments.epochs is None else {"train.epochs": arguments.epochs}
        found = measure(arguments.out, arguments.seeds, arguments.methods, values)
        arguments.results.write_text(json.dumps(found, indent=1) + "\n")
    arguments.docs.mkdir(parents=True, exist_ok=True)
    write_text(arguments.docs / "imbalance.md", page(json.loads(arguments.results.read_text())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
