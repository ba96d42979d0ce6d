"""NASNet-A against what its paper and the authors' code state; tests/parity compares the large one with timm."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from visus.core.errors import UserError
from visus.layers.drop_path import DropPath
from visus.models.cnn.nasnet import Cell, NormalCell, ReductionCell, SeparableConv, _average, _highest
from visus.run.models import create_model, describe_model

SIDES = [(6, 6), (7, 7), (6, 9), (9, 6), (1, 2)]


def maps_of(sides: tuple[int, int], dim: int = 4) -> torch.Tensor:
    return torch.randn(2, dim, *sides, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def same(maps: torch.Tensor, kernel: int, value: float) -> torch.Tensor:
    """TensorFlow's SAME of stride 2: as much in all as the last window needs, the smaller half before."""
    pads = []
    for side in (maps.shape[3], maps.shape[2]):
        whole = max((-(-side // 2) - 1) * 2 + kernel - side, 0)
        pads += [whole // 2, whole - whole // 2]
    return F.pad(maps, pads, value=value)


@pytest.mark.parametrize("sides", SIDES)
def test_halvings_pad_as_tensorflow_does(sides):
    maps = maps_of(sides)
    torch.testing.assert_close(_highest(maps), F.max_pool2d(same(maps, 3, -torch.inf), 3, 2), rtol=0, atol=0)
    torch.testing.assert_close(_average(maps, 2), F.avg_pool2d(same(maps, 3, 0), 3, 2), rtol=1e-12, atol=1e-12)
    for kernel in (3, 5, 7):
        layer = SeparableConv(4, 3, kernel, 2).double()
        depthwise = F.conv2d(same(maps, kernel, 0), layer.depthwise_conv2d.weight, None, 2, groups=4)
        torch.testing.assert_close(layer(maps), layer.pointwise_conv2d(depthwise), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sides", SIDES[:4])
def test_an_older_input_of_twice_the_size_gives_all_its_places(sides):
    torch.manual_seed(0)
    cell, maps = Cell("twice", 4, 5, 6, 0.0).double().eval(), maps_of(sides)
    active = F.relu(maps)
    shifted = F.pad(active, (0, 1, 0, 1))[:, :, 1:, 1:]  # one place up and left, zeros follow
    expected = torch.cat([F.conv2d(active[:, :, ::2, ::2], cell.path_1.conv.weight),
                          F.conv2d(shifted[:, :, ::2, ::2], cell.path_2.conv.weight)], 1)
    half = tuple(-(-side // 2) for side in sides)
    older, newer = cell.fit(maps, maps_of(half, 5))
    assert older.shape == newer.shape == (2, 6, *half)
    torch.testing.assert_close(older, cell.final_path_bn(expected), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["nasnet_a_large", "nasnet_a_mobile", "nasnet_a_cifar"])
def test_operations_of_the_cells_are_those_of_figure_4(name):
    with torch.device("meta"):
        model = create_model(name)
    kernels = {kind: sorted((m.depthwise_conv2d.kernel_size[0], m.depthwise_conv2d.stride[0])
                            for m in cell.modules() if isinstance(m, SeparableConv))
               for kind, cell in (("normal", model.cell_1), ("reduction", model.reduction_cell_0))}
    assert kernels["normal"] == [(3, 1)] * 6 + [(5, 1)] * 4  # five branches, each applied twice
    assert kernels["reduction"] == [(3, 1)] * 2 + [(5, 1)] * 2 + [(5, 2)] * 2 + [(7, 1)] * 2 + [(7, 2)] * 2
    cells = [m for m in model.modules() if isinstance(m, NormalCell)]
    assert len(cells) == 3 * model.config.cells
    assert model.last_linear.in_features == {"nasnet_a_large": 4032, "nasnet_a_mobile": 1056,
                                             "nasnet_a_cifar": 768}[name]  # the P of N @ P


@pytest.mark.parametrize(("name", "sides"), [("nasnet_a_large", [165, 83, 42, 21, 11]),
                                             ("nasnet_a_mobile", [111, 56, 28, 14, 7]),
                                             ("nasnet_a_cifar", [32, 16, 8])])
def test_maps_have_the_sides_and_channels_stated(name, sides):
    with torch.device("meta"):
        model = create_model(name).eval()
        size = describe_model(name).input_shape[2]
        maps = model.features(torch.empty(1, 3, size, size))
    assert [m.shape[2] for m in maps] == sides and [m.shape[1] for m in maps] == list(model.feature_channels)


@pytest.mark.parametrize("skip", [True, False])
def test_after_a_reduction_the_older_input_is_the_one_stated(skip):
    torch.manual_seed(0)
    model = create_model("nasnet_a_mobile", cells=2, filters=8, stem_dim=6, skip_reduction=skip).eval()
    inputs, outputs = {}, {}

    def keep(name):
        def hook(_, given, made):
            inputs[name], outputs[name] = given, made
        return hook

    for name, module in model.named_children():
        if isinstance(module, Cell):
            module.register_forward_hook(keep(name))
    with torch.no_grad():
        model(torch.randn(1, 3, 64, 64))
    for i, before, after in ((0, "cell_1", "cell_2"), (1, "cell_3", "cell_4")):
        reduction = f"reduction_cell_{i}"
        assert inputs[reduction][1] is outputs[before] and inputs[after][1] is outputs[reduction]
        assert inputs[after][0] is (inputs[reduction][0] if skip else outputs[before])
        next_cell = f"cell_{int(after[5:]) + 1}"
        assert inputs[next_cell][0] is outputs[reduction] and inputs[next_cell][1] is outputs[after]


def test_the_five_sums_of_each_cell():
    torch.manual_seed(0)
    older, newer = maps_of((6, 6), 3), maps_of((6, 6), 5)
    normal = NormalCell("same", 3, 5, 4, 0.0).double().eval()
    with torch.no_grad():
        o, n = normal.fit(older, newer)
        parts = normal(older, newer).split(4, 1)
        count = F.avg_pool2d(F.pad(torch.ones(1, 1, 6, 6, dtype=torch.float64), (1, 1, 1, 1)), 3, 1)
        mean_o, mean_n = (F.avg_pool2d(F.pad(m, (1, 1, 1, 1)), 3, 1) / count for m in (o, n))
        expected = (o, normal.comb_iter_0_left(n.relu()) + normal.comb_iter_0_right(o.relu()),
                    normal.comb_iter_1_left(o.relu()) + normal.comb_iter_1_right(o.relu()), mean_n + o, 2 * mean_o,
                    normal.comb_iter_4_left(n.relu()) + n)
        for part, value in zip(parts, expected, strict=True):
            torch.testing.assert_close(part, value, rtol=1e-10, atol=1e-12)
        reduction = ReductionCell("same", 3, 5, 4, 0.0).double().eval()
        o, n = reduction.fit(older, newer)
        parts = reduction(older, newer).split(4, 1)
        pooled = F.max_pool2d(F.pad(n, (0, 1, 0, 1), value=-torch.inf), 3, 2)
        mean = F.avg_pool2d(F.pad(n, (0, 1, 0, 1)), 3, 2)
        first = reduction.comb_iter_0_left(n.relu()) + reduction.comb_iter_0_right(o.relu())
        second = pooled + reduction.comb_iter_1_right(o.relu())
        expected = (second, mean + reduction.comb_iter_2_right(o.relu()),
                    F.avg_pool2d(first, 3, 1, 1, count_include_pad=False) + second,
                    reduction.comb_iter_4_left(first.relu()) + pooled)
        for part, value in zip(parts, expected, strict=True):
            torch.testing.assert_close(part, value, rtol=1e-10, atol=1e-12)


def test_the_rate_of_dropped_paths_grows_from_cell_to_cell():
    model = create_model("nasnet_a_large", cells=2, filters=8, stem_dim=6, drop_path=0.5)
    order = ["cell_stem_0", "cell_stem_1", "cell_0", "cell_1", "reduction_cell_0", "cell_2", "cell_3",
             "reduction_cell_1", "cell_4", "cell_5"]
    assert [getattr(model, name).drop.rate for name in order] == pytest.approx([0.05 * i for i in range(1, 11)])
    assert sum(isinstance(m, DropPath) for m in model.modules()) == len(order)
    images = torch.randn(2, 3, 64, 64)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    with torch.no_grad():
        assert not torch.equal(model.train()(images), model(images))
        assert torch.equal(model.eval()(images), model(images))


@pytest.mark.parametrize(("field", "value"), [("filters", 6), ("cells", 0), ("stem", "patch"), ("skip_reduction", 1),
                                              ("dropout", 1.0), ("drop_path", -0.1), ("stem_dim", 0)])
def test_wrong_configs_are_refused_by_name(field, value):
    with pytest.raises(UserError, match=field):
        create_model("nasnet_a_large", **{field: value})
