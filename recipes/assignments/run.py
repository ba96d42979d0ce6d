"""The exercises of Stanford CS231n's assignments 1 and 2, with this package's own functions, on two sets of images.

    python recipes/assignments/run.py NAME --cifar10 FOLDER --fashion FOLDER     a name of EXERCISES, or all
    python recipes/assignments/run.py draw                                       the page again, from results.json

--cifar10: a folder with cifar10_train.npz and cifar10_test.npz (what they hold: recipes/reproduce.py). --fashion: the
four IDX files of Fashion-MNIST. One of the two is enough. What is finished under --out is not repeated, a training that
was stopped is resumed. Numbers go to results.json, from there to docs/assignments.md. Seed 0 everywhere.
--small makes everything on a fiftieth of the images: to try whether it works.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from recipes.assignments.exercise import Exercise, Row, percent  # noqa: E402
from recipes.assignments.first import FIRST, clean  # noqa: E402
from recipes.assignments.images import Images, open_images  # noqa: E402
from recipes.assignments.second import SECOND  # noqa: E402
from visus.core.device import environment  # noqa: E402
from visus.core.errors import UserError  # noqa: E402
from visus.core.files import write_json, write_text  # noqa: E402

HERE = Path(__file__).parent
EXERCISES: dict[str, Exercise] = {**FIRST, **SECOND}
SETS = {"cifar10": "CIFAR-10", "fashion": "Fashion-MNIST"}


def measure(name: str, data: Images) -> dict[str, Any]:
    """An exercise on a data set: {"rows", "cpu_minutes"}, read where it was finished."""
    kept = data.out / f"{data.name}-{name}.json"
    if kept.exists():
        found: dict[str, Any] = json.loads(kept.read_text())
        return found
    begun = os.times()
    rows = EXERCISES[name].run(data)
    used = os.times()
    minutes = (used.user + used.system - begun.user - begun.system) / 60
    found = {"rows": rows, "cpu_minutes": round(minutes, 3)}
    write_json(kept, found)
    return found


def page(results: dict[str, Any]) -> str:
    """docs/assignments.md."""
    made, about = results["exercises"], results["environment"]
    minutes = sum(one["cpu_minutes"] for sets in made.values() for one in sets.values())
    text = HEAD.format(minutes=minutes, processor=about["processor"], torch=about["torch"])
    for part, exercises in (("Assignment 1", FIRST), ("Assignment 2", SECOND)):
        text += f"\n## {part}\n"
        for name, exercise in exercises.items():
            if name in made:
                text += section(name, exercise, made[name])
    return text + reference(json.loads((ROOT / "recipes" / "results.json").read_text()))


HEAD = """# The assignments of CS231n

Made by `python recipes/assignments/run.py draw` from `recipes/assignments/results.json`, which the runs wrote. The
course's published numbers are for CIFAR-10 and are quoted from memory of its notes and assignments; where fewer images
or epochs are used than there, it says so. One seed (0), one CPU thread, validation and test sets of 1,000 images: two
standard errors are about 3 points, and as all methods see the same images, luck with them is shared: those of CIFAR-10
chosen for validation turn out to be easier than those for testing. Numbers are shares of right answers.

All together: {minutes:.1f} CPU minutes on {processor}, torch {torch}.
"""


def section(name: str, exercise: Exercise, found: dict[str, Any]) -> str:
    rows = {data: one["rows"] for data, one in found.items()}
    text = f"\n### {exercise.title}\n\n{exercise.source}: {exercise.words}.\n\n"
    if rows.keys() >= SETS.keys():
        shown, words = exercise.verdict(rows)
        text += f"**{'Reproduced.' if shown else 'Not reproduced at this scale.'}** {words}\n\n"
    columns = [f"{SETS[data]}, {split}" for data in SETS if data in rows for split in splits_of(rows[data])]
    text += f"| | the course | {' | '.join(columns)} |\n| --- | --- |{' ---: |' * len(columns)}\n"
    labels = list(dict.fromkeys(label for one in rows.values() for label in one))
    for label in labels:
        cells = [cell(rows[data].get(label), split) for data in SETS if data in rows for split in splits_of(rows[data])]
        text += f"| {label} | {published(exercise, label)} | {' | '.join(cells)} |\n"
    minutes = " and ".join(f"{found[data]['cpu_minutes']:.1f}" for data in SETS if data in found)
    command = f"python recipes/assignments/run.py {name} --cifar10 FOLDER --fashion FOLDER"
    return text + f"\n{minutes} CPU minutes: `{command}`\n"


def splits_of(rows: dict[str, Row]) -> list[str]:
    return [split for split in ("train", "val", "test") if any(split in row for row in rows.values())]


def cell(row: Row | None, split: str) -> str:
    if row is None or split not in row:
        return ""
    return percent(row[split]) + (" (diverged)" if row.get("diverged") else "")


def published(exercise: Exercise, label: str) -> str:
    if label in exercise.published:
        return exercise.published[label]
    return exercise.published.get("best k", "") if label.startswith("k = ") else ""


def reference(results: dict[str, Any]) -> str:
    """C2.10, from what recipes/reproduce.py wrote."""
    text = "\n### A convolutional net of one's own\n\nC2.10: 70 % or more on CIFAR-10 within 10 epochs; the recipes " \
        "`cifar10-resnet20` and `cifar10-resnet20-short`.\n\n"
    epochs, best = min(((row["epochs"], run["test_accuracy"]) for name, row in results.items()
                        if name == "cifar10-resnet20" for run in row["runs"]), default=(0, 0.0))
    shown = epochs and epochs <= 10 and best >= 0.7
    text += f"**{'Reproduced.' if shown else 'Not reproduced.'}**\n\n| recipe | epochs | test | CPU minutes |\n" \
        "| --- | ---: | ---: | ---: |\n"
    for name in ("cifar10-resnet20", "cifar10-resnet20-short"):
        for run in results.get(name, {}).get("runs", []):
            text += f"| `{name}` | {results[name]['epochs']} | {percent(run['test_accuracy'])} | " \
                f"{run['cpu_minutes']:.1f} |\n"
    return text + "\n`python recipes/reproduce.py cifar10-resnet20 FOLDER`\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=(*EXERCISES, "all", "draw"))
    parser.add_argument("--cifar10", type=Path, metavar="FOLDER")
    parser.add_argument("--fashion", type=Path, metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=Path("runs/assignments"))
    parser.add_argument("--small", action="store_true", help="for a trial: another result")
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    arguments = parser.parse_args(argv)
    try:
        if arguments.name != "draw":
            _measure_all(arguments)
        text = page(json.loads(arguments.results.read_text()))
        arguments.docs.mkdir(parents=True, exist_ok=True)
        write_text(arguments.docs / "assignments.md", text)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _measure_all(arguments: argparse.Namespace) -> None:
    folders = {data: getattr(arguments, data) for data in SETS if getattr(arguments, data) is not None}
    if not folders:
        raise UserError("where are the images?", where="--cifar10, --fashion",
                        remedy="Give the folder of one of the two sets, or of both")
    for data, folder in folders.items():
        images = open_images(data, folder, arguments.out, arguments.small)
        for name in EXERCISES if arguments.name == "all" else (arguments.name,):
            found = measure(name, images)
            written = json.loads(arguments.results.read_text()) if arguments.results.exists() else {"exercises": {}}
            written["environment"] = {k: environment()[k] for k in ("torch", "processor", "cores", "visus")}
            written["exercises"].setdefault(name, {})[data] = found
            arguments.results.write_text(json.dumps(written, indent=1) + "\n")
            print(data, name, *(f"{label}: {percent(row.get('test', row.get('val')))}" for label, row in
                                found["rows"].items()), f"{found['cpu_minutes']} CPU minutes", sep=", ", flush=True)
        clean(arguments.out, data)


if __name__ == "__main__":
    sys.exit(main())
