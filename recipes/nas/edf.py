"""Compare two design spaces by the error distribution of small samples of each, all of about one cost.

    python recipes/nas/edf.py --spaces anynetx_a anynetx_e --count 16 --data digits
    python recipes/nas/edf.py --show

The spaces are the paper's with stages of at most --max-depth blocks and --max-width channels, for small images. Every
training is kept in --log. The errors go to results.json, the distributions to edf.svg, in --out.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from proxy_data import SIZES, bar, draw, load, table, write_section

from visus.core.errors import UserError
from visus.report.charts import Series
from visus.search.design_space import (
    SPACES,
    AnyNetSpace,
    Stages,
    best_range,
    compare_spaces,
    count_macs,
    distance,
    edf,
    edf_band,
    fit_line,
)
from visus.search.proxy import Protocol, build, train_and_score
from visus.search.trials import TrialLog

HERE = Path(__file__).parent
SHAPE: dict[str, Any] = {"stem_stride": 1, "strides": (1, 2, 2, 1)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spaces", nargs=2, choices=[name for name in SPACES if name != "regnet"],
                        default=["anynetx_a", "anynetx_e"])
    parser.add_argument("--count", type=int, default=16, help="networks of each space")
    parser.add_argument("--data", default="digits", help="a built-in name or a path")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--max-depth", type=int, default=4)
    parser.add_argument("--max-width", type=int, default=64)
    parser.add_argument("--macs", nargs=2, type=float, default=(1.0e6, 1.4e6), metavar=("LOW", "HIGH"))
    parser.add_argument("--log", type=Path, default=Path("runs/nas/edf.jsonl"))
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--show", action="store_true", help="print the table of --out and stop")
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        if not options.show:
            compare(options)
        print(shown(json.loads((options.out / "results.json").read_text())["edf"]))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def compare(options: argparse.Namespace) -> None:
    data, _, _ = load(options.data)
    protocol = Protocol(epochs=options.epochs)
    channels, side = data.train_images.shape[1:3]
    spaces = []
    for name in options.spaces:
        space = SPACES[name]
        assert isinstance(space, AnyNetSpace)
        spaces.append(replace(space, max_depth=options.max_depth, max_width=options.max_width))

    def cost(stages: Stages) -> int:
        return count_macs(stages, side, channels, data.num_classes, **SHAPE)

    def error(config: Any, seed: int) -> float:
        model = build("anynet", seed, **config, **SHAPE, in_channels=channels, num_classes=data.num_classes)
        return round(1 - train_and_score(model, data, protocol), 6)

    with bar(" and ".join(options.spaces), 2 * options.count) as advance:
        done = 0

        def progress(name: str, number: int, found: float) -> None:
            nonlocal done
            done += 1
            advance(done, f"{name} {found:.3f}")

        results = compare_spaces(spaces, error, options.count, options.seed, cost=cost, low=options.macs[0],
                                 high=options.macs[1], log=TrialLog(options.log), progress=progress,
                                 protocol={"data": options.data, **asdict(protocol), **SHAPE})
    at = sorted({0.0, *(e for r in results for e in r.errors)})
    at.append(at[-1] * 1.02)
    section = {"command": f"python recipes/nas/edf.py --spaces {' '.join(options.spaces)} --count {options.count}",
               "data": options.data, "images": {k: v for k, v in SIZES.items() if k != "test"}, "seed": options.seed,
               "protocol": asdict(protocol), "macs": list(options.macs), "max_depth": options.max_depth,
               "max_width": options.max_width, "distance": round(distance(results[0].errors, results[1].errors), 4),
               "spaces": {}}
    for result in results:
        low, high = edf_band(result.errors, at, options.seed)
        section["spaces"][result.space] = {
            "errors": list(result.errors), "stages": [asdict(stages) for stages in result.stages],
            "at": at, "edf": edf(result.errors, at).tolist(), "low": low.tolist(), "high": high.tolist(),
            "best_depth": best_range([sum(s.depths) for s in result.stages], result.errors, options.seed),
            "line_error": [round(fit_line(stages).error, 4) for stages in result.stages]}
    write_section(options.out / "results.json", "edf", section)
    draw(options.out / "edf.svg", "Share of networks with a smaller error", [
        Series(name, steps(found["at"], found["edf"]), kind)
        for (name, found), kind in zip(section["spaces"].items(), ("train", "val"), strict=True)],
        "validation error of a network")


def steps(at: list[float], shares: list[float]) -> list[tuple[float, float]]:
    """F is level from each error to the next and jumps just behind it."""
    points = [(at[0], shares[0])]
    for i in range(1, len(at)):
        points += [(at[i - 1], shares[i]), (at[i], shares[i])]
    return points


def shown(section: dict[str, Any]) -> str:
    rows = [("space", "networks", "mean error", "median", "least", "blocks of the best (95%)", "mean e_fit")]
    for name, found in section["spaces"].items():
        errors = found["errors"]
        low, middle, high = found["best_depth"]
        rows.append((name, str(len(errors)), f"{np.mean(errors):.4f}", f"{np.median(errors):.4f}",
                     f"{min(errors):.4f}", f"{middle:.0f} ({low:.0f} to {high:.0f})",
                     f"{np.mean(found['line_error']):.3f}"))
    return (f"{table(rows)}\n{section['data']}: networks of {section['macs'][0]:.3g} to {section['macs'][1]:.3g} "
            f"multiply-accumulates; largest distance of the two distributions {section['distance']:.2f}")


if __name__ == "__main__":
    sys.exit(main())
