"""What moved between the training's images and recent ones, as one page: the sentence, the tests, before and after."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from visus import __version__
from visus.report.charts import Axis, Series, line_axes, line_chart, tag
from visus.report.formatting import axis_number, decimal, integer, plural
from visus.report.page import page_style, policy, shell_command, template
from visus.report.thumbnails import is_small, picture_uri

MAX_CLASSES = 30  # rows of the table
SIDE_PX = 160     # of a shown image
MAX_LINES = 4
WIDTH, HEIGHT = 380, 150
_STATES = {"moved": "error", "slight": "note", "same": "good"}
_WORDS = {"moved": "moved", "slight": "a small difference", "same": "as before"}
_GROUPS = {"images": "pixels and files", "features": "features", "answers": "answers"}
Bars = Sequence[tuple[float, float, float, float]]


def render_monitor(record: Mapping[str, Any], bars: Mapping[str, Bars], pictures: Sequence[np.ndarray]) -> str:
    """The page's text: nothing else is needed, no file, no network.

    record: as visus.run.drift.compare gives it, with model, far, windows and command. bars: by statistic, (from, to,
    share of the reference, share of the recent images). pictures: uint8 [H, W, 1 or 3], one for each of record["far"].
    """
    style = page_style()
    rows = [_row(row) for row in sorted(record["rows"], key=_order)]
    charts = [{"title": row["title"], "state": row["state"], "svg": _histogram(row["title"], bars[row["name"]])}
              for row in sorted(record["rows"], key=_order) if row["name"] in bars and len(bars[row["name"]]) > 1]
    far = []
    for shown, pixels in zip(record["far"], pictures, strict=True):
        uri = picture_uri(_thumbnail(pixels))
        far.append({"uri": uri, "small": is_small(uri), "source": shown["source"], "why": shown["why"]})
    return template("monitor.html").render(
        policy=policy(style, ""), style=Markup(style), version=__version__, model=record["model"],
        moved=record["moved"], sentence=record["sentence"], rows=rows, charts=charts, far=far,
        classes=_classes(record["classes"]), left=max(0, len(record["classes"]) - MAX_CLASSES),
        estimated=any("estimated" in row for row in record["classes"]), accuracy=_accuracy(record["accuracy"]),
        lines=_over_time(record), notes=record["notes"], power=_power(record), counts=_counts(record["images"]),
        alpha=f"{record['alpha']:g}", command=shell_command(record["command"]))


def _order(row: Mapping[str, Any]) -> tuple[int, float]:
    return list(_STATES).index(row["state"]), -row["distance"]


def _row(row: Mapping[str, Any]) -> dict[str, str]:
    def mean(side: Mapping[str, Any]) -> str:
        return "" if side["mean"] is None else decimal(side["mean"])

    return {"title": row["title"], "group": _GROUPS[row["group"]], "icon": _STATES[row["state"]],
            "state": _WORDS[row["state"]], "reference": mean(row["reference"]), "recent": mean(row["recent"]),
            "distance": f"{row['distance']:.3f}", "psi": "" if row["psi"] is None else f"{row['psi']:.3f}",
            "d": "" if row["d"] is None else f"{row['d']:+.2f}", "p": f"{row['p_adjusted']:.2g}"}


def _classes(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Those that moved most first."""
    shown = sorted(rows, key=lambda row: -abs(row["z"]))[:MAX_CLASSES]
    return [{"label": row["label"], "reference": f"{row['reference']:.1%}", "recent": f"{row['recent']:.1%}",
             "ratio": f"{row['ratio']:.2f}", "z": f"{row['z']:+.1f}",
             "estimated": f"{row['estimated']:.1%}" if "estimated" in row else "",
             "interval": f"{row['low']:.1%} to {row['high']:.1%}" if "estimated" in row else ""} for row in shown]


def _accuracy(found: Mapping[str, float] | None) -> list[tuple[str, str]]:
    if found is None:
        return []
    return [("on held-out images", f"{found['reference']:.3f}"),
            ("now, by the share of answers above a confidence (Garg et al. 2022)",
             f"{found['by_threshold']:.3f} ± {found['margin']:.3f}"),
            ("now, by the change of the mean confidence (Guillory et al. 2021)", f"{found['by_confidence']:.3f}")]


def _power(record: Mapping[str, Any]) -> str:
    power = record["power"]
    if power is None:
        return ""
    text = (f"With {plural(record['images']['recent'], 'recent image')} a shift of a mean by {power['shift']:.2f} "
            "standard deviations would have been found four times of five.")
    if not power["enough"] and power["images_for_half"] is not None:
        text += f" For half a standard deviation {power['images_for_half']:,} are needed."
    return text


def _counts(images: Mapping[str, int]) -> str:
    return (f"{integer(images['recent'])} recent images against {integer(images['reference'])} of the training data; "
            f"answers and features against {integer(images['held_out'])} held-out ones")


def _histogram(title: str, bars: Bars) -> Markup:
    """Filled bars: the reference; the line over them: recent images."""
    left, right, top, bottom = 42.0, WIDTH - 8.0, 12.0, HEIGHT - 26.0
    most = max(max(before, after) for _, _, before, after in bars) or 1.0
    x, y = Axis(0.0, float(len(bars)), left, right), Axis(0.0, most * 1.05, bottom, top)
    parts = [tag("title", f"{title}: the reference as bars, recent images as a line")]
    for value in y.ticks(3):
        parts += [tag("line", class_="grid", x1=left, x2=right, y1=y(value), y2=y(value)),
                  tag("text", f"{100 * value:g}%", class_="tick end", x=left - 6, y=y(value) + 4)]
    corners = [f"{x(0):.1f},{bottom:.1f}"]
    for k, (low, high, before, after) in enumerate(bars):
        hint = f"{decimal(low)} to {decimal(high)}: reference {before:.1%}, recent {after:.1%}"
        parts.append(tag("rect", tag("title", hint), class_="histogram", x=x(k), y=y(before),
                         width=max(1.0, x(k + 1) - x(k) - 1), height=bottom - y(before)))
        corners += [f"{x(k):.1f},{y(after):.1f}", f"{x(k + 1):.1f},{y(after):.1f}"]
    corners.append(f"{x(len(bars)):.1f},{bottom:.1f}")
    parts += [tag("polyline", class_="line train", points=" ".join(corners)),
              tag("line", class_="axis", x1=left, x2=right, y1=bottom, y2=bottom)]
    for k, anchor in ((0, "tick"), (len(bars) // 2, "tick middle"), (len(bars), "tick end")):
        value = bars[k][0] if k < len(bars) else bars[-1][1]
        digits = 4 if 0.9 < value < 1 else 3
        parts.append(tag("text", axis_number(float(f"{value:.{digits}g}")), class_=anchor, x=x(k), y=bottom + 17))
    return tag("svg", *parts, class_="visus-chart", xmlns="http://www.w3.org/2000/svg", role="img",
               viewBox=f"0 0 {WIDTH} {HEIGHT}")


def _over_time(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The means of what moved, window by window, where there are three windows or more."""
    windows = [window for window in record["windows"] if window["count"]]
    if len(windows) < 3 or windows[-1]["start"] <= windows[0]["start"]:
        return []
    first = datetime.fromtimestamp(windows[0]["start"], UTC)
    drawn: list[dict[str, Any]] = []
    for row in sorted(record["rows"], key=_order):
        usual = row["reference"]["mean"]
        points = [((window["start"] - windows[0]["start"]) / 3600, window["means"][row["name"]]) for window in windows
                  if row["name"] in window["means"]]
        if usual is None or len(points) < 3 or len(drawn) == MAX_LINES:
            continue
        series = [Series("recent", points, "train"),
                  Series("reference", [(points[0][0], usual), (points[-1][0], usual)], "val")]
        drawn.append({"title": row["title"], "svg": line_chart(
            row["title"], series, line_axes(series), x_label=f"hours since {first:%Y-%m-%d %H:%M} UTC")})
    return drawn


def _thumbnail(pixels: np.ndarray) -> bytes:
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image.thumbnail((SIDE_PX, SIDE_PX))
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return encoded.getvalue()
