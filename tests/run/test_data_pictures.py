from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from tests.data.malformed import healthy
from tests.image_zoo import tree_state
from tests.run.marked import marked_samples
from visus.cli.main import main
from visus.core.errors import RecipeError, UserError
from visus.data.opening import open_samples
from visus.data.samples import Samples
from visus.report.data_charts import Bars, Bubbles, Heat, Histogram, picture, svg
from visus.run.augmented import chosen_augmentation, draw_augmented, scene_of
from visus.run.data_pictures import annotated, look, sheet
from visus.run.inspect_data import show_data
from visus.run.measure_data import charts, object_facts


@pytest.fixture
def folder(tmp_path):
    for label in ("<i>red", "blue"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(6):
            pixels = np.full((40 + i, 50, 3), 40 * i, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{i}.png")
    return tmp_path / "photos"


def test_facts_of_objects_count_what_is_marked():
    facts = object_facts(marked_samples())
    assert facts.count == 10 and facts.counts["train"] == {"disc": 4, "person": 4} and facts.images_without == 1
    assert facts.per_image == (0, 2.0, 2) and facts.outlines == 5 and len(facts.keypoints) == 3
    assert facts.sides[0] == pytest.approx(20) and facts.sides[2] == pytest.approx(600 ** 0.5)
    assert "1 images without any" in facts.sentence() and "3 keypoints each" in facts.sentence()
    assert "33.3 % to 40.8 % of the image's side" in object_facts(marked_samples(relative=True)).sentence()


def test_charts_hold_the_counts_of_the_set():
    found = {chart.title: chart for chart in charts(marked_samples())}
    assert found["Objects of each class"].parts == {"train": [4, 4], "val": [1, 1]}
    assert sum(found["Objects in an image"].counts) == 6 and sum(found["Sizes of the boxes"].counts) == 10
    assert sum(map(sum, found["Where the boxes lie"].counts)) == 10
    assert "Sizes of the images" not in found  # all have the same
    shares = {chart.title: chart for chart in charts(marked_samples(relative=True))}["Where the boxes lie"]
    assert shares.counts == found["Where the boxes lie"].counts


@pytest.mark.parametrize("chart", [
    Bars(title="t", names=["a", "<b>"], parts={"train": [3, 5], "val": [0, 1]}),
    Bars(title="t", names=[str(k) for k in range(900)], parts={"": list(range(900))}),
    Bars(title="t", names=[], parts={"": []}), Bars(title="t", names=["a"], parts={"": [0]}),
    Histogram(title="t", edges=[1, 10, 100], counts=[4, 0], label="l", log=True, marks={32.0: "small"}),
    Histogram(title="t", edges=[0, 1, 2], counts=[0, 0], label="l"),
    Bubbles(title="t", points=[(640, 480, 9), (3, 4, 1)], x_label="x", y_label="y"),
    Heat(title="t", counts=[[0.0, 1.0], [2.0, 3.0]], label="l")], ids=lambda c: type(c).__name__)
def test_a_chart_is_drawn_on_both_surfaces(chart):
    drawing = str(svg(chart))
    assert drawing.startswith("<svg") and "<b>" not in drawing
    assert "<rect" in drawing or "<circle" in drawing or not chart.names
    image = picture(chart)
    assert image.size == (486, chart.height) and (np.asarray(image) < 250).any()


def test_all_pictures_of_a_marked_set_come_in_one_sheet():
    samples = marked_samples()
    pictures = look(samples, "auto")
    assert len(pictures.annotated) == 5 and pictures.annotated[0].picture.width > 300
    assert len(pictures.augmented) == 4 and all(len(row) == 6 for row in pictures.augmented) and pictures.steps
    whole = sheet(pictures, "marked")
    assert whole.width >= 992 and whole.height > 1500


def test_images_with_classes_not_yet_seen_come_first():
    targets = np.zeros((40, 4), np.float32)
    targets[:, 0] = 1
    targets[7, 3] = targets[21, 2] = targets[33, 1] = 1
    samples = Samples(format="npz", classes=tuple("abcd"), targets=targets, captions=(("x",),) * 40,
                      images=np.zeros((40, 8, 8, 1), np.uint8), root="x.npz")
    assert {"x.npz[7]", "x.npz[21]", "x.npz[33]"} <= {one.source for one in annotated(samples, 5)}


def test_the_first_picture_of_a_row_is_the_image_and_boxes_move_with_it(tmp_path):
    recipe = tmp_path / "flip.yaml"
    recipe.write_text("augmentation:\n- {name: horizontal_flip, probability: 1.0}\ndata: {image_size: 60}\n")
    samples = marked_samples()
    augmentation, size, words = chosen_augmentation(samples, recipe)
    assert size == (60, 60) and "horizontal_flip probability=1.0" in words
    scene = scene_of(samples, 0, (60, 60))
    np.testing.assert_allclose(scene.objects.boxes, samples.objects.of(0, 60, 60).boxes)
    flipped = augmentation.scene(scene, 0, 0, 0)
    np.testing.assert_allclose(flipped.objects.boxes[0], [30, 10, 50, 30])
    first, second = draw_augmented(samples, 0, augmentation, size, draws=1, side_px=240)
    assert first.size == second.size and (np.asarray(first) != np.asarray(second)).any()


def test_a_recipe_that_augments_nothing_is_refused(tmp_path):
    recipe = tmp_path / "none.yaml"
    recipe.write_text("augmentation: []\n")
    with pytest.raises(RecipeError, match="augments nothing"):
        chosen_augmentation(open_samples("digits"), recipe)


def test_the_page_needs_nothing_else_and_escapes_every_name(folder, tmp_path):
    before = tree_state(folder)
    facts = show_data(folder, page=tmp_path / "page.html", augment="auto")
    assert tree_state(folder) == before and facts.objects is None
    text = (tmp_path / "page.html").read_text()
    assert "<i>red" not in text and "&lt;i&gt;red" in text and "In numbers" in text and "Augmented" in text
    assert not re.search(r"(src|href)=\"(?!data:)", text) and "<script" not in text and "url(" not in text
    assert text.count("<svg class=\"visus-chart data\"") == 2


def test_captions_and_marks_are_on_the_page(monkeypatch, tmp_path):
    samples = marked_samples()
    monkeypatch.setattr("visus.run.inspect_data.open_samples", lambda path, format, progress=None: samples)
    facts = show_data("marked", page=tmp_path / "p.html", out=tmp_path / "p.png")
    text = (tmp_path / "p.html").read_text()
    assert facts.captions == 1 and "a disc &amp; a &lt;b&gt;person" in text and "What is marked" in text
    assert list(facts.columns()) == ["train: images", "val: images", "train: objects", "val: objects"]
    assert json.dumps(facts.marks_lines())
    with Image.open(tmp_path / "p.png") as image:
        assert image.format == "PNG" and image.width >= 992


def test_nothing_is_written_into_the_data(folder):
    for options in ({"out": folder / "s.png"}, {"page": folder / "blue" / "p.html"}):
        with pytest.raises(UserError, match="lies in the data folder"):
            show_data(folder, **options)


def test_the_verb_writes_the_sheet_the_page_or_none(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["data", "show", "photos"]) == 0 and (tmp_path / "photos-sheet.png").exists()
    assert main(["data", "show", "photos", "--page", "p.html", "--sheet", "s.png"]) == 0
    assert (tmp_path / "p.html").exists() and (tmp_path / "s.png").exists()
    (tmp_path / "photos-sheet.png").unlink()
    assert main(["data", "show", "photos", "--sheet", "-"]) == 0 and not (tmp_path / "photos-sheet.png").exists()
    capsys.readouterr()
    assert main(["data", "show", "--json", "photos"]) == 0
    assert json.loads(capsys.readouterr().out)["count"] == 12
    assert main(["data", "show", "photos", "--augment", "no-such-recipe"]) == 2
    assert main(["data", "shwo", "photos"]) == 2 and main(["data"]) == 2


@pytest.mark.parametrize("name", ["coco", "voc", "yolo", "masks", "table", "npz", "idx", "cifar", "shards", "parquet"])
def test_every_format_is_drawn_and_checked(name, tmp_path):
    """Pictures, an augmentation and the checks of each format; nothing of it changes."""
    if name == "parquet":
        pytest.importorskip("pyarrow")
    (tmp_path / "data").mkdir()
    path = getattr(healthy, name)(tmp_path / "data")
    before = tree_state(tmp_path / "data")
    assert main(["data", "show", str(path), "--page", str(tmp_path / "p.html"), "--sheet", str(tmp_path / "s.png"),
                 "--augment", "auto"]) == 0
    text = (tmp_path / "p.html").read_text()
    assert "Augmented" in text and ("What is marked" in text) == (name in ("coco", "voc", "yolo", "masks"))
    main(["doctor", "data", str(path), "--out", str(tmp_path / "d.html")])
    assert (tmp_path / "d.html").exists() and tree_state(tmp_path / "data") == before
