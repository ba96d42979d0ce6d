"""Looking at a data set before training: counts, sizes, problems, what is marked in the images, and pictures of it."""

from __future__ import annotations

import html
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from visus.core.errors import ImageError, UserError
from visus.core.files import atomic, write_text
from visus.core.seeds import permutation
from visus.data.opening import open_samples
from visus.data.samples import SPLITS, Samples
from visus.data.scan import survey_images
from visus.report.heat import picture
from visus.run.draw_data import fitted
from visus.run.measure_data import SIZED_IMAGES, ObjectFacts, object_facts

if TYPE_CHECKING:
    from visus.run.data_pictures import DataPictures

DECODED_IMAGES = 20_000  # above this many only the headers are checked
PROBLEMS_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """What is known of a data set.

    counts: split ('all' where the data give none) -> class -> images. smallest, median, largest: (height, width).
    common_sizes: up to five (height, width, images among those sized). channels: 1 when all sized images are grey.
    problems: (file, what is wrong) of every image that cannot be read. notes: what was recognised, ignored, decided.
    objects: what is marked. label_maps, captions: how many there are.
    """

    path: str
    format: str
    recognised: str
    count: int
    classes: tuple[str, ...]
    multi_label: bool
    counts: dict[str, dict[str, int]]
    channels: int
    smallest: tuple[int, int]
    median: tuple[int, int]
    largest: tuple[int, int]
    common_sizes: tuple[tuple[int, int, int], ...]
    sized: int
    problems: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    objects: ObjectFacts | None = None
    label_maps: int = 0
    captions: int = 0

    def sizes_sentence(self) -> str:
        """The sizes in words, height x width."""
        kind = "grey" if self.channels == 1 else "colour"
        if self.smallest == self.largest:
            return f"sizes    all {self.smallest[0]} x {self.smallest[1]} pixels, {kind}"
        text = " to ".join(f"{h} x {w}" for h, w in (self.smallest, self.largest))
        basis = "" if self.sized == self.count else f" (of {self.sized:,} looked at)"
        return f"sizes    {text} pixels (height x width), median {self.median[0]} x {self.median[1]}, {kind}{basis}"

    def columns(self) -> dict[str, dict[str, int]]:
        """Title of a column -> class -> number: images of each split and, where they are marked, objects."""
        found = {name: counts for name, counts in self.counts.items() if any(counts.values())}
        if self.objects is None:
            return found
        return {**{f"{name}: images": counts for name, counts in found.items()},
                **{f"{name}: objects": counts for name, counts in self.objects.counts.items()}}

    def marks_lines(self) -> list[str]:
        """What is marked in the images, in words."""
        lines = [] if self.objects is None else [self.objects.sentence()]
        lines += [f"maps     {self.label_maps:,} label maps"] * (self.label_maps > 0)
        return lines + [f"captions {self.captions:,}"] * (self.captions > 0)

    def problem_lines(self) -> list[str]:
        lines = [f"{name}: {problem}" for name, problem in self.problems[:PROBLEMS_SHOWN]]
        more = len(self.problems) - len(lines)
        return lines + ([f"and {more:,} more files that cannot be read"] if more else [])

    def _repr_html_(self) -> str:
        """For notebooks. Every name is escaped."""
        e = html.escape
        head = "".join(f"<th>{e(split)}</th>" for split in self.counts)
        rows = "".join(
            f"<tr><th>{e(name)}</th>" + "".join(f"<td>{counts.get(name, 0):,}</td>" for counts in self.counts.values())
            + "</tr>" for name in self.classes[:100])
        more = f"<p>and {len(self.classes) - 100:,} more classes</p>" if len(self.classes) > 100 else ""
        lines = "".join(f"<li>{e(line)}</li>" for line in (*self.notes, *self.problem_lines()))
        return (f"<div><p><b>{e(self.path)}</b>: {e(self.recognised)}</p><p>{e(self.sizes_sentence())}</p>"
                f"<table><tr><th></th>{head}</tr>{rows}</table>{more}<ul>{lines}</ul></div>")


def show_data(path: str | Path, format: str = "auto", out: str | Path | None = None, *,
              page: str | Path | None = None, augment: str | Path | None = None,
              reading: Callable[[int, int], None] | None = None) -> DataFacts:
    """Look at a data set. out: a PNG file for a sheet of pictures: images of each class, their marks, charts. page: an
    HTML file for the same. augment: a recipe, or 'auto' for what `visus train` would choose, whose effect is drawn.
    reading: called with (read, all) while large annotation files are read.

    Raises DataError when the path is no data set, RecipeError for a recipe that cannot be used, UserError when `out` or
    `page` lies inside the data, ResourceError when it cannot be written. Images that cannot be read are no error here:
    they are in `problems`.
    """
    for place in (out, page):
        if place is not None and lies_inside(place, path):
            raise UserError("lies in the data folder, where nothing is written", where=place,
                            remedy="Give a path elsewhere")
    samples = open_samples(path, format, progress=reading)
    facts = _facts(path, samples)
    if out is None and page is None:
        return facts
    from visus.run.data_pictures import look, sheet

    pictures = look(samples, augment)
    if out is not None:
        with atomic(out) as file:
            sheet(pictures, "").save(file, "PNG")
    if page is not None:
        write_text(page, _page(path, samples, facts, pictures, augment))
    return facts


def lies_inside(place: str | Path, path: str | Path) -> bool:
    """Whether the file `place` lies in the folder `path`, links followed."""
    folder = Path(os.path.realpath(path))
    return folder.is_dir() and folder in Path(os.path.realpath(place)).parents


def _facts(path: str | Path, samples: Samples) -> DataFacts:
    decode = len(samples) <= DECODED_IMAGES
    survey = survey_images(samples, decode=decode)
    notes = [*samples.notes, *(f"{count:,} images: {note}" for note, count in sorted(survey.notes.items()))]
    if not decode and not samples.in_memory:
        notes.append("only the headers of the images were checked: a cut file can look whole")
    bad = {b.index for b in survey.bad}
    usable = samples.subset(np.array([i for i in range(len(samples)) if i not in bad], np.int64)) if bad else samples
    sizes, channels = usable.sizes(SIZED_IMAGES) if len(usable) else (np.zeros((1, 2), np.int64), 3)
    areas = sizes.prod(1)
    common = Counter(map(tuple, sizes.tolist())).most_common(5)
    maps = 0 if samples.label_maps is None else sum(map(bool, samples.label_maps.paths))
    return DataFacts(
        path=str(path), format=samples.format, recognised=samples.recognised, count=len(samples),
        classes=samples.classes, multi_label=samples.multi_label, counts=_counts(samples), channels=channels,
        smallest=_pair(sizes[areas.argmin()]), median=_pair(np.median(sizes, axis=0)),
        largest=_pair(sizes[areas.argmax()]), common_sizes=tuple((h, w, n) for (h, w), n in common), sized=len(sizes),
        problems=tuple((b.source, b.problem) for b in survey.bad), notes=tuple(notes), objects=object_facts(samples),
        label_maps=maps, captions=sum(map(len, samples.captions or ())))


def _page(path: str | Path, samples: Samples, facts: DataFacts, pictures: DataPictures,
          augment: str | Path | None) -> str:
    from visus.report.data_view import DataSetView, Shown, render_data_view
    from visus.report.formatting import integer
    from visus.run.data_pictures import encoded, row_picture

    given = {name: int((samples.split == name).sum()) for name in SPLITS if (samples.split == name).any()}
    rows = [("Images", integer(facts.count), ""), ("Classes", integer(len(facts.classes)), ""),
            ("Splits", " / ".join(map(integer, given.values())) or "none", " / ".join(given) or "training makes them"),
            ("Median size", f"{facts.median[0]} x {facts.median[1]}", "height x width in pixels")]
    if facts.objects is not None:
        rows.append(("Objects", integer(facts.objects.count), f"median {facts.objects.per_image[1]:g} an image"))
    rows += [("Label maps", integer(facts.label_maps), "")] * (facts.label_maps > 0)
    rows += [("Captions", integer(facts.captions), "")] * (facts.captions > 0)
    command = ["visus", "data", "show", os.fspath(path), *(["--augment", str(augment)] if augment else [])]
    return render_data_view(DataSetView(
        name=Path(os.path.abspath(path)).name or str(path), recognised=facts.recognised, facts=rows,
        contact=encoded(pictures.contact), notes=facts.notes, problems=facts.problem_lines(), classes=facts.classes,
        counts=facts.columns(), charts=pictures.charts, augmented=[encoded(row_picture(r)) for r in pictures.augmented],
        annotated=[Shown(picture=encoded(one.picture), source=one.source, captions=one.captions)
                   for one in pictures.annotated], steps=pictures.steps, command=command))


def contact_sheet(path: str | Path, format: str = "auto", *, per_class: int = 8, side_px: int = 96,
                  max_classes: int = 40) -> Image.Image:
    """`draw_contact_sheet` of the data set at `path`."""
    return draw_contact_sheet(open_samples(path, format), per_class=per_class, side_px=side_px, max_classes=max_classes)


def draw_contact_sheet(samples: Samples, *, per_class: int = 8, side_px: int = 96,
                       max_classes: int = 40) -> Image.Image:
    """One row per class: its name, its count and up to `per_class` images chosen at random, the same each time; rows
    without names where it is not known which classes an image shows.

    side_px: side of the square that an image is fitted into. Images that cannot be read are shown as a crossed box.
    """
    font = ImageFont.load_default(14)
    gap, name_px, title_px = 6, 170, 30
    counts = samples.class_counts()
    known = bool(counts.any())
    classes = range(min(len(samples.classes), max_classes)) if known else range(0)
    rows = [(fitted(samples.classes[k], font, name_px - 2 * gap), f"{counts[k]:,}", _members(samples, k))
            for k in classes]
    if not known:
        everyone = permutation(len(samples), 0, "contact sheet")[:4 * per_class]
        rows = [("", "", everyone[k:k + per_class]) for k in range(0, len(everyone), per_class)]
        name_px = gap
    width = name_px + per_class * (side_px + gap) + gap
    more = len(samples.classes) - len(classes) if known else 0
    height = title_px + len(rows) * (side_px + gap) + gap + (title_px if more else 0)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((gap, 7), fitted(samples.recognised, font, width - 2 * gap), fill="black", font=font)
    for row, (name, count, members) in enumerate(rows):
        top = title_px + row * (side_px + gap)
        draw.text((gap, top + side_px // 2 - 18), name, fill="black", font=font)
        draw.text((gap, top + side_px // 2 + 2), count, fill="gray", font=font)
        for column, i in enumerate(members[:per_class]):
            place = (name_px + column * (side_px + gap), top)
            try:
                small = picture(samples.read(int(i)), side_px)
                sheet.paste(small, (place[0] + (side_px - small.width) // 2, top + (side_px - small.height) // 2))
            except ImageError:
                corner = (place[0] + side_px - 1, top + side_px - 1)
                draw.rectangle((place, corner), outline="red")
                draw.line((place, corner), fill="red")
    if more:
        draw.text((gap, height - title_px + 7), f"and {more:,} more classes", fill="gray", font=font)
    return sheet


def _members(samples: Samples, label: int) -> np.ndarray:
    """The images of a class, in the order of the sheet."""
    members = np.flatnonzero(samples.targets[:, label] if samples.multi_label else samples.targets == label)
    return members[permutation(len(members), 0, "contact sheet", label)]


def _counts(samples: Samples) -> dict[str, dict[str, int]]:
    names = [name for name in (*SPLITS, "") if (samples.split == name).any()]
    return {name or "all": dict(zip(samples.classes, samples.class_counts(samples.split == name).tolist(), strict=True))
            for name in names}


def _pair(values: np.ndarray) -> tuple[int, int]:
    return int(values[0]), int(values[1])
