"""Three ways to the same distances, and the vote."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from visus.core.errors import UserError
from visus.foundations import nearest

rng = np.random.default_rng(0)
X, BASE = rng.normal(size=(17, 30)), rng.normal(size=(23, 30))


def test_two_loops_one_loop_and_no_loop_agree_to_1e_10_and_with_torch():
    found = [way(X, BASE) for way in (nearest.two_loops, nearest.one_loop, nearest.no_loop)]
    theirs = torch.cdist(torch.from_numpy(X), torch.from_numpy(BASE)).numpy()
    for distances in found:
        assert np.abs(distances - found[0]).max() < 1e-10
        assert np.abs(distances - theirs).max() < 1e-10
    assert np.abs(nearest.l1(X, BASE) - torch.cdist(torch.from_numpy(X), torch.from_numpy(BASE), p=1).numpy()
                  ).max() < 1e-10


def test_no_loop_is_never_below_zero():
    assert np.isfinite(nearest.no_loop(BASE * 1e6, BASE * 1e6)).all()


def test_a_tied_vote_goes_to_the_smaller_label_and_equal_distances_to_the_first():
    distances = np.array([[1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 1.0, 1.0]])
    labels = np.array([3, 1, 1, 3])
    assert nearest.vote(distances, labels, 1).tolist() == [3, 3]
    assert nearest.vote(distances, labels, 2).tolist() == [1, 1]  # one vote each
    assert nearest.vote(distances, labels, 3).tolist() == [1, 1]
    assert nearest.vote(distances, labels, 4).tolist() == [1, 1]


def test_cross_validation_holds_each_part_out_once():
    x = np.concatenate([rng.normal(size=(25, 4)) + shift for shift in (0, 20)])
    labels = np.repeat([0, 1], 25)
    order = rng.permutation(50)
    right = nearest.cross_validate(x[order], labels[order], [1, 5, 40])
    assert [len(shares) for shares in right.values()] == [5, 5, 5]
    assert right[1] == right[5] == [1.0] * 5
    assert np.mean(right[40]) < 0.75  # all votes count: the larger rest wins
    with pytest.raises(UserError, match="k=0"):
        nearest.vote(np.zeros((1, 2)), np.array([0, 1]), 0)
    with pytest.raises(UserError, match="folds=1"):
        nearest.cross_validate(x, labels, [1], folds=1)
