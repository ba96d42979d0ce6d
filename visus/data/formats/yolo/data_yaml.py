"""What a data.yaml of YOLO says: names of classes, keypoints. It is read as plain values, and none of it is run."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from visus.core.errors import DataError, printable
from visus.data.reading.annotation_files import as_text, nearest, read_bytes, refuse
from visus.data.samples import counted, listed

MAX_YAML = 1 << 20
USUAL_NAMES = ("data.yaml", "data.yml")
_MAX_KEYPOINTS = 10_000


def is_data_yaml(path: str) -> bool:
    """Whether the file has the keys of a data.yaml at its outermost level; nothing is parsed."""
    try:
        text = read_bytes(path, MAX_YAML)
    except DataError:
        return False
    keys = set(re.findall(rb"^[\"']?(\w+)[\"']?[ \t]*:", text, re.MULTILINE))
    usual = os.path.basename(path).lower() in USUAL_NAMES
    return (usual or bool(keys & {b"names", b"nc"})) and bool(keys & {b"train", b"val"})


def load_yaml(path: str) -> dict[Any, Any]:
    """Raises DataError naming the line."""
    import yaml

    class Plain(yaml.SafeLoader):
        """Without aliases, of which a few lines make a thousand million names."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.MarkedYAMLError(problem="an alias (*name) is not allowed",
                                           problem_mark=self.peek_event().start_mark)
            return super().compose_node(parent, index)

    text = as_text(read_bytes(path, MAX_YAML), path)
    try:
        values = Plain(text).get_single_data()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f":{mark.line + 1}"
        raise DataError(f"is not YAML: {getattr(error, 'problem', None) or 'a character that it forbids'}",
                        where=f"{path}{line}", remedy="Correct this line") from error
    except (ValueError, TypeError, AttributeError, LookupError, OverflowError, RecursionError) as error:
        raise DataError(f"is not YAML that can be read ({type(error).__name__})", where=path,
                        remedy="Write plain text and numbers: names, train, val") from error
    if not isinstance(values, dict):
        raise DataError("holds no keys", where=path, remedy="Expected: train, val and names")
    return values


def classes_of(values: Mapping[Any, Any], path: str) -> tuple[str, ...]:
    """`names`, a list or numbered from 0. Raises DataError for gaps, repeated names and an `nc` that disagrees."""
    names = values.get("names")
    if isinstance(names, dict):
        numbers = [k for k in names if isinstance(k, int) and not isinstance(k, bool)]
        gaps = [str(k) for k in range(len(names)) if k not in names]
        if len(numbers) < len(names) or gaps:
            raise DataError(f"does not number the classes from 0 without gaps: {listed(gaps)} missing",
                            where=f"{path}: names", remedy="Number them 0, 1, 2, ... as the label files do")
        names = [names[k] for k in range(len(names))]
    if not isinstance(names, list) or not names:
        what = "is missing" if names is None else "is neither a list nor numbered names"
        known = [k for k in values if isinstance(k, str)]
        raise DataError(f"names {what}", where=path,
                        remedy=f"Add the names of the classes: names: [cat, dog] ({nearest('names', known)})")
    odd = [repr(name) for name in names if not isinstance(name, str | int | float) or isinstance(name, bool)]
    refuse(odd, "value that is no name", f"{path}: names", "Write one name a class; yes, no, on and off in quotes")
    count = values.get("nc")
    if count is not None and count != len(names):
        raise DataError(f"but names has {counted(len(names), 'class')}", where=f"{path}: nc={count!r}",
                        remedy="Make the two agree, or leave nc out")
    return checked_names([str(name).strip() for name in names], f"{path}: names")


def checked_names(names: list[str], where: str) -> tuple[str, ...]:
    """The names, fit to print. Raises DataError for empty and repeated ones."""
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    refuse([repr(printable(name)) for name in twice], "name given to several classes", where, "Name each class once")
    if "" in names:
        raise DataError("a class has no name", where=where, remedy="Name every class")
    return tuple(printable(name) for name in names)


def keypoints_of(values: Mapping[Any, Any], path: str) -> tuple[tuple[str, ...], int, tuple[tuple[int, int], ...]]:
    """(names of the keypoints, numbers of each in a line, pairs joined by a line); empty and 0 without `kpt_shape`."""
    shape = values.get("kpt_shape")
    if shape is None:
        return (), 0, ()
    if (not isinstance(shape, list) or len(shape) != 2 or not all(type(v) is int for v in shape)
            or not 0 < shape[0] <= _MAX_KEYPOINTS or shape[1] not in (2, 3)):
        raise DataError("is not [number of keypoints, 2 or 3]", where=f"{path}: kpt_shape={shape!r}",
                        remedy="2: x y; 3: x y visibility, such as [17, 3]")
    names = values.get("kpt_names")
    if isinstance(names, dict):
        names = next(iter(names.values()), None)
    if not isinstance(names, list) or len(names) != shape[0] or not all(isinstance(n, str) for n in names):
        names = [str(k) for k in range(shape[0])]
    pairs = values.get("skeleton")
    skeleton = [(p[0], p[1]) for p in pairs if isinstance(p, list) and len(p) == 2
                and all(type(k) is int and 0 <= k < shape[0] for k in p)] if isinstance(pairs, list) else []
    return tuple(printable(name) for name in names), shape[1], tuple(skeleton)
