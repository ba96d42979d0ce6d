"""visus regions: what comes back lies in the image's own pixels; files hold it, the page shows it."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

import visus
from visus.cli.main import main
from visus.core.errors import UserError
from visus.ops.boxes import box_iou
from visus.run.region_methods import METHODS
from visus.run.regions import regions

OBJECTS = [(8, 10, 40, 34), (58, 30, 104, 66)]


def drawn(scale: int = 1) -> np.ndarray:
    """uint8 [80, 120, 3] times scale: two plain rectangles on ground with little noise."""
    pixels = np.random.default_rng(0).integers(20, 30, (80, 120, 3), dtype=np.uint8)
    for (x1, y1, x2, y2), colour in zip(OBJECTS, ((200, 40, 40), (40, 90, 210)), strict=True):
        pixels[y1:y2, x1:x2] = colour
    return pixels.repeat(scale, 0).repeat(scale, 1)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(drawn()).save(folder / "a.png")
    Image.fromarray(drawn()[:, ::-1].copy()).save(folder / "b.png")
    return folder


@pytest.mark.parametrize("method", ["felzenszwalb", "ncut"])
def test_regions_of_a_drawing_are_its_parts(method):
    found, = regions(drawn(), method, scale=1000, min_size=400)
    assert found.labels.shape == (80, 120) and found.labels.dtype == torch.long and found.summary == "3 regions"
    for x1, y1, x2, y2 in OBJECTS:
        inside = found.labels[y1 + 2:y2 - 2, x1 + 2:x2 - 2]  # smoothing moves a border by a pixel
        assert bool((inside == inside[0, 0]).all())
        assert float(box_iou(torch.tensor([[x1, y1, x2, y2]]).float(), found.boxes).max()) > 0.8


def test_proposals_hold_the_objects_and_a_reduced_image_gives_boxes_in_its_own_pixels():
    for scale, side in ((1, 1000), (4, 120)):
        found, = regions(drawn(scale), max_side_px=side, mode="single")
        objects = scale * torch.tensor(OBJECTS).float()
        assert float(box_iou(objects, found.boxes).amax(1).min()) > 0.85
        assert found.boxes.amax(0)[2:].tolist() == [120 * scale, 80 * scale] and found.order is not None


def test_a_reduced_image_gives_maps_of_its_own_size():
    labels = regions(drawn(4), "felzenszwalb", max_side_px=120, scale=1000, min_size=400)[0]
    assert labels.labels.shape == (320, 480)
    assert float(box_iou(4 * torch.tensor(OBJECTS).float(), labels.boxes).amax(1).min()) > 0.8
    edges = regions(drawn(4), "canny", max_side_px=120)[0].edges
    assert edges.shape == (320, 480) and set(edges.unique().tolist()) == {0.0, 1.0}


def test_edges_lie_where_the_drawing_changes():
    thin, = regions(drawn(), "canny")
    steep, = regions(drawn(), "sobel", operator="scharr")
    border = torch.zeros(80, 120, dtype=torch.bool)
    for x1, y1, x2, y2 in OBJECTS:
        border[y1 - 3:y2 + 3, x1 - 3:x2 + 3] = True
        border[y1 + 3:y2 - 3, x1 + 3:x2 - 3] = False
    assert thin.edges.sum() > 200 and not (thin.edges.bool() & ~border).any()
    assert float(steep.edges.max()) == pytest.approx(1) and not ((steep.edges > 0.5) & ~border).any()


def test_files_hold_what_was_found(photos, tmp_path):
    table, maps = tmp_path / "boxes.csv", tmp_path / "maps"
    found = visus.regions(photos, "felzenszwalb", boxes=table, maps=maps, scale=1000, min_size=400)
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert len(rows) == sum(len(one.boxes) for one in found) and rows[0]["image"].endswith("a.png")
    for one, name in zip(found, ("a.png", "b.png"), strict=True):
        np.testing.assert_array_equal(np.array(Image.open(maps / name)), one.labels.numpy())
        own = [row for row in rows if row["image"] == one.source]
        assert [float(row["x1"]) for row in own] == one.boxes[:, 0].tolist()
        assert [int(row["pixels"]) for row in own] == one.labels.flatten().bincount().tolist()
    visus.regions(photos / "a.png", mode="single", boxes=tmp_path / "p.json", limit=5)
    proposals = json.loads((tmp_path / "p.json").read_text())
    assert len(proposals) == 5 and [row["number"] for row in proposals] == list(range(5))
    assert sorted(row["order"] for row in proposals) == [row["order"] for row in proposals]


@pytest.mark.parametrize("method", METHODS)
def test_the_page_needs_nothing_else_and_shows_each_image(photos, tmp_path, monkeypatch, capsys, method):
    monkeypatch.chdir(tmp_path)
    given = ["--set", "mode=single"] if method == "selective-search" else []
    assert main(["regions", str(photos), "--method", method, *given]) == 0
    page = (tmp_path / f"regions/{method}-1.html").read_text()
    assert page.count('<img class="heat" src="data:image/png') == 2 and "a.png" in page and "b.png" in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "<script" not in page
    assert METHODS[method].paper.split(",")[0] in page
    assert "120 x 80 px" in capsys.readouterr().out


def test_json_is_printed_without_a_page(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["regions", str(photos / "a.png"), "--set", "mode=single", "--set", "limit=3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found[0]["boxes"]) == 3 and not (tmp_path / "regions").exists()


def test_the_list_names_every_method_and_option(capsys):
    assert main(["regions", "--method", "list"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in METHODS) and "scale=200.0" in text and "mode=fast" in text


@pytest.mark.parametrize(("words", "message"), [
    (["--method", "sift"], "method=sift"),
    (["--set", "scales=3"], "scales=3"),
    (["--set", "mode=slow"], "mode="),
    (["--set", "limit=0"], "limit=0"),
    (["--method", "felzenszwalb", "--set", "scale=-1"], "scale=-1"),
    (["--method", "felzenszwalb", "--set", "scale=big"], "scale="),
    (["--method", "ncut", "--set", "limit=3"], "limit=3"),
    (["--method", "canny", "--set", "low=0.5"], "high="),
    (["--method", "sobel", "--set", "operator=roberts"], "operator="),
    (["--max-side", "9"], "max_side_px=9"),
    (["--max-side", "9000"], "max_side_px=9000"),
    (["--method", "canny", "--boxes", "b.csv"], "boxes=b.csv"),
    (["--boxes", "b.txt"], "boxes=b.txt"),
    (["--maps", "m"], "maps=m"),
])
def test_a_wrong_wish_is_named_with_its_value(photos, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(["regions", str(photos / "a.png"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "regions").exists() and not (tmp_path / "b.csv").exists()


def test_images_that_are_none_are_named(tmp_path, capsys):
    (tmp_path / "no.png").write_text("words")
    assert main(["regions", str(tmp_path / "no.png"), "--out", "-"]) == 2
    assert "no.png" in capsys.readouterr().err
    with pytest.raises(UserError, match="no images given"):
        regions([])


def test_with_keep_false_only_boxes_come_back(photos):
    found = regions(photos, "felzenszwalb", scale=1000, min_size=400, keep=False)
    assert all(one.labels is None and one.boxes is not None and one.summary == "3 regions" for one in found)
