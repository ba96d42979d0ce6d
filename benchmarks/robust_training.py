"""Robust accuracy of nets that were trained plainly and against attacks, on the same test images.

    python benchmarks/robust_training.py RUN RUN... --images 400

For each run: accuracy on the first so many images of its test split, under PGD-20 in linf at growing eps (a curve, with
intervals), under AutoAttack at one eps on a part of them, and the signs of a hidden gradient. Each eps attacks only
what still stands; the curve's PGD starts at random and stops a sample when it is fooled. The result, with the runs' own
recipes, time and accuracy, goes to benchmarks/results/robust_training.json. The numbers are counts, not timings: load
on the machine does not change them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

from visus.attack.auto_attack import AutoAttack
from visus.attack.corruptions import corruption_table
from visus.attack.masking import masking_report
from visus.attack.measures import Share, attack_all, robust_curve
from visus.attack.pgd import PGD
from visus.core.device import environment
from visus.core.record import RunFolder
from visus.deploy.frozen import frozen
from visus.run.attack import classifier_of
from visus.run.bundle import load_model
from visus.run.recipe import Recipe
from visus.run.survey import divide, open_named

RESULT = Path(__file__).parent / "results" / "robust_training.json"
CURVE = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--strong-images", type=int, default=100, help="of them under AutoAttack and in the checks")
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--corruptions", action="store_true", help="also the 15 corruptions at severity 3")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    rows = [measure(run, arguments) for run in arguments.runs]
    arguments.out.write_text(json.dumps({
        "command": f"python benchmarks/robust_training.py RUN... --images {arguments.images} --strong-images "
                   f"{arguments.strong_images} --eps {arguments.eps:g}",
        "environment": {key: environment()[key] for key in ("torch", "processor", "cores", "visus")},
        "runs": rows}, indent=2) + "\n")
    return 0


def measure(run: Path, arguments: argparse.Namespace) -> dict[str, object]:
    folder, recipe, trained = RunFolder.open(run), Recipe.load(run / "recipe.yaml"), load_model(run)
    samples = open_named(recipe.data)
    index = np.sort(divide(samples, recipe.data)["test"])[:arguments.images]
    assert samples.images is not None
    pixels = torch.stack([trained.preprocessing.resized(samples.images[i]) for i in index])
    images, labels = pixels.float() / 255, torch.as_tensor(np.asarray(samples.targets)[index]).long()
    classifier = classifier_of(trained, frozen(trained.model, (1, *images.shape[1:])))
    begun = time.process_time()
    curve = {f"{point.eps:g}": shown(point.robust) for point in robust_curve(
        lambda eps: PGD(eps=eps, steps=20), classifier, images, labels, CURVE)}
    strong, truth = images[:arguments.strong_images], labels[:arguments.strong_images]
    found = attack_all(AutoAttack(eps=arguments.eps, steps=50, queries=500), classifier, strong, truth)
    signs = masking_report(classifier, strong, truth, arguments.eps, steps=10, queries=300, random_tries=30)
    row = {
        "run": run.name, "model": trained.name, "defend": recipe.defend.model_dump(), "seed": recipe.train.seed,
        "epochs": recipe.train.epochs, "run_seconds": folder.about.get("seconds"),
        "test_accuracy_of_the_whole_split": folder.read("metrics.json", {})["splits"]["test"]["metrics"]["accuracy"],
        "images": len(images), "accuracy_under_pgd20_linf": curve,
        f"accuracy_under_auto_attack_linf_{arguments.eps:g}": shown(Share(int((~found.success).sum()), len(strong))),
        "auto_attack": "50 steps, 500 queries", "attack_success_in_the_checks": dict(signs.success),
        "signs_of_masking": [finding.title for finding in signs.findings],
        "attack_cpu_seconds": round(time.process_time() - begun, 1)}
    if arguments.corruptions:
        table = corruption_table(classifier, images, labels, severities=(3,))
        row["error_under_corruption_severity_3"] = {name: errors[0] for name, errors in table.errors.items()}
    print(json.dumps(row, indent=2), flush=True)
    return row


def shown(share: Share) -> dict[str, float]:
    return {"value": round(share.value, 4), "low": round(share.interval[0], 4), "high": round(share.interval[1], 4)}


if __name__ == "__main__":
    sys.exit(main())
