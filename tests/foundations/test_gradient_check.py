"""Numeric gradients against derivatives known in closed form, torch and constructed mistakes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from visus.core.errors import UserError
from visus.foundations.gradient_check import (
    centred_difference,
    check_gradient,
    crosses_kink,
    forward_difference,
    relative_error,
)


def rng():
    return np.random.default_rng(0)


def test_differences_equal_torch_and_restore_x():
    x, up = rng().normal(size=(3, 4)), rng().normal(size=(3, 4))
    kept, t = x.copy(), torch.tensor(x, requires_grad=True)
    (torch.sin(t) * t.exp() * torch.tensor(up)).sum().backward()

    def f(a):
        return np.sin(a) * np.exp(a)

    assert relative_error(centred_difference(f, x, up), t.grad.numpy()) < 1e-8
    assert relative_error(forward_difference(f, x, up), t.grad.numpy()) < 1e-5
    assert np.array_equal(x, kept)


def test_the_error_falls_with_h_forward_and_with_h_squared_centred():
    x = np.array([0.7])
    errors = {rule: [abs(rule(np.exp, x, h=h)[0] - np.exp(0.7)) for h in (1e-2, 1e-3)]
              for rule in (forward_difference, centred_difference)}
    assert errors[forward_difference][0] / errors[forward_difference][1] == pytest.approx(10, rel=0.05)
    assert errors[centred_difference][0] / errors[centred_difference][1] == pytest.approx(100, rel=0.05)


def test_x_is_restored_when_f_raises_and_a_view_of_x_is_not_mistaken_for_a_value():
    x = np.ones(3)
    with pytest.raises(ZeroDivisionError):
        centred_difference(lambda a: 1 / 0, x)
    assert np.array_equal(x, np.ones(3))
    assert centred_difference(lambda a: a, x) == pytest.approx(np.ones(3))
    assert forward_difference(lambda a: a, x) == pytest.approx(np.ones(3))


def test_relative_error_by_hand():
    assert relative_error(np.array([1.0, 2.0]), np.array([1.0, 3.0])) == pytest.approx(0.2)
    assert relative_error(0.0, 0.0) == 0 and relative_error(1e-12, -1e-12) == pytest.approx(2e-4)
    assert relative_error(0.0, 5.0) == 1
    with pytest.raises(UserError, match="shapes differ"):
        relative_error(np.ones(2), np.ones(3))


def test_a_right_gradient_passes_and_a_wrong_entry_is_named():
    x = rng().normal(size=(4, 5))
    right = check_gradient(lambda a: a ** 3, x, 3 * x ** 2, rng=rng(), entries=100)
    assert right.error < 1e-7 and right.compared == 20 and right.redrawn == 0
    wrong = 3 * x ** 2
    wrong[2, 3] += 1
    found = check_gradient(lambda a: a ** 3, x, wrong, rng=rng(), entries=100)
    assert found.index == (2, 3) and found.error > 0.01 and "(2, 3)" in str(found)
    wrong[2, 3] = np.nan
    assert np.isnan(check_gradient(lambda a: a ** 3, x, wrong, rng=rng(), entries=100).error)


def test_entries_at_a_kink_are_redrawn():
    x = rng().normal(size=50)
    x[::5] = rng().uniform(-5e-6, 5e-6, 10)  # a step of 1e-5 crosses zero here

    def relu(a):
        return np.maximum(a, 0)

    analytic = (x > 0).astype(float)
    assert check_gradient(relu, x, analytic, rng=rng(), entries=50).error > 0.1
    handled = check_gradient(relu, x, analytic, rng=rng(), entries=30, winners=lambda a: a > 0)
    assert handled.error < 1e-9 and handled.compared == 30 and handled.redrawn > 0
    assert crosses_kink(lambda a: a > 0, x, (0,), 1e-5) and not crosses_kink(lambda a: a > 0, x, (1,), 1e-5)


def test_a_max_between_rivals_is_redrawn_too():
    x = np.array([1.0, 1.0 + 1e-6, -3.0])
    analytic = np.array([0.0, 1.0, 0.0])
    assert check_gradient(np.max, x, analytic, rng=rng()).error > 0.1
    found = check_gradient(np.max, x, analytic, rng=rng(), winners=np.argmax)
    assert found.error == 0 and found.redrawn == 2 and found.compared == 1


def test_what_cannot_be_checked_is_said():
    with pytest.raises(UserError, match="float32"):
        centred_difference(np.exp, np.ones(2, np.float32))
    with pytest.raises(UserError, match="shape"):
        check_gradient(np.exp, np.ones(2), np.ones(3), rng=rng())
    with pytest.raises(UserError, match="kink"):
        check_gradient(np.abs, np.zeros(2), np.zeros(2), rng=rng(), winners=lambda a: a > 0)
