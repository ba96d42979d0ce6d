"""Experiments on training on Fashion-MNIST that run in minutes on one CPU thread.

    python recipes/optimisation/run.py NAME --data FOLDER    a name of EFFECTS, depth, or all
    python recipes/optimisation/run.py draw                  figures and page again, from results.json

FOLDER holds the four IDX files of Fashion-MNIST (gzip). Each run is base.yaml with fields changed; finished runs under
--out are not repeated and a stopped one is resumed. Numbers go to results.json, from there to
docs/figures/optimisation_*.svg and docs/optimisation.md. --small makes every run on a tenth of its images for one
epoch: to try whether it works.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from markupsafe import Markup

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import visus  # noqa: E402
from recipes.experiments.experiment import Lines, Results  # noqa: E402
from recipes.experiments.figures import BOTTOM, FIGURE_CSS, PANEL_WIDTH, lines  # noqa: E402
from recipes.experiments.run import curve  # noqa: E402
from recipes.optimisation.effects import EFFECTS, SUBSETS, WIDTHS, Run, accuracy  # noqa: E402
from visus.core.device import environment  # noqa: E402
from visus.core.errors import TrainingDiverged, UserError  # noqa: E402
from visus.core.files import write_json, write_text  # noqa: E402
from visus.data.opening import open_samples  # noqa: E402
from visus.report.charts import tag  # noqa: E402
from visus.report.depth_chart import depth_chart  # noqa: E402
from visus.report.figures import standalone  # noqa: E402
from visus.run.depth import COMPARED, depth  # noqa: E402
from visus.run.recipe import Recipe  # noqa: E402
from visus.run.train import flat  # noqa: E402

HERE = Path(__file__).parent
TEST_IMAGES = 4_000
COST = "cost.json"  # in the run folder
DEEP: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {  # name -> (words, fields, rules)
    "relu": ("a plain net of 20 layers with ReLU and no norm",
             {"model.config.shortcut": "none", "model.config.depth": 3, "model.norm": "none"}, COMPARED),
    "normed": ("the same net with batch norm", {"model.config.shortcut": "none", "model.config.depth": 3}, COMPARED),
    "sigmoid": ("a perceptron of ten sigmoid layers",
                {"model.name": "mlp", "model.config": {"hidden_dims": [64] * 10, "activation": "sigmoid"}},
                ("xavier", "kaiming", "lsuv")),
    "perceptron": ("a perceptron of ten ReLU layers", {"model.name": "mlp", "model.config": {"hidden_dims": [64] * 10}},
                   ("xavier", "kaiming", "lsuv")),
}


def recipe_of(run: Run, small: bool = False) -> Recipe:
    values = dict(run.values)
    recipe = Recipe.load(HERE / "base.yaml").with_values({k: v for k, v in values.items() if k == "model.name"})
    if "model.config" in values:  # instead of the base's, not besides
        recipe = Recipe.parse(recipe.model_dump(mode="json") | {
            "model": recipe.model.model_dump(mode="json") | {"config": values.pop("model.config")}})
    return recipe.with_values(values | ({"train.epochs": 1, "schedule.warmup_epochs": 0.0} if small else {}))


def subset(folder: Path, out: Path, first: int, images: int) -> Path:
    """Training images `first` to `first + images` and the first test images as one .npz."""
    path = out / f"fashion_{first}_{images}.npz"
    if path.exists():
        return path
    samples = open_samples(folder, "idx")
    arrays: dict[str, np.ndarray] = {}
    for split, start, count in (("train", first, images), ("test", 0, TEST_IMAGES)):
        index = np.flatnonzero(samples.split == split)[start:start + count]
        arrays |= {f"{split}_images": samples.images[index, ..., 0], f"{split}_labels": samples.targets[index]}
    out.mkdir(parents=True, exist_ok=True)
    np.savez(path, class_names=np.array(samples.classes), **arrays)
    return path


# -- training ----------------------------------------------------------------------------------------------------


def make_run(name: str, run: Run, folder: Path, out: Path, small: bool = False) -> Results:
    """One run: trained, resumed or read, as it lies in `out`; what results.json keeps of it."""
    data = subset(folder, out, run.first, max(100, run.images // 10) if small else run.images)
    at, recipe = out / name, recipe_of(run, small)
    cost = json.loads((at / COST).read_text()) if (at / COST).exists() else {"cpu_minutes": 0.0}
    status = visus.load(at).status if (at / "run.json").exists() else None
    if status is not None:
        _refuse_another_recipe(name, recipe, at)
    begun = os.times()
    try:
        if status is None:
            visus.train(data, recipe=recipe, out=at, progress=False)
        elif status not in ("finished", "diverged"):
            visus.resume(at, progress=False)
    except TrainingDiverged as error:
        print(f"{name}: {error}")
    found = visus.load(at)
    if found.status == "finished" and "train" not in cost:
        fitted = visus.evaluate(at, split="train")
        cost["train"] = {"value": fitted.metrics["accuracy"].value, "count": fitted.count}
    used = os.times()
    if status not in ("finished", "diverged"):
        cost["cpu_minutes"] += (used.user + used.system - begun.user - begun.system) / 60
    write_json(at / COST, cost)
    row: Results = {**stated(run), "cpu_minutes": round(cost["cpu_minutes"], 3), "curve": curve(at)}
    if found.status == "finished":
        row["train"] = cost["train"]
        for split, one in json.loads((at / "metrics.json").read_text())["splits"].items():
            if split in ("val", "test"):
                row[split] = {"value": one["metrics"]["accuracy"]["value"], "count": one["count"]}
    return row


def stated(run: Run) -> dict[str, Any]:
    return {"values": json.loads(json.dumps(dict(run.values))), "images": run.images, "first": run.first}


def _refuse_another_recipe(name: str, recipe: Recipe, at: Path) -> None:
    chosen = {"optimizer.lr", "optimizer.lr_batch", "data.path", "description"}  # by the run, from what is asked for
    asked, made = flat(recipe.model_dump(mode="json")), flat(Recipe.load(at / "recipe.yaml").model_dump(mode="json"))
    changed = [field for field, value in asked.items() if value != "auto" and field not in chosen
               and not field.startswith("model.config.") and made.get(field) != value]
    if changed:
        raise UserError(f"was trained with another {', '.join(changed)} than {name} states", where=at,
                        remedy="Remove the run or give another --out")


def bias_and_variance(runs: Sequence[Path]) -> dict[str, float]:
    """Of the probabilities of several nets for the same test images: E |p - y|^2 = |mean p - y|^2 + E |p - mean p|^2,
    means over the images."""
    probs = []
    for at in runs:
        with np.load(at / "evaluation" / "test.npz") as file:
            order = np.argsort(file["index"]) if "index" in file else np.arange(len(file["probs"]))
            probs.append(file["probs"][order].astype(np.float64))
            targets = file["targets"][order]
    mean = np.mean(probs, axis=0)  # [N, K]
    truth = np.eye(mean.shape[1])[targets]
    return {"bias": float(((mean - truth) ** 2).sum(1).mean()),
            "variance": float(np.mean([((p - mean) ** 2).sum(1).mean() for p in probs])),
            "brier": float(np.mean([((p - truth) ** 2).sum(1).mean() for p in probs]))}


def measure(name: str, folder: Path, out: Path, results: Path, small: bool) -> None:
    written = json.loads(results.read_text()) if results.exists() else {"runs": {}, "depth": {}}
    written["environment"] = {k: environment()[k] for k in ("torch", "processor", "cores", "visus")}
    if name == "depth":
        data = subset(folder, out, 0, 1_000)
        for deep, (_, values, rules) in DEEP.items():
            begun = recipe_of(Run(values))
            found = depth(data, recipe=begun, inits=rules)
            written["depth"][deep] = {rule: [_plain(row) for row in rows] for rule, rows in found.rows.items()}
            print("depth", deep, flush=True)
    else:
        for run_name, run in EFFECTS[name].runs.items():
            row = written["runs"][run_name] = make_run(run_name, run, folder, out, small)
            print(run_name, *(f"{split} {accuracy(row, split):.1f} %" for split in ("train", "test")),
                  f"{row['cpu_minutes']} CPU minutes", flush=True)
        if name == "capacity":
            for width in WIDTHS:
                written["runs"][f"width-{width}-0"]["parts"] = bias_and_variance(
                    [out / f"width-{width}-{part}" for part in range(SUBSETS)])
    written["runs"] = dict(sorted(written["runs"].items()))
    results.write_text(json.dumps(written, indent=1) + "\n")


def _plain(row: Any) -> dict[str, Any]:
    """A row of `visus.doctor.depth` as numbers for JSON, to four digits; None for what is not finite."""
    def rounded(value: Any) -> Any:
        if isinstance(value, float):
            return float(f"{value:.4g}") if np.isfinite(value) else None
        return list(value) if isinstance(value, tuple) else value

    return {field: rounded(getattr(row, field)) for field in row.__dataclass_fields__}


# -- page --------------------------------------------------------------------------------------------------------

HEAD = """# Experiments on training

Made by `python recipes/optimisation/run.py draw` from `recipes/optimisation/results.json`, which the runs wrote. Each
run is `recipes/optimisation/base.yaml` with fields changed, on some of the training images of Fashion-MNIST, a fifth of
them held out to choose the epoch, and the first {test:,} test images; one seed, one CPU thread. That is far less than
the papers use: where an effect needs more, the sentence says so. ± is two standard errors for that many images; what
another seed would change comes on top.

All runs together: {minutes:.0f} CPU minutes on {processor}, torch {torch}.
"""


def drawn(title: str, charts: Sequence[Lines]) -> str:
    """The diagrams side by side: the text of an SVG file."""
    width, height = PANEL_WIDTH * len(charts), int(BOTTOM) + 56
    parts = [tag("text", title, class_="title", x=16, y=26)]
    parts += [tag("g", *lines(chart), transform=f"translate({PANEL_WIDTH * i} 0)") for i, chart in enumerate(charts)]
    return standalone(Markup("").join(parts), width, height, title=title, css=FIGURE_CSS) + "\n"


def present(results: Results) -> list[str]:
    """The effects whose runs are all there."""
    return [name for name, effect in EFFECTS.items() if results["runs"].keys() >= effect.runs.keys()]


def page(results: Results) -> str:
    runs, found = results["runs"], results["environment"]
    text = HEAD.format(test=TEST_IMAGES, minutes=sum(run["cpu_minutes"] for run in runs.values()),
                       processor=found["processor"], torch=found["torch"])
    for name in present(results):
        effect = EFFECTS[name]
        holds, words = effect.verdict(runs)
        minutes = sum(runs[run]["cpu_minutes"] for run in effect.runs)
        text += (f"\n## {effect.title}\n\n{effect.claim}.\n\n**{'Shown.' if holds else 'Not shown at this scale.'}** "
                 f"{words}\n\n![{effect.title}](figures/optimisation_{name}.svg)\n\n{len(effect.runs)} runs, "
                 f"{minutes:.1f} CPU minutes: `python recipes/optimisation/run.py {name} --data FOLDER`\n")
    if results["depth"].keys() >= DEEP.keys():
        text += ("\n## Signal and gradient by depth\n\nWhat each layer gives for the first batch before any training, "
                 "and the gradient that comes back to it, under each rule for the first weights. The same of any model "
                 "and images: `visus doctor PATH --depth`.\n")
        for name, (words, _, _) in DEEP.items():
            text += f"\n{words[0].upper() + words[1:]}. {fade(results['depth'][name])}\n\n" \
                f"![{words}](figures/optimisation_depth_{name}.svg)\n"
        text += "\n`python recipes/optimisation/run.py depth --data FOLDER`\n"
    return text


def fade(rules: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """How the gradient at the first layer compares with that at the last hidden one, rule by rule."""
    parts = []
    for rule, rows in rules.items():
        first, last = rows[0]["gradient"], rows[-2]["gradient"]
        if first is not None and last:
            layers = len(rows) - 2
            parts.append(f"{rule} {(first / last) ** (1 / layers):.2f}" if first > 0 else f"{rule} 0")
    return "Factor of the gradient from each layer to the one before it: " + ", ".join(parts) + "."


def drawings(results: Results, docs: Path) -> dict[Path, str]:
    figures = docs / "figures"
    made = {figures / f"optimisation_{name}.svg": drawn(EFFECTS[name].title, EFFECTS[name].charts(results["runs"]))
            for name in present(results)}
    for name, (words, _, _) in DEEP.items():
        if name in results["depth"]:
            rules = {rule: [SimpleNamespace(**{**row, "std": float("nan") if row["std"] is None else row["std"]})
                            for row in rows] for rule, rows in results["depth"][name].items()}
            made[figures / f"optimisation_depth_{name}.svg"] = depth_chart(rules, words[0].upper() + words[1:])
    return {**made, docs / "optimisation.md": page(results)}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=(*EFFECTS, "depth", "all", "draw"))
    parser.add_argument("--data", type=Path, metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=Path("runs/optimisation"))
    parser.add_argument("--small", action="store_true", help="for a trial: another result")
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    arguments = parser.parse_args(argv)
    try:
        if arguments.name != "draw":
            if arguments.data is None:
                raise UserError("where are the images?", where="--data",
                                remedy="Give the folder with the four IDX files of Fashion-MNIST")
            for name in (*EFFECTS, "depth") if arguments.name == "all" else (arguments.name,):
                measure(name, arguments.data, arguments.out, arguments.results, arguments.small)
        for path, text in drawings(json.loads(arguments.results.read_text()), arguments.docs).items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, text)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
