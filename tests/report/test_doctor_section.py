from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

import visus.report
from tests.report.page_reader import PageReader
from tests.report.sample_doctor import LAYERS, add_filters, checks, findings, make_examined_run, rates, watched
from tests.report.sample_run import make_sample_run
from visus.core.record import Finding, RunFolder
from visus.report import charts, render
from visus.report.contents import read_contents
from visus.report.curves import learning_curves
from visus.report.doctor import MAX_FILTERS, ranked, rate_range, view
from visus.report.layer_map import MAX_COLUMNS, MAX_LAYERS, layer_maps

ASSETS = Path(visus.report.__file__).parent / "assets"


def seen(run: RunFolder) -> dict:
    contents = read_contents(run)
    return view(run, contents, learning_curves(contents.log, contents.headline))[0]


def watch(run: RunFolder, rows: list) -> None:
    (run.path / "watch.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def test_the_section_is_whole_and_holds_each_part_once(tmp_path):
    page = render(make_examined_run(tmp_path / "run"))
    reader = PageReader(page)
    assert reader.unbalanced == [] and len(reader.ids) == len(set(reader.ids)) and page.count('id="findings"') == 1
    text = reader.text("section")
    for words in ("On the curves", "Layer by step", "The first layer's filters", "before training", "after epoch 20",
                  "4 checks in 7.5 s, 1 left out", "slow-loader: the 20 s were over", "careful guess 0.004"):
        assert words in text, words


def test_findings_are_ranked_causes_first_and_notes_last():
    order = [finding.check for finding in ranked(findings(), checks()["checks"])]
    assert order == ["dead-while-training", "overfitting", "loss-spike", "flat-loss", "weak-classes"]


def test_without_ranks_the_severe_come_first_in_the_order_in_which_they_were_found():
    order = [finding.check for finding in ranked(findings(), {})]
    assert order == ["flat-loss", "overfitting", "dead-while-training", "loss-spike", "weak-classes"]


def test_a_finding_says_at_which_epoch_its_step_was(tmp_path):
    rows = {row["check"]: row for row in seen(make_examined_run(tmp_path / "run"))["findings"]}
    assert rows["overfitting"]["epoch"] == "9" and rows["dead-while-training"]["epoch"] == "10.4"
    assert rows["weak-classes"]["epoch"] is None


def test_marks_lie_at_the_finding_s_place_and_lead_to_it(tmp_path):
    run = make_examined_run(tmp_path / "run")
    contents = read_contents(run)
    loss = learning_curves(contents.log, contents.headline)[0]
    x_axis, _ = loss.axes()
    svg = str(seen(run)["curves"][0]["svg"])
    places = dict(re.findall(r'<a href="#finding-(\d)".*?cx="([\d.]+)"', svg))
    rows = seen(run)["findings"]
    assert set(places) == {str(row["number"]) for row in rows if row["step"] is not None}
    (number,) = (row["number"] for row in rows if row["check"] == "overfitting")
    assert float(places[str(number)]) == pytest.approx(x_axis(9.0), abs=0.06)


def test_numbers_at_the_same_place_do_not_cover_each_other(tmp_path):
    run = make_sample_run(tmp_path / "run", findings=False)
    for k in range(6):
        run.find(Finding(f"check-{k}", "warning", f"title {k}", step=400 + k))
    svg = str(seen(run)["curves"][0]["svg"])
    places = [(float(x), float(y)) for x, y in re.findall(r'<circle class="badge warning" cx="([\d.]+)" cy="([\d.]+)"',
                                                           svg)]
    assert len(places) == 6
    assert all(math.dist(a, b) >= 18 for k, a in enumerate(places) for b in places[:k])


@pytest.mark.parametrize(("check", "low", "high"), [("overfitting", 9, 20), ("late-start", 0, 9), ("loss-spike", 0, 0)])
def test_a_finding_that_holds_for_a_stretch_is_shaded_there(tmp_path, check, low, high):
    run = make_sample_run(tmp_path / "run", findings=False)
    run.find(Finding(check, "warning", "title", step=360))
    contents = read_contents(run)
    x_axis, _ = learning_curves(contents.log, contents.headline)[0].axes()
    spans = re.findall(r'<rect class="span warning" x="([\d.]+)" width="([\d.]+)"', str(seen(run)["curves"][0]["svg"]))
    if high == 0:
        assert spans == []
        return
    ((x, width),) = spans
    assert float(x) == pytest.approx(x_axis(max(low, x_axis.low)), abs=0.06)
    assert float(x) + float(width) == pytest.approx(x_axis(high), abs=0.11)


def test_without_a_step_or_a_curve_nothing_is_drawn_twice(tmp_path):
    run = make_sample_run(tmp_path / "run", findings=False)
    run.find(Finding("input-scale", "warning", "no step"))
    assert seen(run)["curves"] == []
    begun = make_sample_run(tmp_path / "begun", findings=False, epochs=0, evaluated=False, status="started")
    begun.find(Finding("update-ratio", "warning", "one step", step=3))
    assert seen(begun)["curves"] == [] and PageReader(render(begun)).unbalanced == []


def test_a_step_after_the_last_epoch_is_still_on_the_page(tmp_path):
    run = make_sample_run(tmp_path / "run", findings=False, epochs=4)
    run.find(Finding("finite-loss", "error", "The loss is no number", step=10_000))
    svg = str(seen(run)["curves"][0]["svg"])
    assert float(re.findall(r'cx="([\d.]+)" cy="[\d.]+" r="9"', svg)[0]) <= charts.LINE_WIDTH


def test_cells_are_blue_in_the_usual_range_orange_above_and_grey_below():
    rows = [{"step": 1, "layers": {"a": {"ratio": 1e-3}, "b": {"ratio": 0.2}, "c": {"ratio": 5.0}, "d": {"ratio": 0.0},
                                   "e": {"gradient": 1.0}}}]
    ratio, gradient = layer_maps(rows)
    assert ratio.layers == ("a", "b", "c", "d") and gradient.layers == ("e",)
    kinds = [ratio.colour(row[0]) for row in ratio.values]
    assert kinds == ["hit level5", "miss level6", "miss level9", "under"]
    assert ratio.colour(1e-5) == "hit level1" and ratio.colour(0.1) == "hit level9" and ratio.colour(None) == "level0"
    assert gradient.colour(1.0).startswith("hit level")


def test_a_peak_between_two_columns_is_kept():
    rows = [{"step": k, "layers": {"a": {"ratio": 0.9 if k == 333 else 1e-3}}} for k in range(1, 1001)]
    (one,) = layer_maps(rows)
    assert len(one.steps) == MAX_COLUMNS and max(one.values[0]) == 0.9
    assert one.steps[0] == 1 and list(one.steps) == sorted(one.steps)


def test_of_many_layers_some_are_shown_and_the_page_says_so(tmp_path):
    run = make_sample_run(tmp_path / "run", findings=False)
    watch(run, watched(tuple(f"blocks.{k}.attn.qkv" for k in range(130)), steps=4))
    shown = seen(run)
    assert len(layer_maps(list(run.events("watch.jsonl")))[0].layers) <= MAX_LAYERS
    assert "of 130 layers" in shown["maps_sentence"]


def test_cells_lie_where_the_script_looks_for_them():
    one = layer_maps(watched())[0]
    data, svg = one.data(), str(one.svg())
    corners = set(re.findall(r"M(\d+) (\d+)h", svg))
    expected = {(str(data["left"] + j * data["width"]), str(data["top"] + i * data["height"]))
                for i in range(len(data["rows"])) for j in range(len(data["steps"]))}
    assert corners == expected and data["rows"] == list(LAYERS)


def test_every_colour_class_of_the_section_is_styled(tmp_path):
    shown = seen(make_examined_run(tmp_path / "run"))
    drawn = "".join(str(part["svg"]) for part in (*shown["curves"], *shown["maps"], shown["rates"]))
    css = (ASSETS / "charts.css").read_text() + (ASSETS / "page.css").read_text()
    used = {name for value in re.findall(r'class="([^"]*)"', drawn) for name in value.split()}
    assert {name for name in used if f".{name}" not in css} <= {"visus-chart", "cell", "label", "note"}


def test_pictures_of_filters_are_in_the_order_of_epochs_and_at_most_eight(tmp_path):
    run = make_sample_run(tmp_path / "run")
    add_filters(run, (0, 1, 2, 9, 10, 11, 100, 20, 30, 40, 50, 60))
    (run.path / "images" / "filters-x.png").write_bytes(b"no picture")
    (run.path / "images" / "filters-7.png").write_bytes(b"<svg onload=alert(1)>")
    labels = [picture["label"] for picture in seen(run)["filters"]]
    assert len(labels) <= MAX_FILTERS and labels[0] == "before training" and labels[-1] == "after epoch 100"
    epochs = [int(label.split()[-1]) for label in labels[1:]]
    assert epochs == sorted(epochs) and 7 not in epochs


def test_the_suggested_and_the_configured_rate_stand_where_the_axis_puts_them(tmp_path):
    run = make_sample_run(tmp_path / "run")
    run.write("doctor.json", {"rate_range": rates()})
    panel = rate_range(rates())
    x_axis, y_axis = panel.axes()
    assert x_axis.log and x_axis.low == pytest.approx(1e-7) and y_axis.high < 5  # the explosion is cut off
    svg = str(seen(run)["rates"]["svg"])
    lines = {float(x) for x in re.findall(r'class="flag \w+" x1="([\d.]+)"', svg)}
    assert lines == {round(x_axis(0.004), 1), round(x_axis(0.02), 1)}


def test_a_smoothed_range_is_drawn_over_the_losses_it_was_made_of():
    smooth = [1.01 * y for y in rates()["losses"]]
    panel = rate_range(rates() | {"smoothed": smooth})
    assert [one.kind for one in panel.series] == ["steps", "train"]
    assert [y for _, y in panel.series[1].points] == smooth


@pytest.mark.parametrize("record", [None, {}, {"rates": [1e-3], "losses": [1.0]}, {"rates": "x", "losses": 3},
                                    {"rates": [1e-3, 1e-3], "losses": [1, 2]}, {"rates": [0, -1], "losses": [1, 2]},
                                    {"rates": [1e-3, None, "a"], "losses": [1, 2, 3]}])
def test_a_range_that_was_not_measured_is_left_out(tmp_path, record):
    run = make_sample_run(tmp_path / "run")
    run.write("doctor.json", {"rate_range": record})
    assert seen(run)["rates"] is None and PageReader(render(run)).unbalanced == []


def test_the_slowest_check_is_first_and_rules_are_told(tmp_path):
    run = make_sample_run(tmp_path / "run")
    run.write("doctor.json", checks())
    shown = seen(run)
    assert [row["name"] for row in shown["checks"]] == ["overfit-batch", "rate-range", "initial-loss", "flat-loss"]
    assert shown["checks"][-1]["rule"].startswith("After one epoch")
    assert shown["checks_title"] == "4 checks in 7.5 s"


@pytest.mark.parametrize("value", [[], 3, "text", {"seconds": 3, "left_out": [1], "checks": "x", "rate_range": 1},
                                   {"seconds": {"a": "x"}, "checks": {"overfitting": 7}}])
def test_a_record_of_another_shape_is_left_out(tmp_path, value):
    run = make_sample_run(tmp_path / "run")
    run.write("doctor.json", value)
    watch(run, [3, "x", {"step": "a"}, {"step": 1, "layers": 3}, {"step": 2, "layers": {"a": 3}},
                {"step": 3, "layers": {"a": {"ratio": "x", "dead": None}}},
                {"step": 4, "layers": {"a": {"ratio": -1}}}])
    assert seen(run)["maps"] == [] and PageReader(render(run)).unbalanced == []


def test_names_of_layers_and_checks_change_no_element(tmp_path):
    bad = "</script><svg onload=alert(1)>\"'&<b>"
    run = make_sample_run(tmp_path / "run", findings=False)
    run.find(Finding(bad, "warning", bad, bad, bad, step=400, layer=bad))
    run.write("doctor.json", {"seconds": {bad: 1.0}, "left_out": {bad: bad}, "checks": {bad: {"rule": bad}}})
    watch(run, [{"step": k, "layers": {bad: {"ratio": 1e-3}}} for k in (1, 2)])
    page = render(run)
    reader = PageReader(page)
    assert reader.unbalanced == [] and "onload" not in {name for _, name, _ in reader.attributes}
    assert "<svg onload" not in page and page.count("</script>") == 2


def test_a_run_without_the_doctor_says_so_and_one_with_it_says_what_it_saw(tmp_path):
    run = make_sample_run(tmp_path / "run", findings=False)
    assert seen(run)["sentence"] == "The checks of data, model and training recorded none."
    run.write("doctor.json", {"seconds": {"a": 1.0, "b": 2.0}})
    assert seen(run)["sentence"] == "2 checks of data, model and training found nothing."
    run.find(Finding("a", "warning", "title"))
    assert seen(run)["sentence"].endswith("saw 1 warning.")
    run.find(Finding("b", "note", "title"))
    assert seen(run)["sentence"].endswith("saw 1 warning, 1 note, the likeliest cause first.")


def test_the_page_with_all_of_it_stays_small(tmp_path):
    run = make_examined_run(tmp_path / "run")
    watch(run, watched(tuple(f"blocks.{k}.mlp.fc1" for k in range(60)), steps=100))
    assert len(re.sub(r"data:image/[^\"]*", "", render(run)).encode()) < 400_000
