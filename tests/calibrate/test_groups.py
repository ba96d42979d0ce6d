"""Numbers by group: by hand, groups without a class, and gaps with intervals."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from visus.calibrate.groups import by_group
from visus.core.errors import DataError
from visus.data.opening import open_samples


def one_hot(predicted: list[int], classes: int = 2) -> np.ndarray:
    return 0.9 * np.eye(classes)[predicted] + 0.1 / classes


def test_the_table_by_hand():
    groups = np.array(["a", "a", "a", "a", "b", "b"])
    found = by_group(groups, one_hot([0, 0, 1, 1, 1, 1]), np.array([0, 1, 1, 1, 0, 1]), resamples=50)
    a, b = found["rows"]
    assert (a["group"], a["count"], a["accuracy"]) == ("a", 4, 0.75)
    assert a["selection"] == [0.5, 0.5] and a["base"] == [0.25, 0.75]
    assert a["recall"] == [1.0, pytest.approx(2 / 3)] and b["recall"] == [0.0, 1.0] and b["selection"] == [0, 1]
    assert a["confidence"] == pytest.approx(0.95) and a["few"] and a["low"] < 0.75 < a["high"]
    assert found["accuracy_gap"]["value"] == 0.25 and found["accuracy_gap"]["class"] is None
    assert found["selection_gap"]["value"] == 0.5 and found["recall_gap"] == {
        "value": 1.0, "low": pytest.approx(found["recall_gap"]["low"]), "high": 1.0, "class": 0}


def test_a_class_that_one_group_lacks_has_no_recall_there_and_no_gap():
    found = by_group(np.array(["a", "a", "b"]), one_hot([0, 1, 0]), np.array([0, 1, 0]), resamples=20)
    assert found["rows"][1]["recall"] == [1.0, None]
    assert found["recall_gap"]["class"] == 0 and found["recall_gap"]["value"] == 0
    alone = by_group(np.array(["a", "a"]), one_hot([0, 1]), np.array([0, 1]), resamples=20)
    assert alone["accuracy_gap"] is None and alone["recall_gap"] is None


def test_the_interval_of_a_gap_holds_the_true_one():
    rng = np.random.default_rng(0)
    groups = np.repeat(["a", "b"], 400)
    targets = rng.integers(0, 2, 800)
    right = rng.random(800) < np.where(groups == "a", 0.9, 0.6)
    found = by_group(groups, one_hot(np.where(right, targets, 1 - targets).tolist()), targets, resamples=400)
    gap = found["accuracy_gap"]
    assert gap["low"] < 0.3 < gap["high"] and 0.05 < gap["high"] - gap["low"] < 0.2
    assert not any(row["few"] for row in found["rows"])


def test_kept_columns_follow_their_images_and_leave_the_digest_alone(tmp_path):
    for name in "abcd":
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
    table = tmp_path / "t.csv"
    lines = ["path,label,Age,split", "a.png,x,old,", "b.png,y,young,", "a.png,x,old,", "c.png,x, old ,test",
             "d.png,y,,"]
    table.write_text("\n".join(lines))
    plain, kept = open_samples(table), open_samples(table, kept_columns=("Age", "split"))
    assert kept.columns["Age"].tolist() == ["old", "young", "old", ""]  # the repeated row is left out
    assert kept.columns["split"].tolist() == ["", "", "test", ""]
    assert kept.subset(np.array([3, 1])).columns["Age"].tolist() == ["", "young"]
    assert dict(plain.columns) == {} and kept.digest() == plain.digest() and kept.notes == plain.notes
    with pytest.raises(DataError, match="no column 'age'"):
        open_samples(table, kept_columns=("age",))
