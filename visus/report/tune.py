"""A search on one page, from the plain record (study.json) that the search keeps: nothing is computed here but places.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from visus import __version__
from visus.report import formatting
from visus.report.contents import mapping, optional_text, rows, texts
from visus.report.formatting import metric_label, metric_text, number, plural
from visus.report.page import page_style, policy, shell_command, template
from visus.report.tune_charts import (
    curve_chart,
    curve_charts,
    figure,
    history_chart,
    importance_chart,
    parallel_chart,
    scored,
    slice_chart,
    value_text,
)

MAX_TABLE = 200
MAX_AXES = 12
STATUS = {"complete": "complete", "pruned": "pruned", "diverged": "diverged", "failed": "failed",
          "killed": "worker killed", "stopped": "stopped", "running": "running"}


def render_study(record: dict[str, Any]) -> str:
    """The page's text: nothing else is needed, no file, no network."""
    style = page_style() + "\n" + _STYLE
    trials = [row for row in rows(record.get("trials")) if row.get("status") != "running"]
    headline = str(record.get("headline") or "value")
    best = mapping(record.get("best"))
    stages = rows(record.get("stages"))
    space = _space(stages)
    return template("tune.html").render(
        policy=policy(style, ""), style=Markup(style), version=__version__,
        title=f"{record.get('model') or 'model'} on {record.get('data') or 'data'}",
        eyebrow=[plural(len(trials), "trial"), *([] if len(stages) < 2 else [plural(len(stages), "stage")]),
                 str(mapping(record.get("asked")).get("method") or ""), str(record.get("status") or "")],
        hero=_hero(record, headline, best, trials), counts=_counts(trials),
        edges=[str(row.get("sentence")) for row in rows(record.get("edges"))],
        best=[{"name": name, "value": value_text(value)} for name, value in mapping(best.get("values")).items()],
        history=history_chart(trials, headline, record.get("maximise") is not False) if scored(trials) else None,
        parallel=parallel_chart(trials, space, headline, record) if len(scored(trials)) > 1 and space else None,
        importance=importance_chart(mapping(record.get("importance"))) if record.get("importance") else None,
        slices=[{"title": str(d.get("name")), "svg": slice_chart(d, trials, headline, best)} for d in space]
        if scored(trials) else [],
        curves=curve_charts(trials, headline, best), stages=_stages(stages, headline, trials),
        steps=_steps(record), table=_table(trials, headline, space, best),
        left=f"The best {MAX_TABLE} of {len(trials)} are shown; trials.csv has all." if len(trials) > MAX_TABLE else "",
        names=[str(d.get("name")) for d in space], headline=metric_label(headline),
        run=optional_text("best/report.html") if record.get("test") else None,
        command=shell_command(texts(record.get("command"))), storage=optional_text(record.get("storage")))


_STYLE = (
    ".visus-chart .trial{fill:none;stroke-width:1.4;stroke-linejoin:round;opacity:.75}"
    ".visus-chart .t1{stroke:var(--hit3)}.visus-chart .t2{stroke:var(--hit4)}.visus-chart .t3{stroke:var(--hit5)}"
    ".visus-chart .t4{stroke:var(--hit6)}.visus-chart .t5{stroke:var(--hit7)}.visus-chart .t6{stroke:var(--hit9)}"
    ".visus-chart .trial.pruned{stroke-dasharray:3 3;opacity:.55}.visus-chart .trial.none{stroke:var(--grid)}"
    ".visus-chart .trial.best{stroke:var(--other);stroke-width:3;opacity:1}"
    ".visus-chart .dot.pruned{fill:none;stroke:var(--muted);stroke-width:1.2}.visus-chart .dot.top{fill:var(--other)}"
    ".visus-chart.lines{max-width:480px}.visus-chart .dot.cross{fill:var(--error);opacity:.7}.parallel{width:100%}"
    ".importance{width:100%;max-width:620px}"
    "td.n.best,tr.best td,tr.best th{font-weight:680}.step h3{margin:.2em 0}")


def _space(stages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The dimensions of all stages: of each the widest range and all of its choices."""
    found: dict[str, dict[str, Any]] = {}
    for stage in stages:
        for d in rows(stage.get("space")):
            name = str(d.get("name"))
            known = found.setdefault(name, dict(d))
            if known.get("kind") != d.get("kind"):  # numbers to choose from in one stage, a range in another
                known |= {"kind": "uniform", **_reach([known, d])}
            elif d.get("kind") == "choice":
                known["labels"] = list(dict.fromkeys([*(known.get("labels") or []), *(d.get("labels") or [])]))
            else:
                known["low"] = min(number(known.get("low")) or 0.0, number(d.get("low")) or 0.0)
                known["high"] = max(number(known.get("high")) or 1.0, number(d.get("high")) or 1.0)
    return list(found.values())[:MAX_AXES]


def _reach(dimensions: Sequence[dict[str, Any]]) -> dict[str, float]:
    ends = [x for d in dimensions for value in (d.get("labels") if d.get("kind") == "choice"
                                                else (d.get("low"), d.get("high"))) or []
            if (x := figure(value)) is not None]
    return {"low": min(ends, default=0.0), "high": max(ends, default=1.0)}


def _hero(record: dict[str, Any], headline: str, best: dict[str, Any], trials: Sequence[Any]) -> dict[str, str]:
    if not best:
        return {"value": formatting.MISSING, "label": "no trial came to its end", "sentence": ""}
    test, looks = mapping(record.get("test")), int(number(record.get("looks")) or 1)
    sentence = f"Trial {best.get('number')} of {len(trials)}"
    if len(rows(record.get("stages"))) > 1:
        sentence += f", stage {best.get('stage')}"
    sentence += f", on val after at most {plural(int(number(best.get('epochs')) or 0), 'epoch')}."
    if number(test.get("value")) is not None:
        sentence += (f" Its recipe, trained in full, has {metric_text(headline, test.get('value'))} on the test split "
                     f"(95 % interval {metric_text(headline, test.get('low'))} to "
                     f"{metric_text(headline, test.get('high'))}), which was looked at "
                     + ("once." if looks <= 1 else f"{looks} times, because trials were added after the first look."))
    return {"value": metric_text(headline, best.get("value")), "label": f"{metric_label(headline)}, validation",
            "sentence": sentence}


def _counts(trials: Sequence[dict[str, Any]]) -> str:
    found: dict[str, int] = {}
    for row in trials:
        found[str(row.get("status"))] = found.get(str(row.get("status")), 0) + 1
    return ", ".join(f"{count} {STATUS.get(name, name)}" for name, count in found.items())


def _stages(stages: Sequence[dict[str, Any]], headline: str, trials: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    if len(stages) < 2:
        return []
    found = []
    for stage in stages:
        of = [row for row in trials if row.get("stage") == stage.get("number")]
        best = next((row for row in of if row.get("number") == stage.get("best")), {})
        ranges = [f"{d.get('name')} " + (", ".join(map(str, d.get("labels") or [])) if d.get("kind") == "choice" else
                                         f"{value_text(d.get('low'))} to {value_text(d.get('high'))}")
                  for d in rows(stage.get("space"))]
        found.append({"number": stage.get("number"), "epochs": stage.get("epochs"), "trials": len(of),
                      "ranges": ranges, "best": metric_text(headline, best.get("value")),
                      "edges": texts(stage.get("edges"))})
    return found


def _steps(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The course's steps: {"title", "verdict", "sentences", "svg"}."""
    found = []
    for step in rows(record.get("steps")):
        first, x_label = (1, "epoch") if step.get("x") == "epoch" else (0, "step")
        curve = [(float(k), y) for k, v in enumerate(step.get("losses") or []) if (y := number(v)) is not None]
        lines = [(str(row.get("name")), [(float(k), y) for k, v in enumerate(row.get("losses") or [], first)
                                         if (y := number(v)) is not None]) for row in rows(step.get("curves"))]
        lines = [(name, line) for name, line in lines if len(line) > 1] or ([("loss", curve)] if len(curve) > 1 else [])
        found.append({"number": int(number(step.get("number")) or 0), "title": str(step.get("title")),
                      "verdict": str(step.get("verdict") or "note"),
                      "sentences": texts(step.get("sentences")),
                      "svg": curve_chart(str(step.get("title")), lines, x_label, False) if lines else None})
    return found


def _table(trials: Sequence[dict[str, Any]], headline: str, space: Sequence[dict[str, Any]],
           best: dict[str, Any]) -> list[dict[str, Any]]:
    ordered = sorted(trials, key=lambda row: (number(row.get("value")) is None, -(number(row.get("value")) or 0.0)))
    return [{"number": f"{row.get('stage')}-{row.get('number')}", "status": STATUS.get(str(row.get("status")), ""),
             "value": metric_text(headline, row.get("value")), "epochs": row.get("epochs"),
             "seconds": formatting.duration(row.get("seconds")), "problem": optional_text(row.get("problem")),
             "values": [value_text(mapping(row.get("values")).get(str(d.get("name")), formatting.MISSING))
                        for d in space],
             "best": (row.get("stage"), row.get("number")) == (best.get("stage"), best.get("number"))}
            for row in ordered[:MAX_TABLE]]
