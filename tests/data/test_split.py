from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visus.core.errors import DataError
from visus.data import Samples, open_samples, split_samples


def samples_of(targets, *, groups=None, split=None, paths=None) -> Samples:
    targets = np.asarray(targets)
    many = targets.ndim == 2
    classes = targets.shape[1] if many else int(targets.max()) + 1
    about = {"paths": tuple(paths)} if paths is not None else {"images": np.zeros((len(targets), 2, 2, 1), np.uint8)}
    if split is not None:
        about["split"] = np.asarray(split, "<U5")
    return Samples(format="npz", classes=tuple(str(c) for c in range(classes)),
                   targets=targets.astype(np.float32 if many else np.int64),
                   groups=None if groups is None else np.asarray(groups), **about)


def check_partition(parts: dict[str, np.ndarray], count: int) -> None:
    assert list(parts) == ["train", "val", "test"]
    joined = np.concatenate(list(parts.values()))
    assert sorted(joined.tolist()) == list(range(count))
    assert all((np.diff(p) > 0).all() and p.dtype == np.int64 for p in parts.values())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(2, 40), min_size=2, max_size=6), st.floats(0, 0.4), st.floats(0, 0.4),
       st.integers(0, 2**40), st.randoms(use_true_random=False))
def test_every_split_is_a_stratified_partition_with_every_class_in_train(counts, val, test, seed, random):
    targets = np.repeat(np.arange(len(counts)), counts)
    random.shuffle(targets)
    samples = samples_of(targets)
    parts = split_samples(samples, val=val, test=test, seed=seed)
    check_partition(parts, len(targets))
    assert (samples.class_counts(parts["train"]) > 0).all()
    for name, share in (("val", val), ("test", test)):
        got = samples.class_counts(parts[name])
        if share == 0:
            assert not got.sum()
        else:
            wanted = np.array(counts) * share
            assert (np.abs(got - wanted) <= 1).all()
            assert (got[np.array(counts) >= 3] >= 1).all()
    again = split_samples(samples, val=val, test=test, seed=seed)
    assert all(np.array_equal(parts[k], again[k]) for k in parts)


def test_the_shares_of_digits_are_the_stated_ones_and_depend_on_the_seed():
    samples = open_samples("digits")
    parts = split_samples(samples)
    check_partition(parts, 1797)
    assert abs(len(parts["val"]) - 0.15 * 1797) <= 5 and abs(len(parts["test"]) - 0.15 * 1797) <= 5
    assert not np.array_equal(parts["test"], split_samples(samples, seed=1)["test"])


def test_the_split_of_files_does_not_depend_on_their_order():
    names = [f"c{i % 3}/{i}.png" for i in range(90)]
    first = samples_of([i % 3 for i in range(90)], paths=names)
    order = np.random.default_rng(0).permutation(90)
    second = first.subset(order)
    a, b = split_samples(first), split_samples(second)
    for name in a:
        assert {first.source(i) for i in a[name]} == {second.source(i) for i in b[name]}


def test_a_class_with_one_image_is_one_clear_message():
    with pytest.raises(DataError, match=r"a class with one image cannot be divided.*'1', '2'"):
        split_samples(samples_of([0, 0, 0, 1, 2, 0]))
    assert len(split_samples(samples_of([0, 0, 0, 1, 2, 0]), val=0, test=0)["train"]) == 6


def test_given_splits_are_kept_and_only_missing_ones_made():
    given = ["train"] * 40 + ["test"] * 10 + [""] * 10
    samples = samples_of([i % 2 for i in range(60)], split=given)
    parts = split_samples(samples, val=0.2)
    check_partition(parts, 60)
    assert parts["test"].tolist() == list(range(40, 50))
    assert len(parts["val"]) == 10
    all_given = samples_of([0, 1] * 6, split=["train"] * 4 + ["val"] * 4 + ["test"] * 4)
    assert [len(p) for p in split_samples(all_given).values()] == [4, 4, 4]


def test_a_class_that_train_lacks_is_named():
    with pytest.raises(DataError, match="no training image of '1'"):
        split_samples(samples_of([0, 0, 1, 0], split=["train", "train", "val", "test"]))
    with pytest.raises(DataError, match="no images are left to train on"):
        split_samples(samples_of([0, 1], split=["val", "test"]))


@settings(max_examples=40, deadline=None)
@given(st.integers(8, 40), st.integers(2, 4), st.integers(0, 1000))
def test_no_group_is_divided_and_every_class_is_in_train(num_groups, classes, seed):
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(num_groups), rng.integers(1, 9, num_groups))
    targets = rng.integers(0, classes, len(groups))
    targets[:classes] = np.arange(classes)
    samples = samples_of(targets, groups=groups)
    parts = split_samples(samples, seed=seed)
    check_partition(parts, len(groups))
    sets = [set(groups[p]) for p in parts.values()]
    assert not (sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2])
    assert (samples.class_counts(parts["train"]) > 0).all()


def test_groups_keep_the_shares_roughly_and_can_be_switched_off():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(200), 5)
    samples = samples_of(rng.integers(0, 3, 1000), groups=groups)
    parts = split_samples(samples, val=0.2, test=0.1)
    assert abs(len(parts["val"]) - 200) <= 10 and abs(len(parts["test"]) - 100) <= 10
    counts = samples.class_counts(parts["val"])
    assert np.abs(counts / 0.2 / samples.class_counts() - 1).max() < 0.1
    divided = split_samples(samples, group_aware=False)
    assert set(groups[divided["train"]]) & set(groups[divided["test"]])


def test_too_few_groups_and_a_group_in_two_given_splits_are_refused():
    with pytest.raises(DataError, match="2 groups cannot be divided"):
        split_samples(samples_of([0, 1, 0, 1], groups=[1, 1, 2, 2]))
    with pytest.raises(DataError, match="a group lies in both train and test: p1"):
        split_samples(samples_of([0, 1, 0, 1], groups=["p1", "p2", "p1", "p3"], split=["", "", "test", "test"]))


def test_several_labels_keep_their_shares():
    rng = np.random.default_rng(0)
    targets = rng.random((2000, 5)) < np.array([0.5, 0.2, 0.05, 0.01, 0.3])
    samples = samples_of(targets)
    parts = split_samples(samples)
    check_partition(parts, 2000)
    for name in ("val", "test"):
        assert abs(len(parts[name]) - 300) <= 10
        assert np.abs(samples.class_counts(parts[name]) - 0.15 * samples.class_counts()).max() <= 2
