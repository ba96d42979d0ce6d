"""The table that courses print of a network: output, weights, multiply-accumulates and memory of each layer, beside
the figures of a published table where the model's file states one, each figure judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from visus.core.summary import LayerRow, ModelSummary
from visus.models import registry
from visus.run.models import create_model, describe_model

COLUMNS = {"weights": "weights", "macs": "MACs", "values": "values"}
_UNITS = {"K": 10**3, "M": 10**6, "G": 10**9}
_SHOWN = ("Conv", "Linear", "Pool")


@dataclass(frozen=True, slots=True)
class TableLine:
    """layer: module path; kind: class name; output: without the batch; ours: (config, column) -> number; printed:
    column -> text; verdict: '' where nothing is printed, else 'agrees' or what does not."""

    layer: str
    kind: str
    output: tuple[int, ...]
    ours: Mapping[tuple[str, str], int]
    printed: Mapping[str, str]
    verdict: str


@dataclass(frozen=True, slots=True)
class LayerTable:
    """source: of the printed figures, None where there are none. configs: names of the builds compared."""

    model: str
    input_shape: tuple[int, ...]
    source: str | None
    configs: tuple[str, ...]
    columns: tuple[str, ...]
    lines: tuple[TableLine, ...]
    total: TableLine
    notes: tuple[str, ...] = ()


def layer_tables(name: str, image_size: int | None = None) -> list[LayerTable]:
    """The model's own table, at its own or the given image size, and the published tables of its family.

    weights: parameters without biases; values: numbers that a layer puts out for one image, the memory of its
    activations. Raises UserError for an unknown name.
    """
    entry = registry.get(name)
    published: Mapping[str, Any] = entry.about.get("layer_tables", {})
    tables = []
    if name not in published or image_size is not None:
        tables.append(_own(name, image_size))
    return tables + [_compared(model, about) for model, about in published.items()
                     if image_size is None or model != name]


def _summary(name: str, image_size: int | None, config: Mapping[str, Any]) -> ModelSummary:
    from visus.core.meta import on_meta

    with on_meta():
        model = create_model(name, image_size=image_size, **config)
    return describe_model(model, image_size or registry.get(name).about["preprocessing"]["size"][0])


def _shown(row: LayerRow) -> bool:
    return row.weights > 0 or row.macs > 0 or any(kind in row.type for kind in _SHOWN)


def _figures(row: LayerRow) -> dict[str, int]:
    return {"weights": row.weights, "macs": row.macs, "values": row.activation_bytes // 4}


def _own(name: str, image_size: int | None) -> LayerTable:
    summary = _summary(name, image_size, {})
    columns = tuple(COLUMNS)
    lines = [TableLine(row.name, row.type, row.output_shape[1:],
                       {("", column): _figures(row)[column] for column in columns}, {}, "")
             for row in summary.rows if _shown(row)]
    total = TableLine("total", "", (), {("", c): sum(line.ours["", c] for line in lines) for c in columns}, {}, "")
    return LayerTable(name, summary.input_shape, None, ("",), columns, tuple(lines), total)


def _compared(name: str, about: Mapping[str, Any]) -> LayerTable:
    """A printed row agrees when one of the configs has all of its figures."""
    columns = tuple(about["columns"])
    summaries = {config: _summary(name, about["image_size"], fields) for config, fields in about["configs"].items()}
    rows = {config: {row.name: row for row in summary.rows} for config, summary in summaries.items()}
    first = next(iter(summaries.values()))
    lines = []
    for layer, texts in about["rows"].items():
        row = next(iter(rows.values()))[layer]
        ours = {(config, column): _figures(by_name[layer])[column]
                for config, by_name in rows.items() for column in columns}
        printed = {column: text for column, text in zip(columns, texts, strict=True) if text}
        lines.append(TableLine(layer, row.type, row.output_shape[1:], ours, printed,
                               _verdict(ours, printed, summaries)))
    totals = {(config, column): sum(line.ours[config, column] for line in lines)
              for config in summaries for column in columns}
    sums = {column: sum(_number(line.printed[column]) for line in lines if column in line.printed)
            for column in columns}
    printed = {column: text for column, text in zip(columns, about.get("total", ()), strict=False) if text}
    total = TableLine("total", "", (), totals, printed, _verdict(totals, printed, summaries))
    note = "The printed rows sum to " + ", ".join(f"{sums[column] / 1e6:,.2f}M {COLUMNS[column]}" for column in columns)
    if printed:
        note += "; the printed totals are " + ", ".join(f"{text} {COLUMNS[column]}" for column, text in printed.items())
    return LayerTable(name, first.input_shape, about["source"], tuple(summaries), columns, tuple(lines), total,
                      (note + ".", *about.get("notes", ())))


def _verdict(ours: Mapping[tuple[str, str], int], printed: Mapping[str, str], configs: Mapping[str, Any]) -> str:
    if not printed:
        return ""
    fits = {column: [config for config in configs if agrees_with(ours[config, column], text)]
            for column, text in printed.items()}
    if any(all(config in found for found in fits.values()) for config in configs):
        return "agrees"
    if all(fits.values()):
        return "INCONSISTENT: " + ", ".join(f"{COLUMNS[column]} of {found[0]}" for column, found in fits.items())
    return "DIFFERS: " + ", ".join(COLUMNS[column] for column, found in fits.items() if not found)


def agrees_with(ours: int, printed: str) -> bool:
    """Whether a count rounds or is cut to a printed figure such as '1.3M' or '800K': less than one unit of its last
    digit off, zeros at its end not taken as digits."""
    whole, _, decimals = printed.rstrip("KMG").partition(".")
    step = 10.0 ** -len(decimals) if decimals else 10 ** (len(whole) - len(whole.rstrip("0")))
    return abs(ours - _number(printed)) < _UNITS.get(printed[-1], 1) * step


def _number(printed: str) -> float:
    return float(printed.rstrip("KMG").replace(",", "")) * _UNITS.get(printed[-1], 1)
