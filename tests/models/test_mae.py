"""MAE's encoder: what parity with a peer does not show."""

from __future__ import annotations

import pytest
import torch

from visus.core.errors import UserError
from visus.models.vit.mae import MAE, MAEConfig, draw_keep
from visus.run.models import load_weights

TINY = {"image_size": 32, "patch_size": 8, "dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}


def tiny(**config) -> MAE:
    torch.manual_seed(0)
    return MAE(MAEConfig(**{**TINY, **config})).eval()


@pytest.mark.parametrize(("field", "value"), [("image_size", 33), ("dim", 25), ("pool", "max"), ("drop_path", 1.0),
                                              ("learn_positions", 1), ("antialias", None)])
def test_wrong_config_is_refused_by_name(field, value):
    with pytest.raises(UserError, match=f"{field}={value!r}"):
        MAEConfig(**{**TINY, field: value})


@pytest.mark.parametrize("value", [1, 1.5, -0.1, "most"])
def test_wrong_mask_ratio_is_refused_by_name(value):
    with pytest.raises(UserError, match=f"mask_ratio={value!r}"):
        draw_keep(1, 4, value)


def test_a_draw_takes_a_quarter_without_repetition_each_image_its_own_and_all_patches_alike():
    keep = draw_keep(4000, 16, generator=torch.Generator().manual_seed(0))
    assert keep.shape == (4000, 4) and keep.dtype == torch.int64
    assert all(len(set(row)) == 4 for row in keep.tolist()) and len({tuple(row) for row in keep.tolist()}) > 3000
    share = torch.bincount(keep.flatten(), minlength=16) / 4000
    assert (share - 0.25).abs().max() < 0.03  # four standard deviations of 4000 draws
    assert torch.equal(keep, draw_keep(4000, 16, generator=torch.Generator().manual_seed(0)))


def test_pixels_of_unseen_patches_leave_no_trace():
    model, keep = tiny(), torch.tensor([[0, 3, 9], [4, 5, 1]])
    images = torch.randn(2, 3, 32, 32)
    seen = torch.zeros(2, 16).scatter(1, keep, 1.0).reshape(2, 1, 4, 4)
    mask = seen.repeat_interleave(8, 2).repeat_interleave(8, 3)
    other = images * mask + torch.randn(2, 3, 32, 32) * (1 - mask)
    with torch.no_grad():
        tokens = model.encode(images, keep)
        assert tokens.shape == (2, 4, 24)
        assert torch.equal(model.encode(other, keep), tokens)
        assert not torch.allclose(model.tokens(other), model.tokens(images))


def test_tokens_follow_the_order_of_keep_and_all_patches_in_order_are_the_tokens():
    model, images = tiny(), torch.randn(2, 3, 32, 48)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0)).expand(2, -1)
    with torch.no_grad():
        tokens = model.tokens(images)
        torch.testing.assert_close(model.encode(images, torch.arange(24).expand(2, -1)), tokens)
        torch.testing.assert_close(model.encode(images, order)[:, 1:], tokens[:, 1:][:, order[0]])


def test_positions_are_sines_and_cosines_and_stay_unless_learned():
    model = tiny(dim=8, num_heads=2)
    x, y = 2.0, 1.0  # row 1, column 2 of 4: number 6 after the class token's
    places = [torch.tensor(p) for p in (x, x / 100, y, y / 100)]
    expected = torch.stack([places[0].sin(), places[1].sin(), places[0].cos(), places[1].cos(), places[2].sin(),
                            places[3].sin(), places[2].cos(), places[3].cos()])
    torch.testing.assert_close(model.pos_embed[0, 7].detach(), expected)
    assert not model.pos_embed[0, 0].any() and not model.pos_embed.requires_grad
    assert tiny(learn_positions=True).pos_embed.requires_grad


def test_the_head_reads_the_normalised_mean_of_the_patches_or_the_class_token():
    images = torch.randn(2, 3, 32, 32)
    for pool in ("mean", "class"):
        model = tiny(pool=pool)
        with torch.no_grad():
            last = []
            model.blocks.register_forward_hook(lambda module, args, out, last=last: last.append(out))
            found = model(images)
            read = last[0][:, 1:].mean(1) if pool == "mean" else last[0][:, 0]
            torch.testing.assert_close(found, model.head(model.norm(read)))


def test_a_fine_tuned_files_norm_is_the_norm():
    model = tiny()
    state = {name.replace("norm.", "fc_norm.") if name.startswith("norm.") else name: tensor + 1
             for name, tensor in model.state_dict().items()}
    assert load_weights(model, state, "original") == []
    assert torch.equal(model.norm.weight, state["fc_norm.weight"])
