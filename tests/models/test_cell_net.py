"""CellNet against its written form: what a list of nodes computes, and the counts of DARTS."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from visus.core.errors import UserError
from visus.models.cnn.cell_net import (
    OPERATIONS,
    CellNetConfig,
    CellPlan,
    FactorizedReduce,
    format_cell,
    parse_cell,
    plan_cells,
)
from visus.run.models import create_model


def test_a_cell_computes_what_its_list_says():
    """Node 2 = max(h1) + h0, node 3 = avg(node 2) + h1; the cell is both, one behind the other."""
    model = create_model("cell_net", normal=("max_3:1 identity:0", "avg_3:2 identity:1"), dim=4, stem_dim=4).double()
    cell = model.cells[0].eval()
    before, last = torch.randn(2, 2, 4, 6, 6, dtype=torch.float64).unbind(0)
    h0, h1 = cell.prepare[0](before), cell.prepare[1](last)
    third = F.max_pool2d(h1, 3, 1, 1) + h0
    box = F.conv2d(F.pad(third, (1, 1, 1, 1)), torch.ones(4, 1, 3, 3, dtype=torch.float64), groups=4)
    count = F.conv2d(F.pad(torch.ones(1, 1, 6, 6).double(), (1, 1, 1, 1)), torch.ones(1, 1, 3, 3).double())
    torch.testing.assert_close(cell(before, last), torch.cat([third, box / count + h1], 1), rtol=1e-12, atol=1e-12)


def test_a_factorized_reduction_reads_even_and_odd_places():
    layer = FactorizedReduce(1, 2).double().eval()
    torch.nn.init.ones_(layer.even.weight)
    torch.nn.init.ones_(layer.odd.weight)
    for side in (6, 5, 1):
        maps = torch.rand(1, 1, side, side, dtype=torch.float64)
        out = layer(maps) * (1 + layer.bn.eps) ** 0.5
        padded = F.pad(maps, (0, side % 2, 0, side % 2))
        torch.testing.assert_close(out[0, 0], maps[0, 0, ::2, ::2], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(out[0, 1], padded[0, 0, 1::2, 1::2], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("operation", "field", "weights"), [
    ("sep_3", 5, 2 * (9 * 8 + 64)), ("sep_5", 9, 2 * (25 * 8 + 64)), ("dil_3", 5, 9 * 8 + 64),
    ("dil_5", 9, 25 * 8 + 64), ("max_3", 3, 0), ("avg_3", 3, 0), ("identity", 1, 0)])
def test_operations_see_and_cost_what_their_names_say(operation, field, weights):
    """The square of places that moves the middle of the output, and the convolution weights (DARTS, section 3.1)."""
    layer = OPERATIONS[operation](8, 1).eval()
    maps = torch.rand(1, 8, 15, 15, requires_grad=True)
    layer(maps)[0, :, 7, 7].sum().backward()
    if operation == "max_3":  # one place a channel
        side = 2 * max((maps.grad[0].abs().sum(0).nonzero() - 7).abs().max().item(), 1) + 1
    else:
        places = maps.grad[0].abs().sum(0).nonzero()
        side = (places.max() - places.min() + 1).item()
    assert side == field
    assert sum(p.numel() for p in layer.parameters() if p.ndim == 4) == weights
    assert OPERATIONS[operation](8, 2)(maps).shape == (1, 8, 8, 8)


def test_reductions_lie_at_one_and_two_thirds():
    plans = plan_cells(20, 36, 108, (4, 4))
    assert [i for i, plan in enumerate(plans) if plan.reduces] == [6, 13]
    assert plans[0] == CellPlan((108, 108), 36, False, False) and plans[6] == CellPlan((144, 144), 72, True, False)
    assert plans[7] == CellPlan((144, 288), 72, False, True) and plans[-1] == CellPlan((576, 576), 144, False, False)


@pytest.mark.parametrize("size", [1, 4, 7, 9])
def test_any_image_size_goes_through(size):
    model = create_model("cell_net", dim=4, stem_dim=4).eval()
    assert model(torch.randn(2, 3, size, size + 1)).shape == (2, 10)
    assert [m.shape[2] for m in model.features(torch.randn(2, 3, size, size))] == [size, -(-size // 2), -(-size // 4)]


def test_the_written_form_survives_a_round_trip():
    nodes = ("sep_3:1 identity:0", "dil_5:2 max_3:1")
    assert parse_cell(nodes) == (((1, "sep_3"), (0, "identity")), ((2, "dil_5"), (1, "max_3")))
    assert format_cell(parse_cell(nodes)) == nodes


@pytest.mark.parametrize(("field", "nodes", "message"), [
    ("normal", ("sep_3:1",), "must look like"), ("normal", ("sep_7:1 max_3:0",), "name operations among"),
    ("reduction", ("sep_3:1 max_3:2",), "below 2"), ("reduction", ("sep_3:0 max_3:0",), "read input 1"),
    ("normal", (), "tuple of nodes"), ("normal", ("sep_3:1 max_3:0", 7), "must look like")])
def test_cells_that_mean_nothing_are_refused(field, nodes, message):
    with pytest.raises(UserError, match=message):
        CellNetConfig(**{field: nodes})


@pytest.mark.parametrize(("field", "value"), [("num_cells", 2), ("dim", 5), ("stem_dim", 0)])
def test_sizes_that_cannot_be_are_refused(field, value):
    with pytest.raises(UserError, match=f"{field}={value}"):
        CellNetConfig(**{field: value})
