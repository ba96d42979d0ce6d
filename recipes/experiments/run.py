"""Small experiments on CIFAR-10 that show what the courses say of deep nets, on one CPU thread.

    python recipes/experiments/run.py NAME --data FOLDER     a name of EXPERIMENTS, or all
    python recipes/experiments/run.py draw                   figures and page again, from results.json

FOLDER holds cifar10_train.npz and cifar10_test.npz, as for recipes/reproduce.py. Each run is a recipe of this folder,
as it is or varied (`VARIATIONS`); finished runs under --out are not repeated and a stopped one is resumed. Numbers go
to results.json, from there to docs/figures/experiments_*.svg and docs/experiments.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import visus  # noqa: E402
from recipes.experiments import convolution, transformers  # noqa: E402
from recipes.experiments.experiment import (  # noqa: E402
    HERE,
    TEST_IMAGES,
    TRAIN_IMAGES,
    Results,
    Variation,
    percent,
    score,
)
from recipes.experiments.figures import figure  # noqa: E402
from recipes.reproduce import CIFAR10, unpack_cifar10  # noqa: E402
from visus.core.device import environment  # noqa: E402
from visus.core.errors import TrainingDiverged, UserError  # noqa: E402
from visus.core.files import write_json, write_text  # noqa: E402
from visus.core.preprocessing import Preprocessing  # noqa: E402
from visus.core.seeds import permutation  # noqa: E402
from visus.run.recipe import Recipe, parse_assignments, read_yaml  # noqa: E402
from visus.run.train import flat  # noqa: E402

EXPERIMENTS = {**convolution.EXPERIMENTS, **transformers.EXPERIMENTS}
VARIATIONS = transformers.VARIATIONS
COST = "experiment.json"  # in the run folder: CPU minutes, and what was measured beside the test accuracy


def variation(name: str) -> Variation:
    """A run that is no variation is by the recipe of its name."""
    return VARIATIONS.get(name, Variation(name))


def recipe_of(name: str, values: Mapping[str, Any] | None = None) -> Recipe:
    varied = variation(name)
    return Recipe.load(HERE / f"{varied.recipe}.yaml").with_values({**varied.values, **(values or {})})


def model_of(recipe: Recipe) -> torch.nn.Module:
    return visus.create_model(recipe.model.name, num_classes=len(CIFAR10), in_channels=3,
                              image_size=recipe.data.image_size, **recipe.model.config)


def stated(name: str) -> dict[str, Any]:
    """What a run's recipe file says, without its description, and what is varied."""
    said = {field: value for field, value in read_yaml(HERE / f"{variation(name).recipe}.yaml").items()
            if field != "description"}
    if name in VARIATIONS:
        varied = VARIATIONS[name]
        said["variation"] = {"of": varied.recipe, "values": dict(varied.values), "images": varied.images,
                             "permuted": varied.permuted}
    return said


# -- training ----------------------------------------------------------------------------------------------------


def images_of(name: str, folder: Path, out: Path) -> Path:
    """The first images of both files as one .npz, permuted where the run is on permuted pixels."""
    varied = variation(name)
    path = out / f"cifar10_{varied.images}{'_permuted' if varied.permuted else ''}.npz"
    if path.exists():
        return path
    whole = unpack_cifar10(folder, out / "cifar10.npz")
    with np.load(whole) as file:
        arrays = {f"{split}_{kind}": file[f"{split}_{kind}"][:count] for kind in ("images", "labels")
                  for split, count in (("train", varied.images), ("test", TEST_IMAGES))}
    whole.unlink()
    if varied.permuted:
        side = recipe_of(name).data.image_size
        assert isinstance(side, int)
        for split in ("train", "test"):
            arrays[f"{split}_images"] = permuted(resized(arrays[f"{split}_images"], side))
    np.savez(path, class_names=np.array(CIFAR10), **arrays)
    return path


def resized(images: np.ndarray, side: int) -> np.ndarray:
    """uint8 [N, H, W, 3] -> [N, side, side, 3], as a recipe with this image_size sees them."""
    small = Preprocessing(size=(side, side)).resized_batch(torch.from_numpy(images).permute(0, 3, 1, 2))
    return small.permute(0, 2, 3, 1).numpy()


def permuted(images: np.ndarray) -> np.ndarray:
    """The pixels of all images [N, H, W, C] in one other order, always the same."""
    count, height, width, channels = images.shape
    order = permutation(height * width, "pixels")
    return images.reshape(count, height * width, channels)[:, order].reshape(images.shape)


def by_shift(run: visus.Run, images: np.ndarray, labels: np.ndarray) -> list[dict[str, float]]:
    """Accuracy on images [N, H, W, 3] moved by so many of the network's pixels, a mean over up, down, left and right;
    what comes in at the border is the mirror image."""
    side, far = run.preprocessing.size[0], max(transformers.SHIFTS)
    small = np.pad(resized(images, side), ((0, 0), (far, far), (far, far), (0, 0)), mode="reflect")
    wide = torch.from_numpy(small).permute(0, 3, 1, 2)
    model = run.model
    rows = []
    for shift in transformers.SHIFTS:
        hits = []
        for y, x in {(shift, 0), (-shift, 0), (0, shift), (0, -shift)}:
            moved = wide[:, :, far + y:far + y + side, far + x:far + x + side].float().div(255)
            with torch.no_grad():
                found = torch.cat([model(run.preprocessing.normalise(part)).argmax(1) for part in moved.split(500)])
            hits.append(float((found.numpy() == labels).mean()))
        rows.append({"shift": shift, "accuracy": round(statistics.mean(hits), 4)})
    return rows


def make_run(name: str, data: Path, out: Path, values: Mapping[str, Any]) -> Results:
    """One run: trained, resumed or read, as it lies in `out`; what results.json keeps of it."""
    recipe = recipe_of(name, values)
    cost = json.loads((out / COST).read_text()) if (out / COST).exists() else {"cpu_minutes": 0.0}
    start = os.times()
    status = visus.load(out).status if (out / "run.json").exists() else None
    if status is not None:
        _refuse_another_recipe(name, values, out)
    try:
        if status is None:
            visus.train(data, recipe=recipe, out=out, progress=False)
        elif status not in ("finished", "diverged"):
            visus.resume(out, progress=False)
    except TrainingDiverged as error:
        print(f"{name}: {error}")
    finally:
        used = os.times()
        if out.exists() and status not in ("finished", "diverged"):
            cost["cpu_minutes"] += (used.user + used.system - start.user - start.system) / 60
            write_json(out / COST, cost)
    run = visus.load(out)
    if run.status == "finished" and "train" not in cost:
        fitted = visus.evaluate(out, split="train")
        cost["train"] = {"value": fitted.metrics["accuracy"].value, "count": fitted.count}
        write_json(out / COST, cost)
    if run.status == "finished" and name in transformers.SHIFTED and "shifts" not in cost:
        with np.load(data) as file:
            count = transformers.SHIFTED_IMAGES
            cost["shifts"] = by_shift(run, file["test_images"][:count], file["test_labels"][:count])
        write_json(out / COST, cost)
    row: Results = {"seed": run.recipe.train.seed, "cpu_minutes": round(cost["cpu_minutes"], 2), "curve": curve(out)}
    if run.status == "finished":
        row |= {what: cost[what] for what in ("train", "shifts") if what in cost}
        for split, found in json.loads((out / "metrics.json").read_text())["splits"].items():
            row[split] = {**found["metrics"]["accuracy"], "count": found["count"]}
    return row


def _refuse_another_recipe(name: str, values: Mapping[str, Any], out: Path) -> None:
    varied = variation(name)
    stated = flat(read_yaml(HERE / f"{varied.recipe}.yaml")).keys() | varied.values.keys() | values.keys()
    asked, made = (flat(recipe.model_dump(mode="json"))
                   for recipe in (recipe_of(name, values), Recipe.load(out / "recipe.yaml")))
    changed = [field for field in sorted(stated - {"description"}) if asked.get(field) != made.get(field)]
    if changed:
        raise UserError(f"was trained with another {', '.join(changed)} than {name} states", where=out,
                        remedy="Remove the run or give another --out")


def curve(out: Path) -> list[dict[str, float]]:
    """Per epoch: losses on training and held-out images, and the held-out accuracy."""
    return [{"epoch": event["epoch"] + 1, "train_loss": round(event["train_loss"], 4),
             "val_loss": round(event["val_loss"], 4), "val_accuracy": round(event["metrics"]["accuracy"], 4)}
            for event in visus.load(out).folder.events() if event["event"] == "epoch"]


def measure(names: Iterable[str], folder: Path, out: Path, seeds: int, values: Mapping[str, Any],
            results: Path) -> None:
    """Make the runs and write them into `results`."""
    for name in names:
        recipe = recipe_of(name, values)
        summary = visus.describe_model(model_of(recipe), recipe.data.image_size)
        data, rows = images_of(name, folder, out), []
        for seed in range(seeds):
            rows.append(make_run(name, data, out / f"{name}-seed{seed}", {**values, "train.seed": seed}))
            print(name, seed, *(f"{split} {percent({'seeds': rows[-1:]}, split)}" for split in ("train", "test")),
                  f"{rows[-1]['cpu_minutes']} CPU minutes", flush=True)
        written = json.loads(results.read_text()) if results.exists() else {"runs": {}}
        written["environment"] = {k: environment()[k] for k in ("torch", "processor", "cores", "visus")}
        written["runs"][name] = {"recipe": stated(name), "changed": dict(values), "params": summary.params,
                                 "macs": summary.macs, "seeds": rows}
        written["runs"] = dict(sorted(written["runs"].items()))
        results.write_text(json.dumps(written, indent=1) + "\n")


# -- page --------------------------------------------------------------------------------------------------------

HEAD = """# Experiments

Made by `python recipes/experiments/run.py draw` from `recipes/experiments/results.json`, which the runs wrote. Each
experiment is a few recipes of `recipes/experiments/`, as they are or varied, on the first {train:,} training images of
CIFAR-10 (or as many as it says), a fifth of them held out to choose the epoch, and the first {test:,} test images;
{seeds}, one CPU thread. That is far less than the papers use: where an effect needs more, the sentence says so.
Accuracies are means over seeds, in brackets their range, or the 95 % bootstrap interval of a single one; curves are of
the first seed. ± is two standard errors for that many images; what another seed would change comes on top.

{machine}
"""


def page(results: Results, figures: Path, docs: Path) -> str:
    runs, shown = results["runs"], present(results)
    counts = sorted({len(run["seeds"]) for run in runs.values()})
    seeds = " or ".join(map(str, counts)) + (" seed" if counts == [1] else " seeds")
    minutes = sum(seed["cpu_minutes"] for run in runs.values() for seed in run["seeds"])
    found = results["environment"]
    text = HEAD.format(train=TRAIN_IMAGES, test=TEST_IMAGES, seeds=seeds,
                       machine=f"All runs together: {minutes:.0f} CPU minutes on {found['processor']}, torch "
                               f"{found['torch']}.")
    for name in shown:
        experiment = EXPERIMENTS[name]
        holds, words = experiment.verdict(runs)
        link = os.path.relpath(figures / f"experiments_{name}.svg", docs)
        text += (f"\n## {experiment.title}\n\n{experiment.claim}.\n\n"
                 f"**{'Shown.' if holds else 'Not shown at this scale.'}** {words}\n\n![{experiment.title}]({link})\n\n"
                 "| recipe | parameters | MACs | training images | test images | CPU min |\n"
                 "| --- | ---: | ---: | ---: | ---: | ---: |\n")
        for recipe in experiment.runs:
            run = runs[recipe]
            test = score(run, "test")
            interval = "" if test is None else f" ({test.low:.1f} to {test.high:.1f})"
            cost = statistics.mean(seed["cpu_minutes"] for seed in run["seeds"])
            text += (f"| `{recipe}` | {run['params']:,} | {run['macs']:,} | {percent(run, 'train')} | "
                     f"{percent(run, 'test')}{interval} | {cost:.1f} |\n")
        text += f"\n`python recipes/experiments/run.py {name} --data FOLDER`\n"
    return text


def present(results: Results) -> list[str]:
    """The experiments whose runs are all there."""
    return [name for name, experiment in EXPERIMENTS.items() if results["runs"].keys() >= experiment.runs.keys()]


def drawings(results: Results, docs: Path) -> dict[Path, str]:
    figures = docs / "figures"
    made = {figures / f"experiments_{name}.svg": figure(EXPERIMENTS[name], results["runs"])
            for name in present(results)}
    return {**made, docs / "experiments.md": page(results, figures, docs)}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=(*EXPERIMENTS, "all", "draw"))
    parser.add_argument("--data", type=Path, metavar="FOLDER")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/experiments"))
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="for a trial: another result")
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    arguments = parser.parse_args(argv)
    try:
        if arguments.name != "draw":
            if arguments.data is None:
                raise UserError("where are the images?", where="--data",
                                remedy="Give the folder with cifar10_train.npz and cifar10_test.npz")
            chosen = EXPERIMENTS if arguments.name == "all" else [arguments.name]
            names = dict.fromkeys(run for name in chosen for run in EXPERIMENTS[name].runs)
            measure(names, arguments.data, arguments.out, arguments.seeds, parse_assignments(arguments.set),
                    arguments.results)
        for path, text in drawings(json.loads(arguments.results.read_text()), arguments.docs).items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, text)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
