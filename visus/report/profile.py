"""Where the time of a training went: a bar, a table, and the advice that follows."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from visus.report import formatting
from visus.report.charts import Axis, tag, text_width
from visus.report.contents import mapping, optional_text, rows
from visus.report.formatting import MISSING, number

FILE = "profile.json"
PARTS = {"data": "waiting for images", "to device": "to the device", "forward": "forward pass",
         "backward": "backward pass", "clip": "clipping", "watch": "the doctor's watch", "optimizer": "optimizer",
         "constrain": "constraint", "average": "averaged weights", "other": "everything else"}
OUTSIDE = {"validation": "validation", "checkpoint": "checkpoints", "between epochs": "between epochs"}
MEMORY = {"weights": "weights", "gradients": "gradients", "optimizer": "optimizer state", "peak": "peak in all"}
_HUES = {"data": 1, "to device": 8, "forward": 0, "backward": 9, "clip": 5, "watch": 7, "optimizer": 2,
         "constrain": 6, "average": 4, "other": 3}


def view(record: dict[str, Any]) -> dict[str, Any] | None:
    """What assets/profile.html takes; None where no profile was asked for. record: profile.json."""
    parts, step = rows(record.get("parts")), number(record.get("step_s"))
    if not parts or not step:
        return None
    fraction = mapping(record.get("fraction"))
    body = [{"name": PARTS.get(str(row.get("name")), str(row.get("name"))), "time": _time(row.get("seconds")),
             "share": _percent(row.get("share")), "fraction": _percent(fraction.get(str(row.get("name")))),
             "hue": _HUES.get(str(row.get("name")), 7)}
            for row in parts]
    body.append({"name": "a step", "time": _time(step), "share": _percent(1.0), "hue": None,
                 "fraction": _percent(fraction.get("step"))})
    outside = [[OUTSIDE.get(str(row.get("name")), str(row.get("name"))), formatting.duration(row.get("seconds")),
                _percent(row.get("share"))] for row in rows(record.get("outside"))]
    memory = mapping(record.get("memory"))
    return {
        "sentence": _sentence(record), "svg": bar(parts), "parts": body, "outside": outside,
        "memory": [[words, formatting.file_size(size * 2**20)] for name, words in MEMORY.items()
                   if (size := number(memory.get(name))) is not None],
        "batches": [[formatting.integer(row.get("batch")), formatting.integer(row.get("images_per_s"))]
                    for row in rows(record.get("batches"))],
        "advice": [{"because": _capital(str(row.get("because") or "")), "do": str(row.get("do") or "")}
                   for row in rows(record.get("advice"))], "note": optional_text(record.get("note")) or ""}


def summary_lines(record: dict[str, Any]) -> list[tuple[str, str]]:
    """The profile as (topic, sentence) lines for a terminal."""
    fraction = mapping(record.get("fraction"))
    lines = [("profile", _sentence(record))]
    for row in rows(record.get("parts")):
        name = str(row.get("name"))
        share = number(row.get("share")) or 0.0
        of_peak = f"  {_percent(fraction[name])} of the peak" if name in fraction else ""
        lines.append(("", f"{PARTS.get(name, name):<20}{_time(row.get('seconds')):>10}{_percent(share):>9}  "
                      f"{'#' * round(40 * share)}{of_peak}"))
    for row in rows(record.get("outside")):
        lines.append(("", f"{OUTSIDE.get(str(row.get('name')), str(row.get('name'))):<20}"
                      f"{formatting.duration(row.get('seconds')):>10}{_percent(row.get('share')):>9} of the run"))
    lines += [("advice", f"{_capital(str(row.get('because')))}. {row.get('do')}") for row in rows(record.get("advice"))]
    return [(topic, text.replace("\u202f", " ")) for topic, text in lines]


def bar(parts: list[dict[str, Any]]) -> Markup:
    """A step from left to right, each part as wide as its share, named where there is room; hints have the rest."""
    axis, top, height = Axis(0.0, 1.0, 0.0, 760.0), 26.0, 40.0
    elements, at = [tag("title", "A step from left to right")], 0.0
    for row in parts:
        name, share = str(row.get("name")), number(row.get("share")) or 0.0
        words, x, width = PARTS.get(name, name), axis(at), axis(at + share) - axis(at)
        hint = tag("title", f"{words}: {_time(row.get('seconds'))}, {_percent(share)} of a step")
        inside = [tag("rect", class_=f"hue{_HUES.get(name, 7)}", x=x, y=top, width=max(0.5, width - 1), height=height)]
        if text_width(words) < width - 8:
            inside.append(tag("text", words, class_="tick", x=x + 4, y=top - 8))
        if width > 42:
            inside.append(tag("text", _percent(share), class_="tick", x=x + 4, y=top + height + 16))
        elements.append(tag("g", hint, *inside))
        at += share
    return tag("svg", *elements, class_="visus-chart data", xmlns="http://www.w3.org/2000/svg", role="img",
               viewBox="0 0 760 90")


def _sentence(record: dict[str, Any]) -> str:
    step, rate = number(record.get("step_s")), number(record.get("images_per_s"))
    peak = number(mapping(record.get("peak")).get("flops_per_s"))
    fraction = number(mapping(record.get("fraction")).get("step"))
    threads = record.get("threads")
    where = f"{record.get('device')}, {record.get('precision')}, {record.get('layout')}" + (
        f", {threads} thread{'s' if threads != 1 else ''}" if record.get("device") == "cpu" else "")
    text = (f"A step of {record.get('batch')} images took {_time(step)} ({formatting.integer(rate)} images/s; mean of "
            f"{formatting.integer(record.get('steps'))} steps; {where}).")
    if fraction is not None and peak is not None:
        text += (f" That is {_percent(fraction)} of what a matrix product reached in the same run "
                 f"({formatting.magnitude(peak)}FLOP/s).")
    whole = number(record.get("whole_step_s"))
    if whole and step:
        text += f" Measured whole, without waiting for the device after each part, a step took {_time(whole)}."
    return text


def _time(value: Any) -> str:
    x = number(value)
    if x is None:
        return MISSING
    return f"{1e6 * x:.0f} \u00b5s" if x < 1e-4 else f"{1e3 * x:.2f} ms" if x < 1 else f"{x:.2f} s"


def _percent(value: Any) -> str:
    x = number(value)
    return "" if x is None else f"{100 * x:.1f}\u202f%"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
