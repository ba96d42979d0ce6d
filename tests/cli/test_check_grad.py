"""visus check-grad: names, inputs, exit codes."""

from __future__ import annotations

import pytest

from visus.cli.main import main

MINE = '''
import numpy as np, torch
from torch import nn

class Swish(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)

class Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 3 * x
    @staticmethod
    def backward(ctx, g):
        return 2 * g

def affine_forward(x, w, b):
    return x @ w + b, (x, w)

def affine_backward(dout, cache):
    x, w = cache
    return dout @ w.T, x.T @ dout, dout.mean(axis=0)  # a mean where the sum belongs

def hinge(scores, labels) -> tuple[float, np.ndarray]:
    rows = np.arange(len(scores))
    margins = np.maximum(0, scores - scores[rows, labels][:, None] + 1)
    margins[rows, labels] = 0
    gradient = (margins > 0).astype(float)
    gradient[rows, labels] = -gradient.sum(1)
    return margins.sum() / len(scores), gradient / len(scores)
'''


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "my_layers.py"
    path.write_text(MINE)
    return str(path)


@pytest.mark.parametrize("words", [
    ["torch.nn:Linear", "--set", "in_features=6", "--set", "out_features=4", "--input", "3x6"],
    ["torch.nn:CrossEntropyLoss", "--input", "4x10", "--input", "int10:4"],
    ["visus.foundations.layers:affine", "--input", "4x6", "--input", "6x3", "--input", "3"],
    ["visus.foundations.layers:svm_loss", "--input", "5x7", "--input", "int7:5"],
    ["visus.foundations.layers:groupnorm", "--input", "2x4x3x3", "--input", "4", "--input", "4", "--set", "groups=2"]])
def test_right_gradients_end_with_exit_code_0(words, capsys):
    assert main(["check-grad", *words]) == 0
    assert "every gradient agrees" in capsys.readouterr().out


def test_a_persons_file_is_checked_layer_by_layer(mine, capsys):
    assert main(["check-grad", f"{mine}:Swish", "--input", "4x6"]) == 0
    assert main(["check-grad", f"{mine}:hinge", "--input", "5x4", "--input", "int4:5"]) == 0
    capsys.readouterr()
    assert main(["check-grad", f"{mine}:Scale", "--input", "4x6"]) == 1
    assert "1 of 1 gradients are wrong" in capsys.readouterr().out
    assert main(["check-grad", f"{mine}:affine", "--input", "4x6", "--input", "6x3", "--input", "3"]) == 1
    out = capsys.readouterr().out
    assert "1 of 3 gradients are wrong" in out and "4 times too little" in out


@pytest.mark.parametrize("words, said", [
    (["nothing"], "names no layer"), (["torch.nn:Linaer", "--input", "2x2"], "Linear"),
    (["torch.nn:Linear", "--input", "2x2"], "--set in_features"), (["torch.nn:ReLU"], "--input 2x3x8x8"),
    (["torch.nn:ReLU", "--input", "2by2"], "--input 2by2"), (["torch.nn:ReLU", "--input", "int:2"], "--input int:2"),
    (["torch.nn:ReLU", "--input", "99999x99999"], "9,999,800,001 entries"),
    (["there/is/none.py:A", "--input", "2"], "no such file"), (["no.such.module:A", "--input", "2"], "imported"),
    (["torch.nn:Linear", "--set", "in_features=6", "--set", "out_features=4", "--input", "3x5"], "cannot be run on"),
    (["torch.nn:ReLU", "--input", "3", "--points", "0"], "points=0")])
def test_a_wrong_call_ends_with_exit_code_2_and_a_remedy(words, said, capsys):
    assert main(["check-grad", *words]) == 2
    assert said in capsys.readouterr().err
