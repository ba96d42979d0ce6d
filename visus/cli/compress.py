"""Make the net of a run smaller, let it learn on, and see what that gave and cost.

  visus compress runs/photos-1 --method magnitude --amount 0.5 0.8 0.9    the smallest weights become zero
  visus compress runs/photos-1 --method channels --amount 0.3             whole channels go: faster in any runtime
  visus compress runs/photos-1 --method low-rank --layers full channel    a layer becomes two narrow ones (SVD)
  visus compress runs/photos-1 --method qat                               trained to compute in int8
  visus compress runs/photos-1 --method distil --student resnet20         a smaller net that learns from this one
  visus compress runs/photos-1 --method deep --amount 0.8                 pruned, weights shared, Huffman's code

The result is a run like any other, for predict, evaluate, explain, export and report; the run that it came from stays
as it is. The table compares accuracy on the test split, parameters, multiplications, bytes on disk and the time of one
image on this machine's CPU. With several amounts there is a run for each, in OUT/amount-A; compress.json and
compress.svg lie in OUT. Zeros make a file smaller (deep) and no dense kernel faster; fewer channels and lower ranks
make both."""

from __future__ import annotations

import argparse
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="run folder, such as runs/digits-1")
    parser.add_argument("--method", required=True, metavar="NAME", help="magnitude, channels, low-rank, qat, distil or "
                        "deep")
    parser.add_argument("--amount", type=float, nargs="+", metavar="SHARE", help="share of the weights, channels or "
                        "multiplications of the layers to remove (default: 0.5); several: a run for each")
    parser.add_argument("--epochs", type=int, metavar="N", help="epochs of learning on, at a tenth of the learning "
                        "rate (default: a quarter of the run's; 0: none)")
    parser.add_argument("--out", metavar="DIR", help="folder to create (default: RUN-METHOD)")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", dest="assignments",
                        help="any field of the recipe for learning on: --set optimizer.lr=0.01")
    parser.add_argument("--criterion", default="l1", metavar="NAME", help="channels: what one is worth: l1 (default: "
                        "sum of its filter), bn (scale of its batch norm) or taylor (effect on the loss)")
    parser.add_argument("--scope", metavar="NAME", help="layer: the share of each layer; global: of all together "
                        "(default: global for weights, layer for channels)")
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="magnitude, deep: rounds of pruning and "
                        "learning (default: 1)")
    parser.add_argument("--energy", type=float, metavar="SHARE", help="low-rank: the least rank that keeps this share "
                        "of the squared singular values, in place of --amount")
    parser.add_argument("--layers", nargs="+", default=["full"], metavar="KIND", help="low-rank: full (default), and "
                        "convolutions by channel or spatial")
    parser.add_argument("--bits", type=int, metavar="N", help="qat: of the weights, 2 to 8 (default: 7, which does not "
                        "saturate on any processor)")
    parser.add_argument("--student", metavar="NAME", help="distil: a registered model, such as resnet20")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--json", action="store_true", help="print compress.json in place of the table")


def run(arguments: argparse.Namespace) -> int:
    import json
    import sys

    from rich.console import Console

    from visus.core.files import finite
    from visus.run.compress import Options, compress
    from visus.run.recipe import parse_assignments

    bits = {} if arguments.bits is None else {"weight_bits": arguments.bits}
    options = Options(criterion=arguments.criterion, scope=arguments.scope, rounds=arguments.rounds,
                      energy=arguments.energy, layers=tuple(arguments.layers), student=arguments.student, **bits)
    made = compress(arguments.run, arguments.method, amount=arguments.amount, epochs=arguments.epochs,
                    out=arguments.out, values=parse_assignments(arguments.assignments), options=options,
                    device=arguments.device, progress=not arguments.json, command=["visus", *sys.argv[1:]])
    if arguments.json:
        print(json.dumps(finite(made.record), indent=2))
        return 0
    console = Console(highlight=False)
    console.print()
    for table in _tables(made.record):
        console.print(table)
    for one in made.runs:
        console.print(f"run      {one.path}", markup=False, soft_wrap=True)
    console.print(f"table    {made.out / 'compress.json'}", markup=False, soft_wrap=True)
    return 0


def _tables(record: dict[str, Any]) -> list[Any]:
    rows = record["rows"]
    first = rows[0]
    table = _table(f"{record['model']}, one image of {'x'.join(map(str, record['images_shape'][1:]))}", "",
                   first["headline"], "parameters", "not zero", "MMACs", "kB on disk", "CPU ms")
    for row in rows:
        table.add_row(row["name"], f"{row['value']:.4f}", f"{row['parameters']:,}", f"{row['nonzero']:,}",
                      f"{row['macs'] / 1e6:,.3f}", f"{row['bytes'] / 1000:,.1f}",
                      "-" if row["latency_ms"] is None else f"{row['latency_ms']:.3f}")
    tables = [table]
    for row in rows:
        deep = row.get("notes", {}).get("deep")
        if deep is None:
            continue
        steps = _table(f"{row['name']}: kB after each step", "layer", "float32", "pruned", "shared", "Huffman",
                       "times smaller")
        for name, stages in (*deep["layers"].items(), ("all tensors", deep["total"])):
            steps.add_row(name.removesuffix(".weight"), *(f"{stages[key] / 1000:,.2f}" for key in
                                                          ("plain", "pruned", "shared", "huffman")),
                          f"{stages['plain'] / max(1.0, stages['huffman']):.1f}")
        tables.append(steps)
    return tables


def _table(title: str, *columns: str) -> Any:
    from rich.table import Table

    table = Table(title=title, min_width=len(title), title_justify="left", box=None, pad_edge=False, title_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    return table
