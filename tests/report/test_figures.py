from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import visus.report
from tests.report.sample_run import make_sample_run
from visus.core.errors import RunError
from visus.core.record import Evaluation, RunFolder
from visus.report import charts, formatting
from visus.report.contents import epochs_of_steps, read_contents, read_log
from visus.report.curves import learning_curves
from visus.report.figures import confusion_svg, learning_curves_svg, reliability_svg

SVG = "{http://www.w3.org/2000/svg}"
ASSETS = Path(visus.report.__file__).parent / "assets"


def test_figures_are_whole_svg_documents_with_their_own_style(tmp_path):
    run = make_sample_run(tmp_path / "run", classes=("a<b", 'c"d', "e&f"))
    evaluation = read_contents(run).evaluation
    for text in (learning_curves_svg(run), confusion_svg(evaluation), reliability_svg(evaluation)):
        root = ElementTree.fromstring(text)
        assert root.tag == f"{SVG}svg"
        assert ".visus-chart" in root.find(f"{SVG}style").text
        assert float(root.get("width")) > 100 and float(root.get("height")) > 100


def test_confusion_figure_holds_names_and_counts():
    evaluation = Evaluation("test", 6, {}, confusion={"labels": ["cat", "dog"], "counts": [[3, 1], [0, 2]]})
    root = ElementTree.fromstring(confusion_svg(evaluation))
    words = [node.text for node in root.iter(f"{SVG}text")]
    assert words.count("cat") == words.count("dog") == 2
    assert sorted(node.text for node in root.iter(f"{SVG}tspan")) == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("evaluation", "draw", "word"),
    [
        (Evaluation("test", 1, {}), confusion_svg, "confusion"),
        (Evaluation("test", 1, {}), reliability_svg, "reliability"),
        (
            Evaluation("test", 1, {}, confusion={"labels": ["x"] * 51, "counts": [[0] * 51] * 51}),
            confusion_svg,
            "51 classes",
        ),
    ],
)
def test_figure_that_cannot_be_drawn_says_why(evaluation, draw, word):
    with pytest.raises(RunError, match=word):
        draw(evaluation)


def test_curves_of_a_run_without_a_step_are_refused(tmp_path):
    with pytest.raises(RunError, match=r"log\.jsonl"):
        learning_curves_svg(RunFolder.create(tmp_path / "run"))


def test_line_points_lie_where_the_axes_put_them():
    series = [charts.Series("train", [(0.0, 1.0), (5.0, 3.0), (10.0, 2.0)], "train")]
    x_axis, y_axis = axes = charts.line_axes(series)
    root = ElementTree.fromstring(charts.line_chart("t", series, axes, x_label="epoch"))
    points = [tuple(map(float, p.split(","))) for p in root.find(f"{SVG}polyline").get("points").split()]
    assert points[0][0] == x_axis.start and points[2][0] == x_axis.end
    assert points[1][0] == pytest.approx((x_axis.start + x_axis.end) / 2)
    height = (points[0][1] - points[1][1]) / (y_axis.start - y_axis.end)
    assert height == pytest.approx(2 / (y_axis.high - y_axis.low), abs=1e-3)


def test_log_axis_gives_equal_room_to_equal_factors():
    axis = charts.Axis(1e-3, 10, 0, 400, log=True)
    assert [axis(v) for v in (1e-3, 1e-2, 1e-1, 1, 10)] == pytest.approx([0, 100, 200, 300, 400])
    assert axis.ticks() == [0.001, 0.01, 0.1, 1.0, 10.0]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 2.3, [0, 0.5, 1, 1.5, 2]),
        (0.85, 0.99, [0.85, 0.9, 0.95]),
        (-3, 3, [-2, 0, 2]),
        (0, 0.002, [0, 0.0005, 0.001, 0.0015, 0.002]),
    ],
)
def test_ticks_are_round_and_inside(low, high, ticks):
    assert charts.Axis(low, high, 0, 1).ticks() == pytest.approx(ticks)


def test_loss_over_orders_of_magnitude_is_drawn_by_logarithm():
    wide = [charts.Series("train", [(0, 5.0), (1, 0.01)], "train")]
    assert charts.line_axes(wide, from_zero=True)[1].log
    with_zero = [charts.Series("train", [(0, 5.0), (1, 0.0)], "train")]
    assert not charts.line_axes(with_zero, from_zero=True)[1].log


def test_constant_or_single_values_still_have_a_range():
    for points in ([(1.0, 0.0)], [(1.0, 2.0), (2.0, 2.0)], [(3.0, -1.0)]):
        x_axis, y_axis = charts.line_axes([charts.Series("s", points, "val")], from_zero=True)
        assert x_axis.high > x_axis.low and y_axis.high > y_axis.low
        assert math.isfinite(y_axis(points[0][1]))


def test_thinned_line_keeps_its_mean_and_order():
    points = [(float(k), math.sin(k / 300)) for k in range(12_000)]
    thin = charts.thin(points)
    assert len(thin) == charts.MAX_POINTS
    assert thin == sorted(thin)
    assert sum(y for _, y in thin) / len(thin) == pytest.approx(sum(y for _, y in points) / len(points), abs=1e-9)


def test_colour_steps_rise_with_the_share_of_the_row():
    steps = [charts.level(k / 1000) for k in range(1001)]
    assert steps == sorted(steps)
    assert steps[0] == 0 and steps[1] == 1 and steps[-1] == charts.LEVELS
    assert charts.level(0.01) < charts.level(0.05) < charts.level(0.3) < charts.level(0.8)


def test_cells_of_the_heat_map_cover_the_square_once():
    counts = [[5, 1, 0], [0, 7, 2], [3, 0, 0]]
    root = ElementTree.fromstring(charts.heat_map(["a", "b", "c"], counts))
    size = charts.heat_map_size(["a", "b", "c"])
    corners = [
        corner for path in root.iter(f"{SVG}path") for corner in re.findall(r"M([\d.]+) ([\d.]+)h", path.get("d"))
    ]
    expected = {(size.left + j * size.cell, size.top + i * size.cell) for i in range(3) for j in range(3)}
    assert len(corners) == 9
    assert {(float(x), float(y)) for x, y in corners} == expected


def test_resumed_run_counts_each_step_and_epoch_as_it_ended(tmp_path):
    run = RunFolder.create(tmp_path / "run")
    for step, loss in ((1, 9.0), (2, 8.0), (3, 7.0), (2, 2.0), (3, 1.0)):
        run.log("step", step=step, epoch=1, loss=loss, lr=0.1)
    run.log("epoch", epoch=0, step=2, train_loss=5.0, val_loss=None, metrics={"accuracy": float("nan")})
    run.log("epoch", epoch=0, step=2, train_loss=4.0, val_loss=3.0, metrics={"accuracy": 0.5})
    log = read_log(run)
    assert log.steps == [(1, 9.0, 0.1), (2, 2.0, 0.1), (3, 1.0, 0.1)]
    assert [(row["epoch"], row["train_loss"]) for row in log.epochs] == [(1, 4.0)]
    assert epochs_of_steps(log) == [0.5, 1.0, 1.5]


def test_line_cut_short_by_a_kill_is_passed_over(tmp_path):
    run = make_sample_run(tmp_path / "run", epochs=2)
    whole = read_log(run)
    with open(run.path / "log.jsonl", "a") as file:
        file.write('{"event": "epoch", "epoch": 3, "trai')
    assert read_log(run) == whole


def test_steps_before_the_first_epoch_are_drawn_by_step(tmp_path):
    run = RunFolder.create(tmp_path / "run")
    for step in (10, 20, 30):
        run.log("step", step=step, epoch=1, loss=1 / step, lr=0.1)
    panels = learning_curves(read_log(run), "accuracy")
    assert [(panel.name, panel.x_label) for panel in panels] == [("loss", "step"), ("lr", "step")]
    assert [x for x, _ in panels[0].series[0].points] == [10, 20, 30]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (formatting.metric_text("accuracy", 0.98416), "98.42\u202f%"),
        (formatting.metric_text("ece", 0.02134), "0.0213"),
        (formatting.metric_text("nll", None), "\u2013"),
        (formatting.duration(8.44), "8.4 s"),
        (formatting.duration(59.7), "60 s"),
        (formatting.duration(192), "3 min 12 s"),
        (formatting.duration(7500), "2 h 05 min"),
        (formatting.magnitude(25_557_032), "25.6\u202fM"),
        (formatting.magnitude(94_410), "94.4\u202fk"),
        (formatting.file_size(381_208), "381 kB"),
        (formatting.decimal(0.0000032), "3.2e-06"),
        (formatting.decimal(12.3456), "12.35"),
        (formatting.plural(1, "image"), "1 image"),
        (formatting.shorten("abcdefghij" * 10, 20), "abcdefghijabc\u2026efghij"),
        (formatting.axis_number(0.00002), "2e-5"),
        (formatting.axis_number(20000), "20k"),
        (formatting.axis_number(3e14), "3e14"),
        (formatting.metric_label("macro_f1"), "F1 (mean over classes)"),
        (formatting.metric_label("my_own"), "my own"),
    ],
)
def test_numbers_are_written_as_readers_expect(text, expected):
    assert text == expected


def themes(css: str, selector: str) -> list[dict[str, str]]:
    """The custom properties of `selector`: in light, and in dark on top of light."""
    blocks = re.findall(re.escape(selector) + r" \{([^}]*)\}", css)
    found = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in blocks[:2]]
    return [found[0], found[0] | found[1]]


def contrast(a: str, b: str) -> float:
    """WCAG 2.2 contrast ratio of two sRGB colours."""

    def luminance(colour: str) -> float:
        channels = (int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5))
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_has_a_contrast_of_at_least_4_5(theme):
    colours = themes((ASSETS / "charts.css").read_text(), ".visus-chart")[theme]
    pairs = [("ink", "surface"), ("muted", "surface"), ("ink", "cell0")]
    pairs += [("surface", badge) for badge in ("error", "warning", "muted")]  # numbers of findings on a curve
    for kind in ("hit", "miss"):
        for level in range(1, charts.LEVELS + 1):
            pairs.append(("on" if level >= charts.DARK_LEVEL else "ink", f"{kind}{level}"))
    for ink, ground in pairs:
        assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
    page = themes((ASSETS / "page.css").read_text(), ":root")[theme]
    for ink, ground in [
        *((ink, ground) for ink in ("ink", "muted", "accent") for ground in ("ground", "surface", "sunken")),
        ("good", "good-soft"),
        ("warn", "warn-soft"),
        ("bad", "bad-soft"),
        ("good", "surface"),
        ("warn", "surface"),
        ("surface", "ink"),
    ]:
        assert contrast(page[ink], page[ground]) >= 4.5, (ink, ground)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_lines_and_bars_have_a_contrast_of_at_least_3(theme):
    colours = themes((ASSETS / "charts.css").read_text(), ".visus-chart")[theme]
    for name in ("model", "other", "muted", "ink", "error", "warning", "under"):
        assert contrast(colours[name], colours["surface"]) >= 3, name


def test_every_colour_class_that_a_chart_uses_is_styled():
    css = (ASSETS / "charts.css").read_text()
    labels = [str(k) for k in range(12)]
    counts = [[(i * 7 + j * j) % 40 for j in range(12)] for i in range(12)]
    drawn = charts.heat_map(labels, counts) + charts.reliability_diagram(
        [{"low": 0.5, "high": 1.0, "count": 4, "confidence": 0.8, "accuracy": 0.6}]
    )
    used = {name for value in re.findall(r'class="([^"]*)"', drawn) for name in value.split()}
    unstyled = {name for name in used if f".{name}" not in css}
    assert unstyled <= {"visus-chart", "heatmap", "reliability", "cell", "label", "off"}
