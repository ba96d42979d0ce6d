"""Looking at a data set before training: counts, sizes, problems, and a contact sheet."""

from __future__ import annotations

import html
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from visus.core.errors import ImageError
from visus.core.files import atomic
from visus.core.seeds import permutation
from visus.data.opening import open_samples
from visus.data.samples import SPLITS, Samples
from visus.data.scan import survey_images

DECODED_IMAGES = 20_000  # above this many only the headers are checked
SIZED_IMAGES = 2_000
PROBLEMS_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """What is known of a data set.

    counts: split ('all' where the data give none) -> class -> images. smallest, median, largest: (height, width).
    common_sizes: up to five (height, width, images among those sized). channels: 1 when all sized images are grey.
    problems: (file, what is wrong) of every image that cannot be read. notes: what was recognised, ignored, decided.
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

    def sizes_sentence(self) -> str:
        """The sizes in words, height x width."""
        kind = "grey" if self.channels == 1 else "colour"
        if self.smallest == self.largest:
            return f"sizes    all {self.smallest[0]} x {self.smallest[1]} pixels, {kind}"
        text = " to ".join(f"{h} x {w}" for h, w in (self.smallest, self.largest))
        basis = "" if self.sized == self.count else f" (of {self.sized:,} looked at)"
        return f"sizes    {text} pixels (height x width), median {self.median[0]} x {self.median[1]}, {kind}{basis}"

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


def show_data(path: str | Path, format: str = "auto", out: str | Path | None = None) -> DataFacts:
    """Look at a data set. out: a PNG file to write the contact sheet to.

    Raises DataError when the path is no data set, ResourceError when `out` cannot be written. Images that cannot be
    read are no error here: they are in `problems`.
    """
    samples = open_samples(path, format)
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
    facts = DataFacts(
        path=str(path), format=samples.format, recognised=samples.recognised, count=len(samples),
        classes=samples.classes, multi_label=samples.multi_label, counts=_counts(samples), channels=channels,
        smallest=_pair(sizes[areas.argmin()]), median=_pair(np.median(sizes, axis=0)),
        largest=_pair(sizes[areas.argmax()]), common_sizes=tuple((h, w, n) for (h, w), n in common), sized=len(sizes),
        problems=tuple((b.source, b.problem) for b in survey.bad), notes=tuple(notes))
    if out is not None:
        with atomic(out) as file:
            draw_contact_sheet(samples).save(file, "PNG")
    return facts


def contact_sheet(path: str | Path, format: str = "auto", *, per_class: int = 8, side_px: int = 96,
                  max_classes: int = 40) -> Image.Image:
    """`draw_contact_sheet` of the data set at `path`."""
    return draw_contact_sheet(open_samples(path, format), per_class=per_class, side_px=side_px, max_classes=max_classes)


def draw_contact_sheet(samples: Samples, *, per_class: int = 8, side_px: int = 96,
                       max_classes: int = 40) -> Image.Image:
    """One row per class: its name, its count and up to `per_class` images chosen at random, the same each time.

    side_px: side of the square that an image is fitted into. Images that cannot be read are shown as a crossed box.
    """
    font = ImageFont.load_default(14)
    classes = range(min(len(samples.classes), max_classes))
    gap, name_px, title_px = 6, 170, 30
    width = name_px + per_class * (side_px + gap) + gap
    more = len(samples.classes) - len(classes)
    height = title_px + len(classes) * (side_px + gap) + gap + (title_px if more else 0)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((gap, 7), _fitted(samples.recognised, font, width - 2 * gap), fill="black", font=font)
    counts = samples.class_counts()
    for row, label in enumerate(classes):
        top = title_px + row * (side_px + gap)
        name = _fitted(samples.classes[label], font, name_px - 2 * gap)
        draw.text((gap, top + side_px // 2 - 18), name, fill="black", font=font)
        draw.text((gap, top + side_px // 2 + 2), f"{counts[label]:,}", fill="gray", font=font)
        members = np.flatnonzero(samples.targets[:, label] if samples.multi_label else samples.targets == label)
        for column, i in enumerate(members[permutation(len(members), 0, "contact sheet", label)][:per_class]):
            place = (name_px + column * (side_px + gap), top)
            try:
                _paste(sheet, samples.read(int(i)), place, side_px)
            except ImageError:
                corner = (place[0] + side_px - 1, top + side_px - 1)
                draw.rectangle((place, corner), outline="red")
                draw.line((place, corner), fill="red")
    if more:
        draw.text((gap, height - title_px + 7), f"and {more:,} more classes", fill="gray", font=font)
    return sheet


def _paste(sheet: Image.Image, pixels: np.ndarray, place: tuple[int, int], side_px: int) -> None:
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
    scale = side_px / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image = image.resize(size, Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS)
    sheet.paste(image, (place[0] + (side_px - size[0]) // 2, place[1] + (side_px - size[1]) // 2))


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width_px: int) -> str:
    text = "".join(c if c.isprintable() else "?" for c in text[:200])
    if font.getlength(text) <= width_px:
        return text
    while text and font.getlength(text + "...") > width_px:
        text = text[:-1]
    return text + "..."


def _counts(samples: Samples) -> dict[str, dict[str, int]]:
    names = [name for name in (*SPLITS, "") if (samples.split == name).any()]
    return {name or "all": dict(zip(samples.classes, samples.class_counts(samples.split == name).tolist(), strict=True))
            for name in names}


def _pair(values: np.ndarray) -> tuple[int, int]:
    return int(values[0]), int(values[1])
