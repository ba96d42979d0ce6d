"""A right gradient passes, each typical mistake is named, kinks are drawn again, the subject stays as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from visus.core.errors import UserError
from visus.doctor.gradient_check import check_gradients


def function(backward):
    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x ** 3

        @staticmethod
        def backward(ctx, g):
            return backward(ctx.saved_tensors[0], g)

    return Cube.apply


@pytest.fixture
def x():
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("module, shapes", [
    (nn.Linear(6, 4), [(3, 6)]), (nn.Conv2d(2, 3, 3), [(2, 2, 5, 5)]), (nn.BatchNorm2d(3), [(4, 3, 5, 5)]),
    (nn.LSTM(4, 3), [(2, 3, 4)]), (nn.MultiheadAttention(8, 2), [(4, 2, 8)] * 3), (nn.GELU(), [(3, 3)]),
    (nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2)), [(3, 6)])],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else "")
def test_torchs_own_gradients_are_right(module, shapes):
    torch.manual_seed(0)
    report = check_gradients(module, [torch.randn(shape) for shape in shapes])
    assert report.right, report
    names = {row.name for row in report.rows}
    assert names >= {name for name, _ in module.named_parameters()} and any(n.startswith("input") for n in names)
    assert max(row.error for row in report.rows) < 1e-7


@pytest.mark.parametrize("backward, words", [
    (lambda x, g: -3 * x ** 2 * g, "the sign is turned"), (lambda x, g: 6 * x ** 2 * g, "twice too much"),
    (lambda x, g: 1.5 * x ** 2 * g, "half of it"), (lambda x, g: torch.zeros_like(x), "gives nothing here"),
    (lambda x, g: 3 * x ** 2 * g / x.numel(), "12 times too little")])
def test_a_typical_mistake_is_named(x, backward, words):
    report = check_gradients(function(backward), [x])
    assert report.rows[0].verdict == "wrong" and words in str(report)


def test_one_wrong_entry_of_many_is_found_when_all_are_compared(x):
    def backward(x, g):
        gradient = 3 * x ** 2 * g
        gradient[1, 2] *= 1.01
        return gradient

    report = check_gradients(function(backward), [x], entries=12, points=1)
    assert report.rows[0].index == (1, 2) and report.rows[0].verdict == "wrong"
    assert report.rows[0].error == pytest.approx(0.01 / 1.01, rel=1e-3)


def test_an_entry_at_a_kink_is_drawn_again_and_told():
    report = check_gradients(lambda x: x.abs().sum(), [torch.tensor([1e-6, 1.0, -2.0])], points=1)
    assert report.rows[0].kinks == 1 and report.rows[0].compared == 2 and report.right
    assert any("kink" in note for note in report.notes)


def test_a_tensor_that_only_has_kinks_is_not_called_right():
    report = check_gradients(lambda x: x.abs().sum(), [torch.zeros(3)], points=1)
    assert report.rows[0].verdict == "not compared" and not report.right


def test_the_subject_stays_as_it_was():
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state = torch.get_rng_state()
    check_gradients(module, [torch.randn(2, 2, 5, 5, generator=torch.Generator().manual_seed(0))])
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert module[2].p == 0.5 and module[0].weight.dtype == torch.float32 and module[0].weight.grad is None
    assert torch.equal(torch.get_rng_state(), state)


def test_a_wrong_penalty_is_told_apart_from_a_right_loss():
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, w):
            ctx.save_for_backward(w)
            return (w ** 2).sum()

        @staticmethod
        def backward(ctx, g):
            return g * ctx.saved_tensors[0]  # without the 2

    report = check_gradients(nn.Linear(3, 2, bias=False), [torch.randn(4, 3)],
                             penalty=lambda module: Square.apply(module.weight))
    assert [row.verdict for row in report.rows] == ["right", "right"]
    assert [row.verdict for row in report.penalty_rows] == ["wrong"] and "half of it" in str(report)


@pytest.mark.parametrize("subject, words", [
    (lambda x: x.detach().sum(), "does not depend"), (lambda x: (x > 0).sum(), "no tensor of floats"),
    (nn.Linear, "is a class")])
def test_what_has_no_gradient_is_refused_with_a_reason(x, subject, words):
    with pytest.raises(UserError, match=words):
        check_gradients(subject, [x])


def test_a_function_that_changes_its_mind_is_refused():
    calls = []

    def moody(x):
        calls.append(1)
        return x.sum() * len(calls)

    with pytest.raises(UserError, match="another answer"):
        check_gradients(moody, [torch.ones(2)])
