"""Small experiments on CIFAR-10 that show what the courses say of deep nets, on one CPU thread.

    python recipes/experiments/run.py NAME --data FOLDER     depth, shortcuts, norm, separable, survival, or all
    python recipes/experiments/run.py draw                   figures and page again, from results.json

FOLDER holds cifar10_train.npz and cifar10_test.npz, as for recipes/reproduce.py. Each run is a recipe of this folder;
finished runs under --out are not repeated and a stopped one is resumed. Numbers go to results.json, from there to
docs/figures/experiments_*.svg and docs/experiments.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import visus  # noqa: E402
from recipes.reproduce import CIFAR10, unpack_cifar10  # noqa: E402
from visus.core.device import environment  # noqa: E402
from visus.core.errors import TrainingDiverged, UserError  # noqa: E402
from visus.core.files import write_json, write_text  # noqa: E402
from visus.report.charts import Axis, tag  # noqa: E402
from visus.report.figures import standalone  # noqa: E402
from visus.run.recipe import Recipe, parse_assignments, read_yaml  # noqa: E402
from visus.run.train import flat  # noqa: E402

HERE = Path(__file__).resolve().parent
TRAIN_IMAGES, TEST_IMAGES = 8_000, 4_000  # the first ones of each file; a fifth of the former is for validation
COST = "experiment.json"  # in the run folder: CPU minutes, and the accuracy on the images that it was trained on
Results = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Score:
    """Accuracy in percent: mean over seeds; low, high: its 95 % interval over images, or the range over seeds.
    error: two standard errors for so many images, which all seeds share."""

    value: float
    low: float
    high: float
    error: float


@dataclass(frozen=True, slots=True)
class Experiment:
    """panels: (title, {recipe: label}) for each diagram of curves. verdict(runs) -> (shown, what the numbers say)."""

    title: str
    claim: str
    panels: tuple[tuple[str, Mapping[str, str]], ...]
    verdict: Callable[[Results], tuple[bool, str]]

    @property
    def runs(self) -> dict[str, str]:
        return {name: f"{title}, {label}" if len(self.panels) > 1 else label
                for title, labels in self.panels for name, label in labels.items()}


def score(run: Results, split: str) -> Score | None:
    """None where a run diverged."""
    rows = [seed[split] for seed in run["seeds"] if split in seed]
    if len(rows) < len(run["seeds"]):
        return None
    values = [100 * row["value"] for row in rows]
    mean = statistics.mean(values)
    error = 200 * math.sqrt(mean / 100 * (1 - mean / 100) / rows[0]["count"])
    if len(rows) > 1:
        return Score(mean, min(values), max(values), error)
    return Score(mean, *(100 * rows[0].get(end, rows[0]["value"]) for end in ("low", "high")), error)


def difference(runs: Results, a: str, b: str, split: str) -> tuple[float, float]:
    """(a - b in points, two standard errors of it). A diverged run counts as a guess among ten classes."""
    chance = Score(10.0, 10.0, 10.0, 0.0)
    first, second = score(runs[a], split) or chance, score(runs[b], split) or chance
    return first.value - second.value, math.hypot(first.error, second.error)


def percent(run: Results, split: str) -> str:
    found = score(run, split)
    return "diverged" if found is None else f"{found.value:.1f} %"


def points(gap: tuple[float, float]) -> str:
    return f"{gap[0]:+.1f} ± {gap[1]:.1f} points".replace("-", "\N{MINUS SIGN}")


def judge_depth(runs: Results) -> tuple[bool, str]:
    plain, residual = (difference(runs, f"{kind}56", f"{kind}20", "train") for kind in ("plain", "resnet"))
    late = difference(runs, "resnet56", "resnet20", "test")
    shown = plain[0] < -plain[1] and residual[0] - plain[0] > math.hypot(residual[1], plain[1])
    reach = {name: percent(runs[name], "train") for name in ("plain20", "plain56", "resnet20", "resnet56")}
    text = (f"On the images that they are trained on, 20 plain layers reach {reach['plain20']} and 56 layers "
            f"{reach['plain56']} ({points(plain)}); with shortcuts it is {reach['resnet20']} and {reach['resnet56']} "
            f"({points(residual)}).")
    if shown:
        text += " It is not overfitting that holds the deep plain net back: it does not even fit."
    if late[0] <= late[1]:
        text += (f" The deeper residual net is not yet better on the test images ({points(late)}): the paper trains "
                 "for 164 epochs.")
    return shown, text


def judge_shortcuts(runs: Results) -> tuple[bool, str]:
    gap = difference(runs, "resnet20-b", "resnet20", "test")
    added = runs["resnet20-b"]["params"] - runs["resnet20"]["params"]
    return gap[0] > gap[1], f"B against A: {points(gap)} on the test images, for {added:,} more parameters."


def judge_norm(runs: Results) -> tuple[bool, str]:
    low, high = (difference(runs, f"vgg11-bn-{rate}", f"vgg11-{rate}", "test") for rate in ("low", "high"))
    rate = difference(runs, "vgg11-bn-high", "vgg11-bn-low", "test")
    text = (f"Batch norm changes the test accuracy by {points(low)} at the low rate and by {points(high)} at the "
            f"tenfold one, where the net without it ends at {percent(runs['vgg11-high'], 'test')}.")
    if rate[0] < -rate[1]:
        text += f" The tenfold rate is too high for the net with it as well ({points(rate)}), but it still learns."
    return low[0] > low[1] and high[0] > high[1], text


def judge_separable(runs: Results) -> tuple[bool, str]:
    light, full = runs["mobilenet"], runs["mobilenet-full"]
    fit, gap = (difference(runs, "mobilenet", "mobilenet-full", split) for split in ("train", "test"))
    text = (f"The saving is exact: a pair costs 1/C + 1/9 of the full convolution to C channels, and the whole net "
            f"{light['macs'] / 1e6:.2f} M against {full['macs'] / 1e6:.2f} M multiply-accumulates "
            f"({full['macs'] / light['macs']:.1f} times) and {light['params'] / 1e6:.2f} M against "
            f"{full['params'] / 1e6:.2f} M parameters. After equal epochs its test accuracy is at {points(gap)}; the "
            "paper loses 1.1 on ImageNet (Table 4).")
    if fit[0] < -fit[1]:
        text += f" Its training images are at {points(fit)} too: with so few updates and channels it fits less."
    return gap[0] > -2.0, text


def judge_survival(runs: Results) -> tuple[bool, str]:
    fit, gap = (difference(runs, "resnet56-survival", "resnet56", split) for split in ("train", "test"))
    text = (f"Dropping blocks changes the accuracy by {points(fit)} on the training images and by {points(gap)} on the "
            "test images.")
    if gap[0] <= gap[1]:
        text += " It is a regulariser: the paper trains for 500 epochs, until the net fits its images perfectly."
    return gap[0] > gap[1], text


EXPERIMENTS = {
    "depth": Experiment(
        "Plain and residual nets of 20 and 56 layers",
        "Deeper plain nets are worse even on their training images; shortcuts remove that (He et al. 2016, Fig. 6)",
        (("plain", {"plain20": "20 layers", "plain56": "56 layers"}),
         ("residual", {"resnet20": "20 layers", "resnet56": "56 layers"})), judge_depth),
    "shortcuts": Experiment(
        "Shortcuts without and with parameters", "Projections (B) are slightly better than zero-padding (A) (He et al. "
        "2016, Table 3)", (("ResNet-20", {"resnet20": "A: zeros", "resnet20-b": "B: projection"}),), judge_shortcuts),
    "norm": Experiment(
        "Batch norm at two learning rates",
        "Batch norm trains faster and admits learning rates at which the net without it fails (Ioffe, Szegedy 2015)",
        (("lr 0.01", {"vgg11-low": "without", "vgg11-bn-low": "batch norm"}),
         ("lr 0.1", {"vgg11-high": "without", "vgg11-bn-high": "batch norm"})), judge_norm),
    "separable": Experiment(
        "Depthwise-separable and full convolutions",
        "Filtering by channel and then mixing costs 1/C + 1/9 of a full 3 x 3 convolution and little accuracy (Howard "
        "et al. 2017)", (("MobileNet x 0.25", {"mobilenet": "separable", "mobilenet-full": "full 3 x 3"}),),
        judge_separable),
    "survival": Experiment(
        "Stochastic depth",
        "Dropping blocks at random in training makes deep residual nets more accurate (Huang et al. 2016)",
        (("ResNet-56", {"resnet56": "all blocks", "resnet56-survival": "p_L = 0.5"}),), judge_survival),
}  # fmt: skip


# -- training ----------------------------------------------------------------------------------------------------


def subset(folder: Path, out: Path) -> Path:
    """The first images of both files as one .npz."""
    if not out.exists():
        whole = unpack_cifar10(folder, out.with_name("cifar10.npz"))
        with np.load(whole) as file:
            arrays = {f"{split}_{kind}": file[f"{split}_{kind}"][:count] for kind in ("images", "labels")
                      for split, count in (("train", TRAIN_IMAGES), ("test", TEST_IMAGES))}
        whole.unlink()
        np.savez(out, class_names=np.array(CIFAR10), **arrays)
    return out


def make_run(name: str, data: Path, out: Path, values: Mapping[str, Any]) -> Results:
    """One run: trained, resumed or read, as it lies in `out`; what results.json keeps of it."""
    recipe = Recipe.load(HERE / f"{name}.yaml").with_values(values)
    cost = json.loads((out / COST).read_text()) if (out / COST).exists() else {"cpu_minutes": 0.0}
    start = os.times()
    status = visus.load(out).status if (out / "run.json").exists() else None
    if status is not None:
        _refuse_another_recipe(name, values, out)
    try:
        if status is None:
            visus.train(data, recipe=recipe, out=out, progress=False)
        elif status not in ("finished", "diverged"):
            visus.resume(out, progress=False)
    except TrainingDiverged as error:
        print(f"{name}: {error}")
    finally:
        used = os.times()
        if out.exists() and status not in ("finished", "diverged"):
            cost["cpu_minutes"] += (used.user + used.system - start.user - start.system) / 60
            write_json(out / COST, cost)
    run = visus.load(out)
    if run.status == "finished" and "train" not in cost:
        fitted = visus.evaluate(out, split="train")
        cost["train"] = {"value": fitted.metrics["accuracy"].value, "count": fitted.count}
        write_json(out / COST, cost)
    row: Results = {"seed": run.recipe.train.seed, "cpu_minutes": round(cost["cpu_minutes"], 2), "curve": curve(out)}
    if run.status == "finished":
        row["train"] = cost["train"]
        for split, found in json.loads((out / "metrics.json").read_text())["splits"].items():
            row[split] = {**found["metrics"]["accuracy"], "count": found["count"]}
    return row


def _refuse_another_recipe(name: str, values: Mapping[str, Any], out: Path) -> None:
    wanted = Recipe.load(HERE / f"{name}.yaml").with_values(values)
    stated = flat(read_yaml(HERE / f"{name}.yaml")).keys() | values.keys()
    asked, made = flat(wanted.model_dump(mode="json")), flat(Recipe.load(out / "recipe.yaml").model_dump(mode="json"))
    changed = [field for field in sorted(stated - {"description"}) if asked.get(field) != made.get(field)]
    if changed:
        raise UserError(f"was trained with another {', '.join(changed)} than {name}.yaml states", where=out,
                        remedy="Remove the run or give another --out")


def curve(out: Path) -> list[dict[str, float]]:
    """Per epoch: losses on training and held-out images, and the held-out accuracy."""
    return [{"epoch": event["epoch"] + 1, "train_loss": round(event["train_loss"], 4),
             "val_loss": round(event["val_loss"], 4), "val_accuracy": round(event["metrics"]["accuracy"], 4)}
            for event in visus.load(out).folder.events() if event["event"] == "epoch"]


def measure(names: Iterable[str], data: Path, out: Path, seeds: int, values: Mapping[str, Any],
            results: Path) -> None:
    """Make the runs and write them into `results`."""
    for name in names:
        recipe = Recipe.load(HERE / f"{name}.yaml").with_values(values)
        model = visus.create_model(recipe.model.name, num_classes=len(CIFAR10), **recipe.model.config)
        summary = visus.describe_model(model, recipe.data.image_size)
        rows = []
        for seed in range(seeds):
            rows.append(make_run(name, data, out / f"{name}-seed{seed}", {**values, "train.seed": seed}))
            print(name, seed, *(f"{split} {percent({'seeds': rows[-1:]}, split)}" for split in ("train", "test")),
                  f"{rows[-1]['cpu_minutes']} CPU minutes", flush=True)
        written = json.loads(results.read_text()) if results.exists() else {"runs": {}}
        written["environment"] = {k: environment()[k] for k in ("torch", "processor", "cores", "visus")}
        written["runs"][name] = {"recipe": stated(name), "changed": dict(values), "params": summary.params,
                                 "macs": summary.macs, "seeds": rows}
        written["runs"] = dict(sorted(written["runs"].items()))
        results.write_text(json.dumps(written, indent=1) + "\n")


def stated(name: str) -> dict[str, Any]:
    """What a recipe file says, without its description."""
    return {field: value for field, value in read_yaml(HERE / f"{name}.yaml").items() if field != "description"}


# -- figures -----------------------------------------------------------------------------------------------------

PANEL_WIDTH, BARS_WIDTH, TOP, BOTTOM, ROW = 306, 330, 74.0, 258.0, 50
CHANCE = math.log(10)  # loss of a guess among ten classes
KINDS = ("first", "second", "third")
FIGURE_CSS = """
.visus-chart { --first: #2563b0; --second: #b3530f; --third: #2e7d43; }
@media (prefers-color-scheme: dark) { .visus-chart { --first: #6ea6e8; --second: #f0a35e; --third: #74c48a; } }
.visus-chart .title { font-size: 16px; font-weight: 600; }
.visus-chart .strong { font-weight: 600; }
.visus-chart .whisker { stroke: var(--ink); stroke-width: 1.5; }
.visus-chart .fitted { stroke-dasharray: 5 4; }
""" + "".join(f".visus-chart .line.{k} {{ stroke: var(--{k}); }} .visus-chart .{k} {{ fill: var(--{k}); }}\n"
              f".visus-chart .line.{k} {{ fill: none; }} .visus-chart .pale.{k} {{ opacity: 0.4; }}\n" for k in KINDS)


def figure(experiment: Experiment, runs: Results) -> str:
    """Curves of each panel and the final accuracies as bars: the text of an SVG file."""
    width = PANEL_WIDTH * len(experiment.panels) + BARS_WIDTH
    height = int(max(BOTTOM + 44, TOP + ROW * len(experiment.runs) + 22)) + 24
    losses = [row[key] for name in experiment.runs for seed in runs[name]["seeds"] for row in seed["curve"]
              for key in ("train_loss", "val_loss")]
    axis = Axis(0.92 * min([*losses, CHANCE]), 1.08 * CHANCE, BOTTOM, TOP)
    parts = [tag("text", experiment.title, class_="title", x=16, y=26)]
    for number, (title, labels) in enumerate(experiment.panels):
        parts += curves(title, labels, runs, axis, PANEL_WIDTH * number)
    parts += bars(experiment.runs, runs, PANEL_WIDTH * len(experiment.panels))
    parts += [tag("text", text, class_="tick", x=x, y=height - 12) for text, x in (
        ("dashed: training images; solid: held-out images", 16),
        ("pale: training images; full: test images", PANEL_WIDTH * len(experiment.panels) + 20))]
    return standalone(Markup("").join(parts), width, height, title=experiment.title, css=FIGURE_CSS) + "\n"


def curves(title: str, labels: Mapping[str, str], runs: Results, y_axis: Axis, left: int) -> list[Markup]:
    """Cross-entropy by epoch, of the first seed; what is above the frame lies on its upper edge."""
    rows = {name: runs[name]["seeds"][0]["curve"] for name in labels}
    last = max([row["epoch"] for curve in rows.values() for row in curve], default=1)
    x_axis = Axis(1, max(2, last), left + 46.0, left + PANEL_WIDTH - 84.0)
    parts = [tag("text", title, class_="strong", x=left + 46, y=TOP - 22),
             tag("text", "loss", class_="tick end", x=left + 38, y=TOP - 8),
             tag("text", "epoch", class_="tick middle", x=(x_axis.start + x_axis.end) / 2, y=BOTTOM + 36),
             tag("line", class_="mark", x1=x_axis.start, x2=x_axis.end, y1=y_axis(CHANCE), y2=y_axis(CHANCE)),
             tag("text", "chance", class_="tick end", x=x_axis.end, y=y_axis(CHANCE) - 4)]
    for value in y_axis.ticks(5):
        parts += [tag("line", class_="grid", x1=x_axis.start, x2=x_axis.end, y1=y_axis(value), y2=y_axis(value)),
                  tag("text", f"{value:g}", class_="tick end", x=left + 38, y=y_axis(value) + 4)]
    parts += [tag("text", f"{value:g}", class_="tick middle", x=x_axis(value), y=BOTTOM + 18)
              for value in x_axis.ticks(4, whole=True)]
    parts.append(tag("line", class_="axis", x1=x_axis.start, x2=x_axis.end, y1=BOTTOM, y2=BOTTOM))
    ends = []
    for kind, (name, label) in zip(KINDS, labels.items(), strict=False):
        for key, style in (("train_loss", " fitted"), ("val_loss", "")):
            path = " ".join(f"{x_axis(row['epoch']):.1f},{max(TOP, y_axis(row[key])):.1f}" for row in rows[name])
            parts.append(tag("polyline", class_=f"line {kind}{style}", points=path))
        if rows[name]:
            ends.append((max(TOP, y_axis(rows[name][-1]["val_loss"])), label, kind))
    y = -math.inf
    for end, label, kind in sorted(ends):
        y = max(y + 14, end)
        parts.append(tag("text", label, class_=kind, x=x_axis.end + 6, y=y + 4))
    return parts


def bars(names: Mapping[str, str], runs: Results, left: int) -> list[Markup]:
    """Accuracy on training and test images, the latter with its interval."""
    axis = Axis(0, 100, left + 20.0, left + BARS_WIDTH - 64.0)
    parts = [tag("text", "accuracy at the best epoch", class_="strong", x=axis.start, y=TOP - 22)]
    colours = {}
    for number, (name, label) in enumerate(names.items()):
        kind = colours[name] = KINDS[number % 2]
        run, y = runs[name], TOP + ROW * number
        size = f"{run['params'] / 1e6:.2f} M parameters, {run['macs'] / 1e6:.1f} M MACs"
        parts += [tag("text", label, class_="label", x=axis.start, y=y + 4),
                  tag("text", size, class_="tick end", x=left + BARS_WIDTH - 12, y=y + 4, font_size=10.5)]
        for split, row, style in (("train", 0, f"pale {kind}"), ("test", 1, kind)):
            found, top = score(run, split), y + 10 + 14 * row
            if found is None:
                parts.append(tag("text", "diverged" if row else "", class_="tick", x=axis.start, y=top + 10))
                continue
            parts += [tag("rect", class_=style, x=axis.start, y=top, width=axis(found.value) - axis.start, height=11),
                      tag("text", percent(run, split), class_="tick" if row == 0 else "strong",
                          x=axis(found.high) + 5, y=top + 9.5, font_size=10.5)]
            if row:
                parts.append(tag("line", class_="whisker", x1=axis(found.low), x2=axis(found.high), y1=top + 5.5,
                                 y2=top + 5.5))
    return parts


# -- page --------------------------------------------------------------------------------------------------------

HEAD = """# Experiments

Made by `python recipes/experiments/run.py draw` from `recipes/experiments/results.json`, which the runs wrote. Each
experiment is two to four recipes of `recipes/experiments/` on the first {train:,} training images of CIFAR-10, a fifth
of them held out to choose the epoch, and the first {test:,} test images; {seeds}, one CPU thread. That is far less than
the papers use: where an effect needs more, the sentence says so. Accuracies are means over seeds, in brackets their
range, or the 95 % bootstrap interval of a single one; curves are of the first seed. ± is two standard errors for that
many images; what another seed would change comes on top.

{machine}
"""


def page(results: Results, figures: Path, docs: Path) -> str:
    runs, shown = results["runs"], present(results)
    counts = sorted({len(run["seeds"]) for run in runs.values()})
    seeds = " or ".join(map(str, counts)) + (" seed" if counts == [1] else " seeds")
    minutes = sum(seed["cpu_minutes"] for run in runs.values() for seed in run["seeds"])
    found = results["environment"]
    text = HEAD.format(train=TRAIN_IMAGES, test=TEST_IMAGES, seeds=seeds,
                       machine=f"All runs together: {minutes:.0f} CPU minutes on {found['processor']}, torch "
                               f"{found['torch']}.")
    for name in shown:
        experiment = EXPERIMENTS[name]
        holds, words = experiment.verdict(runs)
        link = os.path.relpath(figures / f"experiments_{name}.svg", docs)
        text += (f"\n## {experiment.title}\n\n{experiment.claim}.\n\n"
                 f"**{'Shown.' if holds else 'Not shown at this scale.'}** {words}\n\n![{experiment.title}]({link})\n\n"
                 "| recipe | parameters | MACs | training images | test images | CPU min |\n"
                 "| --- | ---: | ---: | ---: | ---: | ---: |\n")
        for recipe in experiment.runs:
            run = runs[recipe]
            test = score(run, "test")
            interval = "" if test is None else f" ({test.low:.1f} to {test.high:.1f})"
            cost = statistics.mean(seed["cpu_minutes"] for seed in run["seeds"])
            text += (f"| `{recipe}` | {run['params']:,} | {run['macs']:,} | {percent(run, 'train')} | "
                     f"{percent(run, 'test')}{interval} | {cost:.1f} |\n")
        text += f"\n`python recipes/experiments/run.py {name} --data FOLDER`\n"
    return text


def present(results: Results) -> list[str]:
    """The experiments whose runs are all there."""
    return [name for name, experiment in EXPERIMENTS.items() if results["runs"].keys() >= experiment.runs.keys()]


def drawings(results: Results, docs: Path) -> dict[Path, str]:
    figures = docs / "figures"
    made = {figures / f"experiments_{name}.svg": figure(EXPERIMENTS[name], results["runs"])
            for name in present(results)}
    return {**made, docs / "experiments.md": page(results, figures, docs)}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=(*EXPERIMENTS, "all", "draw"))
    parser.add_argument("--data", type=Path, metavar="FOLDER")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/experiments"))
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="for a trial: another result")
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    arguments = parser.parse_args(argv)
    try:
        if arguments.name != "draw":
            if arguments.data is None:
                raise UserError("where are the images?", where="--data",
                                remedy="Give the folder with cifar10_train.npz and cifar10_test.npz")
            chosen = EXPERIMENTS if arguments.name == "all" else [arguments.name]
            names = dict.fromkeys(run for name in chosen for run in EXPERIMENTS[name].runs)
            data = subset(arguments.data, arguments.out / "cifar10_subset.npz")
            measure(names, data, arguments.out, arguments.seeds, parse_assignments(arguments.set), arguments.results)
        for path, text in drawings(json.loads(arguments.results.read_text()), arguments.docs).items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, text)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
