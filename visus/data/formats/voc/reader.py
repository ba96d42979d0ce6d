"""Pascal VOC: one XML file per image with its boxes.

`VOCdevkit/VOC2007/Annotations/*.xml` with `JPEGImages/` and `ImageSets/Main/*.txt`, a folder of that layout alone, or
XML files beside their images, in split folders or not.

VOC counts pixels from 1 and names the first and the last pixel of a box (documentation of the VOC development kit: the
top-left pixel of an image is (1,1)). So xmin ymin xmax ymax becomes xmin-1 ymin-1 xmax ymax here; adding the 1 again
gives the numbers of the file, exactly for every number from 0.5 on.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from dataclasses import dataclass, field, replace
from xml.etree import ElementTree

import numpy as np

from visus.core.errors import DataError, printable
from visus.data.formats import ReadOptions, data_formats
from visus.data.formats.voc.layout import VocPart, class_names, image_lists, voc_parts
from visus.data.formats.voc.xml import (
    XmlFault,
    box_of,
    decode_xml,
    flag_of,
    lines_of_objects,
    number_of,
    parse_xml,
    texts_of,
)
from visus.data.objects import Objects
from visus.data.reading.annotation_files import Listing, by_stem, is_image, joined, nearest, refuse, stem
from visus.data.samples import Samples, counted, listed, natural_order

_MAX_XML = 10 << 20
_UNUSED = {"truncated", "occluded", "part", "polygon", "actions", "rotated_box", "segm"}


class Voc:
    """Boxes of Pascal VOC. `difficult` is kept; `truncated`, `pose`, parts and the like are left out, which is said."""

    @staticmethod
    def recognises(path: str) -> bool:
        return os.path.isdir(path) and bool(voc_parts(Listing(path)))

    @staticmethod
    def read(path: str, options: ReadOptions) -> Samples:
        """Raises DataError naming file and line: not VOC's XML, a DTD, a box without sides or the wrong way round,
        an annotation without image, an image in two splits."""
        listing = Listing(path)
        parts = voc_parts(listing)
        if not parts:
            listing.refuse_bad_links()
            raise DataError("holds no annotations of Pascal VOC", where=path,
                            remedy="Expected: Annotations/*.xml and JPEGImages/, or XML files beside their images")
        book = _Book()
        paths: list[str] = []
        splits: list[str] = []
        for part in parts:
            images = by_stem(_images(listing, part), path)
            pages, split_of = _pages(listing, part, images, book)
            for page, split in zip(pages, split_of, strict=True):
                book.read(listing, page)
                image = _image_of(page, part, images, book.file_name)
                if image is None:
                    book.without_image.append(printable(page))
                    continue
                book.keep()
                paths.append(image)
                splits.append(split)
                if options.progress is not None and len(paths) % 256 == 0:
                    options.progress(len(paths), max(len(pages), len(paths)))
        maps = sum(len(listing.files(folder)) for part in parts
                   if (folder := listing.folder(part.root, "SegmentationClass")) is not None)
        listing.refuse_bad_links()
        refuse(book.problems, "record that cannot be used", path, "Correct these files, or take them out")
        refuse(book.without_image, "annotation without its image", path,
               "Put the images into JPEGImages/ under the same names, or take the XML files out")
        if not paths:
            raise DataError("holds no annotated images", where=path, remedy="Expected: Annotations/*.xml, JPEGImages/*")
        samples = book.samples(paths, splits, listing, class_names(listing, parts))
        further = f"{counted(maps, 'map')} in SegmentationClass not used: --format voc_segmentation reads them"
        return replace(samples, notes=(*samples.notes, further)) if maps else samples


@dataclass
class _Book:
    """What the XML files said: flat lists over all objects, and over all images."""

    problems: list[str] = field(default_factory=list)
    without_image: list[str] = field(default_factory=list)
    unannotated: list[str] = field(default_factory=list)
    unlisted: int = 0
    unused: Counter[str] = field(default_factory=Counter)
    unsized: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    boxes: list[tuple[float, ...]] = field(default_factory=list)
    difficult: list[bool] = field(default_factory=list)
    places: list[tuple[str, int]] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)

    def read(self, listing: Listing, page: str) -> None:
        """Takes one XML file in; faults go to `problems`."""
        self.file_name, self._size, self._first = "", (0, 0), len(self.names)
        try:
            text = decode_xml(listing.bytes(page, _MAX_XML))
            root = parse_xml(text)
        except XmlFault as fault:
            self.problems.append(f"{printable(page)}:{fault.line}: {fault}")
            return
        except DataError as error:
            self.problems.append(f"{printable(page)}: {error.problem}")
            return
        self.file_name = (root.findtext("filename") or "").strip()
        self._size = self._stated(root.find("size"), page)
        lines: list[int] = []
        for number, element in enumerate(root.iterfind("object")):
            try:
                self._object(element, page, number)
            except ValueError as error:
                lines = lines or lines_of_objects(text)
                self.problems.append(f"{printable(page)}:{lines[number]}: {error}")

    def _object(self, element: ElementTree.Element, page: str, number: int) -> None:
        texts = texts_of(element)
        name = printable(texts.get("name", ""))
        if not name:
            raise ValueError("an object without name")
        if "bndbox" not in texts:
            raise ValueError(f"{name[:80]!r} has no bndbox")
        box = box_of(texts_of(element.find("bndbox")), name[:80])
        difficult = flag_of(texts.get("difficult", ""))
        self.unused.update(_UNUSED.intersection(texts))
        self.names.append(name)
        self.boxes.append(box)
        self.difficult.append(difficult)
        self.places.append((page, number))

    def keep(self) -> None:
        """The file that was read last belongs to an image."""
        self.counts.append(len(self.names) - self._first)
        self.sizes.append(self._size)

    def samples(self, paths: list[str], splits: list[str], listing: Listing, stated: list[str]) -> Samples:
        classes = stated or natural_order(sorted(set(self.names)))
        if stated:
            refuse([f"{printable(page)}: object {number + 1} is {name!r} ({nearest(name, stated)})"
                    for name, (page, number) in zip(self.names, self.places, strict=True) if name not in stated],
                   "object of an unknown class", listing.path,
                   "Known: those of classes.txt, else of ImageSets/Main/<class>_train.txt")
        _refuse_same_but_case(classes, listing.path)
        position = {name: k for k, name in enumerate(classes)}
        boxes = np.array(self.boxes, np.float64).reshape(-1, 4)
        objects = Objects(start=np.concatenate([[0], np.cumsum(self.counts)]).astype(np.int64),
                          labels=np.array([position[name] for name in self.names], np.int64),
                          boxes=boxes - np.array([1.0, 1.0, 0.0, 0.0]), difficult=np.array(self.difficult, bool))
        sizes = np.array(self.sizes, np.int64).reshape(-1, 2)
        return Samples(format="voc", classes=tuple(classes), targets=objects.presence(len(classes)),
                       paths=tuple(paths), root=listing.root, split=np.array(splits, "<U5"), objects=objects,
                       stated_sizes=sizes if sizes.any() else None, notes=tuple(self._notes(boxes)))

    def _stated(self, size: ElementTree.Element | None, page: str) -> tuple[int, int]:
        try:
            texts = texts_of(size)
            height, width = (int(number_of(texts.get(side, "0"), side)) for side in ("height", "width"))
        except ValueError:
            height = width = 0
        if height < 1 or width < 1:
            self.unsized.append(printable(page))
            return 0, 0
        return height, width

    def _notes(self, boxes: np.ndarray) -> list[str]:
        notes = []
        hard = sum(self.difficult)
        zero = int((boxes[:, :2] < 0.5).any(1).sum())
        if hard:
            notes.append(f"{counted(hard, 'object')} marked difficult")
        if zero:
            notes.append(f"{counted(zero, 'box')} with a side at 0, where VOC counts from 1: these become -1")
        if self.unsized:
            notes.append(f"{counted(len(self.unsized), 'XML file')} without the size of the image: "
                         f"{listed(self.unsized, 3)}")
        if self.unused:
            notes.append("not used: " + ", ".join(f"the mark '{name}' of {counted(count, 'object')}"
                                                  for name, count in sorted(self.unused.items())))
        if self.unannotated:
            notes.append(f"{counted(len(self.unannotated), 'image')} without XML not used: "
                         f"{listed(self.unannotated, 3)}")
        if self.unlisted:
            notes.append(f"{counted(self.unlisted, 'XML file')} in none of the lists of ImageSets/Main not used")
        return notes


def _images(listing: Listing, part: VocPart) -> list[str]:
    return [path for name, path in listing.files(part.images).items() if is_image(name)]


def _pages(listing: Listing, part: VocPart, images: dict[str, str], book: _Book) -> tuple[list[str], list[str]]:
    """(XML files, split of each) in the order of the lists of images, or of the names where there are none."""
    files = listing.files(part.annotations)
    pages = {name[:-4]: path for name, path in files.items() if name.lower().endswith(".xml")}
    lists = image_lists(listing, part.root, "Main")
    if not lists:
        book.unannotated += [printable(p) for p in sorted(images.values()) if stem(p) not in pages]
        return [pages[name] for name in natural_order(list(pages))], [part.split] * len(pages)
    names = [(name, split) for split, chosen in lists.items() for name in chosen]
    book.unannotated += [printable(name) for name, _ in names if name not in pages]
    found = [(pages[name], split) for name, split in names if name in pages]
    book.unlisted += len(pages) - len(found)
    if not found:
        raise DataError("the lists name no image that has an XML file", where=listing.full(joined(
            part.root, "ImageSets/Main")), remedy="One name without extension a line")
    return [page for page, _ in found], [split for _, split in found]


def _image_of(page: str, part: VocPart, images: dict[str, str], file_name: str) -> str | None:
    """By the name of the XML file; else by the <filename> in it, without folders."""
    found = images.get(joined(part.images, stem(page)))
    return found if found is not None else images.get(joined(part.images, stem(file_name.replace("\\", "/"))))


def _refuse_same_but_case(classes: list[str], where: str) -> None:
    same: dict[str, list[str]] = {}
    for name in classes:
        same.setdefault(unicodedata.normalize("NFC", name).casefold(), []).append(name)
    refuse([" and ".join(names) for names in same.values() if len(names) > 1], "class written in two ways", where,
           "Write each class in one way")


data_formats.add(Voc, {"voc": {}})
