"""Dividing samples into train, val and test: stratified by class, seeded, with groups kept together."""

from __future__ import annotations

import hashlib

import numpy as np

from visus.core.errors import DataError, printable
from visus.core.seeds import hash64
from visus.data.samples import SPLITS, Samples, listed


def split_samples(samples: Samples, *, val: float = 0.15, test: float = 0.15, seed: int = 0,
                  group_aware: bool = True) -> dict[str, np.ndarray]:
    """{'train', 'val', 'test'}: sorted int64 positions in `samples`, disjoint, together all of them.

    Splits that the data give are kept; a missing one is taken from the training samples and from those without a
    split: shares `val` and `test` of them, in each class. Who goes where depends on the seed and on the files' names,
    not on the order in which they were listed. Every class keeps a sample in train, and where it has three or more
    one in each split. Groups (when `group_aware` and the samples have them) are never divided. Samples with groups or
    several labels are divided one by one to where they are lacked most, rare labels first (after Sechidis, Tsoumakas
    and Vlahavas, 2011, "On the stratification of multi-label data"): their shares are approximate.

    Raises DataError: a class that has one sample only and so cannot be divided, a class without training samples,
    one group in two given splits, too few groups.
    """
    given = {name: np.flatnonzero(samples.split == name) for name in SPLITS}
    pool = np.flatnonzero((samples.split == "train") | (samples.split == ""))
    shares = {name: share for name, share in (("val", val), ("test", test)) if share > 0 and not len(given[name])}
    parts = {"val": given["val"], "test": given["test"]}
    grouped = group_aware and samples.groups is not None
    if grouped:
        _check_given_groups(samples, pool, given)
    if shares and len(pool):
        order = hash64(name_keys(samples, pool), seed, "split")
        if grouped or samples.multi_label:
            made = _divide_units(samples, pool, order, shares, grouped)
        else:
            made = _divide_classes(samples, pool, order, shares)
        parts |= made
    taken = np.concatenate([parts["val"], parts["test"]])
    parts["train"] = np.setdiff1d(pool, taken)
    _check_train(samples, parts["train"])
    return {name: np.sort(parts[name]).astype(np.int64) for name in SPLITS}


def name_keys(samples: Samples, pool: np.ndarray) -> np.ndarray:
    """uint64 per sample: of its name for files, its position for images in memory."""
    if samples.paths is None:
        return pool.astype(np.uint64)
    digests = (hashlib.blake2b(samples.paths[i].encode("utf-8", "surrogateescape"), digest_size=8).digest()
               for i in pool)
    return np.frombuffer(b"".join(digests), np.uint64)


def _divide_classes(samples: Samples, pool: np.ndarray, order: np.ndarray,
                    shares: dict[str, float]) -> dict[str, np.ndarray]:
    """One label each: in every class the first in hash order go to the made splits."""
    targets = samples.targets[pool]
    counts = np.bincount(targets, minlength=len(samples.classes))
    single = [repr(samples.classes[c]) for c in np.flatnonzero(counts == 1)]
    if single:
        raise DataError(f"a class with one image cannot be divided into train and {' and '.join(shares)}: "
                        f"{listed(single)}", where=samples.root,
                        remedy="Add images of it, remove the class, or give splits of your own (train/, val/, test/)")
    by_class = np.lexsort((order, targets))  # grouped by class, in hash order within each
    starts = np.concatenate([[0], np.cumsum(counts)])[:-1]
    rank = np.arange(len(pool)) - np.repeat(starts, counts)
    of_class = np.repeat(counts, counts)
    made, first = {}, np.zeros(len(counts), np.int64)
    for left, (name, share) in zip(range(len(shares), 0, -1), shares.items(), strict=True):
        # one at least, and one at least for train and each split still to come, as far as there are
        wanted = np.maximum(1, np.floor(counts * share + 0.5).astype(np.int64))
        wanted = np.where(counts == 2, int(left == 1), np.minimum(wanted, counts - first - left))
        wanted = np.maximum(wanted, 0)
        low, high = np.repeat(first, counts), np.repeat(first + wanted, counts)
        made[name] = pool[by_class[(rank >= low) & (rank < high) & (rank < of_class)]]
        first = first + wanted
    return made


def _divide_units(samples: Samples, pool: np.ndarray, order: np.ndarray, shares: dict[str, float],
                  grouped: bool) -> dict[str, np.ndarray]:
    """Groups, or samples with several labels, as units that are not divided."""
    if grouped:
        assert samples.groups is not None
        names, unit_of = np.unique(samples.groups[pool], return_inverse=True)
        unit_of = unit_of.reshape(-1)
        if len(names) <= len(shares):
            raise DataError(f"{len(names)} groups cannot be divided into train and {' and '.join(shares)}",
                            where=samples.root, remedy="Give more groups, fewer splits, or no group column")
        sizes = np.bincount(unit_of)
        keys = np.zeros(len(names), np.uint64)
        np.bitwise_xor.at(keys, unit_of, order)
    else:
        unit_of, sizes, keys = np.arange(len(pool)), np.ones(len(pool), np.int64), order
    labels = np.zeros((len(sizes), len(samples.classes)))
    if samples.multi_label:
        np.add.at(labels, unit_of, samples.targets[pool])
    else:
        np.add.at(labels, (unit_of, samples.targets[pool]), 1)
    names_of = ["train", *shares]
    fractions = np.array([1 - sum(shares.values()), *shares.values()])
    assigned = stratified_units(labels, sizes, keys, fractions)
    _keep_every_label_in_train(labels, sizes, assigned)
    for k, name in enumerate(names_of):
        if not (assigned == k).any():
            raise DataError(f"no {'group' if grouped else 'image'} is left for {name}", where=samples.root,
                            remedy="The groups are too few or too large: give more, or splits of your own")
    return {name: pool[assigned[unit_of] == k] for k, name in enumerate(names_of) if k}


def stratified_units(labels: np.ndarray, sizes: np.ndarray, keys: np.ndarray, fractions: np.ndarray) -> np.ndarray:
    """labels: counts [U, K] of each unit; sizes: samples [U]; keys: random [U]; fractions: shares [S] that sum to 1.

    Returns the split of each unit [U]. Units that hold the rarest label come first, as in iterative stratification;
    each goes where sum over labels and size of (have - want)^2 / want grows least.
    """
    counts = np.concatenate([labels, sizes[:, None]], 1).astype(np.float64)  # [U, K + 1]
    want = np.outer(fractions, counts.sum(0)).clip(1e-9)  # [S, K + 1]
    lacking = want.copy()
    frequency = (labels > 0).sum(0)
    rarest = np.where(labels > 0, frequency, len(sizes) + 1).min(1)
    assigned = np.zeros(len(sizes), np.int64)
    for unit in np.lexsort((keys, -sizes, rarest)):
        cost = (counts[unit] * (counts[unit] - 2 * lacking) / want).sum(1)
        assigned[unit] = cost.argmin()
        lacking[assigned[unit]] -= counts[unit]
    return assigned


def _keep_every_label_in_train(labels: np.ndarray, sizes: np.ndarray, assigned: np.ndarray) -> None:
    """Moves the smallest unit that holds it to train (0) for each label that train lacks."""
    for label in np.flatnonzero((labels[assigned == 0].sum(0) == 0) & (labels.sum(0) > 0)):
        if not (labels[assigned == 0, label] > 0).any():
            units = np.flatnonzero(labels[:, label] > 0)
            assigned[units[np.argmin(sizes[units])]] = 0


def _check_given_groups(samples: Samples, pool: np.ndarray, given: dict[str, np.ndarray]) -> None:
    assert samples.groups is not None
    places = {"train": pool, "val": given["val"], "test": given["test"]}
    sets = {name: set(np.unique(samples.groups[index]).tolist()) for name, index in places.items()}
    for a, b in (("train", "val"), ("train", "test"), ("val", "test")):
        shared = sets[a] & sets[b]
        if shared:
            raise DataError(f"a group lies in both {a} and {b}: {listed([printable(str(g)) for g in sorted(shared)])}",
                            where=samples.root, remedy="Give each group one split, or leave the group column out")


def _check_train(samples: Samples, train: np.ndarray) -> None:
    if not len(train):
        raise DataError("no images are left to train on", where=samples.root,
                        remedy="Give training images, or smaller data.val and data.test")
    missing = np.flatnonzero(samples.class_counts(train) == 0)
    if len(missing):
        raise DataError(f"no training image of {listed([repr(samples.classes[c]) for c in missing])}",
                        where=samples.root, remedy="Add images of it to train, or remove the class")
