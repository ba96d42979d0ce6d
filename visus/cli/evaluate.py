"""Measure a run's model: on its own test split, or on labelled images at PATH (any form that `visus train` takes)."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="run folder, such as runs/digits-1")
    parser.add_argument("path", nargs="?", metavar="PATH", help="labelled images; default: the run's own split")
    parser.add_argument("--split", default="test", metavar="NAME", help="without PATH: train, val or test (default)")
    parser.add_argument("--format", default="auto", metavar="NAME", help="of PATH, such as folder, table,"
                        " voc; default: recognised")
    parser.add_argument("--on-bad-image", choices=("stop", "skip"), default="stop", help="unreadable images")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--json", action="store_true", help="print everything that was measured as JSON")


def run(arguments: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from visus.core.errors import printable
    from visus.core.files import finite
    from visus.run.display import metrics_table
    from visus.run.evaluate import evaluate, metric_rows

    measured = evaluate(arguments.run, arguments.path, split=arguments.split, format=arguments.format,
                        device=arguments.device, progress=not arguments.json, on_bad_image=arguments.on_bad_image)
    if arguments.json:
        print(json.dumps(finite(asdict(measured)), indent=2))
        return 0
    console = Console(highlight=False)
    console.print(metrics_table(f"{measured.count:,} images ({measured.split})", metric_rows(measured)))
    classes = Table("class", "images", "precision", "recall", "F1", box=None, pad_edge=False)
    for row in measured.per_class[:50]:
        classes.add_row(printable(row["name"])[:40], f"{row['count']:,}",
                        *("-" if row[k] is None else f"{row[k]:.4f}" for k in ("precision", "recall", "f1")))
    console.print()
    console.print(classes, markup=False)
    if len(measured.per_class) > 50:
        console.print(f"... and {len(measured.per_class) - 50} more classes: --json has them all")
    return 0
