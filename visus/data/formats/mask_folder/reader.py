"""Images with maps of labels: one file per image whose pixels say the class, by number or by colour.

images/ with masks/, labels/ or annotations/ (ADE20K), train/ with trainannot/ (CamVid), x.jpg with x_mask.png, and
Cityscapes (leftImg8bit/, gtFine/), with split folders inside or outside.
"""

from __future__ import annotations

import os

import numpy as np

from visus.core.errors import DataError, printable
from visus.data.formats import ReadOptions, data_formats
from visus.data.formats.mask_folder.class_tables import ClassTable, find_class_table
from visus.data.formats.mask_folder.layout import MaskLayout, mask_layout
from visus.data.label_maps import colour_code, colour_name, distinct_values, read_label_map, read_values, stored_mode
from visus.data.objects import IGNORED, LabelMaps
from visus.data.reading.annotation_files import Listing
from visus.data.samples import Samples, counted, listed, spread

# The 19 classes that Cityscapes is judged by, in the order of their training ids, with the id in *_labelIds.png
CITYSCAPES = {
    "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17, "traffic light": 19,
    "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23, "person": 24, "rider": 25, "car": 26, "truck": 27,
    "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33,
}
_CITYSCAPES_IDS = range(34)
_SAMPLE = 200  # maps that are looked at where no table names the classes
_SAMPLE_PIXELS = 100_000_000
_MOST = 1_000
_GREY = colour_code(1, 1, 1)
_CHECKED = 3


class MaskFolder:
    """Maps of labels beside images. Classes come from a table beside them, else from the values that are found."""

    @staticmethod
    def recognises(path: str) -> bool:
        return os.path.isdir(path) and mask_layout(Listing(path)) is not None

    @staticmethod
    def read(path: str, options: ReadOptions) -> Samples:
        """Raises DataError naming the file: maps that cannot be read, values without a class, a damaged table."""
        listing = Listing(path)
        layout = mask_layout(listing)
        listing.refuse_bad_links()
        if layout is None:
            raise DataError("holds no images with maps of labels", where=path,
                            remedy="Expected: images/ and masks/ with files of the same names")
        notes = list(layout.notes)
        maps = [pair[1] for pair in layout.pairs]
        if layout.kind == "folders":
            classes, label_maps, ids = _folders(listing, layout, maps, notes)
        else:
            classes, label_maps, ids = _cityscapes(listing, layout, maps, notes)
        for i in spread(len(maps), _CHECKED):
            read_label_map(label_maps, i, num_classes=len(classes))
        return Samples(format="mask_folder", classes=classes, paths=tuple(pair[0] for pair in layout.pairs),
                       targets=np.zeros((len(maps), len(classes)), np.float32), root=listing.root,
                       split=np.array([pair[2] for pair in layout.pairs], "<U5"), label_maps=label_maps,
                       category_ids=ids, notes=tuple(notes))


def _cityscapes(listing: Listing, layout: MaskLayout, maps: list[str],
                notes: list[str]) -> tuple[tuple[str, ...], LabelMaps, tuple[int, ...] | None]:
    names = tuple(CITYSCAPES)
    if layout.kind == "cityscapes":
        table = {IGNORED: -1, **dict.fromkeys(_CITYSCAPES_IDS, -1),
                 **{value: k for k, value in enumerate(CITYSCAPES.values())}}
        ids = tuple(CITYSCAPES.values())
    else:
        table = {IGNORED: -1, **{k: k for k in range(len(names))}}
        ids = None
    notes.append("Cityscapes: its 19 training classes; its other ids are ignored")
    return names, LabelMaps(paths=tuple(maps), root=listing.root, table=table), ids


def _folders(listing: Listing, layout: MaskLayout, maps: list[str],
             notes: list[str]) -> tuple[tuple[str, ...], LabelMaps, tuple[int, ...] | None]:
    modes = [stored_mode(listing.full(maps[i])) for i in spread(len(maps), _CHECKED)]
    coloured = any(mode.startswith(("RGB", "CMYK", "YCbCr")) for mode in modes)
    table = find_class_table(listing, layout.folders)
    if table is None:
        return _found_classes(listing, maps, coloured, notes)
    first = listing.full(maps[0])
    values, colours = {IGNORED: -1, **table.by_value}, False
    if table.by_colour is not None and (coloured or (modes[0] == "P" and _shown(first) <= set(table.by_colour))):
        values, colours = table.by_colour, True
    elif coloured and not _is_grey(_shown(first)):
        raise DataError("gives no colours, and the maps hold colours", where=listing.full(table.source),
                        remedy="Add them: lines of name,r,g,b")
    if table.source.lower().endswith("objectinfo150.txt"):  # ADE20K numbers its classes from 1
        values = {0: -1, **values}
    notes.append(_table_note(table, colours))
    ids = None if colours else tuple(sorted((v for v, k in values.items() if k >= 0), key=lambda v: values[v]))
    return table.classes, LabelMaps(paths=tuple(maps), root=listing.root, table=values, colours=colours), _plain(ids)


def _table_note(table: ClassTable, colours: bool) -> str:
    kind = "by colour" if colours else "by number"
    without = f"; ignored: {listed([printable(name) for name in table.ignored])}" if table.ignored else ""
    return f"classes of {printable(table.source)}, {kind}{without}"


def _found_classes(listing: Listing, maps: list[str], colours: bool,
                   notes: list[str]) -> tuple[tuple[str, ...], LabelMaps, tuple[int, ...] | None]:
    """The values in a sample of the maps as classes."""
    found: set[int] = set()
    pixels = looked_at = 0
    for i in spread(len(maps), _SAMPLE):
        values = read_values(listing.full(maps[i]), colours=colours)
        found |= distinct_values(values)
        if len(found) > _MOST:
            kind = "colours" if colours else "values"
            raise DataError(f"more than {_MOST} different {kind} so far: a photo, object numbers, or blurred colours",
                            where=listing.full(maps[i]),
                            remedy="Save maps without smoothing, or name the classes in classes.csv")
        pixels += values.size
        looked_at += 1
        if pixels > _SAMPLE_PIXELS:
            break
    seen = sorted(found)
    root = listing.root
    basis = "" if looked_at == len(maps) else f" in {counted(looked_at, 'map')} of {len(maps):,}"
    if colours and not _is_grey(found):
        names = tuple(colour_name(code) for code in seen)
        notes.append(f"there is no table of classes: the {counted(len(seen), 'colour')} found{basis} became classes; "
                     "name them in classes.csv: name,r,g,b")
        return names, LabelMaps(paths=tuple(maps), root=root, colours=True,
                                table={code: k for k, code in enumerate(seen)}), None
    levels = [code % 256 for code in seen] if colours else seen
    if levels == [0, IGNORED]:
        names, table = ("background", "foreground"), {0: 0, IGNORED: 1}
        notes.append(f"the maps hold 0 and 255 alone{basis}: taken as background and foreground")
    else:
        chosen = [value for value in levels if value != IGNORED or levels[-1] > IGNORED]
        names, table = tuple(map(str, chosen)), {IGNORED: -1, **{value: k for k, value in enumerate(chosen)}}
        notes.append(f"there is no table of classes: the {counted(len(chosen), 'value')} found{basis} became classes"
                     + (", 255 is ignored" if len(chosen) < len(levels) else "") + "; name them in classes.txt")
    ids = tuple(value for value, k in table.items() if k >= 0)
    if colours:
        table = {value * _GREY: k for value, k in table.items()}
    return names, LabelMaps(paths=tuple(maps), root=root, table=table, colours=colours), _plain(ids)


def _plain(ids: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """None for numbers that are the labels themselves."""
    return None if ids is None or ids == tuple(range(len(ids))) else ids


def _shown(path: str) -> set[int]:
    """The codes of the colours that a map shows."""
    return distinct_values(read_values(path, colours=True))


def _is_grey(codes: set[int]) -> bool:
    return all(code % 256 * _GREY == code for code in codes)


data_formats.add(MaskFolder, {"mask_folder": {}})
