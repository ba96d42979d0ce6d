"""COCO files beside pycocotools, in the layouts in which they lie on disk, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.data.formats.refusals import refused
from tests.data.malformed.healthy import HIGH, WIDE, coco_book, encoded, put
from tests.image_zoo import tree_state
from visus.core.errors import DataError
from visus.data import open_samples
from visus.data.formats import ReadOptions
from visus.data.formats.coco.reader import Coco
from visus.data.masks import object_masks

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
CATS = [{"id": 90, "name": "toothbrush", "supercategory": "indoor"}, {"id": 1, "name": "person", "supercategory": "p"},
        {"id": 18, "name": "dog", "supercategory": "animal"}]


def write(path: Path, book: Any, **options: Any) -> Path:
    return put(path, json.dumps(book, **options))


def images(folder: Path, book: dict[str, Any]) -> None:
    for k, record in enumerate(book["images"]):
        put(folder / record["file_name"], encoded(k))


def drawn_book(seed: int = 0, count: int = 12, objects: int = 60, **more: Any) -> dict[str, Any]:
    """Random images, boxes, polygons and codes, in random order, with ids that are not in order."""
    random = np.random.default_rng(seed)
    ids = random.permutation(10 * count)[:count].tolist()
    book: dict[str, Any] = {
        "info": {"description": "drawn {[\",]}"}, "licenses": [],
        "images": [{"id": k, "file_name": f"{k:06d}.png", "width": WIDE, "height": HIGH} for k in ids],
        "annotations": [], "categories": CATS, **more}
    for number in random.permutation(5 * objects)[:objects].tolist():
        x, y = random.uniform(0, 8, 2).round(2).tolist()
        wide, high = random.uniform(0.5, 4, 2).round(3).tolist()
        ring = [x, y, x + wide, y, x + wide, y + high, x, y + high]
        kind = int(random.integers(0, 4))
        start = int(random.integers(0, 50))
        shape = [[ring], [ring, [v + 1 for v in ring]],
                 {"size": [HIGH, WIDE], "counts": [start, 5, HIGH * WIDE - 5 - start]}, []][kind]
        book["annotations"].append({"id": number, "image_id": ids[random.integers(count)], "bbox": [x, y, wide, high],
                                    "category_id": [1, 18, 90][random.integers(3)], "area": 1.0,
                                    "iscrowd": int(kind == 2), "segmentation": shape})
    return book


def parser_without_orjson(monkeypatch, by_orjson: bool) -> None:
    if by_orjson:
        pytest.importorskip("orjson", reason="pip install 'visus[fast]'")
    else:
        monkeypatch.setattr("visus.data.reading.json_records._orjson_loads", lambda: None)


# -- one file ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"indent": 1}, {"separators": (",", ":")}, {"separators": (" ,", " : ")}])
@pytest.mark.parametrize("by_orjson", [True, False])
def test_every_box_label_and_mask_is_that_of_pycocotools(tmp_path, options, by_orjson, monkeypatch, capsys):
    parser_without_orjson(monkeypatch, by_orjson)
    coco = pytest.importorskip("pycocotools.coco", reason="pip install pycocotools")
    book = drawn_book()
    images(tmp_path, book)
    path = write(tmp_path / "boxes.json", book, **options)
    samples = open_samples(path)
    peer = coco.COCO(str(path))
    assert samples.classes == ("person", "dog", "toothbrush") and samples.category_ids == (1, 18, 90)
    assert len(samples) == len(peer.imgs) and len(samples.objects) == len(peer.anns) == 60
    for i, name in enumerate(samples.paths):
        theirs = peer.imgToAnns[int(name.removesuffix(".png"))]
        own = samples.objects.of(i, HIGH, WIDE)
        assert own.ids.tolist() == [record["id"] for record in theirs]
        assert [samples.category_ids[k] for k in own.labels] == [record["category_id"] for record in theirs]
        assert own.crowd.tolist() == [bool(record["iscrowd"]) for record in theirs]
        x, y, wide, high = np.array([record["bbox"] for record in theirs]).reshape(-1, 4).T
        np.testing.assert_array_equal(own.boxes, np.stack([x, y, x + wide, y + high], 1))
        masks = object_masks(own, HIGH, WIDE)
        for mask, record in zip(masks, theirs, strict=True):
            expected = peer.annToMask(record).astype(bool) if record["segmentation"] else np.zeros((HIGH, WIDE), bool)
            np.testing.assert_array_equal(mask, expected)
        np.testing.assert_array_equal(samples.targets[i] > 0, np.isin(range(3), own.labels))


@pytest.mark.parametrize("by_orjson", [True, False])
def test_a_window_may_end_anywhere(tmp_path, monkeypatch, by_orjson):
    parser_without_orjson(monkeypatch, by_orjson)
    book = drawn_book(3, more_sections={"a": [1, {"b": "]}"}]}, text="\u00e9\u4e2d\U0001f600 },{ \\\" ]")
    for k, record in enumerate(book["images"]):
        record["file_name"] = f"\u00e9\u4e2d {k}.png"
    images(tmp_path, book)
    path = write(tmp_path / "boxes.json", book, ensure_ascii=False)
    whole = open_samples(path)
    for window in (64, 211, 1000, 4096):
        monkeypatch.setattr("visus.data.reading.annotation_json._WINDOW", window)
        again = open_samples(path)
        assert again.digest() == whole.digest()
        np.testing.assert_array_equal(again.objects.outlines.points, whole.objects.outlines.points)
        assert again.objects.outlines.runs.keys() == whole.objects.outlines.runs.keys()


def test_sections_may_come_in_any_order(tmp_path):
    book = drawn_book(4)
    images(tmp_path, book)
    first = open_samples(write(tmp_path / "boxes.json", book))
    turned = {key: book[key] for key in reversed(book)}
    assert open_samples(write(tmp_path / "boxes.json", turned)).digest() == first.digest()


def test_progress_is_told_in_bytes_and_ends_with_all(tmp_path, monkeypatch):
    monkeypatch.setattr("visus.data.reading.annotation_json._WINDOW", 512)
    book = drawn_book()
    images(tmp_path, book)
    path = write(tmp_path / "boxes.json", book)
    told: list[tuple[int, int]] = []
    Coco.read(str(path), ReadOptions(progress=lambda done, total: told.append((done, total))))
    assert told[-1] == (path.stat().st_size, path.stat().st_size) and told == sorted(told)


@pytest.mark.parametrize("numbers", [[0, 1, 2], [-3, 5, 7], [1, 2**62, 2**63], [7, 2**64, 2**70], ["a", "b", "c"]])
def test_ids_of_any_kind_are_mapped_and_kept(tmp_path, numbers):
    book = coco_book()
    book["categories"] = [{"id": number, "name": f"n{k}"} for k, number in enumerate(numbers)]
    for record, number in zip(book["annotations"], numbers, strict=True):
        record["category_id"], record["image_id"] = number, numbers[0]
        record.pop("keypoints", None)
    for record, number in zip(book["images"], [*numbers, "d" if isinstance(numbers[0], str) else 99], strict=True):
        record["id"] = number
    images(tmp_path, book)
    samples = open_samples(write(tmp_path / "a.json", book))
    assert samples.objects.labels.tolist() == [0, 1, 2] and samples.classes == ("n0", "n1", "n2")
    assert samples.objects.start.tolist() == [0, 3, 3, 3, 3]
    assert samples.category_ids == (None if isinstance(numbers[0], str) else tuple(numbers))
    assert samples.columns["image_id"].tolist()[:3] == [str(number) for number in numbers]


def test_boxes_beyond_the_image_are_clipped_and_counted(tmp_path):
    book = coco_book()
    book["annotations"][2]["bbox"] = [-2, 3, 30, 4]
    images(tmp_path, book)
    samples = open_samples(write(tmp_path / "a.json", book))
    np.testing.assert_array_equal(samples.objects.boxes[2], [0, 3, WIDE, 7])
    assert any("1 box reached beyond" in note for note in samples.notes)


def test_a_rare_empty_box_is_left_out_and_a_share_of_them_refused(tmp_path):
    book = drawn_book(count=8, objects=2500)
    book["annotations"][7].update(bbox=[3, 3, 0, 4], segmentation=[[3, 3, 3, 7, 3, 5]])
    images(tmp_path, book)
    samples = open_samples(write(tmp_path / "a.json", book))
    assert len(samples.objects) == 2499 and any("1 box of no width" in note for note in samples.notes)
    assert book["annotations"][7]["id"] not in samples.objects.ids
    book["annotations"] = book["annotations"][:50]
    refused(write(tmp_path / "a.json", book), "annotations[7]", "[3.0, 3.0, 0.0, 4.0]")


@pytest.mark.parametrize("by_orjson", [True, False])
def test_all_bad_records_are_counted_and_ten_named(tmp_path, monkeypatch, by_orjson):
    parser_without_orjson(monkeypatch, by_orjson)
    book = drawn_book(objects=600)
    for record in book["annotations"][100:400]:
        del record["bbox"]
    book["annotations"][5]["category_id"] = None
    images(tmp_path, book)
    error = refused(write(tmp_path / "a.json", book), "300 annotations without 'bbox'", "annotations[100] (id",
                    "annotations[109]", "and 290 more", "1 annotation whose 'category_id'", "annotations[5]")
    assert "annotations[110]" not in str(error)


@pytest.mark.parametrize("by_orjson", [True, False])
@pytest.mark.parametrize("change", [
    {"segmentation": 0.5}, {"segmentation": [[1, 2, 3, 4, True, 6]]}, {"segmentation": [[1, 2, 3, 4, None, 6]]},
    {"segmentation": [1, 2, 3, 4, 5, 6]}, {"segmentation": [[1, 2, 3, 4, 1e999, 6]]}, {"segmentation": [[]]},
    {"segmentation": "x"}, {"segmentation": [["1", "2", "3", "4", "5", "6"]]}, {"image_id": 1.0}, {"id": True},
    {"iscrowd": "0"}, {"bbox": [1, 2, True, 4]}, {"bbox": [1, 2, 10**400, 4]}, {"image_id": 2**64 + 2**63}])
def test_a_bad_record_among_good_ones_is_named_by_either_parser(tmp_path, monkeypatch, by_orjson, change):
    parser_without_orjson(monkeypatch, by_orjson)
    book = drawn_book()
    book["annotations"][33].update(change)
    images(tmp_path, book)
    text = json.dumps(book).replace("Infinity", "1e999")
    error = refused(put(tmp_path / "a.json", text), "annotations[33]")
    assert "annotations[32]" not in str(error) and "annotations[34]" not in str(error)


def test_a_syntax_error_is_placed_by_line_and_column_deep_in_a_large_file(tmp_path):
    text = json.dumps(drawn_book(objects=3000), indent=1)
    lines = text.split("\n")
    at = next(k for k, line in enumerate(lines) if k > 30000 and '"iscrowd"' in line)
    lines[at] = lines[at].replace(":", ";")
    error = refused(put(tmp_path / "a.json", "\n".join(lines)), "JSON", "delimiter")
    assert str(error.where).endswith(f"a.json:{at + 1}:{lines[at].index(';') + 1}")


def test_lvis_createml_and_results_are_told_apart(tmp_path):
    book = drawn_book()
    for record in book["images"]:
        record["coco_url"] = "http://images.cocodataset.org/val2017/" + record.pop("file_name")
    refused(write(tmp_path / "a.json", book), "LVIS", "file_name")
    refused(write(tmp_path / "b.json", [{"image": "a.jpg", "annotations": []}]), "CreateML")
    refused(write(tmp_path / "c.json", {"version": 1}), "'images', 'annotations', 'categories'")


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_stated_size_that_the_file_has_not_is_named_with_its_exif_value(tmp_path, orientation):
    book = coco_book()
    images(tmp_path, book)
    exif = Image.Exif()
    exif[274] = orientation
    Image.new("RGB", (WIDE, HIGH) if orientation == 6 else (WIDE, HIGH + 1)).save(
        tmp_path / "0.png", exif=exif.tobytes())
    words = ["EXIF orientation 6", f"is {HIGH} x {WIDE}"] if orientation == 6 else [f"is {WIDE} x {HIGH + 1}"]
    refused(write(tmp_path / "a.json", book), "0.png is stated as 16 x 12", *words)


def test_backslashes_are_folders_and_ways_out_are_refused(tmp_path):
    book = coco_book()
    for record in book["images"]:
        put(tmp_path / "deep" / record["file_name"], encoded())
        record["file_name"] = "deep\\" + record["file_name"]
    assert open_samples(write(tmp_path / "a.json", book)).paths[0] == "deep/0.png"
    for name in ("deep\\..\\..\\x.png", "C:\\x.png", "~/x.png", "deep/../../x.png", "//host/x.png"):
        book["images"][0]["file_name"] = name
        refused(write(tmp_path / "a.json", book), "lead out of the data folder", "a.json")


def test_links_out_of_the_folder_are_refused(tmp_path):
    book = coco_book()
    images(tmp_path / "elsewhere", book)
    data = tmp_path / "data"
    images(data, book)
    os.unlink(data / "0.png")
    os.symlink(tmp_path / "elsewhere" / "0.png", data / "0.png")
    path = write(data / "a.json", book)
    refused(path, "0.png is a link that leads out")
    os.unlink(data / "0.png")
    os.mkfifo(data / "0.png")
    refused(path, "0.png is no file")
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "b.json")
    with pytest.raises(DataError, match="regular file|not data of a known format"):
        open_samples(tmp_path / "pipe" / "b.json", "coco")


# -- folders -----------------------------------------------------------------------------------------------------


def coco_folder(root: Path) -> dict[str, dict[str, Any]]:
    """The layout of the published sets, for train and val."""
    books = {}
    for seed, split in enumerate(("train", "val")):
        book = books[split] = drawn_book(seed, count=6 - seed, objects=30)
        images(root / f"{split}2017", book)
        write(root / "annotations" / f"instances_{split}2017.json", book)
        people = [{**record, "keypoints": [1, 2, 2, 3.5, 4, 1], "num_keypoints": 2} for record in book["annotations"]
                  if record["category_id"] == 1]
        write(root / "annotations" / f"person_keypoints_{split}2017.json", {
            **book, "annotations": people[::-1],
            "categories": [{"id": 1, "name": "person", "keypoints": ["nose", "tail"], "skeleton": [[2, 1]]}]})
        write(root / "annotations" / f"captions_{split}2017.json", {
            "images": book["images"][::-1], "annotations": [
                {"id": k, "image_id": record["id"], "caption": f"caption {k} of {record['id']}"}
                for k, record in enumerate(book["images"] * 2)]})
    write(root / "annotations" / "image_info_test2017.json", {"images": [], "categories": CATS})
    return books


def test_files_of_one_split_are_joined_by_image_and_splits_by_name(tmp_path):
    books = coco_folder(tmp_path)
    before = tree_state(tmp_path)
    samples = open_samples(tmp_path)
    assert tree_state(tmp_path) == before
    assert samples.format == "coco" and samples.split.tolist() == ["train"] * 6 + ["val"] * 5
    assert "60 boxes, outlines, keypoints, 22 captions" in samples.recognised
    assert any("image_info_test2017.json" in note for note in samples.notes)
    objects = samples.objects
    assert objects.keypoint_names == ("nose", "tail") and objects.skeleton == ((1, 0),)
    records = {(split, record["id"]): record for split, book in books.items() for record in book["annotations"]}
    for m, (image, number) in enumerate(zip(objects.image_of.tolist(), objects.ids.tolist(), strict=True)):
        record = records[str(samples.split[image]), number]
        assert samples.paths[image] == f"{samples.split[image]}2017/{record['image_id']:06d}.png"
        x, y, wide, high = record["bbox"]
        assert objects.boxes[m].tolist() == [x, y, x + wide, y + high]
        expected = [[1, 2, 2], [3.5, 4, 1]] if record["category_id"] == 1 else np.zeros((2, 3))
        np.testing.assert_array_equal(objects.keypoints[m], expected)
    number = int(samples.columns["image_id"][7])
    assert samples.captions[7] == (f"caption 1 of {number}", f"caption 6 of {number}")


def test_keypoints_alone_and_captions_alone_are_sets_too(tmp_path):
    coco_folder(tmp_path)
    people = open_samples(tmp_path / "annotations" / "person_keypoints_val2017.json")
    assert people.classes == ("person",) and (people.objects.keypoints[:, 1] == [3.5, 4, 1]).all()
    texts = open_samples(tmp_path / "annotations" / "captions_val2017.json")
    assert texts.classes == () and texts.targets.shape == (5, 0) and len(texts.captions[0]) == 2
    assert not texts.split.any(), "a single file has no split"


def test_an_id_of_two_images_is_refused(tmp_path):
    books = coco_folder(tmp_path)
    book = books["train"]
    names = [record["file_name"] for record in book["images"]]
    book["images"] = [{**record, "file_name": name} for record, name in zip(book["images"], names[1:] + names[:1],
                                                                            strict=True)]
    write(tmp_path / "annotations" / "person_keypoints_train2017.json", {**book, "annotations": []})
    refused(tmp_path, "person_keypoints_train2017.json", "ids that are of other images")


def test_roboflow_folders_are_splits_without_their_head_category(tmp_path):
    for k, split in enumerate(("train", "valid", "test")):
        book = drawn_book(k, count=3, objects=5)
        book["categories"] = [{"id": 0, "name": "things", "supercategory": "none"}, *(
            {"id": number, "name": name, "supercategory": "things"}
            for number, name in ((1, "a"), (18, "b"), (90, "c")))]
        images(tmp_path / split, book)
        write(tmp_path / split / "_annotations.coco.json", book)
    samples = open_samples(tmp_path)
    assert samples.split.tolist() == ["train"] * 3 + ["val"] * 3 + ["test"] * 3
    assert samples.classes == ("a", "b", "c") and samples.category_ids == (1, 18, 90)
    assert samples.objects.labels.max() == 2 and samples.paths[3].startswith("valid/")


def panoptic_book(root: Path) -> dict[str, Any]:
    book = {"images": coco_book()["images"], "categories": [{"id": 3, "name": "sky", "isthing": 0},
                                                            {"id": 9, "name": "car", "isthing": 1}], "annotations": []}
    for k in range(3):
        ids = np.full((HIGH, WIDE), 0, np.int64)
        ids[:5], ids[6:, k:] = 70000 + k, 300
        colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
        path = root / "annotations" / "panoptic_train" / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(colours).save(path)
        book["annotations"].append({"image_id": k + 1, "file_name": f"{k}.png", "segments_info": [
            {"id": 70000 + k, "category_id": 3, "area": 80, "bbox": [0, 0, WIDE, 5], "iscrowd": 0},
            {"id": 300, "category_id": 9, "area": 96 - 6 * k, "bbox": [k, 6, WIDE - k, 6], "iscrowd": 0}]})
    images(root / "images", book)
    write(root / "annotations" / "panoptic_train.json", book)
    return book


def test_panoptic_segments_are_label_maps_with_a_table_per_image(tmp_path):
    panoptic_book(tmp_path)
    samples = open_samples(tmp_path)
    maps = samples.label_maps
    assert samples.classes == ("sky", "car") and maps.colours
    assert maps.paths == (*(f"annotations/panoptic_train/{k}.png" for k in range(3)), "")
    assert maps.per_image[1] == {0: -1, 70001: 0, 300: 1} and os.path.isfile(maps.path(1))
    np.testing.assert_array_equal(samples.targets, [[1, 1], [1, 1], [1, 1], [0, 0]])
    (tmp_path / "annotations" / "panoptic_train" / "2.png").unlink()
    refused(tmp_path, "panoptic_train/2.png")


def test_a_map_outside_the_folder_is_refused(tmp_path):
    book = panoptic_book(tmp_path)
    book["annotations"][0]["file_name"] = "../../../etc/passwd"
    refused(write(tmp_path / "annotations" / "panoptic_train.json", book).parent.parent, "lead out", "passwd")


def test_a_folder_of_class_folders_with_json_files_stays_one(tmp_path):
    for name in ("cat", "dog"):
        put(tmp_path / name / "a.png", encoded())
    write(tmp_path / "meta.json", {"images": 2})
    write(tmp_path / "cat" / "notes.json", {"a": 1})
    assert open_samples(tmp_path).format == "folder"


def test_images_that_are_not_there_are_named_with_where_they_were_looked_for(tmp_path):
    books = coco_folder(tmp_path)
    name = books["val"]["images"][2]["file_name"]
    (tmp_path / "val2017" / name).rename(tmp_path / "val2017" / name.replace(".png", ".PNG"))
    refused(tmp_path, f"val2017/{name} (did you mean {name.replace('.png', '.PNG')}?)")
    for path in (tmp_path / "val2017").iterdir():
        path.unlink()
    refused(tmp_path, "5 image files not found", "val2017")
