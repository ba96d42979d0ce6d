"""Write a data set in another format, into a new folder. The data that are read do not change.

  visus data convert coco/ --to yolo --out coco-yolo        images copied, annotations rewritten
  visus data convert VOCdevkit/ --to coco --out voc-coco --images link

Formats to write: coco, yolo, voc (objects in images), folder (one class per image), shards (tar files for streaming).
What a format cannot hold is counted and said."""

from __future__ import annotations

import argparse

FORMATS = ("coco", "yolo", "voc", "folder", "shards")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="a folder, file or built-in name, as for `visus train`")
    parser.add_argument("--to", required=True, metavar="FORMAT", help=", ".join(FORMATS))
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write, which must not exist")
    parser.add_argument("--format", default="auto", metavar="NAME", help="of the data at PATH (default: recognised)")
    parser.add_argument("--images", choices=("copy", "link"), default="copy",
                        help="link: hard links, which take no room, where the disk has them")
    parser.add_argument("--json", action="store_true", help="print the facts as JSON")


def run(arguments: argparse.Namespace) -> int:
    import json
    from collections.abc import Callable
    from contextlib import ExitStack
    from dataclasses import asdict

    from visus.core.errors import printable
    from visus.core.files import finite
    from visus.run.convert_data import convert
    from visus.run.display import Display

    display = Display(show=not arguments.json)
    written = 0
    with display.reading() as reading, ExitStack() as stack:
        advance: Callable[[int], None] | None = None

        def progress(done: int, total: int) -> None:
            nonlocal advance, written
            if advance is None:
                advance = stack.enter_context(display.steps("convert", total))
            advance(done - written)
            written = done

        result = convert(arguments.path, arguments.out, arguments.to, arguments.format, arguments.images, progress,
                         reading)
    if arguments.json:
        print(json.dumps(finite(asdict(result)), indent=2))
        return 0
    facts = result.facts
    display.say("data", facts["recognised"])
    for note in result.notes:
        display.say("note", note)
    splits = ", ".join(f"{name} {count:,}" for name, count in facts["splits"].items() if name != "none")
    display.say("written", f"{printable(str(arguments.out))}: {facts['to']}, {facts['images']:,} images"
                + (f" ({splits})" if splits else ""))
    for loss in result.losses:
        display.say("not held", loss)
    return 0
