"""visus regions: what classical methods find in single images without any training: proposals, regions, edges."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from visus.core.errors import UserError, printable
from visus.core.files import write_bytes, write_json, write_text
from visus.core.images import read_image
from visus.core.validate import require
from visus.ops.region_features import region_boxes
from visus.ops.resample import resize
from visus.report.regions import MAX_SHOWN, RegionsView, render_regions, shown_image
from visus.run.display import Display, Stopwatch
from visus.run.predict import checked, expand
from visus.run.region_methods import Advance, Canny, Found, Method, SelectiveSearch, Sobel, make_method

MAX_SIDE_PX, LARGEST_SIDE_PX = 1000, 2000  # the longer side at which is searched: by default, and at most


@dataclass(frozen=True, eq=False)
class FoundIn(Found):
    """What was found in the image `source`, height x width px, within so many seconds. summary: in a few words."""

    source: str = ""
    height: int = 0
    width: int = 0
    summary: str = ""
    seconds: float = 0.0


def regions(images: Iterable[Any] | str | os.PathLike[str], method: str = "selective-search", *,
            max_side_px: int = MAX_SIDE_PX, out: str | Path | None = None, boxes: str | Path | None = None,
            maps: str | Path | None = None, keep: bool = True, progress: bool = False, command: Sequence[str] = (),
            **options: Any) -> list[FoundIn]:
    """Search images with one of region_methods.METHODS, each by itself; nothing is trained.

    images: paths, folders, globs, or uint8 arrays [H, W, 3]. max_side_px: larger images are searched at this length of
    the longer side, and what is found is scaled back. out: a page that shows it. boxes: a .csv or .json file of the
    proposals, or of the regions' boxes. maps: a folder for the labels (16-bit PNG) or edges (8-bit PNG). keep: False
    for very many images: what comes back then has boxes but no labels and no edges. options: of the method, such as
    mode="quality", scale=300. Raises UserError for anything that can be put right.
    """
    chosen = make_method(method, options)
    require(type(max_side_px) is int and 16 <= max_side_px <= LARGEST_SIDE_PX, "max_side_px", max_side_px,
            f"be a whole number from 16 to {LARGEST_SIDE_PX}")
    edges = isinstance(chosen, Canny | Sobel)
    if boxes is not None:
        if edges:
            raise UserError("edges have no boxes", where=f"boxes={boxes}", remedy="Leave it out, or give maps")
        if Path(boxes).suffix.lower() not in (".csv", ".json"):
            raise UserError("must end in .csv or .json", where=f"boxes={boxes}")
    if maps is not None and isinstance(chosen, SelectiveSearch):
        raise UserError("proposals are boxes and have no map", where=f"maps={maps}", remedy="Leave it out, or give "
                        "boxes")
    display, sources = Display(progress), list(_sources(images))
    if not sources:
        raise UserError("no images given", where="images", remedy="Give image files, folders or globs")
    found: list[FoundIn] = []
    shown: list[Any] = []
    rows: list[dict[str, Any]] = []
    taken: set[str] = set()
    with display.steps(method, len(sources) * chosen.steps) as advance:
        for number, source in enumerate(sources):
            watch, name = Stopwatch(), _name(source, number)
            pixels = checked(source) if isinstance(source, np.ndarray) else read_image(source).pixels
            made = _search(chosen, pixels, max_side_px, advance)
            one = FoundIn(**{field.name: getattr(made, field.name) for field in fields(Found)}, source=name,
                          height=pixels.shape[0], width=pixels.shape[1], summary=_summary(made), seconds=watch.seconds)
            if out is not None and len(shown) < MAX_SHOWN:
                shown.append(shown_image(name, one.summary, pixels, **_arrays(one)))
            if boxes is not None:
                rows += _rows(one)
            if maps is not None:
                _write_map(one, Path(maps), taken)
            found.append(one if keep else replace(one, labels=None, edges=None))
    reduced = [one for one in found if max(one.height, one.width) > max_side_px]
    notes = () if not reduced else (
        f"{len(reduced)} of {len(found)} images were searched at {max_side_px} px of their longer side; "
        "--max-side changes that",)
    for note in notes:
        display.say("size", note)
    if boxes is not None:
        _write_rows(rows, Path(boxes))
    if out is not None:
        settings = [(field.name, str(getattr(chosen, field.name))) for field in fields(chosen)]
        write_text(out, render_regions(RegionsView(method, chosen.title, chosen.summary, chosen.paper, settings, shown,
                                                   len(found), notes, tuple(command))))
    return found


def _summary(one: Found) -> str:
    """'2,899 boxes', '57 regions', '3.1 % of the pixels'."""
    if one.labels is not None:
        return _plural(int(one.labels.max()) + 1, "region", "regions")
    if one.boxes is not None:
        return _plural(len(one.boxes), "box", "boxes")
    assert one.edges is not None
    if bool(((one.edges == 0) | (one.edges == 1)).all()):
        return f"{100 * float(one.edges.mean()):.1f} % of the pixels are edges"
    return f"mean steepness {float(one.edges.mean()):.3f} of the largest"


def _plural(count: int, one: str, more: str) -> str:
    return f"{count:,} {one if count == 1 else more}"


def _search(method: Method, pixels: np.ndarray, max_side_px: int, advance: Advance) -> Found:
    """pixels: uint8 [H, W, 1 or 3]."""
    image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
    height, width = pixels.shape[:2]
    share = min(1.0, max_side_px / max(height, width))
    if share < 1:
        image = resize(image[None], (max(1, round(share * height)), max(1, round(share * width))))[0]
    found = method(image.float().expand(3, -1, -1) / 255, advance)
    back = torch.tensor([width / image.shape[2], height / image.shape[1]] * 2)
    if found.boxes is not None:
        found = replace(found, boxes=found.boxes * back)
    if found.labels is not None:
        labels = resize(found.labels[None, None].float(), (height, width), "nearest")[0, 0].long()
        count = int(labels.max()) + 1
        small = torch.from_numpy(region_boxes(found.labels.numpy(), count)).float()
        found = replace(found, labels=labels, boxes=small * back)
    if found.edges is not None:
        how = "nearest" if isinstance(method, Canny) else "bilinear"
        found = replace(found, edges=resize(found.edges[None, None], (height, width), how)[0, 0])
    return found


def _sources(images: Iterable[Any] | str | os.PathLike[str]) -> Iterable[Any]:
    if isinstance(images, str | os.PathLike | np.ndarray):
        images = [images]
    for given in images:
        if isinstance(given, str | os.PathLike):
            yield from expand(Path(given) if isinstance(given, os.PathLike) else given)
        else:
            yield given


def _name(source: Any, number: int) -> str:
    return printable(os.fspath(source)) if isinstance(source, str | os.PathLike) else f"image {number}"


def _arrays(one: FoundIn) -> dict[str, np.ndarray | None]:
    return {"labels": None if one.labels is None else one.labels.numpy(),
            "boxes": None if one.order is None or one.boxes is None else one.boxes.numpy(),
            "edges": None if one.edges is None else one.edges.numpy()}


def _rows(one: FoundIn) -> list[dict[str, Any]]:
    """The boxes of an image as plain values."""
    assert one.boxes is not None
    pixels = None if one.labels is None else torch.bincount(one.labels.flatten(), minlength=len(one.boxes))
    rows = []
    for number, box in enumerate(one.boxes.tolist()):
        row: dict[str, Any] = {"image": one.source, "number": number}
        row |= {side: round(value, 2) for side, value in zip(("x1", "y1", "x2", "y2"), box, strict=True)}
        if one.order is not None:
            row["order"] = round(float(one.order[number]), 5)
        if pixels is not None:
            row["pixels"] = int(pixels[number])
        rows.append(row)
    return rows


def _write_rows(rows: list[dict[str, Any]], file: Path) -> None:
    if file.suffix.lower() == ".json":
        write_json(file, rows)
        return
    text = io.StringIO()
    columns = list(rows[0]) if rows else ["image", "number", "x1", "y1", "x2", "y2"]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(file, text.getvalue())


def _write_map(one: FoundIn, folder: Path, taken: set[str]) -> None:
    """A PNG under the image's name; a number is added where an earlier image has the same."""
    stem = "".join(c if c.isalnum() or c in "._-" else "_" for c in Path(one.source).stem)[:80] or "image"
    name = next(n for n in (stem, *(f"{stem}-{i}" for i in range(2, len(taken) + 3))) if n not in taken)
    taken.add(name)
    if one.labels is not None:
        count = int(one.labels.max()) + 1
        if count > 1 << 16:
            raise UserError(f"{count:,} regions do not fit into 16 bits", where=one.source,
                            remedy="Take a larger scale or min_size")
        values = one.labels.numpy().astype(np.uint16)
    else:
        assert one.edges is not None
        values = (one.edges * 255).round().numpy().astype(np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(values).save(encoded, "PNG")
    write_bytes(folder / f"{name}.png", encoded.getvalue())
