"""Boxes, regions or edges of images, by methods that learn nothing: a page to look at, files for other programs.

  visus regions photo.jpg                                       proposals: boxes that may hold an object
  visus regions photos/*.jpg --set mode=quality --boxes boxes.csv
  visus regions photo.jpg --method felzenszwalb --set scale=400
  visus regions photo.jpg --method ncut --set limit=0.05
  visus regions photo.jpg --method canny --set sigma=2 --maps edges/

Methods: selective-search (Uijlings et al. 2013), felzenszwalb (Felzenszwalb, Huttenlocher 2004), ncut (Shi, Malik 2000,
over small regions), canny (1986), sobel (or scharr, prewitt). `--method list` shows their options and defaults.

Proposals are sorted by how early they are worth looking at: --set limit=500 takes the best 500. A box is x1, y1, x2, y2
in pixels of the image, the last two outside of it. A map is a PNG of the image's size: of regions their numbers in 16
bits, of edges 0 to 255. Images above 1000 px are searched at that length of the longer side (--max-side), and what is
found is scaled back."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="files, folders or globs")
    parser.add_argument("--method", default="selective-search", metavar="NAME", help="default: selective-search; list: "
                        "all of them with their options")
    parser.add_argument("--set", action="append", default=[], metavar="A=B", dest="assignments",
                        help="any option of the method: --set scale=300")
    parser.add_argument("--max-side", type=int, default=1000, metavar="PX", help="larger images are searched at this "
                        "length of the longer side (default 1000, at most 2000)")
    parser.add_argument("--boxes", metavar="FILE", help="write the boxes of all images: .csv or .json")
    parser.add_argument("--maps", metavar="DIR", help="write label maps or edges, a PNG for each image")
    parser.add_argument("--out", metavar="FILE.html", help="the page (default: regions/METHOD-N.html; - for none)")
    parser.add_argument("--json", action="store_true", help="print what was found, with its boxes, as JSON; no page "
                        "without --out")


def run(arguments: argparse.Namespace) -> int:
    import json
    import sys
    from pathlib import Path

    from visus.run.recipe import parse_assignments
    from visus.run.regions import regions

    if arguments.method == "list":
        return _list()
    out = None if arguments.out == "-" or (arguments.json and not arguments.out) else \
        Path(arguments.out) if arguments.out else _free_page(arguments.method)
    found = regions(arguments.images, arguments.method, max_side_px=arguments.max_side, out=out, boxes=arguments.boxes,
                    maps=arguments.maps, keep=False, progress=not arguments.json, command=["visus", *sys.argv[1:]],
                    **parse_assignments(arguments.assignments))
    if arguments.json:
        print(json.dumps([{"image": one.source, "height": one.height, "width": one.width,
                           "seconds": round(one.seconds, 3), "found": one.summary,
                           "boxes": None if one.boxes is None else one.boxes.tolist()} for one in found]))
        return 0
    for one in found[:20]:
        print(f"{one.source}  {one.width} x {one.height} px  {one.summary}  {one.seconds:.1f} s")
    if len(found) > 20:
        print(f"and {len(found) - 20} further images")
    for what, where in (("boxes", arguments.boxes), ("maps", arguments.maps), ("page", out)):
        if where is not None:
            print(f"{what:<8} {where}")
    return 0


def _list() -> int:
    from dataclasses import fields

    from visus.run.region_methods import METHODS

    for name, method in METHODS.items():
        options = ", ".join(f"{field.name}={field.default}" for field in fields(method))
        print(f"{name:<18} {method.summary}\n{'':<18} {options}")
    return 0


def _free_page(method: str) -> Path:
    """regions/METHOD-N.html with the first N that is free."""
    from itertools import count
    from pathlib import Path

    return next(page for number in count(1) if not (page := Path("regions") / f"{method}-{number}.html").exists())
