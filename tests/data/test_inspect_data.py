from __future__ import annotations

import numpy as np
from PIL import Image

from tests.image_zoo import tree_state
from visus.run.inspect_data import contact_sheet, show_data


def test_facts_of_digits_are_the_published_counts():
    facts = show_data("digits")
    assert facts.count == 1797 and facts.counts["all"] == dict(
        zip("0123456789", (178, 182, 177, 183, 181, 182, 181, 179, 174, 180), strict=True))
    assert facts.sizes_sentence() == "sizes    all 8 x 8 pixels, grey"


def test_facts_of_a_folder_have_splits_sizes_problems_and_notes(tmp_path):
    for split, count in (("train", 3), ("test", 2)):
        for label in ("<b>cat</b>", "dog"):
            (tmp_path / "d" / split / label.replace("/", "|")).mkdir(parents=True)
            for i in range(count):
                image = Image.new("RGB", (20 + i, 30))
                image.save(tmp_path / "d" / split / label.replace("/", "|") / f"{i}.png")
    (tmp_path / "d/train/dog/2.png").write_bytes(b"")
    Image.new("CMYK", (20, 30)).save(tmp_path / "d/train/dog/1.png", "JPEG")
    before = tree_state(tmp_path / "d")
    facts = show_data(tmp_path / "d", out=tmp_path / "sheet.png")
    assert tree_state(tmp_path / "d") == before
    assert facts.counts["train"] == {"<b>cat<|b>": 3, "dog": 3} and facts.counts["test"]["dog"] == 2
    assert facts.problems == (("train/dog/2.png", "empty file (0 bytes)"),)
    assert facts.problem_lines() == ["train/dog/2.png: empty file (0 bytes)"]
    assert facts.smallest == (30, 20) and facts.largest == (30, 22)
    assert any("1 images: CMYK" in note for note in facts.notes)
    assert any("content is JPEG" in note for note in facts.notes)
    page = facts._repr_html_()
    assert "&lt;b&gt;cat" in page and "<b>cat" not in page
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG"


def test_the_contact_sheet_shows_images_of_each_class_and_crosses_out_what_it_cannot_read(tmp_path):
    for label, colour in (("red", (250, 0, 0)), ("blue", (0, 0, 250))):
        (tmp_path / label).mkdir()
        for i in range(2):
            Image.new("RGB", (40, 40), colour).save(tmp_path / label / f"{i}.png")
    (tmp_path / "red" / "0.png").write_bytes(b"")
    sheet = np.asarray(contact_sheet(tmp_path, per_class=2, side_px=50))
    assert (sheet == (0, 0, 250)).all(-1).sum() == 2 * 50 * 50
    assert (sheet == (250, 0, 0)).all(-1).sum() == 50 * 50
