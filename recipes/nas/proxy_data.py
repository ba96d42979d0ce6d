"""A small classification task for the two scripts of this folder, their results file and their figures."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from visus.core.device import environment
from visus.core.errors import UserError
from visus.core.files import write_json, write_text
from visus.core.seeds import permutation
from visus.data.opening import open_samples
from visus.report.charts import Series, line_axes, line_chart
from visus.report.figures import chart_style
from visus.search.proxy import ProxyData

SIZES = {"train": 1000, "val": 300, "test": 497}


def load(path: str) -> tuple[ProxyData, torch.Tensor, torch.Tensor]:
    """(train and validation, test images, test labels): 1,000, 300 and 497 images drawn with seed 0, normalised."""
    samples = open_samples(path)
    if samples.multi_label or len(samples) < sum(SIZES.values()) or len({tuple(s) for s in samples.sizes()[0]}) > 1:
        raise UserError(f"must hold at least {sum(SIZES.values())} images of one size with one label each", where=path)
    order = permutation(len(samples), 0, "nas")[:sum(SIZES.values())]
    pixels = np.stack([samples.read(int(i)) for i in order])  # [N, H, W, C]
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float() / 255  # [N, C, H, W]
    labels = torch.from_numpy(samples.targets[order])
    known = images[:SIZES["train"]]
    images = (images - known.mean()) / known.std()
    train, val, test = (list(part) for part in zip(*(t.split(list(SIZES.values())) for t in (images, labels)),
                                                   strict=True))
    return ProxyData(*train, *val, len(samples.classes)), *test


@contextmanager
def bar(title: str, total: int) -> Iterator[Any]:
    """A progress bar on the error stream; call what it gives with the count and a word."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TimeRemainingColumn(), TextColumn("{task.fields[word]}"))
    with Progress(*columns, console=Console(file=sys.stderr)) as progress:
        task = progress.add_task(title, total=total, word="")
        yield lambda done, word="": progress.update(task, completed=done, word=word)


def write_section(path: Path, name: str, value: dict[str, Any]) -> None:
    """Put `value` under `name` into the results file and leave the rest."""
    results = json.loads(path.read_text()) if path.exists() else {}
    about = {key: environment()[key] for key in ("torch", "processor", "cores", "visus")}
    write_json(path, {**results, name: {**value, "environment": about}})


def draw(path: Path, title: str, series: list[Series], x_label: str) -> None:
    """A line chart of shares as an SVG file that carries its own style."""
    chart = line_chart(title, series, line_axes(series, percentage=True), x_label=x_label, percentage=True)
    head, _, rest = str(chart).partition(">")
    write_text(path, f"{head}><style>{chart_style()}</style>{rest}\n")


def table(rows: list[tuple[str, ...]]) -> str:
    """Plain text; the first row is the head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) if i == 0 else cell.rjust(width)
                       for i, (cell, width) in enumerate(zip(row, widths, strict=True))) for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
