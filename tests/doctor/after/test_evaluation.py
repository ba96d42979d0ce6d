from __future__ import annotations

import numpy as np
import pytest

from tests.doctor.after.curves import CHECKS, alarms, evaluation, found, good
from visus.doctor import registry
from visus.doctor.history import History

SURE = {"bins": [{"count": 300, "confidence": 0.95, "accuracy": 0.7}], "ece": 0.25}


def confusion(right: int, wrong: int, classes: int = 4) -> list[list[int]]:
    """Each class: `right` hits, the rest to its neighbour."""
    counts = np.diag([right] * classes)
    for k in range(classes):
        counts[k, (k + 1) % classes] = wrong
    return counts.tolist()


def judged(row: dict) -> History:
    return History(evaluation=row)


def test_one_answer_for_nearly_all_is_collapsed():
    (finding,) = found("collapsed-prediction", judged(evaluation([[50, 0, 0], [49, 1, 0], [50, 0, 0]])))
    assert "class 0" in finding.title and "99.3 % of 150" in finding.evidence and "33.3 %" in finding.evidence


@pytest.mark.parametrize(("named", "fires"), [(95, False), (97, True)])
def test_collapsed_begins_above_95_percent(named, fires):
    row = evaluation([[50, 0], [named - 50, 100 - named]])
    assert bool(found("collapsed-prediction", judged(row))) is fires


def test_a_majority_of_60_percent_may_have_all_answers():
    assert not found("collapsed-prediction", judged(evaluation([[70, 0], [30, 0]])))


def test_collapsed_is_seen_without_a_confusion_matrix():
    row = evaluation([[50, 0, 0], [50, 0, 0], [50, 0, 0]]) | {"confusion": None}
    assert found("collapsed-prediction", judged(row))


def test_several_labels_have_no_collapse():
    row = evaluation([[50, 0, 0], [50, 0, 0], [50, 0, 0]]) | {"confusion": None, "confused": []}
    assert not found("collapsed-prediction", judged(row))


def test_a_weak_class_is_named_with_its_count_and_what_it_is_taken_for():
    counts = confusion(95, 5)
    counts[2] = [0, 0, 20, 80]
    (finding,) = found("weak-classes", judged(evaluation(counts, ["cat", "dog", "hen", "owl"])))
    assert finding.severity == "warning" and "hen" in finding.title
    assert "hen: 20 % of 100 images, 80 taken for owl" in finding.evidence


def test_ten_images_of_a_class_tell_little():
    counts = confusion(95, 5)
    counts[2] = [0, 0, 5, 5]
    assert [f.severity for f in found("weak-classes", judged(evaluation(counts)))] != ["warning"]


def test_a_net_that_is_weak_everywhere_has_no_weak_classes():
    counts = confusion(50, 50)
    counts[2] = [0, 0, 0, 100]
    assert not found("weak-classes", judged(evaluation(counts)))


def test_too_sure_is_a_note_with_the_error_and_the_direction():
    (finding,) = found("miscalibrated", judged(evaluation(confusion(70, 30), reliability=SURE)))
    assert finding.severity == "note" and "too sure" in finding.title and "0.250" in finding.evidence


def test_an_error_that_counts_give_by_chance_is_silent():
    few = {"bins": [{"count": 10, "confidence": 0.5, "accuracy": 0.3} for _ in range(10)], "ece": 0.2}
    assert not found("miscalibrated", judged(evaluation(confusion(30, 10), reliability=few)))
    assert found("miscalibrated", judged(evaluation(confusion(30, 10), reliability=few | {"ece": 0.25})))


def test_the_row_is_taken_from_metrics_json_by_its_headline():
    metrics = {"headline": {"split": "val"}, "splits": {"test": {"count": 1}, "val": {"count": 2}}}
    assert History(evaluation=metrics).evaluated == {"count": 2}
    assert History(evaluation={"splits": {"train": {"count": 3}}}).evaluated == {"count": 3}
    assert History(evaluation={"count": 4}).evaluated == {"count": 4}
    assert History().evaluated == {} and History(evaluation=7).evaluated == {}


def test_a_good_evaluation_gives_no_alarm():
    sure = {"bins": [{"count": 400, "confidence": 0.95, "accuracy": 0.94}], "ece": 0.01}
    assert alarms(good(evaluation=evaluation(confusion(95, 5), reliability=sure))) == []


def test_every_check_of_this_stage_is_registered_with_its_course():
    entries = {name: registry.get(name) for name in CHECKS}
    assert all(entry.about["stage"] == "after" and entry.about["course"] for entry in entries.values())
    assert {name for name, module in registry.index().items() if ".after." in module} == set(CHECKS)
