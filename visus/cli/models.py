"""The registered models, or one of them layer by layer.

  visus models --search resnet              names, parameters, published accuracy
  visus models show resnet50                output shapes, parameters, MACs, memory, receptive field of every layer
  visus models show alexnet --table         the courses' table of weights and MACs, each printed figure judged
  visus models chart --out models.svg       published accuracy by operations, area by parameters
  visus models chart --by kind              the same of ConvNets, transformers, hybrids and MLPs, fairly marked"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", nargs="?", choices=("list", "show", "chart"), default="list", help="default: list")
    parser.add_argument("name", nargs="?", metavar="NAME", help="show: the model's registered name")
    parser.add_argument("--task", metavar="NAME", help="only models for this task, such as classification")
    parser.add_argument("--family", metavar="NAME", help="only this family, such as resnet")
    parser.add_argument("--search", metavar="TEXT", help="only names, families or papers that contain this")
    parser.add_argument("--image-size", type=int, metavar="PX", help="show: side of the input image")
    parser.add_argument("--table", action="store_true", help="show: weights, MACs and memory of the layers that have "
                        "them, beside the figures of published tables")
    parser.add_argument("--out", metavar="FILE", default="models.svg", help="chart: SVG to write; default: models.svg")
    parser.add_argument("--by", choices=("family", "kind"), default="family", help="chart: hues by families, or kinds "
                        "of nets compared; default: family")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    from visus.core.errors import UserError

    if arguments.action == "show":
        if arguments.name is None:
            raise UserError("which model?", where="visus models show", remedy="For example: visus models show resnet18")
        return _layer_tables(arguments) if arguments.table else _show(arguments)
    if arguments.name is not None:
        raise UserError("takes no name", where=f"visus models {arguments.action} {arguments.name}",
                        remedy=f"Did you mean: visus models --search {arguments.name}?")
    return _chart(arguments) if arguments.action == "chart" else _list(arguments)


def _list(arguments: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from visus.run.fitted_models import list_fitted
    from visus.run.models import list_models

    rows = list_models(task=arguments.task, family=arguments.family, search=arguments.search)
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return 0
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("model", "parameters", "MACs", "at", "top-1", "weights", "paper"):
        table.add_column(name, justify="right" if name in ("parameters", "MACs", "at", "top-1") else "left",
                         no_wrap=name not in ("weights", "paper"))
    for row in rows:
        table.add_row(row.name, f"{row.params:,}", amount(row.macs), f"{row.image_size[0]} px",
                      "" if row.top1 is None else f"{row.top1:.2f}", ", ".join(row.weights), short_paper(row.paper))
    console = Console(highlight=False)
    console.print(table)
    console.print(f"\n{len(rows)} models. top-1: published, in percent. One of them: visus models show NAME")
    fitted = list_fitted(arguments.search) if arguments.family is None else []
    if fitted:
        console.print("Fitted to your images, without gradients: " + ", ".join(fitted))
    return 0


def _chart(arguments: argparse.Namespace) -> int:
    from visus.run.models import chart_models

    path, count = chart_models(arguments.out, task=arguments.task, family=arguments.family, search=arguments.search,
                               by=arguments.by)
    print(f"{count} models on {path}")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from visus.run.models import describe_model
    from visus.run.registered import is_fitted

    if is_fitted(arguments.name):
        return _show_fitted(arguments)
    summary = describe_model(arguments.name, image_size=arguments.image_size)
    if arguments.json:
        print(json.dumps(asdict(summary), indent=2))
        return 0
    table = Table(box=None, pad_edge=False, header_style="bold", show_footer=True)
    heads = {"layer": "total", "type": "", "output": "", "parameters": f"{summary.params:,}",
             "MACs": amount(summary.macs), "memory": memory(summary.activation_bytes), "sees": ""}
    for name, total in heads.items():
        table.add_column(name, footer=total, justify="left" if name in ("layer", "type", "output") else "right")
    for row in summary.rows:
        table.add_row(row.name or "(itself)", row.type, " x ".join(map(str, row.output_shape[1:])),
                      f"{row.params:,}" if row.params else "", amount(row.macs) if row.macs else "",
                      memory(row.activation_bytes),
                      "all" if row.receptive_field is None else f"{row.receptive_field} px")
    console = Console(highlight=False)
    console.print(f"{arguments.name}, one image of {' x '.join(map(str, summary.input_shape[1:]))}\n")
    console.print(table)
    console.print("\nMACs: multiply-accumulates of convolutions, matrix products and attention. memory: activations "
                  "in float32. sees: side of the receptive field.")
    return 0


def _show_fitted(arguments: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict

    from visus.run.fitted_models import describe_fitted

    summary = describe_fitted(arguments.name)
    if arguments.json:
        print(json.dumps(asdict(summary), indent=2))
        return 0
    print(f"{summary.name} ({summary.family}), fitted to all images at once: visus train PATH --model {summary.name}\n")
    print(f"{summary.words}\n")
    for name, default in summary.options.items():
        print(f"--set model.config.{name}={'' if default is None else default}")
    if summary.options:
        print(f"\n{summary.meanings}")
    return 0


def _layer_tables(arguments: argparse.Namespace) -> int:
    import json

    from rich.console import Console
    from rich.table import Table

    from visus.run.layer_table import COLUMNS, layer_tables

    tables = layer_tables(arguments.name, image_size=arguments.image_size)
    if arguments.json:
        print(json.dumps([{
            "model": t.model, "input_shape": t.input_shape, "source": t.source, "notes": t.notes,
            "rows": [{"layer": line.layer, "type": line.kind, "output": line.output, "printed": line.printed,
                      "ours": {f"{column} {config}".strip(): n for (config, column), n in line.ours.items()},
                      "verdict": line.verdict} for line in (*t.lines, t.total)]} for t in tables], indent=2))
        return 0
    console = Console(highlight=False)
    wide = console.width >= 130
    number = (lambda n: f"{n:,}") if wide else (lambda n: amount(n).replace(" ", ""))
    for t in tables:
        console.print(f"{t.model}, one image of {' x '.join(map(str, t.input_shape[1:]))}"
                      + (f"; printed: {t.source}" if t.source else "") + "\n")
        table = Table(box=None, pad_edge=False, header_style="bold", show_footer=True)
        table.add_column("layer", footer="total", no_wrap=True)
        if wide:
            table.add_column("type")
        table.add_column("output", no_wrap=True)
        for config in t.configs:
            for column in t.columns:
                table.add_column(f"{COLUMNS[column]}\n{config}".strip(), number(t.total.ours[config, column]),
                                 justify="right", no_wrap=True)
        if t.source:
            for column in t.columns:
                table.add_column(f"{COLUMNS[column]}\nprinted", t.total.printed.get(column, ""), justify="right",
                                 no_wrap=True)
        for line in t.lines:
            cells = [line.layer, *([line.kind] if wide else []), "x".join(map(str, line.output))]
            cells += [number(line.ours[config, column]) for config in t.configs for column in t.columns]
            if t.source:
                cells += [line.printed.get(column, "") for column in t.columns]
            table.add_row(*cells, style="bold yellow" if ":" in line.verdict else None)
        console.print(table)
        judged = [line for line in (*t.lines, t.total) if line.verdict]
        if judged:
            console.print(f"\n{sum(line.verdict == 'agrees' for line in judged)} of {len(judged)} printed rows agree.")
        for line in judged:
            if line.verdict != "agrees":
                console.print(f"{line.layer}: {line.verdict}", style="bold yellow")
        console.print("".join(f"\n{note}" for note in t.notes) + "\nweights: parameters without biases. MACs: "
                      "multiply-accumulates. values: numbers put out for one image, 4 bytes each in float32.\n")
    return 0


def short_paper(paper: str) -> str:
    """'He, Zhang: Title, CVPR 2016, ...' -> 'He 2016'."""
    import re

    author = re.split(r"[,:]| et al", paper)[0]
    year = re.search(r"\b(19|20)\d\d\b", paper)
    return f"{author} {year[0]}" if year else author


def amount(count: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return str(count)


def memory(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"
