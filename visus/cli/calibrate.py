"""Are the probabilities of a run worth their name: correct them, and say what follows.

  visus calibrate runs/photos-1                        temperature, vector, matrix or isotonic: the best, or none
  visus calibrate runs/photos-1 --method temperature   one of them; refused where it makes things worse
  visus calibrate runs/photos-1 --ood other/           can the model tell these images from its own?
  visus calibrate runs/faces-1 --group age             a row for each value of this column of the CSV
  visus calibrate runs/photos-1 --with runs/photos-2   the two averaged
  visus predict runs/photos-1 new/ --calibrated        uses what was fitted

Everything is fitted on the validation split and measured on the test split. Conformal sets hold the true class with
the probability that --alpha asks for. The table and the charts lie in RUN/calibration/, and in the run's page."""

from __future__ import annotations

import argparse
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="run folder, such as runs/digits-1")
    parser.add_argument("--method", default="auto", metavar="NAME",
                        help="auto (default), temperature, vector, matrix or isotonic")
    parser.add_argument("--alpha", type=float, default=0.1, metavar="SHARE",
                        help="how often a conformal set may miss the true class (default: 0.1)")
    parser.add_argument("--ood", default="built-in", metavar="PATH", help="images that the model was not made for; "
                        "default: noise, shuffled and plain ones made of the test images; none: leave it out")
    parser.add_argument("--group", metavar="COLUMN", help="a column of the run's CSV: accuracy for each of its values")
    parser.add_argument("--dropout", type=int, default=0, metavar="N", help="average N passes with dropout left on")
    parser.add_argument("--with", nargs="+", default=[], metavar="RUN", dest="ensemble",
                        help="other runs on the same test images, to average with")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--json", action="store_true", help="print everything that was measured as JSON")


def run(arguments: argparse.Namespace) -> int:
    import json
    import sys

    from rich.console import Console

    from visus.core.errors import printable
    from visus.core.files import finite
    from visus.run.calibrate import calibrate

    found = calibrate(arguments.run, arguments.method, alpha=arguments.alpha, ood=arguments.ood, group=arguments.group,
                      dropout=arguments.dropout, ensemble=arguments.ensemble, device=arguments.device,
                      progress=not arguments.json, command=["visus", *sys.argv[1:]])
    record = found.record
    if arguments.json:
        print(json.dumps(finite(record), indent=2))
        return 0
    console = Console(highlight=False)
    console.print(printable(record["choice"]["sentence"]), markup=False, soft_wrap=True)
    for table in _tables(record):
        console.print()
        console.print(table)
    for row in record["left_out"]:
        console.print(f"\nleft out: {row['section']}: {printable(row['why'])}", markup=False, soft_wrap=True)
    console.print(f"\n{found.files[1].parent} holds the results and {len(found.files) - 2} charts", markup=False,
                  soft_wrap=True)
    if record["choice"]["method"] is not None:
        console.print(f"visus predict {found.run} IMAGE --calibrated uses the correction", markup=False, soft_wrap=True)
    return 0


NAMES = {"accuracy": "accuracy", "nll": "NLL", "brier": "Brier score", "ece": "ECE", "adaptive_ece": "adaptive ECE",
         "classwise_ece": "classwise ECE"}


def _tables(record: dict[str, Any]) -> list[Any]:
    from rich.markup import escape

    from visus.core.errors import printable

    def text(value: str) -> str:
        return escape(printable(value)[:40])

    tables = [_before_after(record)]
    sets = _table(f"Sets that hold the true class with probability {1 - record['alpha']:.0%}", "method", "coverage",
                  "usual at this size", "mean size", "empty", "one class")
    for row in record["conformal"]:
        sets.add_row(row["method"].upper(), f"{row['coverage']:.4f}",
                     f"{row['expected_low']:.4f} to {row['expected_high']:.4f}", f"{row['mean_size']:.3f}",
                     f"{row['empty']:.1%}", f"{row['single']:.1%}")
    tables.append(sets)
    kept = record["selective"].get("after") or record["selective"]["before"]
    answers = _table(f"The surest only (AURC {kept['aurc']:.5f})", "answered", "accuracy", "confidence from")
    for row in kept["at"]:
        answers.add_row(f"{row['coverage']:.1%}", f"{row['accuracy']:.4f}", f"{row['confidence']:.4f}")
    tables.append(answers)
    if "ood" in record:
        away = _table("Telling its own images from others", "images", "score", "AUROC", "FPR at 95 % TPR")
        for row in record["ood"]["rows"]:
            away.add_row(text(row["set"]), row["score"], f"{row['auroc']:.4f}", f"{row['fpr95']:.4f}")
        tables.append(away)
    if "groups" in record:
        found = record["groups"]
        groups = _table(f"By {text(found['column'])}", "group", "images", "accuracy", "95 % interval", "confidence")
        for row in found["rows"]:
            groups.add_row(text(row["group"]), f"{row['count']:,}", f"{row['accuracy']:.4f}",
                           f"{row['low']:.4f} to {row['high']:.4f}" + (" (few)" if row["few"] else ""),
                           f"{row['confidence']:.4f}")
        gaps = [(kind, found[f"{kind}_gap"]) for kind in ("accuracy", "selection", "recall") if found[f"{kind}_gap"]]
        for kind, gap in gaps:
            which = "" if gap["class"] is None else f", {text(record['labels'][gap['class']])}"
            groups.add_row(f"{'selection rate' if kind == 'selection' else kind} gap{which}", "", f"{gap['value']:.4f}",
                           f"{gap['low']:.4f} to {gap['high']:.4f}", style="dim")
        tables.append(groups)
    for name, title in (("dropout", "With dropout left on"), ("ensemble", "Averaged with other runs")):
        if name in record:
            several = _table(f"{title} (answers differ in {record[name]['disagreement']:.1%} of pairs)", "", "accuracy",
                             "NLL", "ECE")
            for row in record[name]["rows"]:
                several.add_row(text(row["name"]), *(f"{row[key]:.4f}" for key in ("accuracy", "nll", "ece")))
            tables.append(several)
    return tables


def _before_after(record: dict[str, Any]) -> Any:
    after, differences = record["after"], record["differences"]
    table = _table(f"{record['counts']['test']:,} test images", "metric", "before",
                   *(("after", "difference, 95 % interval") if after else ()))
    for key, name in NAMES.items():
        cells = [name, f"{record['before'][key]:.4f}"]
        if after:
            gap = differences.get(key)
            cells += [f"{after[key]:.4f}", "" if gap is None else f"{gap['low']:+.4f} to {gap['high']:+.4f}"]
        table.add_row(*cells)
    return table


def _table(title: str, *columns: str) -> Any:
    from rich.table import Table

    table = Table(title=title, min_width=len(title), title_justify="left", box=None, pad_edge=False, title_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 or column == "score" else "right")
    return table
