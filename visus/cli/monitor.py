"""Do recent images still look like those of the training: what moved, by how much, and what it means for the answers.

  visus monitor runs/photos-1 recent/                      a folder of recent images against the run's own data
  visus monitor runs/photos-1/export/bundle recent/        the same without torch: pixels and answers, no features
  visus monitor BUNDLE --requests statistics.json          counts that `visus serve` kept; no image is needed
  visus monitor BUNDLE --requests workers/ --last 24       the last 24 windows of each worker
  visus monitor runs/photos-1 recent/ --fail-on-drift      exit code 1 when something moved, for a nightly job

Compared are brightness, contrast, colours, sharpness, sizes, the classes given, confidence, and (for a run, or with
--features) what the network sees. Each has a p-value, corrected for their number, and an effect size; a statistic has
moved when both are large. Accuracy on recent images is estimated without labels, from the confidence."""

from __future__ import annotations

import argparse
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="RUN|BUNDLE", help="run folder, such as runs/digits-1, or an exported bundle")
    parser.add_argument("images", nargs="*", metavar="FOLDER", help="recent images: folders, files or globs")
    parser.add_argument("--requests", action="append", default=[], metavar="FILE", help="statistics that a server "
                        "kept, or a folder of such files; may be given several times")
    parser.add_argument("--last", type=int, metavar="N", help="only the last N windows of each file")
    parser.add_argument("--out", default="monitor.html", metavar="FILE.html", help="the page (default: monitor.html; - "
                        "for none)")
    parser.add_argument("--alpha", type=float, default=0.01, metavar="P", help="the chance of any alarm where nothing "
                        "moved (default: 0.01)")
    parser.add_argument("--limit", type=int, default=2000, metavar="N", help="images to look at, spread over those "
                        "given (default: 2000)")
    parser.add_argument("--features", action="store_true", help="of a bundle, look at the network's features "
                        "too; needs torch")
    parser.add_argument("--fail-on-drift", action="store_true", help="exit code 1 when something moved")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--json", action="store_true", help="print everything that was measured as JSON")


def run(arguments: argparse.Namespace) -> int:
    import json
    import sys

    from rich.console import Console

    from visus.core.errors import printable
    from visus.core.files import finite
    from visus.run.monitor import monitor

    out = None if arguments.out == "-" else arguments.out
    found = monitor(arguments.model, arguments.images, requests=arguments.requests, out=out, alpha=arguments.alpha,
                    features=arguments.features or None, last=arguments.last, limit=arguments.limit,
                    device=arguments.device, progress=not arguments.json, command=["visus", *sys.argv[1:]])
    code = 1 if arguments.fail_on_drift and found.moved else 0
    if arguments.json:
        print(json.dumps(finite(found.record), indent=2))
        return code
    console = Console(highlight=False)
    console.print(printable(found.sentence), markup=False, soft_wrap=True)
    if found.record["rows"]:
        console.print()
        console.print(_table(found.record))
    for note in found.record["notes"]:
        console.print(f"note: {printable(note)}", markup=False, soft_wrap=True)
    if out is not None:
        console.print(f"page      {out}", markup=False, soft_wrap=True)
    return code


def _table(record: dict[str, Any]) -> Any:
    from rich.table import Table

    images = record["images"]
    table = Table(title=f"{images['recent']:,} recent images against {images['reference']:,}", title_justify="left",
                  box=None, pad_edge=False, title_style="bold", min_width=44)
    for number, column in enumerate(("statistic", "before", "now", "distance", "PSI", "d", "p", "")):
        table.add_column(column, justify="left" if number in (0, 7) else "right")
    styles = {"moved": "bold red", "slight": "yellow", "same": ""}
    for row in record["rows"]:
        means = ["" if row[side]["mean"] is None else f"{row[side]['mean']:.4g}" for side in ("reference", "recent")]
        table.add_row(row["title"], *means, f"{row['distance']:.3f}",
                      *("" if row[name] is None else f"{row[name]:{form}}" for name, form in
                        (("psi", ".3f"), ("d", "+.2f"))),
                      f"{row['p_adjusted']:.2g}", "" if row["state"] == "same" else row["state"],
                      style=styles[row["state"]])
    return table
