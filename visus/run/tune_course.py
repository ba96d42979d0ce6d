"""visus tune --recipe course: the seven steps by which CS231n (notes 3, lecture 7) and EECS 498 (lecture 11) choose
hyper-parameters, each with what it found:

1 the initial loss, without decay; 2 a small sample learnt by heart; 3 a rate at which the loss falls within 100
iterations, of 1e-1, 1e-2, 1e-3, 1e-4 and with a small decay; 4 a coarse grid of rate and decay, one to five epochs;
5 finer ranges, longer; 6 the curves; 7 back to 5. Steps 1 to 3 are the doctor's measurements (doctor/short_run.py),
6 its checks of a finished training. Departures: 100 iterations see at most 32 images each and go through the first
eight batches again and again, and stop after a time: what is asked is only whether the loss goes down.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import torch

from visus.core.errors import UserError
from visus.core.record import RunFolder
from visus.doctor.answers import Answers
from visus.doctor.before.initial_loss import initial_loss
from visus.doctor.first_pass import as_trained
from visus.doctor.patient import Patient, untouched
from visus.doctor.short_run import overfit, step_on
from visus.run.display import Display
from visus.run.doctor import check_after, parts_of, patient_of
from visus.run.tune_folder import save_record
from visus.run.tune_record import best_of, trial_rows
from visus.run.tune_space import COUPLED
from visus.run.tune_storage import Storage
from visus.run.tune_trial import Bench
from visus.run.tune_workers import run_stage
from visus.search.space import Dimension
from visus.search.stages import edges
from visus.train.stop import StopRequest

RATES = (1e-1, 1e-2, 1e-3, 1e-4)
ITERATIONS, IMAGES, SECONDS = 100, 32, 20.0  # of step 3, for each rate
SMALL_DECAY = 1e-4
DECAYS, DECOUPLED = (1e-4, 1e-5, 0.0), (1e-1, 1e-2, 0.0)
COARSE, FINE = 3, 8  # rates of the grid; trials of a fine round
ROUNDS = 2
FINER = 3.0  # a fine range reaches from the best rate or decay divided by it to the best times it
GAP = 0.1  # between the headline in training and on val that is told


def seven_steps(bench: Bench, record: dict[str, Any], storage: Storage, stop: StopRequest, display: Display) -> None:
    """All steps into record["steps"], each with a title, a verdict, sentences and curves; the trials of steps 4, 5 and
    7 as stages of the study. A resumed study repeats none of them. Raises Interrupted as the search does."""
    steps: list[dict[str, Any]] = record["steps"]
    if len(steps) < 3:
        steps.clear()
        recipe = bench.prepared.recipe
        known = bench.prepared
        if recipe.train.threads != "auto":
            torch.set_num_threads(int(recipe.train.threads))
        parts = parts_of(recipe, known.samples, known.splits, known.preprocessing, known.device)
        with untouched(parts.model, parts.optimizer):
            patient = patient_of(recipe, parts, known.samples, known.splits, known.preprocessing, known.device)
            for make in (_initial_loss, _small_sample, _rates):
                _stop_if_asked(stop, bench)
                _say(steps, make(patient), display)
        save_record(bench.folder, record)
    rate = float(steps[2]["rate"])
    _trials(bench, record, storage, stop, display, rate)


def _trials(bench: Bench, record: dict[str, Any], storage: Storage, stop: StopRequest, display: Display,
            rate: float) -> None:
    from visus.run.tune_study import begin_stage, make_stage, next_space

    asked = record["asked"]
    full = int(bench.prepared.recipe.train.epochs)
    given = asked["epochs"]
    coarse = int(given[0]) if given else max(1, min(5, full // 5))
    fine = int(given[-1]) if given else max(coarse + 1, full // 2)
    decays = DECAYS if bench.prepared.recipe.optimizer.name in COUPLED else DECOUPLED
    root = math.sqrt(10.0)
    deadline = None if asked["minutes"] is None else time.time() + 60 * asked["minutes"]
    rounds = ROUNDS if asked["stages"] == 1 else asked["stages"]
    del record["steps"][3:]
    best: Mapping[str, Any] | None = None
    space: list[Dimension] = [
        Dimension("optimizer.lr", "log", float(f"{rate / root:.4g}"), float(f"{rate * root:.4g}")),
        Dimension("optimizer.weight_decay", "choice", choices=decays, labels=tuple(f"{d:g}" for d in decays))]
    for number in range(1, rounds + 2):
        first = number == 1
        name = f"{record['study']}/{number}"
        if number == 2:
            assert best is not None
            space = _finer(best)
        elif number > 2 and not storage.has(name):
            space = next_space(bench, storage, f"{record['study']}/{number - 1}", display)
        trials = COARSE * len(decays) if first else int(asked["trials"] or FINE)
        stage = make_stage(bench, record, number, space, coarse if first else fine, trials,
                           method="grid" if first else "random", points=COARSE)
        stage = begin_stage(storage, stage)
        run_stage(bench, storage, stage, stop, display, workers=int(asked["workers"]), deadline=deadline, of=rounds + 1)
        rows = trial_rows(storage, name)
        found = best_of(rows, stage.maximise)
        if found is None:
            if best is None:
                raise UserError("no trial came to its end", where=name, remedy="See trials.csv for what went wrong")
            break
        before, best = best, found
        said = [f"{len(rows)} trials of {stage.epochs} epochs; the best has {stage.headline} {best['value']:.4f} with "
                + _values(best)] + [edge.sentence for edge in edges(stage.space, best["values"])]
        number_of_step = min(7, number + 3) if number < 3 else 7
        title = "A coarse grid of rate and decay" if first else "Finer ranges, longer" if number == 2 else \
            f"Again: round {number - 1} of step 5"
        _say(record["steps"], {"number": number_of_step, "title": title, "sentences": said,
                               "verdict": "good" if len(said) == 1 else "warning"}, display)
        if number >= 2:
            _say(record["steps"], {"number": 6 if number == 2 else 7} | _curves(bench, best, stage.headline), display)
        one_image = 1 / max(1, len(bench.prepared.splits["val"]))
        if number > 2 and before is not None and best["value"] - before["value"] < one_image:
            _say(record["steps"], {"number": 7, "title": "Enough", "verdict": "note", "sentences": [
                f"The round won {best['value'] - before['value']:+.4f}, less than one image of val ({one_image:.4f})"]},
                display)
            break
        save_record(bench.folder, record)
    save_record(bench.folder, record)


def _finer(best: Mapping[str, Any]) -> list[Dimension]:
    """Around the best cell of the grid. A decay of 0 stays 0."""
    rate, decay = float(best["values"]["optimizer.lr"]), float(best["values"]["optimizer.weight_decay"])
    space = [Dimension("optimizer.lr", "log", float(f"{rate / FINER:.4g}"), float(f"{rate * FINER:.4g}"))]
    if decay > 0:
        return [*space, Dimension("optimizer.weight_decay", "log", decay / FINER, decay * FINER)]
    return [*space, Dimension("optimizer.weight_decay", "choice", choices=(0.0,), labels=("0",))]


# -- the steps -----------------------------------------------------------------------------------------------------


def _initial_loss(patient: Patient) -> dict[str, Any]:
    inputs, targets = patient.first
    with untouched(patient.model), as_trained(patient.model), torch.no_grad():
        outputs = patient.model(inputs.clone())
    answers = Answers(patient.loss, outputs, targets)
    loss, guess = answers.at(outputs), answers.at(answers.indifferent())
    found = list(initial_loss(patient))
    said = [] if loss is None or guess is None else \
        [f"Loss {loss:.3f} before the first step, without decay; a guess has {guess:.3f}"
         + (f" = ln {outputs.shape[1]}" if answers.kind == "classes" and abs(guess - math.log(outputs.shape[1])) < 1e-3
            else "")]
    said += [f"{finding.title}. {finding.remedy}" for finding in found]
    worst = {finding.severity for finding in found}
    return {"title": "The initial loss", "sentences": said,
            "verdict": "error" if "error" in worst else "warning" if "warning" in worst else "good"}


def _small_sample(patient: Patient) -> dict[str, Any]:
    result = overfit(patient)
    best = min((loss for loss in result.losses if math.isfinite(loss)), default=math.nan)
    said = [f"{result.samples} images, without decay, by {result.name} at {result.rate:.3g}: loss "
            f"{result.losses[0]:.3f}, after {len(result.losses) - 1} steps {best:.3g}"]
    if not result.sound:
        other = overfit(patient, own=False)
        said.append("They are not learnt. " + (
            f"{other.name} at {other.rate:g} learns them: the rate or the optimizer is wrong" if other.sound else
            f"{other.name} at {other.rate:g} does not learn them either: look at the labels, the loss and the model "
            "first (visus doctor)"))
    return {"title": "A small sample learnt by heart", "sentences": said, "losses": list(result.losses),
            "verdict": "good" if result.sound else "error"}


def _rates(patient: Patient) -> dict[str, Any]:
    curves: list[dict[str, Any]] = []
    for rate in RATES:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(0)
            curves.append({"name": f"{rate:g}", "losses": _try_rate(patient, rate)})
    ends = [float(np.mean(c["losses"][-10:])) if len(c["losses"]) > 10 and math.isfinite(c["losses"][-1]) else math.inf
            for c in curves]
    first = float(np.mean([c["losses"][0] for c in curves]))
    k = int(np.argmin(ends))
    falls = math.isfinite(ends[k]) and ends[k] < 0.9 * first
    said = [f"{rate:g}: " + (f"loss {first:.3f} to {end:.3f} in {len(c['losses']) - 1} iterations" if math.isfinite(end)
                             else "diverged") for rate, end, c in zip(RATES, ends, curves, strict=True)]
    said.append(f"{RATES[k]:g} is taken into the grid" if falls else
                f"At no rate does the loss fall by a tenth; {RATES[k]:g} is taken into the grid all the same")
    return {"title": "A rate at which the loss falls", "sentences": said, "rate": RATES[k],
            "verdict": "good" if falls else "warning",
            "curves": [c for c, end in zip(curves, ends, strict=True) if math.isfinite(end)]}


def _try_rate(patient: Patient, rate: float) -> list[float]:
    model, optimizer = patient.copy()
    assert optimizer is not None
    own = max(float(group["lr"]) for group in optimizer.param_groups)
    for group in optimizer.param_groups:
        group["lr"] = rate * float(group["lr"]) / own
        if group.get("weight_decay"):
            group["weight_decay"] = SMALL_DECAY
    losses: list[float] = []
    begun = time.perf_counter()
    with as_trained(model):
        for inputs, targets in cycle(patient.batches):
            _, loss = step_on(model, optimizer, patient, (inputs[:IMAGES], targets[:IMAGES]))
            losses.append(loss)
            if not math.isfinite(loss) or len(losses) > ITERATIONS or time.perf_counter() - begun > SECONDS:
                return losses
    return losses


def _curves(bench: Bench, best: Mapping[str, Any], headline: str) -> dict[str, Any]:
    """What the doctor says to the curves of the best trial; its losses by epoch."""
    said: list[str] = []
    curve = [row for row in best["curve"] if len(row) == 3]
    if curve:
        said.append(f"Training loss {curve[-1][0]:.3f}, val loss {curve[-1][1]:.3f}, {headline} {curve[-1][2]:.4f} "
                    f"after {len(curve)} epochs")
        if curve[-1][1] > (1 + GAP) * min(row[1] for row in curve):
            said.append("The val loss rises again: more decay or augmentation, or fewer epochs")
        elif len(curve) > 1 and best["best_epoch"] == len(curve) - 1:
            said.append("The last epoch is the best: a longer training will be better")
    verdict = "good"
    folder = bench.folder / str(best["folder"])
    if (folder / "run.json").exists():
        for finding in check_after(RunFolder.open(folder)).findings:
            said.append(f"{finding.title}. {finding.remedy or ''}".strip())
            verdict = "warning" if finding.severity in ("warning", "error") else verdict
    curves: Sequence[dict[str, Any]] = ({"name": "training", "losses": [row[0] for row in curve]},
                                        {"name": "validation", "losses": [row[1] for row in curve]})
    return {"title": "The curves of the best trial", "verdict": verdict, "sentences": said, "x": "epoch",
            "curves": list(curves)}


def _values(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
                     for name, value in row["values"].items())


def _say(steps: list[dict[str, Any]], step: dict[str, Any], display: Display) -> None:
    step = {"number": len(steps) + 1} | step
    steps.append(step)
    for k, sentence in enumerate(step["sentences"]):
        display.say(f"step {step['number']}" if k == 0 else "", (f"{step['title']}: " if k == 0 else "") + sentence)


def _stop_if_asked(stop: StopRequest, bench: Bench) -> None:
    if stop.requested:
        raise stop.interrupted(saved=True, where=bench.folder)
