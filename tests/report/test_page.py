from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys

import pytest
from PIL import Image

from tests.report.page_reader import PageReader
from tests.report.sample_run import make_sample_run
from visus.core.errors import ResourceError, RunError
from visus.core.record import RunFolder
from visus.report import render, write
from visus.report.page import flat, shell_command

ALL_SECTIONS = [
    "numbers",
    "curves",
    "metrics",
    "baselines",
    "confusion",
    "classes",
    "calibration",
    "examples",
    "findings",
    "data",
    "reproduce",
    "environment",
]

# what the run is -> sections that its page must not have
RUNS = [
    ({}, set()),
    ({"classes": ("cat", "dog")}, set()),
    ({"classes": [f"class {k}" for k in range(50)]}, set()),
    ({"classes": [f"class {k}" for k in range(250)], "per_class": 4}, set()),
    ({"multi_label": True}, {"confusion", "calibration"}),
    (
        {"evaluated": False, "status": "interrupted"},
        {"metrics", "baselines", "confusion", "classes", "calibration", "examples"},
    ),
    (
        {"evaluated": False, "status": "started", "epochs": 0, "findings": False},
        {"metrics", "baselines", "confusion", "classes", "calibration", "examples"},
    ),
    ({"examples": 0}, {"examples"}),
    ({"skill": 1.0}, set()),
    ({"skill": 0.0}, set()),
]


@pytest.mark.parametrize(("about", "absent"), RUNS,
                         ids=lambda value: str(sorted(value) if isinstance(value, set) else value)[:40])
def test_page_has_its_sections_and_balanced_tags(tmp_path, about, absent):
    reader = PageReader(render(make_sample_run(tmp_path / "run", **about)))
    assert reader.unbalanced == []
    assert [section for section in ALL_SECTIONS if section in reader.ids] == [
        section for section in ALL_SECTIONS if section not in absent
    ]
    linked = {value[1:] for tag, name, value in reader.attributes if (tag, name) == ("a", "href")}
    marks = {name for name in linked if name.startswith("finding-")}
    assert linked - marks == (set(ALL_SECTIONS) - absent) | {"main"} and marks <= set(reader.ids)
    assert len(reader.ids) == len(set(reader.ids))


def test_page_shows_the_recorded_headline_with_its_interval(tmp_path):
    run = make_sample_run(tmp_path / "run")
    metrics = run.read("metrics.json")
    metrics["splits"]["test"]["metrics"]["accuracy"] = {"value": 0.98765, "low": 0.9712, "high": 0.9956}
    run.write("metrics.json", metrics)
    text = PageReader(render(run)).text("header")
    assert "98.77\u202f%" in text or "98.77 %" in text
    assert "97.12 to 99.56" in text
    assert "360 images" in text


def test_every_count_of_the_confusion_matrix_is_on_the_page(tmp_path):
    run = make_sample_run(tmp_path / "run", skill=0.5)
    counts = run.read("metrics.json")["splits"]["test"]["confusion"]["counts"]
    drawn = [int(text) for text in PageReader(render(run)).texts["tspan"]]
    assert sorted(drawn) == sorted(n for row in counts for n in row if n)


def test_page_names_no_resource_outside_of_itself(tmp_path):
    run = make_sample_run(tmp_path / "run", data="https://example.org/cats")
    page = render(run)
    reader = PageReader(page)
    for tag, name, value in reader.attributes:
        if name in ("src", "href", "xlink:href", "action", "srcset", "data", "poster"):
            assert value.startswith(("data:image/", "#")), (tag, name, value[:80])
        assert not name.startswith("on"), (tag, name)
        assert name != "style", tag
    assert reader.elements["link"] == reader.elements["iframe"] == reader.elements["base"] == 0
    assert "url(" not in reader.texts["style"][0]
    assert "@import" not in reader.texts["style"][0]
    assert "https://example.org/cats" in reader.text("section")


def test_policy_admits_exactly_the_style_and_the_script_of_the_page(tmp_path):
    reader = PageReader(render(make_sample_run(tmp_path / "run")))
    policy = next(
        value for tag, name, value in reader.attributes if (tag, name) == ("meta", "content") and "default-src" in value
    )

    def digest(text: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    data, script = reader.texts["script"]
    (style,) = reader.texts["style"]
    assert policy.split("; ") == [
        "default-src 'none'",
        "img-src data:",
        f"style-src {digest(style)}",
        f"script-src {digest(script)}",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    assert {"loss", "metric", "lr", "confusion"} == set(json.loads(data))


def test_data_for_the_script_keeps_its_values_and_opens_no_tag(tmp_path):
    names = ("</script><b>", "a&b\u2028c", "<!--", "plain")
    reader = PageReader(render(make_sample_run(tmp_path / "run", classes=names)))
    data = reader.texts["script"][0]
    assert not set("<>&\u2028\u2029") & set(data)
    assert json.loads(data)["confusion"]["labels"] == ["</script><b>", "a&b\\u2028c", "<!--", "plain"]


@pytest.mark.parametrize(
    ("count", "per_class", "epochs"), [(2, 400, 20), (10, 36, 400), (50, 120, 20), (200, 20, 20), (1000, 5, 20)]
)
def test_page_without_thumbnails_stays_under_250_kilobytes(tmp_path, count, per_class, epochs):
    names = [f"category number {k}" for k in range(count)]
    run = make_sample_run(tmp_path / "run", classes=names, per_class=per_class, skill=0.3, epochs=epochs)
    page = re.sub(r"data:image/[^\"]*", "", render(run))
    assert len(page.encode()) < 250_000


def test_densest_matrix_of_50_classes_stays_under_250_kilobytes(tmp_path):
    run = make_sample_run(tmp_path / "run", classes=[f"category number {k}" for k in range(50)])
    metrics = run.read("metrics.json")
    metrics["splits"]["test"]["confusion"]["counts"] = [[100 + i + j for j in range(50)] for i in range(50)]
    run.write("metrics.json", metrics)
    assert len(re.sub(r"data:image/[^\"]*", "", render(run)).encode()) < 250_000


def test_long_names_are_cut_with_the_whole_name_as_title(tmp_path):
    name = "x" * 5000 + "end"
    reader = PageReader(render(make_sample_run(tmp_path / "run", classes=("a", name))))
    assert name in [value for tag, attribute, value in reader.attributes if (tag, attribute) == ("bdi", "title")]
    assert max(map(len, reader.texts["bdi"])) < 300


def test_characters_that_hide_or_turn_text_are_shown_as_escapes(tmp_path):
    page = render(make_sample_run(tmp_path / "run", classes=("gnp.\u202eexe", "a\x00b", "c\ud800d", "e")))
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00\ud800-\udfff]", page)
    assert "gnp.\\u202eexe" in page
    assert "a\\x00b" in page
    assert "c\\ud800d" in page


def test_names_in_other_scripts_are_left_as_they_are(tmp_path):
    names = ("\u06af\u0631\u0628\u0647\u200c\u0647\u0627", "\u732b", "\u0645\u0648\u0632", "na\u00efve")
    page = render(make_sample_run(tmp_path / "run", classes=names))
    assert all(f"<bdi>{name}</bdi>" in page for name in names)


def test_missing_thumbnail_leaves_a_placeholder(tmp_path):
    run = make_sample_run(tmp_path / "run", examples=3)
    (run.path / "images" / "example-001.png").unlink()
    reader = PageReader(render(run))
    assert reader.elements["img"] == 5
    assert reader.text("section").count("no thumbnail") == 1


def test_thumbnails_come_only_from_raster_files_inside_of_the_run(tmp_path):
    run = make_sample_run(tmp_path / "run", examples=3)
    outside = tmp_path / "secret.png"
    Image.new("L", (4, 4)).save(outside)
    images = run.path / "images"
    (images / "example-000.png").unlink()
    (images / "example-000.png").symlink_to(outside)
    (images / "example-001.png").write_text("<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>")
    metrics = run.read("metrics.json")
    metrics["splits"]["test"]["mistakes"][2]["image"] = "../secret.png"
    metrics["splits"]["test"]["hits"][0]["image"] = str(outside)
    metrics["splits"]["test"]["hits"][1]["image"] = "images/\x00"
    run.write("metrics.json", metrics)
    assert PageReader(render(run)).elements["img"] == 1


def test_findings_are_ordered_by_severity_with_layer_and_step(tmp_path):
    reader = PageReader(render(make_sample_run(tmp_path / "run")))
    severities = [
        value
        for tag, name, value in reader.attributes
        if (tag, name) == ("li", "class") and value in ("error", "warning", "note")
    ]
    assert severities == ["error", "warning", "note"]
    assert "layer stages.2.conv" in reader.text("section")
    assert "step 400" in reader.text("section")


def test_table_by_class_is_weakest_first_and_says_so(tmp_path):
    run = make_sample_run(tmp_path / "run", skill=0.7)
    page = render(run)
    table = PageReader(page[page.index('<table class="sortable') : page.index("</table>", page.index("sortable"))])
    order = table.texts["bdi"]
    f1 = {row["name"]: row["f1"] for row in run.read("metrics.json")["splits"]["test"]["per_class"]}
    assert order == sorted(order, key=lambda name: f1[name])
    assert [value for _, name, value in table.attributes if name == "aria-sort"] == ["ascending"]
    assert all(tag != "th" or name != "scope" or value in ("col", "row") for tag, name, value in table.attributes)


def test_interrupted_run_says_how_it_goes_on(tmp_path):
    run = make_sample_run(tmp_path / "my run", evaluated=False, status="interrupted", epochs=3)
    text = PageReader(render(run)).text("main")
    assert "interrupted after epoch 3" in text
    assert f"visus train --resume '{run.path}'" in text


def test_interrupted_run_takes_its_names_from_recipe_and_data(tmp_path):
    run = make_sample_run(tmp_path / "run", evaluated=False, status="running", epochs=1)
    run.write("run.json", {"format": 1, "status": "running"})
    (run.path / "model" / "model.json").unlink()
    assert PageReader(render(run)).text("h1") == "small_cnn on digits"
    (run.path / "recipe.yaml").write_text("model: {name: [")
    assert PageReader(render(run)).text("h1") == "Model on digits"


def test_baselines_are_ordered_by_the_recorded_direction(tmp_path):
    run = make_sample_run(tmp_path / "run")
    for higher in (True, False):
        metrics = run.read("metrics.json")
        metrics["headline"]["higher_is_better"] = higher
        run.write("metrics.json", metrics)
        page = render(run)
        names = PageReader(page[page.index('id="baselines"') : page.index('id="confusion"')]).texts["bdi"][::2]
        best_first = ["small_cnn", "softmax regression", "class prior", "chance"]
        assert names == (best_first if higher else best_first[::-1])


def test_both_the_reproducing_and_the_typed_command_are_shown(tmp_path):
    run = make_sample_run(tmp_path / "run")
    run.update(command=["visus", "train", "--recipe", "r.yaml"], started_with=["visus", "train", "digits"])
    assert PageReader(render(run)).texts["pre"][:2] == ["visus train --recipe r.yaml", "visus train digits"]


def test_run_with_nothing_but_its_marker_renders(tmp_path):
    reader = PageReader(render(RunFolder.create(tmp_path / "run")))
    assert reader.unbalanced == []
    assert "No step was logged yet" in reader.text("section")
    assert "did not record its command" in reader.text("section")


@pytest.mark.parametrize("name", ["metrics.json", "data.json", "environment.json", "model/model.json"])
def test_damaged_file_is_named_in_the_error(tmp_path, name):
    run = make_sample_run(tmp_path / "run")
    (run.path / name).write_text('{"splits": {"test"')
    with pytest.raises(RunError, match=re.escape(name)):
        render(run)


@pytest.mark.parametrize("name", ["metrics.json", "data.json", "environment.json", "model/model.json"])
@pytest.mark.parametrize("value", [[], 3, {"splits": 4, "counts": 1, "headline": [], "classes": 7, "image_sizes": "x"}])
def test_values_of_another_shape_are_left_out(tmp_path, name, value):
    run = make_sample_run(tmp_path / "run")
    run.write(name, value)
    assert PageReader(render(run)).unbalanced == []


def test_every_field_may_hold_another_type(tmp_path):
    run = make_sample_run(tmp_path / "run", classes=("a", "b", "c"), examples=1)
    names = ("metrics.json", "data.json")
    originals = {name: run.read(name) for name in names}

    def places(value, path=()):
        if isinstance(value, dict | list):
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                yield (*path, key)
                if not (isinstance(value, list) and key > 0):
                    yield from places(item, (*path, key))

    for name in names:
        for k, path in enumerate(places(originals[name])):
            if path[:2] == ("splits", "val"):
                continue
            for other in (None, ("text", -1, [1], {"x": None})[k % 4]):
                changed = json.loads(json.dumps(originals[name]))
                at = changed
                for key in path[:-1]:
                    at = at[key]
                at[path[-1]] = other
                run.write(name, changed)
                assert "</html>" in render(run), (name, path, other)
        run.write(name, originals[name])


def test_write_puts_the_page_into_the_run_in_one_step(tmp_path):
    run = make_sample_run(tmp_path / "run")
    path = write(run)
    assert path == run.path / "report.html"
    assert path.read_text("utf-8") == render(run)
    assert not list(run.path.glob(".report*"))


def test_write_refused_by_the_disk_leaves_the_old_page(tmp_path, monkeypatch):
    run = make_sample_run(tmp_path / "run")
    write(run)
    before = (run.path / "report.html").read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ResourceError, match="No space left"):
        write(run)
    assert (run.path / "report.html").read_bytes() == before


def test_command_is_read_back_by_the_shell_as_it_was_run():
    arguments = [
        "visus",
        "train",
        "my data/it's",
        "--set",
        "a=$HOME",
        "b\tc\n\u202ed\\'",
        "",
        "\udcff.png",
        "caf\u00e9",
    ]
    printed = subprocess.run(
        ["bash", "-c", "printf '%s\\0' " + shell_command(arguments)],
        capture_output=True,
        check=True,
        env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"},
    ).stdout
    assert printed == b"".join(a.encode("utf-8", "surrogateescape") + b"\0" for a in arguments)


def test_environment_is_shown_flat_in_its_order():
    nested = {"torch": "2", "cpu": {"cores": 2, "flags": ["a", "b"], "bf16": False}, "gpu": None}
    assert flat(nested) == [("torch", "2"), ("cpu.cores", "2"), ("cpu.flags", "a, b"), ("cpu.bf16", "no")]


def test_report_and_its_figures_load_no_torch_and_no_numpy():
    code = "import sys, visus.report, visus.report.figures; print({'torch', 'numpy', 'PIL'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "set()"
