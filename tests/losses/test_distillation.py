"""Distillation losses against the papers' equations in NumPy and against torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from visus.core.errors import UserError
from visus.losses.distillation import hard, hint, mimic, softened


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    return [3 * torch.randn(5, 4, generator=generator, dtype=torch.float64) for _ in range(2)]


def _softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_softened_is_the_divergence_of_both_softened_distributions(logits, temperature):
    student, teacher = logits
    p, q = _softmax(teacher.numpy() / temperature), _softmax(student.numpy() / temperature)
    wanted = temperature**2 * (p * (np.log(p) - np.log(q))).sum(1).mean()
    assert float(softened(student, teacher, temperature)) == pytest.approx(wanted, rel=1e-12)


def test_the_gradient_of_softened_is_hintons_equation_2(logits):
    """dC/dz = (1 / T) (q - p) for the cross-entropy; T^2 of it, over the batch."""
    student, teacher = logits
    student.requires_grad_()
    softened(student, teacher, 3.0).backward()
    q, p = (student.detach() / 3).softmax(1), (teacher / 3).softmax(1)
    assert torch.allclose(student.grad, 9 * (q - p) / 3 / len(student), rtol=1e-10)


def test_at_high_temperature_softened_regresses_centred_logits(logits):
    """Hinton et al., equation 4: in the limit the gradient is (z - v) / (N T^2) for logits of mean zero; times T^2."""
    student, teacher = (z - z.mean(1, keepdim=True) for z in logits)
    student.requires_grad_()
    softened(student, teacher, 1e5).backward()
    assert torch.allclose(student.grad, (student.detach() - teacher) / 4 / 5, rtol=1e-3, atol=1e-5)


def test_mimic_and_hint_are_half_the_mean_square(logits):
    student, teacher = logits
    wanted = 0.5 * ((student - teacher).numpy()**2).mean()
    assert float(mimic(student, teacher)) == pytest.approx(wanted, rel=1e-12)
    maps = torch.arange(24.0).view(1, 2, 3, 4)
    assert float(hint(maps, maps + 2)) == pytest.approx(2.0)


def test_hard_is_cross_entropy_with_the_teachers_decision(logits):
    student, teacher = logits
    rows = [-np.log(_softmax(student.numpy())[i, teacher.numpy()[i].argmax()]) for i in range(5)]
    assert float(hard(student, teacher)) == pytest.approx(np.mean(rows), rel=1e-12)
    assert torch.equal(hard(student, teacher), F.cross_entropy(student, teacher.argmax(1)))


def test_softened_stays_finite_for_huge_logits():
    student = torch.tensor([[1e4, -1e4]], requires_grad=True)
    softened(student, torch.tensor([[-1e4, 1e4]]), 1.0).backward()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("loss", [mimic, hint, lambda s, t: softened(s, t, 2.0)])
def test_the_teacher_gets_no_gradient_and_is_never_beaten(loss, logits):
    student, teacher = logits
    teacher.requires_grad_()
    student.requires_grad_()
    value = loss(student, teacher)
    value.backward()
    assert teacher.grad is None and float(value.detach()) > 0
    assert float(loss(teacher.detach(), teacher).detach()) == pytest.approx(0, abs=1e-12)


def test_other_shapes_are_refused():
    with pytest.raises(UserError, match="same classes"):
        mimic(torch.zeros(2, 3), torch.zeros(2, 4))
