"""The layer table against arithmetic done by hand and against published figures."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from visus.core.summary import summarise
from visus.run.models import describe_model


def rows_of(model, shape):
    return {row.name: row for row in summarise(model, shape).rows}


def test_three_3x3_convolutions_see_7_pixels():
    model = nn.Sequential(*[nn.Conv2d(1 if i == 0 else 4, 4, 3) for i in range(3)])
    assert [row.receptive_field for row in summarise(model, (1, 1, 9, 9)).rows] == [3, 5, 7]


def test_receptive_field_equals_the_support_of_the_gradient():
    """Independent: the pixels on which one output place depends, by autograd, in a place far from the
    border."""
    model = nn.Sequential(
        nn.Conv2d(1, 2, 5, 2, 2), nn.Softplus(), nn.AvgPool2d(3, 2, 1),
                          nn.Conv2d(2, 2, 3, padding=2, dilation=2),
        nn.BatchNorm2d(2), nn.ConvTranspose2d(2, 1, 4, 2, 1), nn.Conv2d(1, 1, 3, padding=1)).double().eval()
    for parameter in model.parameters():
        nn.init.uniform_(parameter, 0.1, 1)
    for depth in (1, 3, 4, 5):
        part = model[:depth]
        images = torch.zeros(1, 1, 96, 96, dtype=torch.float64, requires_grad=True)
        out = part(images)
        out[0, 0, out.shape[2] // 2, out.shape[3] // 2].backward()
        side = int((images.grad[0, 0].abs().sum(0) > 0).sum())
        assert summarise(part, (1, 1, 96, 96)).rows[-1].receptive_field == side


def test_receptive_field_of_a_branch_is_the_larger_one():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide, self.narrow, self.last = nn.Conv2d(1, 1, 7,
                                                          padding=3), nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 3)

        def forward(self, images):
            return self.last(self.narrow(images) + self.wide(images))

    assert rows_of(Branches(), (1, 1, 16, 16))["last"].receptive_field == 9


def test_receptive_field_ends_at_global_pooling():
    model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(1, 1, 1))
    assert [row.receptive_field for row in summarise(model, (1, 1, 9, 9)).rows] == [3, None, None]


def test_macs_and_bytes_of_layers_equal_the_formulas():
    model = nn.Sequential(nn.Conv2d(4, 6, (3, 5), stride=2, groups=2), nn.BatchNorm2d(6), nn.ReLU(),
                          nn.Flatten(),
                          nn.Linear(6 * 4 * 3, 10))
    rows = rows_of(model, (2, 4, 9, 9))
    assert rows["0"].macs == 2 * 6 * 4 * 3 * (2 * 3 * 5) and rows["0"].params == 6 * 2 * 15 + 6
    assert rows["4"].macs == 2 * 72 * 10 and rows["4"].output_shape == (2, 10)
    assert rows["1"].macs == rows["2"].macs == 0 and rows["1"].params == 12
    assert rows["2"].activation_bytes == 2 * 6 * 4 * 3 * 4


def test_attention_counts_both_products():
    class Attend(nn.Module):
        def forward(self, tokens):
            return F.scaled_dot_product_attention(tokens, tokens, tokens)

    assert summarise(Attend(), (2, 3, 5, 8)).macs == 2 * (2 * 3) * 5 * 5 * 8


def test_shared_layer_has_a_row_a_call_and_counts_its_parameters_once():
    layer = nn.Linear(3, 3)
    summary = summarise(nn.Sequential(layer, layer), (1, 3))
    assert len(summary.rows) == 2 and summary.params == 12 and summary.macs == 18


def test_parameters_that_forward_ignores_are_listed():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(2, 2), nn.Linear(5, 5)

        def forward(self, images):
            return self.used(images)

    summary = summarise(Idle(), (1, 2))
    assert summary.params == 6 + 30 and summary.rows[-1].name == "unused"


def test_summary_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Dropout()).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    summarise(model, (1, 1, 5, 5))
    assert model[1].training and not model[0]._forward_hooks
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_html_escapes_names():
    assert "&lt;b&gt;" in summarise(nn.Linear(1, 1), (1, 1), "<b>")._repr_html_()


def test_a_channel_shuffle_leaves_the_receptive_field_alone():
    """ShuffleNet v2: 7 px after the stem; then a depthwise 3 x 3 of stride 2 and 3, 7, 3 of stride 1."""
    side, jump = 7, 4
    for units in (3, 7, 3):
        side += 2 * jump
        jump *= 2
        side += units * 2 * jump
    assert describe_model("shufflenet_v2_x1_0").receptive_field == side == 527
