"""What does a frozen network know of your images: a linear probe and a nearest-neighbour probe on its features.

  visus probe photos/ --model resnet50 --weights torchvision     public weights on your images
  visus probe photos/ --model resnet50 --weights resnet50.pth --origin torchvision
  visus probe runs/photos-1                                       a run's own features, images and splits
  visus probe photos/ --model runs/other-1                        what one training learnt, on other images
  visus probe photos/ --model resnet50 --weights none             a network that has learnt nothing, for comparison

Each image goes through the network once; nothing in it is trained. Linear: multinomial logistic regression, its L2
strength chosen on val. Neighbours: votes weighted by cosine similarity, their number and temperature chosen on val.
Both are measured once on test. A good linear probe says that freezing the network and training a new classifier is
enough; a poor one that the network must be fine-tuned, or is not for these images."""

from __future__ import annotations

import argparse
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="images, as visus train takes them, or a run folder")
    parser.add_argument("--model", metavar="NAME|RUN", help="a registered model: see `visus models`; or a run folder")
    parser.add_argument("--weights", metavar="ORIGIN|FILE", help="of a registered model: public ones, such as "
                        "torchvision, a file, or none")
    parser.add_argument("--origin", default="visus", metavar="NAME", help="whose parameter names the file has: visus "
                        "(default), torchvision, timm, ...")
    parser.add_argument("--image-size", type=int, metavar="PX", help="side of the images; default: of the weights")
    parser.add_argument("--images", type=int, metavar="N", help="at most so many of each split, spread over it")
    parser.add_argument("--format", default="auto", metavar="NAME", help="such as folder, table, coco; default: "
                        "recognised")
    parser.add_argument("--split", metavar="FILE", help="a split to use: a CSV of path,split, or a run folder")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="images at a time (default 64)")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--out", metavar="FILE", help="the page (default: probes/N.html)")
    parser.add_argument("--json", action="store_true", help="print everything that was measured as JSON; no page "
                        "without --out")


def run(arguments: argparse.Namespace) -> int:
    import json
    import sys

    from rich.console import Console

    from visus.core.errors import printable
    from visus.core.files import finite
    from visus.run.probe import free_page, probe

    out = arguments.out if arguments.out or arguments.json else free_page()
    found = probe(arguments.path, arguments.model, weights=arguments.weights, origin=arguments.origin,
                  image_size=arguments.image_size, images=arguments.images, format=arguments.format,
                  split=arguments.split, batch_size=arguments.batch_size, device=arguments.device, out=out,
                  progress=not arguments.json, command=["visus", *sys.argv[1:]])
    if arguments.json:
        print(json.dumps(finite(found.record), indent=2))
        return 0
    console = Console(highlight=False)
    console.print(_table(found.record))
    for note in found.record["notes"]:
        console.print(printable(note), markup=False, soft_wrap=True)
    console.print(f"\nreport   {found.files[0]}", markup=False, soft_wrap=True)
    return 0


def _table(record: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table(title=f"{record['model']}, {record['dim']:,} features, {record['counts']['test']:,} test images",
                  title_justify="left", box=None, pad_edge=False, title_style="bold")
    for number, column in enumerate(("probe", "setting", "val", "test accuracy", "95 % interval", "NLL")):
        table.add_column(column, justify="left" if number < 2 else "right")
    for row in record["rows"]:
        accuracy, nll = row["metrics"]["accuracy"], row["metrics"]["nll"]["value"]
        table.add_row(row["name"], row["setting"], f"{row['val_accuracy']:.4f}", f"{accuracy['value']:.4f}",
                      "" if accuracy["low"] is None else f"{accuracy['low']:.4f} to {accuracy['high']:.4f}",
                      f"{nll:.4f}")
    return table
