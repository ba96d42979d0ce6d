"""FractalNet and its drop-path against the paper's rules."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from visus.core.errors import UserError
from visus.models.cnn.fractalnet import FractalBlock, FractalNet, FractalNetConfig, draw_shares, join
from visus.run.models import create_model

TINY = {"dims": (4, 6, 8), "dropouts": (0.0, 0.0, 0.0), "num_classes": 5}


def build(columns: int, **config) -> FractalNet:
    torch.manual_seed(columns)
    model = FractalNet(FractalNetConfig(**{"columns": columns, **TINY, **config})).double()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if name.endswith("running_mean") or (tensor.ndim == 1 and tensor.is_floating_point() and "var" not in name):
            nn.init.normal_(tensor, mean=float(name.endswith("weight")), std=0.1)
    return model.eval()


def images(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("columns", "millions"), [(1, 0.3), (2, 0.8), (3, 2.1), (4, 4.8), (5, 10.2), (6, 21.1)])
def test_counts_and_depths_are_those_of_table_3(columns, millions):
    """From memory: CIFAR-100, channels 16, 32, 64, 128, 128, depths 5 to 160."""
    with torch.device("meta"):
        model = create_model("fractalnet40", columns=columns)
        deepest = model.column(columns - 1)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == millions
    assert sum(isinstance(m, nn.Conv2d) for m in deepest.modules()) == 5 * 2 ** (columns - 1)


def test_the_20_layer_network_has_twenty_layers_and_35_convolutions():
    with torch.device("meta"):
        model = create_model("fractalnet20")
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    dims = (3, 64, 128, 256, 512, 512)
    expected = sum(9 * b * (3 * a + 4 * b) for a, b in zip(dims, dims[1:], strict=False))
    assert len(convolutions) == 35 and sum(m.weight.numel() for m in convolutions) == expected
    assert sum(isinstance(m, nn.Conv2d) for m in model.column(2).modules()) == 20


def expanded(block: FractalBlock, maps: torch.Tensor, low: int, columns: int, taken: list[int]) -> list[torch.Tensor]:
    """The inputs of f_C's last join by the expansion rule; columns low.. of the block, `taken` counts used layers."""
    def layer(k: int, z: torch.Tensor) -> torch.Tensor:
        taken[k] += 1
        return block.columns[k][taken[k] - 1](z)

    if columns == 1:
        return [layer(low, maps)]
    beside = layer(low, maps)
    half = expanded(block, maps, low + 1, columns - 1, taken)
    half = expanded(block, sum(half) / len(half), low + 1, columns - 1, taken)
    return [beside, *half]


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
def test_a_block_is_the_expansion_rule_unrolled(columns):
    block, taken = build(columns).blocks[0], [0] * columns
    with torch.no_grad():
        expected = expanded(block, images(), 0, columns, taken)
        torch.testing.assert_close(block(images(), None), sum(expected) / columns, rtol=1e-12, atol=1e-12)
    assert taken == [2**k for k in range(columns)]


@pytest.mark.parametrize("columns", [2, 3, 4])
def test_global_drop_path_leaves_one_column_and_it_is_the_plain_network(columns):
    model = build(columns)
    state = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        for k in range(columns):
            maps, chosen = images(), torch.full((2,), k)
            for block in model.blocks:
                maps = model.pool(block(maps, chosen))
            expected = model.fc(maps.mean((2, 3)))
            torch.testing.assert_close(model.column(k)(images()), expected, rtol=1e-12, atol=1e-12)
        assert not torch.allclose(model.column(0)(images()), model.column(1)(images()))
    assert all(torch.equal(a, state[name]) for name, a in model.state_dict().items())
    assert model.column(1)[-1] is model.fc


def test_each_image_follows_its_own_column():
    model = build(3)
    block, chosen = model.blocks[0], torch.tensor([2, 0, 1])
    with torch.no_grad():
        together = block(images(3), chosen)
        for i, k in enumerate(chosen.tolist()):
            torch.testing.assert_close(together[i:i + 1], nn.Sequential(*block.columns[k])(images(3)[i:i + 1]),
                                       rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rate", [0.15, 0.5, 0.99])
def test_local_drop_path_keeps_one_input_at_least_and_drops_at_the_rate(rate):
    torch.manual_seed(0)
    n, batch = 3, 40_000
    shares = draw_shares(n, rate, torch.full((batch,), -1))
    kept = shares > 0
    assert kept.any(1).all()
    torch.testing.assert_close(shares, kept / kept.sum(1, keepdim=True))
    # P(input kept) = (1 - rate) + P(none kept) / n
    assert kept.float().mean(0).tolist() == pytest.approx([1 - rate + rate**n / n] * n, abs=0.01)
    assert (kept.sum(1) == n).float().mean().item() == pytest.approx((1 - rate) ** n, abs=0.01)
    assert shares.mean(0).tolist() == pytest.approx([1 / n] * n, abs=0.01)  # so the expected join is the mean


def test_a_join_is_the_mean_of_what_is_kept():
    maps = [torch.full((2, 1, 1, 1), float(v)) for v in (1, 2, 6)]
    assert join(maps, None).flatten().tolist() == [3, 3]
    assert join(maps, torch.tensor([[0, 0.5, 0.5], [1, 0, 0]])).flatten().tolist() == [4, 1]
    assert join(maps[:1], None) is maps[0]


def test_half_of_the_images_are_global_and_columns_are_equally_likely():
    torch.manual_seed(0)
    drawn = build(4).draw_columns(40_000, torch.device("cpu"))
    shares = (drawn.bincount(minlength=4) if drawn.min() >= 0 else (drawn + 1).bincount(minlength=5)) / 40_000
    assert shares.tolist() == pytest.approx([0.5, 0.125, 0.125, 0.125, 0.125], abs=0.01)


def test_training_draws_paths_and_eval_and_rate_zero_do_not():
    model = build(3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    with torch.no_grad():
        assert torch.equal(model(images()), model(images()))
        assert not torch.equal(model.train()(images()), model(images()))
        plain = build(3, drop_path=0.0).train()
        assert torch.equal(plain(images()), plain(images()))


def test_it_compiles_whole_in_train_and_eval():
    model = build(3).float()
    for mode in (False, True):
        model.train(mode)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        assert compiled(images().float()).isfinite().all()


@pytest.mark.parametrize(("field", "value"), [
    ("columns", 0), ("columns", 9), ("dims", ()), ("dims", (4, 0, 4, 4, 4)), ("dropouts", (0.1,)),
    ("dropouts", (0, 0, 0, 0, 1)), ("drop_path", 1.0)])
def test_wrong_configs_are_refused_by_name(field, value):
    with pytest.raises(UserError, match=field):
        create_model("fractalnet20", **{field: value})


def test_a_column_that_is_not_there_is_refused():
    with pytest.raises(UserError, match="number=3"):
        build(3).column(3)
