"""ViT: what parity with a peer does not show."""

from __future__ import annotations

import pytest
import torch

from visus.core.errors import UserError
from visus.layers.drop_path import DropPath
from visus.models.vit.vit import POSITIONS, ViT, ViTConfig
from visus.ops.positions import resize_positions

TINY = {"image_size": 32, "patch_size": 8, "dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}


@pytest.mark.parametrize(("field", "value"),
                         [("image_size", 33), ("dim", 25), ("dropout", 1.0), ("drop_path", -0.1),
                                              ("mlp_ratio", 0), ("depth", 0)])
def test_wrong_config_is_refused_by_name(field, value):
    with pytest.raises(UserError, match=f"{field}={value}"):
        ViTConfig(**{**TINY, field: value})


def test_a_side_that_patches_do_not_fill_is_refused_with_a_remedy():
    with pytest.raises(UserError, match=r"40x37.*multiples of the patches' 8 pixels.*40 x 40"):
        ViT(ViTConfig(**TINY))(torch.zeros(1, 3, 40, 37))


def test_drop_path_keeps_the_mean_and_drops_whole_samples():
    torch.manual_seed(0)
    layer = DropPath(0.25).train()
    out = layer(torch.ones(20_000, 2, 3))
    assert out.mean().item() == pytest.approx(1, abs=0.02)
    low, high = out.flatten(1).aminmax(dim=1)
    assert torch.equal(low, high) and sorted(low.unique().tolist()) == pytest.approx([0, 4 / 3])
    assert torch.equal(layer.eval()(torch.ones(2, 2, 3)), torch.ones(2, 2, 3))


def test_drop_path_grows_linearly_with_depth():
    model = ViT(ViTConfig(**{**TINY, "depth": 5, "drop_path": 0.4}))
    rates = [getattr(block.drop_path, "rate", 0) for block in model.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_resized_positions_keep_prefix_and_same_grid():
    positions = torch.randn(1, 2 + 12, 4, generator=torch.Generator().manual_seed(0))
    same = resize_positions(positions, (3, 4), (3, 4), 2)
    torch.testing.assert_close(same, positions)
    assert torch.equal(resize_positions(positions, (3, 4), (6, 5), 2)[:, :2], positions[:, :2])
    assert resize_positions(torch.full((1, 13, 4), 0.5), (3, 4), (7, 9), 1).allclose(torch.tensor(0.5))


@pytest.mark.parametrize(("changes", "message"), [
    ({"positions": "sideways"}, "positions='sideways'.*learned, learned_2d"),
    ({"pool": "max"}, "pool='max'.*class, mean"),
    ({"registers": -1}, "registers=-1"), ({"positions": "sincos", "dim": 27}, "dim=27.*multiple of 4"),
    ({"positions": "rotary", "dim": 30}, "dim=30.*num_heads=12"),
    ({"positions": "learned_2d", "dim": 27}, "dim=27.*even")])
def test_kinds_that_do_not_fit_are_refused_by_name(changes, message):
    with pytest.raises(UserError, match=message):
        ViTConfig(**TINY | changes)


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("kind", [{}, {"pool": "mean"}, {"registers": 2}, {"pool": "mean", "registers": 3}])
def test_every_kind_learns_takes_any_grid_and_gives_each_sample_its_own_answer(positions, kind):
    model = random_tiny(positions=positions, **kind)
    images = torch.randn(2, 3, 24, 40, dtype=torch.float64)
    logits = model(images)
    logits.square().sum().backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # offsets are between patches, and of the last block only the class token is read
    assert dead == (["blocks.1.attn.relative_position_bias_table"]
                    if positions == "relative" and not kind.get("pool") else [])
    torch.testing.assert_close(model(images[1:]), logits[1:], rtol=1e-10, atol=1e-10)
    assert model.features(images)[0].shape == (2, 24, 3, 5)
    expected = (not kind.get("pool")) + kind.get("registers", 0)
    assert model.num_prefix_tokens == expected and model.tokens(images).shape == (2, expected + 15, 24)


@pytest.mark.parametrize("positions", POSITIONS)
def test_patches_are_told_apart_unless_positions_are_none(positions):
    model = random_tiny(positions=positions)
    images = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    patches = images.reshape(1, 3, 4, 8, 4, 8).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)[:, order]  # [1, 16, 3, 8, 8]
    shuffled = patches.unflatten(1, (4, 4)).permute(0, 3, 1, 4, 2, 5).reshape(1, 3, 32, 32)
    with torch.no_grad():
        change = (model(images) - model(shuffled)).abs().max()
        moved = model.tokens(images)[:, 1:][:, order] - model.tokens(shuffled)[:, 1:]
    assert (change < 1e-12) == (positions == "none") == (moved.abs().max() < 1e-12).item()


@pytest.mark.parametrize("positions", ["learned", "learned_2d", "relative"])
def test_loading_at_another_size_equals_looking_at_another_size(positions):
    """Interpolation when a file is loaded and interpolation on the fly are the same."""
    small = random_tiny(positions=positions)
    large = ViT(ViTConfig(**TINY | {"image_size": 48, "positions": positions})).double()
    state, notes = large.adapt(small.state_dict())
    assert len(notes) == 1 and "resized" in notes[0]
    large.load_state_dict(state)
    images = torch.randn(1, 3, 48, 48, dtype=torch.float64)
    with torch.no_grad():  # resampling is in float32
        torch.testing.assert_close(large(images), small(images), rtol=1e-5, atol=1e-6)


def test_registers_change_nothing_but_what_is_attended_to():
    """A model whose registers no token may look at is the model without them."""
    model, bare = random_tiny(registers=2), random_tiny()
    state = model.state_dict()
    del state["reg_token"]
    bare.load_state_dict(state)
    images = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    for block in model.blocks:
        block.attn.placed = hide(1, 3)
    with torch.no_grad():
        torch.testing.assert_close(model(images), bare(images), rtol=1e-10, atol=1e-10)


def hide(first: int, last: int):
    def placed(q, k, grid):
        bias = torch.zeros(1, 1, 1, k.shape[2], dtype=q.dtype)
        bias[..., first:last] = -torch.inf
        return q, k, bias
    return placed


def random_tiny(**changes) -> ViT:
    """float64, every parameter drawn anew: tables that begin at 0 too."""
    torch.manual_seed(0)
    model = ViT(ViTConfig(**TINY | changes)).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model
