"""The golden batch: what is drawn, what is compared, and what is refused of a file."""

from __future__ import annotations

import io

import numpy as np
import pytest

from visus.core.errors import CheckpointError
from visus.deploy.golden import Golden, compare, decisions, draw, read_golden, write_golden


def test_a_draw_takes_every_class_in_turn_and_repeats_itself():
    targets = np.array([0] * 90 + [1] * 7 + [2] * 3)
    chosen = draw(targets, 12, seed=4)
    assert len(set(chosen.tolist())) == 12
    assert np.bincount(targets[chosen]).tolist() == [5, 4, 3]
    for start in (0, 3, 6):
        assert sorted(targets[chosen[start:start + 3]].tolist()) == [0, 1, 2]
    assert draw(targets, 12, seed=4).tolist() == chosen.tolist() != draw(targets, 12, seed=5).tolist()
    assert sorted(draw(targets, 1000).tolist()) == list(range(100))


def test_with_several_labels_an_image_stands_for_its_rarest():
    targets = np.zeros((50, 3))
    targets[:, 0] = 1
    targets[7, 1] = targets[31, 2] = 1
    assert {7, 31} <= set(draw(targets, 3).tolist())


def test_differences_and_changed_decisions_are_counted():
    original = np.array([[0.7, 0.3], [0.5, 0.5], [0.4, 0.6]], np.float32)
    exported = np.array([[0.7, 0.3], [0.49, 0.51], [0.45, 0.55]], np.float32)
    found = compare(original, exported)
    assert (found.images, found.changed) == (3, 1)
    assert found.largest == pytest.approx(0.05, abs=1e-6) and found.mean == pytest.approx(0.02, abs=1e-6)
    assert "1 decision changed" in found.sentence


def test_thresholds_decide_where_there_are_several_labels():
    original, exported = np.array([[0.39, 0.8]]), np.array([[0.41, 0.8]])
    assert compare(original, exported, "multilabel").changed == 0
    assert compare(original, exported, "multilabel", (0.4, 0.5)).changed == 1
    assert decisions(original, "multilabel", (0.39, 0.9)).tolist() == [[True, False]]


def test_a_nan_is_the_largest_difference():
    found = compare(np.array([[0.5, 0.5]]), np.array([[np.nan, np.nan]]))
    assert found.largest == 1


def test_the_lowest_class_wins_among_equals():
    assert decisions(np.array([[0.4, 0.4, 0.2]]), "classification").tolist() == [[True, False, False]]


def test_a_written_batch_reads_the_same_and_others_are_refused(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 1), dtype=np.uint8)
    golden = Golden(images, np.full((3, 2), 0.5, np.float32), ("a", "b", "ü"))
    path = tmp_path / "golden.npz"
    write_golden(path, golden)
    again = read_golden(path)
    assert again.sources == golden.sources
    np.testing.assert_array_equal(again.images, images)
    np.testing.assert_array_equal(again.probs, golden.probs)

    good = path.read_bytes()
    held = io.BytesIO()
    np.savez(held, images=images.astype(np.float32), probs=golden.probs, sources=np.array(golden.sources))
    objects = io.BytesIO()
    np.savez(objects, images=np.array([{}], object), probs=golden.probs, sources=np.array(["a"]))
    for data in (b"", good[:100], good[:-30], b"PK" + good[2:60], held.getvalue(), objects.getvalue()):
        path.write_bytes(data)
        with pytest.raises(CheckpointError):
            read_golden(path)
    with pytest.raises(CheckpointError):
        read_golden(tmp_path / "none.npz")
