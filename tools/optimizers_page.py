"""docs/optimizers.md and docs/figures/convergence.svg from benchmarks/results/convergence.json and staleness.json.

    python tools/optimizers_page.py [--convergence FILE] [--staleness FILE] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from visus.core.files import write_text  # noqa: E402
from visus.report.charts import Axis, axis_number, tag  # noqa: E402
from visus.report.compare import COLOURS, DASHES  # noqa: E402
from visus.report.figures import standalone  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
GROUPS = (("optimizer", "Optimizers"), ("regulariser", "What holds the weights back"),
          ("averager", "What averages the weights"))
CURVES = 8  # drawn: those that are told apart
BASE = "sgd, nesterov"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--convergence", type=Path, default=RESULTS / "convergence.json")
    parser.add_argument("--staleness", type=Path, default=RESULTS / "staleness.json")
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    arguments = parser.parse_args()
    found = json.loads(arguments.convergence.read_text())
    stale = json.loads(arguments.staleness.read_text()) if arguments.staleness.is_file() else None
    write_text(arguments.out / "figures" / "convergence.svg", figure(found["results"]) + "\n")
    write_text(arguments.out / "optimizers.md", page(found, stale))
    return 0


def page(found: dict[str, Any], stale: dict[str, Any] | None) -> str:
    results = found["results"]
    lines = [
        "# Optimizers, regularisers and averagers on one task", "",
        "`visus optimizers` lists every optimizer with its equation; `visus optimizers surfaces` and "
        "`visus optimizers tests` draw what each does on surfaces with known minima and in the unit tests of Schaul et "
        "al. 2014. This page measures all of them on real images.", "",
        f"The task: {found['train']:,} images of Fashion-MNIST, {found['val']:,} more to choose the rate, "
        f"{found['test']:,} test images; a small convolutional net, {found['looks']} looks at batches of "
        f"{found['batch']} images (a rule that looks at a batch more than once takes fewer steps), a "
        f"cosine schedule. Every row had the same budget: seven rates on a logarithmic grid with one seed, "
        f"then {found['seeds']} seeds at the chosen one. One small task in a short run says which rules start fast and "
        "how much tuning they want, not which is best for a long run of a large net. Made by "
        "`python benchmarks/convergence.py` and `python tools/optimizers_page.py`.", "",
        "![Test accuracy and training loss of all](figures/convergence.svg)", "", *sentences(results)]
    for group, title in GROUPS:
        rows = sorted((-row["test"], name) for name, row in results.items() if row["group"] == group)
        if rows:
            lines += ["", f"## {title}", "", "| | rate | test accuracy | spread of seeds | CPU seconds a run | rates "
                      "within 1 % of its best |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
            lines += [_row(name, results[name]) for _, name in rows]
    if stale:
        lines += staleness(stale)
    return "\n".join(lines) + "\n"


def _row(name: str, row: dict[str, Any]) -> str:
    edge = " (edge of the grid)" if row["at the edge"] else ""
    return (f"| {name} | {row['lr']:g}{edge} | {100 * row['test']:.2f} % | {100 * row['spread']:.2f} | "
            f"{row['seconds']:.1f} | {broad(row)} of {len(row['rates'])} |")


def broad(row: dict[str, Any]) -> int:
    """How many rates come within a point of the best in validation accuracy."""
    return sum(value >= max(row["rates"].values()) - 0.01 for value in row["rates"].values())


def sentences(results: dict[str, Any]) -> list[str]:
    """What the numbers say, with the noise of the seeds: two standard errors of the difference of two means."""
    of = {name: row for name, row in results.items() if row["group"] == "optimizer"}
    best = max(of, key=lambda name: of[name]["test"])
    noise = statistics.median(row["spread"] for row in results.values())
    near = [name for name in of if name != best and not differ(of[best], of[name])]
    said = [f"The best optimizer here is {best}, {100 * of[best]['test']:.2f} %. "
            + (f"Within the noise of the seeds of it: {', '.join(sorted(near))}."
               if near else "No other is within the noise of the seeds of it.")
            + f" The median spread between seeds is {100 * noise:.2f} points."]
    wide = max(of, key=lambda name: (broad(of[name]), of[name]["test"]))
    said.append(f"Least in need of tuning is {wide}: {broad(of[wide])} of its {len(of[wide]['rates'])} rates come "
                "within a point of its best validation accuracy.")
    edge = [name for name, row in results.items() if row["at the edge"]]
    if edge:
        said.append(f"At the edge of the grid, so that a further rate might be better: {', '.join(edge)}.")
    if BASE in results:
        helped, hurt = [], []
        for name, row in results.items():
            if row["group"] != "optimizer" and differ(row, results[BASE]):
                (helped if row["test"] > results[BASE]["test"] else hurt).append(
                    f"{name.removeprefix(BASE + ' + ')} ({100 * (row['test'] - results[BASE]['test']):+.2f})")
        if any(row["group"] != "optimizer" for row in results.values()):
            said.append("Beside " + BASE + " alone, " + (f"better by more than the noise: {', '.join(helped)}; "
                        if helped else "nothing is better by more than the noise; ")
                        + (f"worse: {', '.join(hurt)}." if hurt else "nothing is worse by more than the noise."))
    return [word for sentence in said for word in (sentence, "")][:-1]


def differ(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """By more than two standard errors of the difference, of which each mean of seeds has its own."""
    error = ((a["spread"] ** 2) / len(a["tests"]) + (b["spread"] ** 2) / len(b["tests"])) ** 0.5
    return abs(a["test"] - b["test"]) > 2 * error


def staleness(stale: dict[str, Any]) -> list[str]:
    replicas = stale["replicas"]
    lines = ["", "## What staleness costs", "",
             f"Downpour SGD simulated ({stale['task']}): R equal replicas push gradients that are R - 1 updates old. "
             f"Loss after {stale['updates']} updates at the best of {len(stale['rates'])} rates, and that rate. More "
             "replicas make the updates come faster; this is what each update loses by it. Made by "
             "`python benchmarks/staleness.py`.", "",
             "| server | " + " | ".join(f"{r} replica{'s' * (r > 1)}" for r in replicas) + " |",
             "| --- |" + " ---: |" * len(replicas)]
    for name, row in stale["results"].items():
        lines.append(f"| {name} | " + " | ".join(f"{row[str(r)]['loss']:.4f} ({row[str(r)]['lr']:g})"
                                                 for r in replicas) + " |")
    for name, row in stale["results"].items():
        first, last = row[str(replicas[0])], row[str(replicas[-1])]
        lines += ["", f"{name[0].upper()}{name[1:]}: with {replicas[-1]} replicas the loss is "
                  f"{last['loss'] / first['loss']:.2f} times that of one, at a rate "
                  f"{last['lr'] / first['lr']:.2g} times as large."]
    return lines


def figure(results: dict[str, Any]) -> str:
    """Accuracies as dots with their spread, best first; beside them the training loss of the best optimizers."""
    step, names_at, right = 19, 300.0, 560.0
    order = sorted(results, key=lambda name: -results[name]["test"])
    height = max(330, round(64 + step * len(order)))
    shown = [results[name]["test"] for name in order]
    low = max(0.0, min(max(shown) - 0.12, statistics.median(shown) - 0.06))
    axis = Axis(low, min(1.0, max(shown) + 0.01), names_at, right)
    drawn = [name for name in order if results[name]["group"] == "optimizer" and results[name]["curve"]][:CURVES]
    parts = [tag("text", "Test accuracy, mean and spread of seeds", class_="label", x=names_at, y=20)]
    for value in axis.ticks(5):
        parts += [tag("line", class_="grid", x1=axis(value), x2=axis(value), y1=30, y2=height - 26),
                  tag("text", f"{100 * value:g}%", class_="tick middle", x=axis(value), y=height - 10)]
    for place, name in enumerate(order):
        y, row = 40.0 + step * place, results[name]
        kind = f"r{drawn.index(name)}" if name in drawn else "plain"
        parts.append(tag("text", name, class_="label end", x=names_at - 12, y=y + 4))
        if row["test"] < low:
            parts.append(tag("text", f"\u2190 {100 * row['test']:.0f}%", class_="tick", x=names_at + 2, y=y + 4))
            continue
        ends = [min(axis.high, max(axis.low, row["test"] + side * row["spread"])) for side in (-1, 1)]
        parts += [tag("line", class_="axis", x1=axis(ends[0]), x2=axis(ends[1]), y1=y, y2=y),
                  tag("circle", tag("title", f"{name}, rate {row['lr']:g}: {100 * row['test']:.2f} %"),
                      class_=f"dot {kind}", r=4, cx=axis(row["test"]), cy=y)]
    parts += _curves([(name, results[name]["curve"]) for name in drawn], right + 70)
    colours = "".join(f".r{k}{{--c:{light}}}" for k, (light, _) in enumerate(COLOURS)) + \
        "@media (prefers-color-scheme: dark){" + "".join(f".r{k}{{--c:{d}}}" for k, (_, d) in enumerate(COLOURS)) + \
        "}.visus-chart .line[class*=\" r\"]{stroke:var(--c)}.visus-chart .dot[class*=\" r\"]{fill:var(--c)}" \
        ".visus-chart .dot.plain{fill:var(--neutral)}"
    return standalone(tag("g", *parts), 980, height, title="Optimizers, regularisers and averagers on one task",
                      css=colours)


def _curves(lines: list[tuple[str, list[list[float]]]], left: float) -> list[Any]:
    if not lines:
        return []
    ys = [y for _, line in lines for _, y in line if y > 0]
    x_axis = Axis(0, max(x for _, line in lines for x, _ in line), left, 965.0)
    y_axis = Axis(min(ys) / 1.05, max(ys) * 1.05, 290.0, 36.0, log=True)
    parts = [tag("text", "Training loss by looks at a batch, the best optimizers", class_="label", x=left, y=20)]
    for value in y_axis.ticks(5):
        parts += [tag("line", class_="grid", x1=left, x2=965, y1=y_axis(value), y2=y_axis(value)),
                  tag("text", axis_number(value), class_="tick end", x=left - 6, y=y_axis(value) + 4)]
    for value in x_axis.ticks(4, whole=True):
        parts.append(tag("text", axis_number(value), class_="tick middle", x=x_axis(value), y=308))
    for place, (_, line) in enumerate(lines):
        points = " ".join(f"{x_axis(x):.1f},{y_axis(y):.1f}" for x, y in line if y > 0)
        parts.append(tag("polyline", class_=f"line r{place}", points=points, stroke_dasharray=DASHES[place] or None))
    return parts


if __name__ == "__main__":
    sys.exit(main())
