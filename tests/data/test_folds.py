"""Cross-validation: every sample is held out once, classes as evenly as can be, groups whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.test_split import samples_of
from visus.core.errors import DataError
from visus.data.folds import FoldPlan, all_fold_splits, assign_folds, fold_splits


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(6, 40), min_size=2, max_size=5), st.integers(2, 5), st.integers(0, 2**40),
       st.randoms(use_true_random=False))
def test_stratified_folds_are_as_even_as_scikit_learns(counts, folds, seed, random):
    from sklearn.model_selection import StratifiedKFold

    targets = np.repeat(np.arange(len(counts)), counts)
    random.shuffle(targets)
    fold = assign_folds(samples_of(targets), FoldPlan(folds=folds, seed=seed))
    sizes = np.bincount(fold, minlength=folds)
    assert sizes.max() - sizes.min() <= 1
    ours = np.stack([np.bincount(targets[fold == k], minlength=len(counts)) for k in range(folds)])  # [K, C]
    assert (ours.max(0) - ours.min(0) <= 1).all()
    peer = np.stack([np.bincount(targets[held], minlength=len(counts)) for _, held in StratifiedKFold(
        folds, shuffle=True, random_state=seed % 2**31).split(targets, targets)])
    assert np.array_equal(np.sort(ours, 0), np.sort(peer, 0))  # a class's counts over the folds, in any order


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 4), st.integers(8, 25), st.integers(2, 4), st.integers(0, 1000))
def test_groups_are_whole_and_shares_as_even_as_scikit_learns(folds, groups, classes, seed):
    from sklearn.model_selection import StratifiedGroupKFold

    random = np.random.default_rng(seed)
    groups_of = np.repeat(np.arange(groups), random.integers(1, 12, groups))
    targets = random.integers(0, classes, len(groups_of))
    targets[:classes] = np.arange(classes)
    samples = samples_of(targets, groups=groups_of)
    fold = assign_folds(samples, FoldPlan(folds=folds, seed=seed))
    assert set(fold.tolist()) == set(range(folds))
    assert all(len(set(fold[groups_of == g].tolist())) == 1 for g in range(groups))

    def unevenness(of: np.ndarray) -> float:
        table = np.stack([np.bincount(targets[of == k], minlength=classes) for k in range(folds)])
        return float((table / table.sum(0)).std(0).mean())

    peer = np.empty(len(targets), int)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for k, (_, held) in enumerate(splitter.split(targets, targets, groups_of)):
        peer[held] = k
    assert unevenness(fold) <= unevenness(peer) + 0.1


def test_each_sample_is_held_out_once_and_nothing_is_in_two_splits():
    targets = np.arange(60) % 3
    seen = np.zeros(60, int)
    for splits in all_fold_splits(samples_of(targets), FoldPlan(folds=4)):
        assert sorted(np.concatenate(list(splits.values())).tolist()) == list(range(60))
        assert len(splits["test"]) == 15 and len(splits["val"]) and len(splits["train"])
        seen[splits["test"]] += 1
    assert (seen == 1).all()


def test_given_splits_stay_out_of_the_folds():
    split = ["train"] * 30 + ["val"] * 6 + ["test"] * 6
    samples = samples_of(np.arange(42) % 2, split=split)
    held = []
    for splits in all_fold_splits(samples, FoldPlan(folds=3)):
        assert splits["val"].tolist() == list(range(30, 36))
        held += splits["test"].tolist()
    assert sorted(held) == list(range(30))


def test_folds_depend_on_names_and_seed_and_not_on_the_order_of_files():
    names = [f"{i % 4}/{i}.png" for i in range(80)]
    targets = np.arange(80) % 4
    order = np.random.default_rng(0).permutation(80)
    one = assign_folds(samples_of(targets, paths=names), FoldPlan(folds=5))
    two = assign_folds(samples_of(targets[order], paths=[names[i] for i in order]), FoldPlan(folds=5))
    assert np.array_equal(one[order], two)
    assert not np.array_equal(one, assign_folds(samples_of(targets, paths=names), FoldPlan(folds=5, seed=1)))


def test_repeats_are_other_divisions_each_of_them_whole():
    samples, plan = samples_of(np.arange(40) % 2), FoldPlan(folds=4, repeats=3)
    drawn = [assign_folds(samples, plan, repeat) for repeat in range(3)]
    assert plan.count(samples) == 12
    assert not np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[1], drawn[2])
    held = np.concatenate([splits["test"] for splits in list(all_fold_splits(samples, plan))[4:8]])
    assert sorted(held.tolist()) == list(range(40))


def test_plain_folds_are_even_and_blind_to_the_class():
    targets = np.repeat([0, 1], [45, 5])
    fold = assign_folds(samples_of(targets), FoldPlan(folds=5, stratified=False))
    assert np.bincount(fold).tolist() == [10] * 5
    drawn = {tuple(np.bincount(assign_folds(samples_of(targets), FoldPlan(folds=5, stratified=False, seed=s))
                               [targets == 1], minlength=5)) for s in range(8)}
    assert any(max(counts) > 1 for counts in drawn)


def test_leaving_one_group_out_holds_out_each_group_alone():
    groups = np.array(["p10", "p2", "p1"])[np.arange(30) % 3]
    samples, plan = samples_of(np.arange(30) // 3 % 2, groups=groups), FoldPlan(folds="groups")
    assert plan.count(samples) == 3
    held = [set(groups[splits["test"]].tolist()) for splits in all_fold_splits(samples, FoldPlan(
        folds="groups", group_aware=False))]
    assert held == [{"p1"}, {"p2"}, {"p10"}]  # as people count


def test_several_labels_reach_every_fold():
    random = np.random.default_rng(1)
    targets = (random.random((200, 4)) < [0.5, 0.2, 0.1, 0.06]).astype(np.float32)
    targets[:, 3][:5] = 1
    fold = assign_folds(samples_of(targets), FoldPlan(folds=4))
    counts = np.stack([targets[fold == k].sum(0) for k in range(4)])
    assert (counts.max(0) - counts.min(0) <= np.maximum(2, 0.15 * counts.sum(0))).all()
    assert np.bincount(fold).max() - np.bincount(fold).min() <= 4


@pytest.mark.parametrize("samples, plan, words", [
    (samples_of([0, 1, 0]), FoldPlan(folds=5), "3 training images cannot be divided into 5 folds"),
    (samples_of([0, 1, 0, 1]), FoldPlan(folds=1), "must be 2 or more"),
    (samples_of([0, 1, 0, 1]), FoldPlan(folds="groups"), "name no groups"),
    (samples_of([0, 1] * 4, groups=[1] * 4 + [2] * 4), FoldPlan(folds=3), "2 groups cannot be divided"),
])
def test_what_cannot_be_divided_is_said(samples, plan, words):
    with pytest.raises(DataError, match=words):
        assign_folds(samples, plan)


def test_a_fold_that_would_take_a_whole_class_is_refused_by_name():
    samples = samples_of([0] * 10 + [1], groups=None)
    refused = []
    for number in range(2):
        try:
            fold_splits(samples, FoldPlan(folds=2), number)
        except DataError as error:
            refused.append(str(error))
    assert any("'1'" in text and "fold" in text for text in refused)
    with pytest.raises(DataError, match="there are 2 folds"):
        fold_splits(samples, FoldPlan(folds=2), 2)
