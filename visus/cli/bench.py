"""How fast a model is here: latency, throughput and memory, by batch size and threads, beside the machine's peak.

  visus bench runs/photos-1                           what visus optimize chose, else onnxruntime, else torch
  visus bench bundle/ --backend eager onnxruntime     several ways side by side
  visus bench bundle/ --batch 1 8 --threads 1 2       every combination
  visus bench resnet50 --image-size 224               a registered model, with random weights
  visus bench bundle/ --images photos/                the share of decoding and resizing your own photos

Every setting is measured in a fresh process. p50, p90 and p99 are of the wall time of a call with so many images; MiB
is how far the process grew with the model in it. The peak is the best float32 matrix product with as many threads,
measured in the same run; two operations are counted for each multiply-add of the model's convolutions and matrix
products."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="RUN|BUNDLE|NAME", help="run folder, bundle, or a registered model's name")
    parser.add_argument("--batch", type=int, nargs="+", default=[1], metavar="N", help="images at once (default: 1)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], metavar="N", help="default: 1")
    parser.add_argument("--backend", nargs="+", default=["auto"], metavar="NAME",
                        help="auto (default), eager, onnxruntime, openvino, torch-folded, ...")
    parser.add_argument("--image-size", type=int, metavar="PX", help="side of the images, of a registered name")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="for each setting (default: 5)")
    parser.add_argument("--images", metavar="PATH", help="photos whose decoding and resizing is timed")
    parser.add_argument("--json", action="store_true", help="print everything that was measured as JSON")


def run(arguments: argparse.Namespace) -> int:
    import json

    from rich.console import Console

    from visus.core.files import finite
    from visus.run.bench import bench, bench_notes, bench_table

    found = bench(arguments.model, batch=arguments.batch, threads=arguments.threads, backend=arguments.backend,
                  image_size=arguments.image_size, seconds=arguments.seconds, images=arguments.images,
                  progress=not arguments.json)
    if arguments.json:
        print(json.dumps(finite(found.to_dict()), indent=2))
    else:
        console = Console(highlight=False)
        console.width = console.width if console.is_terminal else 120
        if any(row.measured is not None for row in found.rows):
            console.print(bench_table(found))
        for line in bench_notes(found):
            console.print(line, markup=False, soft_wrap=True)
    return 0 if any(row.measured is not None for row in found.rows) else 2
