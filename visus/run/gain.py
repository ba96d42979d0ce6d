"""What averaging brings: each member, their mean, the ensemble; how sure that is, and where it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations
from math import comb
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from visus.calibrate.ensemble import agree
from visus.core.batch import ClassPredictions
from visus.core.record import Evaluation, Finding
from visus.metrics.calibration import reliability
from visus.metrics.significance import paired_bootstrap
from visus.run.averaged import combine
from visus.run.calibrate import SavedPredictions
from visus.run.compare import metric_columns, paired_tests

if TYPE_CHECKING:
    from visus.tasks.classification import Classification, MultiLabel

MOST_SUBSETS = 64   # of one number of members
NUMBER_BUDGET = 4e8  # probabilities averaged for one number of members


def together(members: Sequence[ClassPredictions], of: str, several: bool) -> ClassPredictions:
    """The ensemble's predictions from those of its members for the same images."""
    probs = torch.stack([one.probs for one in members])
    if len(members) == 1 and of != "votes":
        return members[0]
    logits = combine(probs.logit(eps=1e-7) if several else probs.clamp_min(1e-30).log(), of, several)
    found = logits.sigmoid() if several else logits.softmax(-1)
    return ClassPredictions(found, members[0].targets, members[0].index)


def gain(members: Sequence[ClassPredictions], evaluations: Sequence[Evaluation], joined: ClassPredictions,
         whole: Evaluation, best: int, task: Classification | MultiLabel, kind: str, of: str) -> dict[str, Any]:
    """The record of an ensemble or a soup on the test split, in plain values.

    members, evaluations: of each member; joined, whole: of all together; best: number of the member that is best on
    the validation split; of: how answers are averaged. Keys: "mean" (metric -> {"mean", "std"} over the members),
    "over_mean" (metric -> what is gained over the mean of the members, paired bootstrap), "over_best" (tests against
    the member `best`), "by_count" (rows by number of members), "disagreement", "mutual_information", "reliability"
    ("members": of all their answers together, "ensemble").
    """
    several = joined.targets.ndim > 1
    saved = [SavedPredictions(one.probs.numpy(), one.targets.numpy(), one.index.numpy()) for one in (*members, joined)]
    record: dict[str, Any] = {
        "mean": _mean(evaluations), "best": best, "over_mean": _over_mean(saved, kind),
        "over_best": paired_tests(saved, kind, [(best, len(members))]),
        "by_count": [] if of == "soup" else _by_count(members, task, of, several),
        "reliability": {"ensemble": whole.reliability, "members": None}}
    if len(members) > 1:
        record |= _disagreement(np.stack([one.probs.numpy() for one in members]), several)
        if not several:
            probs = torch.cat([one.probs for one in members])
            right = probs.argmax(1) == torch.cat([one.targets for one in members])
            record["reliability"]["members"] = reliability(probs.max(1).values.numpy(), right.numpy())
    return record


def doubts(record: dict[str, Any], metric: str) -> list[Finding]:
    """Where putting models together was of no use. record: with "members"; metric: the headline."""
    found = []
    alone = record["members"][record["best"]]["metrics"].get(metric, {}).get("value")
    test = next((row for row in record["over_best"] if row["metric"] in (metric, "accuracy", "subset_accuracy")), None)
    if test is not None and alone is not None and test["better"] == 0:
        found.append(Finding(
            "ensemble", "warning", f"The {record['kind']} is worse than its best member alone",
            f"{test['metric']} {test['difference']:+.4f} ({test['low']:+.4f} to {test['high']:+.4f}), corrected p "
            f"{test['adjusted']:.4f}", "Leave weak members out: --top K" if record["kind"] == "ensemble" else
            "Take --soup greedy, or average answers instead of weights: leave --soup out"))
    if record.get("disagreement") == 0.0:
        found.append(Finding(
            "ensemble", "warning", "All members give the same answers", "No pair of them disagrees on any test image: "
            "there is nothing to average", "Train members that differ: another --seed or --model, train.snapshots"))
    return found


def _mean(evaluations: Sequence[Evaluation]) -> dict[str, dict[str, float]]:
    found = {}
    for name in evaluations[0].metrics:
        values = [one.metrics[name].value for one in evaluations if name in one.metrics]
        known = [value for value in values if value is not None]
        if len(known) == len(evaluations):
            found[name] = {"mean": float(np.mean(known)), "std": float(np.std(known, ddof=1)) if known[1:] else 0.0}
    return found


def _over_mean(saved: Sequence[SavedPredictions], kind: str) -> dict[str, dict[str, float]]:
    """The ensemble against the mean member, image by image: what one gains over a member drawn at random."""
    columns = [metric_columns(one, kind) for one in saved]
    return {name: asdict(paired_bootstrap(np.mean([one[name] for one in columns[:-1]], 0), columns[-1][name]))
            for name in columns[0] if columns[0][name].ndim == 1}


def _by_count(members: Sequence[ClassPredictions], task: Classification | MultiLabel, of: str, several: bool
              ) -> list[dict[str, Any]]:
    """By number of members: {"members", "mean", "low", "high", "subsets"} of the headline metric over all choices of so
    many members, or over some drawn at random where there are many; low and high: the worst and the best choice."""
    random, rows = np.random.default_rng(0), []
    for count in range(1, len(members) + 1):
        most = int(min(MOST_SUBSETS, max(4, NUMBER_BUDGET // (members[0].probs.numel() * count))))
        chosen: list[tuple[int, ...]] = list(combinations(range(len(members)), count)) \
            if comb(len(members), count) <= most else [
                tuple(sorted(random.choice(len(members), count, replace=False).tolist())) for _ in range(most)]
        values = [task.headline_value(together([members[i] for i in subset], of, several)) for subset in chosen]
        rows.append({"members": count, "mean": float(np.mean(values)), "low": float(np.min(values)),
                     "high": float(np.max(values)), "subsets": len(values)})
    return rows


def _disagreement(probs: np.ndarray, several: bool) -> dict[str, Any]:
    """probs: [M, N, K]. The share of pairs of members that answer differently (for several labels: of pairs and
    labels), as a mean and as a table member by member; and the mutual information of answer and member, in nats."""
    answers = probs >= 0.5 if several else probs.argmax(-1)
    pairs = [[float((one != other).mean()) for other in answers] for one in answers]
    count = len(answers)
    mean = sum(map(sum, pairs)) / (count * (count - 1))
    if several:
        return {"disagreement": mean, "pairs": pairs, "mutual_information": None}
    return {"disagreement": mean, "pairs": pairs, "mutual_information": float(agree(probs).mutual_information.mean())}
