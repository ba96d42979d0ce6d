"""Muon's orthogonal step against the polynomial of the singular values; the whole against torch's Muon and AdamW."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from tests.optim.stepping import arrays, assert_near, give, gradients, parameters
from visus.optim.muon import COEFFICIENTS, Muon, matrix_groups, orthogonal
from visus.optim.parameter_groups import parameter_groups


def by_svd(matrix: np.ndarray, steps: int = 5) -> np.ndarray:
    flat = matrix.reshape(len(matrix), -1)
    u, s, v = np.linalg.svd(flat, full_matrices=False)
    s = s / np.sqrt((s**2).sum())
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        s = a * s + b * s**3 + c * s**5
    return ((u * s) @ v).reshape(matrix.shape)


def test_orthogonal_is_the_polynomial_of_the_singular_values_for_all_shapes_in_one_call():
    shapes = ((7, 5), (5, 7), (4, 3, 2, 2), (12, 4), (7, 5), (3, 3), (1, 6))
    matrices = [torch.tensor(g) for g in gradients(0, shapes)]
    for matrix, found in zip(matrices, orthogonal(matrices), strict=True):
        np.testing.assert_allclose(found.numpy(), by_svd(matrix.numpy()), rtol=1e-9, atol=1e-12)


def test_singular_values_end_near_1_and_nothing_comes_of_nothing():
    flat = torch.randn(64, 96, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal([flat])[0])
    assert values.min() > 0.6 and values.max() < 1.25
    assert not orthogonal([torch.zeros(3, 4)])[0].any()


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("scale", ["adamw", "jordan"])
def test_five_steps_are_the_equations_for_matrices_and_torchs_adamw_for_the_rest(scale, nesterov):
    ours, rest = parameters(), parameters()[2:]
    optimizer = Muon([{"params": ours, "weight_decay": 0.1}], lr=0.02, momentum=0.9, betas=(0.8, 0.95), eps=1e-6,
                     scale=scale, nesterov=nesterov)
    adamw = torch.optim.AdamW(rest, 0.02, (0.8, 0.95), 1e-6, weight_decay=0.1)
    x = arrays(ours[:2])
    m = [np.zeros(p.shape) for p in x]
    for step in range(5):
        g = gradients(step)
        give(ours, g)
        optimizer.step()
        give(rest, g[2:])
        adamw.step()
        for k in range(2):
            m[k] = 0.9 * m[k] + 0.1 * g[k]
            rows, columns = len(x[k]), x[k][0].size
            factor = 0.2 * math.sqrt(max(rows, columns)) if scale == "adamw" else math.sqrt(max(1, rows / columns))
            direction = by_svd(0.1 * g[k] + 0.9 * m[k] if nesterov else m[k])
            x[k] = (1 - 0.02 * 0.1) * x[k] - 0.02 * factor * direction
        assert_near(ours[:2], x, rtol=1e-8)
        assert_near(ours[2:], arrays(rest))


def test_with_products_in_bfloat16_it_is_torchs_muon():
    shapes = ((7, 5), (5, 9))
    ours, theirs = parameters(shapes=shapes, dtype=torch.float32), parameters(shapes=shapes, dtype=torch.float32)
    a = Muon([{"params": ours, "weight_decay": 0.1}], lr=0.02, momentum=0.95, scale="jordan", dtype=torch.bfloat16)
    b = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, momentum=0.95)
    for step in range(3):
        for tensors, optimizer in ((ours, a), (theirs, b)):
            give(tensors, gradients(step, shapes))
            optimizer.step()
    for p, q in zip(ours, theirs, strict=True):
        assert (p - q).abs().max() < 1e-3, "bfloat16 has three digits of steps of 0.02"


def test_unit_weights_have_a_mean_square_norm_of_1_per_row_before_the_step():
    p = parameters()[0]
    p.grad = torch.zeros_like(p)
    Muon([p], lr=0.1, unit_weights=True).step()
    assert p.square().sum().item() == pytest.approx(len(p))


def test_the_rest_can_be_nesterovs_sgd():
    ours, theirs = parameters()[2:], parameters()[2:]
    a = Muon([{"params": ours, "weight_decay": 0.1}], lr=0.02, momentum=0.9, rest="sgd")
    b = torch.optim.SGD(theirs, 0.02, momentum=0.9, nesterov=True, weight_decay=0.1)
    for step in range(3):
        for tensors, optimizer in ((ours, a), (theirs, b)):
            give(tensors, gradients(step)[2:])
            optimizer.step()
    assert_near(ours, arrays(theirs))


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, 6, 4))
        self.words = nn.Embedding(9, 4)
        self.conv = nn.Conv2d(3, 4, 3)
        self.middle = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)


def test_embeddings_the_classifier_and_vectors_are_no_matrices_and_groups_keep_what_they_say():
    model = Small()
    names = {id(p): n for n, p in model.named_parameters()}
    groups = matrix_groups(parameter_groups(model, 0.3), model)
    matrices = {names[id(p)] for g in groups if g["matrices"] for p in g["params"]}
    assert matrices == {"conv.weight", "middle.weight"}
    assert sorted(names[id(p)] for g in groups for p in g["params"]) == sorted(names.values())
    assert {g["weight_decay"] for g in groups if g["matrices"]} == {0.3}
    without_linear = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1))
    groups = matrix_groups(parameter_groups(without_linear, 0.0), without_linear)
    assert [p is without_linear[0].weight for g in groups if g["matrices"] for p in g["params"]] == [True]


def test_values_out_of_range_are_refused():
    for wrong in ({"momentum": 1.0}, {"steps": 0}, {"scale": "other"}, {"lr": -1.0}):
        with pytest.raises(ValueError, match="Invalid"):
            Muon(parameters(), **wrong)
