"""Search for cells of a small network by chance, by a controller or with shared weights, and say which did best.

    python recipes/nas/search.py --method all --data digits
    python recipes/nas/search.py --method controller --data FOLDER     any data that `visus train` takes
    python recipes/nas/search.py --show                                the table of the last results

Each method trains the same number of candidates for a few epochs and scores them on validation images (one-shot: a
quarter as many, and the shared network). What it finds is trained anew with several seeds, longer and on all but the
test images. 'none' is the first cell that chance drew: what the space gives without any search. Every training is kept
in --log, so that a search that was stopped goes on. The results go to results.json and search.svg in --out.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from proxy_data import SIZES, bar, draw, load, table, write_section

from visus.core.errors import UserError
from visus.report.charts import Series
from visus.search.cell_space import Cells, CellSpace
from visus.search.cells import Network, SearchResult, search_cells
from visus.search.one_shot import inherited_score, kendall
from visus.search.proxy import Protocol, ProxyData, accuracy, build, fit, train_and_score
from visus.search.trials import TrialLog

HERE = Path(__file__).parent
METHODS = ("random", "controller", "one-shot", "darts")
RANKED = 16  # candidates that the rank correlation is taken over
SHARE_TRAINED = 4  # one-shot trains one in so many of the budget on its own


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=(*METHODS, "all"), default="all")
    parser.add_argument("--data", default="digits", help="a built-in name or a path")
    parser.add_argument("--budget", type=int, default=48, help="candidates that a method may train")
    parser.add_argument("--seeds", type=int, default=2, help="searches of each method")
    parser.add_argument("--epochs", type=int, default=2, help="of a candidate")
    parser.add_argument("--shared-epochs", type=int, default=15, help="of the shared network")
    parser.add_argument("--final-epochs", type=int, default=8, help="of what a search found")
    parser.add_argument("--final-seeds", type=int, default=2)
    parser.add_argument("--nodes", type=int, default=2, help="of a cell")
    parser.add_argument("--log", type=Path, default=Path("runs/nas/cells.jsonl"))
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--show", action="store_true", help="print the table of --out and stop")
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        if not options.show:
            search(options)
        print(shown(json.loads((options.out / "results.json").read_text())["search"]))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def search(options: argparse.Namespace) -> None:
    data, test_images, test_labels = load(options.data)
    space, network = CellSpace(options.nodes), Network()
    protocol, shared = Protocol(epochs=options.epochs), Protocol(epochs=options.shared_epochs)
    log, about = TrialLog(options.log), {"data": options.data}
    asked = {"data": options.data, "images": SIZES, "space": asdict(space), "network": asdict(network),
             "protocol": asdict(protocol), "shared": asdict(shared), "budget": options.budget, "seeds": options.seeds,
             "final_epochs": options.final_epochs, "final_seeds": options.final_seeds}
    final = Final(data, test_images, test_labels, network, options, log, about)
    for method in METHODS if options.method == "all" else (options.method,):
        runs, found = [], []
        for seed in range(options.seeds):
            budget = {"one-shot": max(1, options.budget // SHARE_TRAINED), "darts": 1}.get(method, options.budget)
            with bar(f"{method}, seed {seed}", budget) as advance:
                found.append(search_cells(data, method=method, budget=budget, seed=seed, space=space, network=network,
                                          protocol=protocol, shared=shared, log=log, about=about,
                                          progress=lambda done, score, advance=advance: advance(done, f"{score:.3f}")))
            runs.append({"seed": seed, **described(found[-1]), "test": final.scores(found[-1].best)})
        methods, more = {method: runs}, {}
        if method == "random":
            first = [result.trials[0] for result in found]
            methods["none"] = [{"seed": seed, "trained": 0, "best_val": score, "seconds": 0.0, "cells": cells.config(),
                                "best_so_far": [score], "scores": [score], "test": final.scores(cells)}
                               for seed, (cells, score) in enumerate(first)]
        if method == "one-shot":
            more["rank"] = rank(found[0], data, space, network, protocol, log, about, options)
        section = known(options.out / "results.json", asked)  # read late: another process may run another method
        section = {**section, **more, "methods": {**section["methods"], **methods},
                   "command": f"python recipes/nas/search.py --method all --data {options.data}"}
        write_section(options.out / "results.json", "search", section)
    curves = []
    for kind, method in zip(("train", "val", "steps"), ("controller", "random", "one-shot"), strict=True):
        runs = [run["best_so_far"] for run in section["methods"].get(method, [])]
        if runs:
            length = min(map(len, runs))
            mean = np.mean([run[:length] for run in runs], 0)
            curves.append(Series(method, [(i + 1.0, float(v)) for i, v in enumerate(mean)], kind))
    if curves:
        draw(options.out / "search.svg", "Best validation accuracy by candidates trained", curves,
             "candidates trained on their own")


def known(path: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """What an earlier call with the same settings has written, or nothing yet."""
    section = json.loads(path.read_text()).get("search", {}) if path.exists() else {}
    same = all(section.get(key) == json.loads(json.dumps(value)) for key, value in asked.items())
    return section if same else {**asked, "methods": {}}


def described(result: SearchResult) -> dict[str, Any]:
    return {"trained": len(result.trials), "best_val": result.best_score, "cells": result.best.config(),
            "seconds": round(result.seconds + result.shared_seconds, 1), "best_so_far": list(result.best_so_far),
            "scores": [score for _, score in result.trials]}


class Final:
    """Trains what was found on training and validation images with several seeds: test accuracies, through the log."""

    def __init__(self, data: ProxyData, test_images: torch.Tensor, test_labels: torch.Tensor, network: Network,
                 options: argparse.Namespace, log: TrialLog, about: dict[str, Any]):
        self.images = torch.cat([data.train_images, data.val_images])
        self.labels = torch.cat([data.train_labels, data.val_labels])
        self.test_images, self.test_labels, self.classes = test_images, test_labels, data.num_classes
        self.network, self.options, self.log, self.about = network, options, log, about

    def scores(self, cells: Cells) -> list[float]:
        out = []
        for seed in range(self.options.final_seeds):
            protocol = Protocol(epochs=self.options.final_epochs, model_seed=seed)

            def train(protocol: Protocol = protocol) -> float:
                model = build("cell_net", protocol.model_seed, **cells.config(), **asdict(self.network),
                              in_channels=self.images.shape[1], num_classes=self.classes)
                fit(model, self.images, self.labels, protocol)
                return accuracy(model, self.test_images, self.test_labels)

            key = {**self.about, "final": True, "network": asdict(self.network), "protocol": asdict(protocol),
                   **cells.config()}
            out.append(round(self.log.run(key, train).score, 4))
        return out


def rank(found: SearchResult, data: ProxyData, space: CellSpace, network: Network, protocol: Protocol, log: TrialLog,
         about: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """How the ranking by inherited weights agrees with that by training each of some random candidates on its own; and
    how the latter agrees with itself under other first weights, which no score can surpass by much."""
    drawn = search_cells(data, method="random", budget=min(RANKED, options.budget), seed=0, space=space,
                         network=network, protocol=protocol, log=log, about=about)
    assert found.supernet is not None
    inherited = [inherited_score(found.supernet, cells, data) for cells, _ in drawn.trials]
    other = Protocol(**{**asdict(protocol), "model_seed": 1})
    again = []
    for cells, _ in drawn.trials:
        def train(cells: Cells = cells) -> float:
            model = build("cell_net", other.model_seed, **cells.config(), **asdict(network),
                          in_channels=data.train_images.shape[1], num_classes=data.num_classes)
            return train_and_score(model, data, other)

        again.append(log.run({**about, "network": asdict(network), "protocol": asdict(other), **cells.config()},
                             train).score)
    alone = [score for _, score in drawn.trials]
    return {"candidates": len(alone), "inherited": inherited, "alone": alone, "alone_other_seed": again,
            "kendall": round(kendall(inherited, alone), 3), "kendall_of_two_seeds": round(kendall(again, alone), 3)}


def shown(section: dict[str, Any]) -> str:
    """The table and what may be said of it."""
    rows = [("method", "trained", "mean of first half", "of second", "best validation", "test of what it found",
             "CPU s a search")]
    for method in ("none", *METHODS):
        runs = section["methods"].get(method, [])
        if not runs:
            continue
        tests = [score for run in runs for score in run["test"]]
        rows.append((method, str(max(run["trained"] for run in runs)),
                     *(f"{np.mean([half(run['scores'], part) for run in runs]):.3f}" for part in (0, 1)),
                     f"{np.mean([run['best_val'] for run in runs]):.4f}",
                     f"{np.mean(tests):.4f} +- {np.std(tests):.4f}",
                     f"{np.mean([run['seconds'] for run in runs]):.0f}"))
    lines = [table(rows), f"{section['data']}: {section['images']}; {section['seeds']} searches of each method, "
             f"{section['final_seeds']} final trainings of what each found (mean +- standard deviation)"]
    random = section["methods"].get("random", [])
    for method, runs in section["methods"].items():
        if random and method != "random":
            lines.append(f"{method} against random on the test images: {compared(runs, random)}")
    if "rank" in section:
        r = section["rank"]
        lines.append(f"Rank correlation (Kendall) over {r['candidates']} random candidates: inherited with stand-alone "
                     f"accuracy {r['kendall']:.2f}; stand-alone with another seed {r['kendall_of_two_seeds']:.2f}")
    return "\n".join(lines)


def half(scores: list[float], part: int) -> float:
    """The mean of the first or of the second half of the candidates' scores, in the order in which they were asked."""
    middle = len(scores) // 2
    return float(np.mean(scores[:middle] or scores if part == 0 else scores[middle:]))


def compared(runs: list[dict[str, Any]], others: list[dict[str, Any]]) -> str:
    """Difference of the mean test accuracies and its standard error over the final trainings, in words."""
    a, b = ([score for run in part for score in run["test"]] for part in (runs, others))
    difference = float(np.mean(a) - np.mean(b))
    if min(len(a), len(b)) < 2:
        return f"{difference:+.4f}, from one training each"
    error = float(np.sqrt(np.var(a, ddof=1) / len(a) + np.var(b, ddof=1) / len(b)))
    word = "better" if difference > 2 * error else "worse" if difference < -2 * error else "not told apart"
    return f"{difference:+.4f} +- {error:.4f} (standard error): {word}"


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    start = time.process_time()
    code = main()
    print(f"{time.process_time() - start:.0f} CPU s", file=sys.stderr)
    sys.exit(code)
