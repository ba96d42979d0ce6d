"""What is varied, and what the numbers say: batch and rate, warm-up, statistics of a norm, first weights, capacity."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from recipes.experiments.experiment import Lines, Results, points

BATCHES = (64, 256, 1024)
LARGE = 1024
WARM = {"none": 0.0, "one epoch": 1.0}
WARM_RATES = {"0.8": 0.8, "1.6": 1.6}
STATISTICS = (4, 8, 32, 256)
SCALES = (1e-3, 1e-2, 1e-1, 1.0)
WIDTHS = (2, 8, 32, 128, 512)
SIZES = (250, 500, 1000, 2000, 4000)
SUBSETS, SUBSET = 4, 1000
PLAIN = {"model.config.shortcut": "none", "train.epochs": 4, "model.init": "small", "optimizer.lr": 0.02}


@dataclass(frozen=True, slots=True)
class Run:
    """base.yaml with `values`, on `images` training images from number `first` on; the first fifth is held out."""

    values: Mapping[str, Any] = field(default_factory=dict)
    images: int = 12_000
    first: int = 0


@dataclass(frozen=True, slots=True)
class Effect:
    """charts(runs): the diagrams. verdict(runs) -> (shown, what the numbers say)."""

    title: str
    claim: str
    runs: Mapping[str, Run]
    charts: Callable[[Results], Sequence[Lines]]
    verdict: Callable[[Results], tuple[bool, str]]


def accuracy(run: Results, split: str = "test") -> float:
    """In percent; a guess among ten classes where the run diverged."""
    return 100 * run[split]["value"] if split in run else 10.0


def gap(runs: Results, a: str, b: str, split: str = "test") -> tuple[float, float]:
    """(a - b in points, two standard errors of it over the images)."""
    values = [accuracy(runs[name], split) for name in (a, b)]
    error = math.hypot(*(200 * math.sqrt(v / 100 * (1 - v / 100) / runs[n].get(split, {"count": 4000})["count"])
                         for v, n in zip(values, (a, b), strict=True)))
    return values[0] - values[1], error


# -- linear scaling ----------------------------------------------------------------------------------------------

SCALED = {f"batch{size}": Run({"train.batch_size": size, "train.epochs": 8, "optimizer.lr_batch": 64})
          for size in BATCHES}
KEPT = {f"batch{size}-kept": Run({"train.batch_size": size, "train.epochs": 8}) for size in BATCHES[1:]}


def scaling_charts(runs: Results) -> list[Lines]:
    scaled = [(size, accuracy(runs[f"batch{size}"])) for size in BATCHES]
    kept = [scaled[0], *((size, accuracy(runs[f"batch{size}-kept"])) for size in BATCHES[1:])]
    return [Lines("test accuracy", "batch", {"rate scaled": scaled, "rate kept": kept}, log=True)]


def judge_scaling(runs: Results) -> tuple[bool, str]:
    loss = {rule: gap(runs, f"batch{LARGE}{end}", "batch64") for rule, end in (("scaled", ""), ("kept", "-kept"))}
    gain = gap(runs, f"batch{LARGE}", f"batch{LARGE}-kept")
    text = f"After as many epochs, batches of {LARGE} stand at {points(loss['kept'])} against batches of 64 where " \
        f"the rate is kept and at {points(loss['scaled'])} where it grows with the batch: the rule brings " \
        f"{points(gain)}."
    held = [size for size in BATCHES[1:] if abs(gap(runs, f"batch{size}", "batch64")[0])
            <= gap(runs, f"batch{size}", "batch64")[1]]
    text += f" It holds within the noise up to batches of {max(held)}." if held else \
        " With so few updates in all it never holds within the noise."
    return gain[0] > gain[1], text


# -- warm-up -----------------------------------------------------------------------------------------------------

WARMED = {f"warm-{rate}-{epochs:g}": Run({"train.batch_size": LARGE, "optimizer.lr": value,
                                          "schedule.warmup_epochs": epochs, "train.epochs": 6})
          for rate, value in WARM_RATES.items() for epochs in WARM.values()}


def warm_charts(runs: Results) -> list[Lines]:
    curves = {words: [(row["epoch"], 100 * row["val_accuracy"]) for row in runs[f"warm-0.8-{epochs:g}"]["curve"]]
              for words, epochs in WARM.items()}
    by_rate = {words: [(rate, accuracy(runs[f"warm-{name}-{epochs:g}"])) for name, rate in WARM_RATES.items()]
               for words, epochs in WARM.items()}
    return [Lines("held-out accuracy, rate 0.8", "epoch", curves), Lines("test accuracy", "peak rate", by_rate,
                                                                         log=True)]


def judge_warm(runs: Results) -> tuple[bool, str]:
    gains = {name: gap(runs, f"warm-{name}-1", f"warm-{name}-0") for name in WARM_RATES}
    text = f"At batches of {LARGE}, an epoch of warm-up changes the test accuracy by " + \
        ", ".join(f"{points(found)} at a peak rate of {name}" for name, found in gains.items()) + "."
    shown = any(found[0] > found[1] for found in gains.values())
    if not shown:
        text += " Batch norm and momentum carry a net of 8 layers over a rough start; the paper trains 50 layers."
    return shown, text


# -- statistics of a norm ----------------------------------------------------------------------------------------

COUNTED = {f"{norm}-{size}": Run({"train.batch_size": size, "train.accumulate": 256 // size, "model.norm": norm,
                                  "optimizer.lr": 0.1, "train.epochs": 6}, images=6_000)
           for norm in ("batch", "group") for size in STATISTICS if norm == "batch" or size in (4, 256)}


def counted_charts(runs: Results) -> list[Lines]:
    return [Lines("test accuracy", "images in the statistics", {
        "batch norm": [(size, accuracy(runs[f"batch-{size}"])) for size in STATISTICS],
        "group norm": [(size, accuracy(runs[f"group-{size}"])) for size in (4, 256)]}, log=True)]


def judge_counted(runs: Results) -> tuple[bool, str]:
    few, one = gap(runs, "batch-4", "batch-32"), gap(runs, "group-4", "group-256")
    whole = gap(runs, "batch-256", "batch-32")
    text = "All updates are of 256 images; what differs is over how many of them batch norm takes mean and variance, " \
        f"as it does on each worker. Over 4 instead of 32 it stands at {points(few)}, over all 256 at " \
        f"{points(whole)}. Group norm, which sees one image at a time, changes by {points(one)} between 4 and 256."
    return few[0] < -few[1] and abs(one[0]) <= one[1], text


# -- first weights -----------------------------------------------------------------------------------------------

BEGUN = {f"scale-{scale:g}-{norm}": Run({**PLAIN, "model.init_scale": scale, "model.norm": norm}, images=3_000)
         for norm in ("batch", "none") for scale in SCALES}


def begun_charts(runs: Results) -> list[Lines]:
    return [Lines(f"{words} accuracy", "std of the first weights", {
        label: [(scale, accuracy(runs[f"scale-{scale:g}-{norm}"], split)) for scale in SCALES]
        for norm, label in (("batch", "batch norm"), ("none", "none"))}, log=True)
        for words, split in (("training", "train"), ("test", "test"))]


def judge_begun(runs: Results) -> tuple[bool, str]:
    ranges = {norm: [accuracy(runs[f"scale-{scale:g}-{norm}"]) for scale in SCALES] for norm in ("batch", "none")}
    text = f"Over first weights of standard deviation {SCALES[0]:g} to {SCALES[-1]:g}, the test accuracy of a plain " \
        f"net of 8 layers lies between {min(ranges['batch']):.1f} and {max(ranges['batch']):.1f} % with batch norm " \
        f"and between {min(ranges['none']):.1f} and {max(ranges['none']):.1f} % without."
    chance = [f"{scale:g}" for scale, value in zip(SCALES, ranges["none"], strict=True) if value < 15]
    text += f" Without it nothing is learnt from {', '.join(chance)}." if chance else ""
    return max(ranges["batch"]) - min(ranges["batch"]) < max(ranges["none"]) - min(ranges["none"]), text


# -- capacity, data, bias and variance ---------------------------------------------------------------------------

MLP = {"model.name": "mlp", "model.config": {}, "optimizer.name": "adamw", "optimizer.lr": 0.002,
       "optimizer.weight_decay": 0.0, "train.epochs": 25, "train.layout": "contiguous", "schedule.warmup_epochs": 0.0}


def net(width: int) -> dict[str, Any]:
    return {**MLP, "model.config": {"hidden_dims": [width]}}


WIDE = {f"width-{width}-{part}": Run(net(width), images=SUBSET, first=SUBSET * part)
        for width in WIDTHS for part in range(SUBSETS)}
MANY = {f"images-{size}": Run({**net(128), "train.epochs": 25 * 1000 // size if size < 1000 else 25}, images=size)
        for size in SIZES}


def decomposed(runs: Results, width: int) -> tuple[float, float]:
    """(squared bias, variance) of the probabilities over the nets of the subsets, in percent of a Brier score of 1:
    E |p - y|^2 = |mean p - y|^2 + E |p - mean p|^2, means over the test images."""
    found = runs[f"width-{width}-0"]["parts"]
    return 100 * found["bias"], 100 * found["variance"]


def errors(runs: Results, names: Sequence[tuple[float, Sequence[str]]], split: str) -> list[tuple[float, float]]:
    return [(x, sum(100 - accuracy(runs[name], split) for name in group) / len(group)) for x, group in names]


def capacity_charts(runs: Results) -> list[Lines]:
    widths = [(width, [f"width-{width}-{part}" for part in range(SUBSETS)]) for width in WIDTHS]
    sizes = [(size, [f"images-{size}"]) for size in SIZES]
    parts = {width: decomposed(runs, width) for width in WIDTHS}
    return [Lines("error, 1,000 images", "hidden units", {
        "training": errors(runs, widths, "train"), "test": errors(runs, widths, "test")}, log=True),
        Lines("Brier score of the test images", "hidden units", {
            "bias²": [(width, parts[width][0]) for width in WIDTHS],
            "variance": [(width, parts[width][1]) for width in WIDTHS],
            "sum": [(width, sum(parts[width])) for width in WIDTHS]}, log=True),
        Lines("error, 128 units", "images", {"training": errors(runs, sizes, "train"),
                                             "test": errors(runs, sizes, "test")}, log=True)]


def judge_capacity(runs: Results) -> tuple[bool, str]:
    by_width, _, by_size = (chart.series for chart in capacity_charts(runs))
    small, large = decomposed(runs, WIDTHS[0]), decomposed(runs, WIDTHS[-1])

    def span(chart: Mapping[str, Sequence[tuple[float, float]]], end: int) -> float:
        return chart["test"][end][1] - chart["training"][end][1]

    text = f"From {WIDTHS[0]} to {WIDTHS[-1]} hidden units the error on 1,000 training images falls from " \
        f"{by_width['training'][0][1]:.1f} to {by_width['training'][-1][1]:.1f} %, on the test images from " \
        f"{by_width['test'][0][1]:.1f} to {by_width['test'][-1][1]:.1f} %: the gap goes from {span(by_width, 0):.1f} " \
        f"to {span(by_width, -1):.1f} points. From {SIZES[0]} to {SIZES[-1]:,} images it goes from " \
        f"{span(by_size, 0):.1f} to {span(by_size, -1):.1f}. Over {SUBSETS} disjoint sets of images the squared bias " \
        f"falls from {small[0]:.1f} to {large[0]:.1f} and the variance goes from {small[1]:.1f} to {large[1]:.1f} " \
        "(hundredths of the Brier score)."
    if large[1] < small[1]:
        text += " The variance does not grow with the width here: wide nets, stopped at their best epoch, agree."
    return span(by_width, -1) > span(by_width, 0) and span(by_size, -1) < span(by_size, 0), text


EFFECTS = {
    "scaling": Effect("The linear scaling rule",
                      "Where the batch grows k-fold the rate is to grow k-fold, and training goes as before (Goyal et "
                      "al. 2017)", {**SCALED, **KEPT}, scaling_charts, judge_scaling),
    "warmup": Effect("Warm-up at a large batch",
                     "A large rate wants to be reached step by step (Goyal et al. 2017, section 2.2)", WARMED,
                     warm_charts, judge_warm),
    "statistics": Effect("Batch norm over few and over many images",
                         "Batch norm is worse the fewer images its statistics are of, and group norm is not (Wu, He "
                         "2018, Figure 1); updates of a large batch keep about 32 for each worker (Goyal et al. 2017)",
                         COUNTED, counted_charts, judge_counted),
    "init": Effect("Scale of the first weights with and without batch norm",
                   "Batch norm makes a net less sensitive to how its weights begin (CS231n, assignment 2)", BEGUN,
                   begun_charts, judge_begun),
    "capacity": Effect("Capacity, data, bias and variance",
                       "More capacity lowers the training error and widens the gap to the test error; more data close "
                       "it; the error is bias and variance", {**WIDE, **MANY}, capacity_charts, judge_capacity),
}
