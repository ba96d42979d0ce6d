"""What the files of one sample of a shard say: which is the image, which class, which caption."""

from __future__ import annotations

import json

from visus.core.images import EXTENSIONS
from visus.data.formats.shards.tar_members import Part

LABELS = ("cls", "label", "class", "cls.txt", "json")
CAPTIONS = ("txt", "caption")
Label = int | str | tuple[int | str, ...] | None
_KEYS = ("label", "cls", "class", "labels")  # in .json
_MAX_LABELS = 10_000                         # of one image


def is_label(extension: str) -> bool:
    return extension in LABELS or extension in CAPTIONS


def is_image(extension: str) -> bool:
    return "." + extension.rpartition(".")[2] in EXTENSIONS


def chosen_image(parts: list[Part]) -> Part | None:
    """The image of a sample: a plain extension (`jpg`) before a longer one (`seg.png`). ValueError for two."""
    images = [part for part in parts if is_image(part[0])]
    plain = [part for part in images if "." not in part[0]] or images
    if len(plain) > 1:
        raise ValueError(f"has {len(plain)} images: {', '.join(part[0] for part in plain[:5])}")
    return plain[0] if plain else None


def stated_label(parts: list[Part]) -> tuple[Label, str]:
    """(label as a number or a name, several of them for `labels` in .json, None where there is none; caption or '').
    ValueError says what is wrong."""
    by_kind = {extension: content for extension, _, content in parts if content is not None}
    caption = next((by_kind[kind] for kind in CAPTIONS if kind in by_kind), b"")
    label: Label = None
    for kind in LABELS:
        if kind in by_kind and label is None:
            label = _json_label(by_kind[kind]) if kind == "json" else _text_label(by_kind[kind], kind)
    return label, caption.decode("utf-8", "replace").strip()


def _text_label(content: bytes, kind: str) -> int | str:
    text = content.decode("utf-8", "replace").strip()
    if not text:
        raise ValueError(f".{kind} is empty")
    if len(text) > 1000:
        raise ValueError(f".{kind} has {len(text):,} characters, which is no label")
    return int(text) if len(text) < 10 and text.isascii() and text.isdigit() else text


def _json_label(content: bytes) -> Label:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f".json is not JSON ({type(error).__name__})") from error
    if not isinstance(value, dict):
        raise ValueError(f".json holds {type(value).__name__}, not an object")
    key = next((k for k in _KEYS if k in value), None)
    label = None if key is None else value[key]
    if key == "labels" and isinstance(label, list) and len(label) <= _MAX_LABELS and all(map(_is_label, label)):
        return tuple(label)
    if label is not None and not _is_label(label):
        raise ValueError(f"{key!r} in .json is {str(label)[:40]!r}, which is no label")
    return label


def _is_label(value: object) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool) and value != ""
