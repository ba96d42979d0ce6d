from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visus.doctor.before.label_range import label_range
from visus.doctor.patient import Patient

GOOD = torch.tensor([0, 1, 2, 3] * 4)


def found(targets: Tensor, loss=F.cross_entropy, model: nn.Module | None = None, order: tuple = ()) -> list:
    torch.manual_seed(0)
    batch = (torch.randn(len(targets), 5), targets)
    return list(label_range(Patient(model=model or nn.Linear(5, 4), loss=loss, batches=(batch,), order=order)))


def test_labels_from_0_to_the_last_say_nothing():
    assert found(GOOD) == []


def test_labels_that_count_from_1():
    (finding,) = found(GOOD + 1)
    assert finding.severity == "error" and "count from 1" in finding.title and "targets - 1" in finding.remedy


def test_negative_and_too_large_labels_are_listed_even_when_a_later_batch_has_them():
    (negative,) = found(torch.where(GOOD == 0, -1, GOOD))
    assert "0 to 3: -1" in negative.title
    (large,) = found(GOOD, order=(GOOD, torch.tensor([0, 7])))
    assert "0 to 3: 7" in large.title and "8 outputs" in large.remedy


@pytest.mark.parametrize("label, loss", [(-100, F.cross_entropy), (255, nn.CrossEntropyLoss(ignore_index=255)),
                                         (9, partial(F.cross_entropy, ignore_index=9)),
                                         (-1, lambda o, t: F.cross_entropy(o, t, ignore_index=-1))])
def test_what_the_loss_passes_over_is_no_label(label: int, loss):
    assert found(torch.where(GOOD == 0, label, GOOD), loss) == []


def test_labels_of_a_loss_of_pairs_are_only_equal_or_not():
    pairs = lambda outputs, labels: (torch.cdist(outputs, outputs) * (labels[:, None] == labels)).mean()  # noqa: E731
    assert found(GOOD + 40, pairs) == []


def test_a_label_map():
    model = nn.Conv2d(5, 4, 1)

    def maps(labels: Tensor) -> list:
        batch = (torch.randn(2, 5, 4, 2), labels.reshape(2, 4, 2))
        return list(label_range(Patient(model=model, loss=F.cross_entropy, batches=(batch,))))

    assert maps(GOOD) == [] and "count from 1" in maps(GOOD + 1)[0].title


def test_an_output_that_never_has_a_label_is_a_note_once_enough_were_seen():
    few = torch.tensor([0, 1, 2] * 26)
    assert found(few) == []
    (finding,) = found(torch.tensor([0, 1, 2] * 27))
    assert finding.severity == "note" and finding.title.endswith(": 3")


@pytest.mark.parametrize("targets, loss, remedy", [
    (GOOD.float(), F.cross_entropy, "targets.long()"), (GOOD.unsqueeze(1), F.cross_entropy, "targets.squeeze(1)"),
    (F.one_hot(GOOD), F.cross_entropy, "targets.float()"),
    (F.one_hot(GOOD), nn.BCEWithLogitsLoss(), "targets.float()")])
def test_a_wrong_type_or_shape_names_the_change_that_is_accepted(targets, loss, remedy):
    (finding,) = found(targets, loss)
    assert finding.severity == "error" and finding.remedy.startswith(remedy)


def test_a_column_against_a_row_is_spread_without_an_error_from_torch():
    values = torch.linspace(0, 1, 16)
    (finding,) = found(values, nn.MSELoss(), nn.Linear(5, 1))
    assert "all 16 targets" in finding.title and "squeeze" in finding.remedy
    assert found(values[:, None], nn.MSELoss(), nn.Linear(5, 1)) == []
    assert found(values, lambda o, t: F.mse_loss(o.squeeze(1), t), nn.Linear(5, 1)) == []


def test_soft_labels_must_sum_to_1():
    soft = F.one_hot(GOOD, 4) * 0.9 + 0.025
    assert found(soft) == []
    assert "not shares" in found(soft * 1.1)[0].title
    assert found(soft * 1.0005) == []
    several = (torch.rand(16, 4, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    assert "Several labels" in found(several)[0].title and found(several, nn.BCEWithLogitsLoss()) == []


def test_bce_takes_0_to_1_and_a_hinge_takes_both_signs():
    signs = torch.where(F.one_hot(GOOD, 4) > 0, 1.0, -1.0)
    assert "-1 to 1" in found(signs, nn.BCEWithLogitsLoss())[0].title
    assert found(signs, nn.SoftMarginLoss()) == []
