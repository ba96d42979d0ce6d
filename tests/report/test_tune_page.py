"""The page of a search: what it shows of a record, that it stands alone, and that nothing in it can escape."""

from __future__ import annotations

import math
import re

import pytest

from tests.report.page_reader import PageReader
from visus.report.tune import render_study
from visus.report.tune_charts import importance_chart


def made_up(trials: int = 12, **more) -> dict:
    space = [{"name": "optimizer.lr", "kind": "log", "low": 1e-4, "high": 1e-1},
             {"name": "optimizer.name", "kind": "choice", "labels": ["sgd", "adamw"], "choices": ["sgd", "adamw"]}]
    rows = []
    for k in range(trials):
        status = "pruned" if k % 4 == 3 else "diverged" if k == 6 else "complete"
        rows.append({"stage": 1, "number": k, "status": status, "value": None if k == 6 else 0.5 + 0.03 * k,
                     "seconds": 3.5, "epochs": 2, "problem": "diverged: the loss is nan" if k == 6 else None,
                     "values": {"optimizer.lr": 10 ** (-4 + 3 * k / trials), "optimizer.name": ("sgd", "adamw")[k % 2]},
                     "curve": [[2.0, 1.9, 0.3], [1.5, 1.6, 0.5 + 0.03 * k]], "retry_of": None, "folder": None})
    best = max((row for row in rows if row["status"] == "complete"), key=lambda row: row["value"])
    return {"model": "resnet20", "data": "digits", "headline": "accuracy", "maximise": True, "status": "finished",
            "asked": {"method": "gp"}, "trials": rows, "best": best, "storage": "postgresql://***@host/db",
            "stages": [{"number": 1, "epochs": 2, "trials": trials, "space": space, "best": best["number"],
                        "edges": []}],
            "edges": [{"sentence": "the best optimizer.lr lies at the upper edge"}],
            "importance": {"optimizer.lr": 0.7, "optimizer.name": 0.1},
            "test": {"value": 0.91, "low": 0.88, "high": 0.94}, "command": ["visus", "tune", "digits"],
            "steps": []} | more


def test_the_page_shows_what_the_record_holds_and_needs_nothing_else():
    record = made_up()
    page = render_study(record)
    reader = PageReader(page)
    assert not reader.unbalanced and "script" not in reader.elements and "link" not in reader.elements
    assert not re.search(r"https?://(?!www\.w3\.org)", page)
    text = reader.text("body")
    for words in ("91.00", "88.00", "upper edge", "optimizer.lr", "adamw", "diverged: the loss is nan", "***@host"):
        assert words in text, words
    lines = [value for tag, name, value in reader.attributes if name == "class" and value.startswith("trial ")]
    through = [value for value in lines if re.match(r"trial (best|t\d)( pruned)?$", value)]
    assert sum("pruned" in value for value in through) == 3 and through.count("trial best") >= 1


def test_a_second_look_at_the_test_split_is_told():
    assert "looked at once." in render_study(made_up())
    assert "looked at 3 times" in render_study(made_up(looks=3))


def test_lines_go_through_the_values_of_their_trials():
    """The parallel coordinates of a trial at both ends of a logarithmic axis, and in its middle."""
    record = made_up(3)
    for row, rate in zip(record["trials"], (1e-4, 1e-1, math.sqrt(1e-5)), strict=True):
        row |= {"status": "complete", "values": row["values"] | {"optimizer.lr": rate}}
    page = render_study(record)
    chart = page[page.index('class="visus-chart parallel"'):]
    chart = chart[:chart.index("</svg>")]
    starts = [float(points.split()[0].split(",")[1])
              for points in re.findall(r'<polyline[^>]*points="([^"]*)"', chart)]
    assert sorted(starts) == pytest.approx([44.0, 172.0, 300.0], abs=0.1)


def test_bars_are_the_shares():
    chart = str(importance_chart({"a": 0.5, "b": 0.25}))
    track = float(re.search(r'class="track"[^>]* width="([\d.]+)"', chart)[1])
    bars = [float(w) for w in re.findall(r'class="bar"[^>]* width="([\d.]+)"', chart)]
    assert bars == pytest.approx([0.5 * track, 0.25 * track], abs=0.06)


@pytest.mark.parametrize("record", [
    made_up(2) | {"trials": [], "best": None, "stages": [], "edges": [], "importance": None, "test": None},
    made_up(2, test=None, importance=None, steps=[{"number": 1, "title": "T", "verdict": "good", "sentences": ["s"],
                                                   "losses": [2.0, float("nan"), 1.0]}]),
    {"trials": "broken", "best": 3, "stages": None, "steps": [7]}])
def test_a_record_with_little_in_it_is_drawn(record):
    assert not PageReader(render_study(record)).unbalanced


def test_names_cannot_become_elements():
    bad = "</style><script>top.injected=1</script><img src=x onerror=top.injected=1>"
    record = made_up(4, model=bad, edges=[{"sentence": bad}], command=[bad], storage=bad,
                     steps=[{"number": 1, "title": bad, "verdict": bad, "sentences": [bad], "losses": [1, 2]}])
    record["trials"][0] |= {"problem": bad, "values": {bad: bad}}
    record["stages"][0]["space"].append({"name": bad, "kind": "choice", "labels": [bad, "b"], "choices": [bad, "b"]})
    reader = PageReader(render_study(record))
    assert "script" not in reader.elements and "img" not in reader.elements
    assert not [name for _, name, _ in reader.attributes if name.startswith("on")]
