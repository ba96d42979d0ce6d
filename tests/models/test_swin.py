"""Swin and its windows: what parity with a peer does not show."""

from __future__ import annotations

import pytest
import torch

from visus.core.errors import UserError
from visus.models.vit.swin import Swin, SwinConfig
from visus.ops.windows import (
    APART,
    from_windows,
    half_shift,
    relative_index,
    resize_bias_table,
    shift_mask,
    table_window,
    to_windows,
)
from visus.run.models import create_model, load_weights

SMALL = {"dim": 8, "depths": (2, 1, 1, 1), "num_heads": (1, 2, 2, 4), "windows": (4, 4, 2, 2), "num_classes": 3}


@pytest.mark.parametrize("size", [(6, 9), (7, 8), (2, 5)])
@pytest.mark.parametrize("shift", [(0, 0), (1, 1), (0, 1)])
def test_windows_are_undone(size, shift):
    maps = torch.rand(2, *size, 5)
    assert torch.equal(from_windows(to_windows(maps, 3, shift), size, 3, shift), maps)


def test_a_window_holds_neighbours_row_by_row():
    maps = torch.arange(2 * 4 * 6).reshape(2, 4, 6, 1)
    windows = to_windows(maps, 2, (0, 0)).squeeze(2)
    assert windows.shape == (12, 4)
    assert windows[1].tolist() == [2, 3, 8, 9] and windows[6].tolist() == [24, 25, 30, 31]


@pytest.mark.parametrize(("size", "window"), [((6, 6), 3), ((8, 12), 4), ((7, 9), 4)])
def test_shifted_windows_join_only_places_that_were_neighbours(size, window):
    """Figure 4: two places of a shifted window see each other just where no seam of the cyclic shift lies between."""
    shift = half_shift(*size, window)
    height, width = (-(-side // window) * window for side in size)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = to_windows(torch.stack([y, x], -1)[None], window, shift)  # [n, N, 2]: where each came from
    near = ((places[:, :, None] - places[:, None]).abs() < window).all(-1)
    mask = shift_mask(size, window, shift, torch.empty(0))
    assert torch.equal(mask == 0, near) and torch.equal(mask == APART, ~near)


def test_relative_index_gives_equal_offsets_equal_numbers():
    index = relative_index(3, torch.device("cpu")).reshape(9, 9)
    places = [(i // 3, i % 3) for i in range(9)]
    for a, (ya, xa) in enumerate(places):
        for b, (yb, xb) in enumerate(places):
            assert index[a, b] == (ya - yb + 2) * 5 + xa - xb + 2


def test_without_a_shift_windows_do_not_see_each_other_and_with_one_they_do():
    """Section 3.2: what shifted windows are for."""
    torch.manual_seed(0)
    stage = Swin(SwinConfig(**SMALL)).double().eval().features[1]
    maps = torch.rand(1, 8, 8, 8, dtype=torch.float64)
    changed = maps.clone()
    changed[0, 0, 0, 0] += 1
    with torch.no_grad():
        moved = [(part(changed) - part(maps)).abs().amax(-1)[0] > 0 for part in (type(stage)(stage[0]), stage)]
    assert moved[0][:4, :4].all() and moved[0].sum() == 16
    assert moved[1][:6, :6].all() and moved[1].sum() == 36


def test_weights_for_other_windows_are_resized_and_it_is_said():
    source = create_model("swin_tiny", **SMALL)
    target = create_model("swin_tiny", **SMALL | {"windows": (4, 4, 3, 3)})
    notes = load_weights(target, source.state_dict())
    assert notes == ["relative position biases were resized from windows of 2 x 2 to 3 x 3"]
    name = "relative_position_bias_table"
    assert torch.equal(getattr(target.features[1][0].attn, name), getattr(source.features[1][0].attn, name))
    expected = resize_bias_table(getattr(source.features[5][0].attn, name).detach(), 3)
    assert torch.equal(getattr(target.features[5][0].attn, name), expected)
    target.eval()(torch.zeros(1, 3, 32, 32))


def test_a_resized_table_keeps_a_plane_and_its_symmetry():
    table = torch.rand(25, 2)
    mirrored = resize_bias_table(table.flip(0), 5)
    torch.testing.assert_close(mirrored.flip(0), resize_bias_table(table, 5))
    torch.testing.assert_close(resize_bias_table(torch.full((25, 2), 0.5), 4), torch.full((49, 2), 0.5))
    assert [table_window(torch.zeros(n, 1)) for n in (1, 9, 169, 16, 24)] == [1, 2, 7, None, None]


def test_drop_path_grows_linearly_with_depth():
    model = Swin(SwinConfig(**SMALL | {"drop_path": 0.4}))
    rates = [getattr(block.drop_path, "rate", 0) for i in (1, 3, 5, 7) for block in model.features[i]]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(("field", "value"),
                         [("depths", (2, 2)), ("num_heads", (1, 3, 2, 4)), ("windows", (7, 7, 0, 7)), ("windows", 7),
                          ("mlp_ratio", 0), ("drop_path", 1.0)])
def test_wrong_configs_are_refused(field, value):
    with pytest.raises(UserError, match=field):
        SwinConfig(**SMALL | {field: value})


def test_an_image_smaller_than_a_patch_is_refused():
    with pytest.raises(UserError, match="at least 4 pixels"):
        Swin(SwinConfig(**SMALL))(torch.zeros(1, 3, 3, 40))
