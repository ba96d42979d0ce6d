"""What a person sees on a terminal while files are read."""

from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console

from visus.data.opening import open_samples
from visus.run.display import Display


def on_a_terminal() -> tuple[Display, io.StringIO]:
    text = io.StringIO()
    display = Display()
    display.console, display.live = Console(file=text, force_terminal=True, width=100, color_system=None), True
    return display, text


def coco_file(folder: Path, images: int) -> Path:
    path = folder / "instances.json"
    path.write_text(json.dumps({
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 9, "height": 9} for i in range(images)],
        "annotations": [{"id": i, "image_id": i, "category_id": i % 2, "bbox": [0, 0, 3, 3], "area": 9, "iscrowd": 0}
                        for i in range(images)],
        "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]}))
    for i in range(images):
        (folder / f"{i}.jpg").write_bytes(b"")
    return path


def test_reading_annotations_draws_a_bar_and_leaves_room_for_the_next(tmp_path):
    display, text = on_a_terminal()
    with display.reading() as reading:
        samples = open_samples(coco_file(tmp_path, 40), "coco", progress=reading)
        with display.steps("convert", 3) as advance:  # while the first block is still open
            advance(3)
    assert len(samples) == 40
    assert "convert" in text.getvalue()


def test_a_half_read_file_shows_its_share_and_the_bar_ends_with_the_block():
    display, text = on_a_terminal()
    with display.reading() as reading:
        reading(1, 4)
        reading(2, 4)
    assert "read" in text.getvalue() and "50%" in text.getvalue()
    with display.download() as progress:
        progress(5, None)
    assert "download" in text.getvalue()


def test_without_a_terminal_there_is_no_bar():
    display = Display()
    display.live = False
    with display.reading() as reading, display.download() as progress:
        assert reading is None and progress is None
