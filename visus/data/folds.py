"""Cross-validation: the training samples in K parts, each of which is held out once.

Who goes where is a pure function of the seed, the repeat and the files' names, as in `visus.data.split`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from visus.core.errors import DataError
from visus.core.seeds import hash64
from visus.data.samples import Samples, listed, natural_order
from visus.data.split import name_keys, split_samples, stratified_units

SET_ASIDE = "aside"  # the split of samples that no fold uses: a test split that the data give


@dataclass(frozen=True, kw_only=True)
class FoldPlan:
    """How samples are divided. folds: how many, or 'groups': leave one group out. repeats: whole divisions, each by
    another draw. stratified: every class in each fold as far as it goes. group_aware: groups are never divided. val:
    share of what is not held out that chooses the epoch, where the data give no val split."""

    folds: int | Literal["groups"] = 5
    repeats: int = 1
    stratified: bool = True
    group_aware: bool = True
    seed: int = 0
    val: float = 0.15

    def count(self, samples: Samples) -> int:
        """Trainings that this plan takes: folds times repeats."""
        if self.folds == "groups":
            return len(_group_names(samples, fold_pool(samples)))
        return self.folds * self.repeats


def fold_pool(samples: Samples) -> np.ndarray:
    """int64: positions that are divided into folds, those of the training split and those without a split. Splits
    `val` and `test` that the data give stay out of it."""
    return np.flatnonzero((samples.split == "train") | (samples.split == ""))


def assign_folds(samples: Samples, plan: FoldPlan, repeat: int = 0) -> np.ndarray:
    """int64 [len(fold_pool(samples))]: the fold of each sample, from 0.

    Stratified, one label each: dealt out class by class in hash order, so that the folds' sizes differ by one at most
    and so do a class's images in them. Groups, and samples with several labels, go one by one to where they are lacked
    most, rare labels first (as `split_samples` does): shares are then approximate. 'groups': one fold for each group,
    in order of their names.

    Raises DataError: fewer samples or groups than folds, no groups for 'groups', a class of one group.
    """
    pool = fold_pool(samples)
    grouped = plan.group_aware and samples.groups is not None
    if plan.folds == "groups":
        names = _group_names(samples, pool)
        assert samples.groups is not None
        place = {name: k for k, name in enumerate(names)}
        return np.array([place[str(group)] for group in samples.groups[pool]], np.int64)
    if plan.folds < 2:
        raise DataError("must be 2 or more", where=f"folds={plan.folds}")
    if len(pool) < plan.folds:
        raise DataError(f"{len(pool)} training images cannot be divided into {plan.folds} folds", where=samples.root,
                        remedy="Use fewer folds")
    order = hash64(name_keys(samples, pool), plan.seed, "folds", repeat)
    if grouped or (samples.multi_label and plan.stratified):
        return _dealt_units(samples, pool, order, plan, grouped)
    fold = np.empty(len(pool), np.int64)
    dealt = np.lexsort((order, samples.targets[pool])) if plan.stratified else np.argsort(order, kind="stable")
    fold[dealt] = np.arange(len(pool)) % plan.folds
    return fold


def fold_splits(samples: Samples, plan: FoldPlan, number: int) -> dict[str, np.ndarray]:
    """{'train', 'val', 'test'} of training `number` (from 0; repeat by repeat): sorted int64 positions, disjoint.

    test: the fold that is held out, which the training does not see. val, which chooses the epoch: as the data give it,
    else taken from the rest by `split_samples`. A test split that the data give is in none of them.
    Raises DataError as `assign_folds` and `split_samples` do, and for a class that the held out fold would take away.
    """
    per_repeat = plan.count(samples) if plan.folds == "groups" else plan.folds
    if not 0 <= number < plan.count(samples):
        raise DataError(f"there are {plan.count(samples)} folds", where=f"fold {number + 1}", remedy="Count from 1")
    repeat, fold = divmod(number, per_repeat)
    return _held_out(samples, plan, assign_folds(samples, plan, repeat) == fold, number)


def all_fold_splits(samples: Samples, plan: FoldPlan) -> Iterator[dict[str, np.ndarray]]:
    """`fold_splits` of every training of the plan, in order."""
    count = plan.count(samples)
    per_repeat = count if plan.folds == "groups" else plan.folds
    for number in range(count):
        if number % per_repeat == 0:
            assigned = assign_folds(samples, plan, number // per_repeat)
        yield _held_out(samples, plan, assigned == number % per_repeat, number)


def _held_out(samples: Samples, plan: FoldPlan, held: np.ndarray, number: int) -> dict[str, np.ndarray]:
    """held: bool, of each sample of the pool."""
    pool = fold_pool(samples)
    split = samples.split.astype("<U5")
    split[split == "test"] = SET_ASIDE
    split[pool[held]] = "test"
    split[pool[~held]] = ""
    made = replace(samples, split=split)
    lacking = np.flatnonzero((samples.class_counts(pool) > 0) & (samples.class_counts(pool[~held]) == 0))
    if len(lacking):
        raise DataError(f"fold {number + 1} takes all training images of "
                        f"{listed([repr(samples.classes[c]) for c in lacking])}", where=samples.root,
                        remedy="Use fewer folds, add images of it, or divide its images into more groups")
    try:
        return split_samples(made, val=plan.val, test=0.0, seed=plan.seed, group_aware=plan.group_aware)
    except DataError as error:
        raise DataError(f"fold {number + 1}: {error.problem}", where=error.where or samples.root,
                        remedy=error.remedy) from None


def _group_names(samples: Samples, pool: np.ndarray) -> list[str]:
    if samples.groups is None:
        raise DataError("the data name no groups", where="folds=groups", remedy="Give a table with a 'group' column, "
                        "or a number of folds")
    names = natural_order([str(name) for name in np.unique(samples.groups[pool])])
    if len(names) < 2:
        raise DataError("one group cannot be left out: nothing would be left to train on", where=samples.root,
                        remedy="Give more groups, or a number of folds")
    return names


def _dealt_units(samples: Samples, pool: np.ndarray, order: np.ndarray, plan: FoldPlan, grouped: bool) -> np.ndarray:
    """Groups, or samples with several labels, as units that are not divided."""
    assert isinstance(plan.folds, int)
    if grouped:
        assert samples.groups is not None
        names, unit_of = np.unique(samples.groups[pool], return_inverse=True)
        unit_of = unit_of.reshape(-1)
        if len(names) < plan.folds:
            raise DataError(f"{len(names)} groups cannot be divided into {plan.folds} folds", where=samples.root,
                            remedy="Use fewer folds, give more groups, or --set data.groups=false")
        sizes, keys = np.bincount(unit_of), np.zeros(len(names), np.uint64)
        np.bitwise_xor.at(keys, unit_of, order)
    else:
        unit_of, sizes, keys = np.arange(len(pool)), np.ones(len(pool), np.int64), order
    labels = np.zeros((len(sizes), len(samples.classes) if plan.stratified else 0))
    if plan.stratified and samples.multi_label:
        np.add.at(labels, unit_of, samples.targets[pool])
    elif plan.stratified:
        np.add.at(labels, (unit_of, samples.targets[pool]), 1)
    assigned = stratified_units(labels, sizes, keys, np.full(plan.folds, 1 / plan.folds))
    _spread_labels(labels, sizes, assigned, plan.folds)
    _fill_empty(sizes, assigned, plan.folds)
    return assigned[unit_of]


def _spread_labels(labels: np.ndarray, sizes: np.ndarray, assigned: np.ndarray, folds: int) -> None:
    """A label of several units that all lie in one fold: the smallest of them goes to the smallest other fold."""
    for label in range(labels.shape[1]):
        units = np.flatnonzero(labels[:, label] > 0)
        if len(units) > 1 and (assigned[units] == assigned[units[0]]).all():
            counts = np.bincount(assigned, sizes, folds)
            counts[assigned[units[0]]] = np.inf
            assigned[units[np.argmin(sizes[units])]] = counts.argmin()


def _fill_empty(sizes: np.ndarray, assigned: np.ndarray, folds: int) -> None:
    """The smallest unit of the fold with the most units goes to a fold that got none."""
    for fold in range(folds):
        if not (assigned == fold).any():
            units = np.flatnonzero(assigned == np.bincount(assigned, minlength=folds).argmax())
            assigned[units[np.argmin(sizes[units])]] = fold
