"""Accuracy by distance of several runs in one figure, from what `visus attack RUN --curve --out DIR` wrote.

    python tools/robust_figure.py plain=attacked/a pgd=attacked/b [--out docs/figures/robust_curves.svg]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from visus.report.charts import LINE_HEIGHT, LINE_WIDTH, Axis, Series, line_axes, line_chart  # noqa: E402
from visus.report.figures import standalone  # noqa: E402

KINDS = ("train", "val", "steps")  # line styles of the report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="NAME=DIR")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "figures" / "robust_curves.svg")
    arguments = parser.parse_args()
    series = []
    for kind, given in zip(KINDS, arguments.runs, strict=False):
        name, _, folder = given.partition("=")
        found = json.loads((Path(folder) / "attack.json").read_text())
        series.append(Series(name, [(p["eps"], p["value"]) for p in found["curve"]], kind))
    x_axis, y_axis = line_axes(series, percentage=True)
    chart = line_chart("Accuracy by distance", series, (x_axis, Axis(0.0, 1.0, y_axis.start, y_axis.end)),
                       percentage=True, x_label="linf distance, of pixels in [0, 1]")
    arguments.out.write_text(standalone(chart, LINE_WIDTH, LINE_HEIGHT, title="Accuracy by distance") + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
