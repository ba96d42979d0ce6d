"""DeiT: what parity with a peer does not show."""

from __future__ import annotations

import pytest
import torch

from visus.core.errors import CheckpointError, UserError
from visus.models.vit.deit import DeiT, DeiTConfig
from visus.run.models import create_model, load_weights

TINY = {"image_size": 32, "patch_size": 8, "dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}


def tiny(**config) -> DeiT:
    torch.manual_seed(0)
    return DeiT(DeiTConfig(**{**TINY, **config}))


@pytest.mark.parametrize(("field", "value"), [("image_size", 33), ("dim", 25), ("dropout", 1.0), ("drop_path", -0.1),
                                              ("mlp_ratio", 0), ("depth", 0), ("distilled", 1), ("num_heads", 0)])
def test_wrong_config_is_refused_by_name(field, value):
    with pytest.raises(UserError, match=f"{field}={value}"):
        DeiTConfig(**{**TINY, field: value})


def test_a_side_that_patches_do_not_fill_is_refused_with_a_remedy():
    with pytest.raises(UserError, match=r"40x37.*multiples of the patches' 8 pixels.*40 x 40"):
        tiny()(torch.zeros(1, 3, 40, 37))


@pytest.mark.parametrize("mode", [True, False])
def test_forward_is_the_mean_of_both_heads_in_both_modes(mode):
    model, images = tiny(distilled=True).train(mode), torch.randn(2, 3, 32, 32)
    by_label, by_teacher = model.distillation_logits(images)
    assert not torch.allclose(by_label, by_teacher)
    torch.testing.assert_close(model(images), (by_label + by_teacher) / 2)


def test_each_head_learns_through_its_own_token():
    model, images = tiny(distilled=True).double(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    for index, name in enumerate(("head", "head_dist")):
        model.zero_grad(set_to_none=True)
        model.distillation_logits(images)[index].square().sum().backward()
        assert {n for n, p in model.named_parameters() if n.startswith("head") and p.grad is not None} == {
            f"{name}.weight", f"{name}.bias"}
        assert model.cls_token.grad.abs().sum() > 0 and model.dist_token.grad.abs().sum() > 0


def test_a_model_without_a_second_token_has_no_distillation_logits():
    with pytest.raises(UserError, match=r"distilled=False.*distilled=True"):
        tiny().distillation_logits(torch.zeros(1, 3, 32, 32))


def test_without_the_second_token_it_is_a_vit():
    model = create_model("deit_tiny_16", **TINY)
    vit = create_model("vit_tiny_16", **TINY)
    assert load_weights(vit, model.state_dict()) == []
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(images), vit.eval()(images))


def test_a_second_token_costs_what_the_paper_says():
    """A token, its position and a classifier: 2 D + (D + 1) classes parameters."""
    plain, distilled = (sum(p.numel() for p in tiny(distilled=flag).parameters()) for flag in (False, True))
    assert distilled - plain == 2 * 24 + 25 * 5


@pytest.mark.parametrize("distilled", [False, True])
def test_positions_of_another_size_are_resized_and_said(distilled):
    small, large = tiny(distilled=distilled), tiny(distilled=distilled, image_size=48)
    notes = load_weights(large, small.state_dict())
    assert notes == ["pos_embed was resized from 4 x 4 patches to 6 x 6"]
    prefix = 2 if distilled else 1
    assert torch.equal(large.pos_embed[:, :prefix], small.pos_embed[:, :prefix])


def test_a_plain_file_does_not_fill_a_distilled_model():
    with pytest.raises(CheckpointError, match=r"missing \(3\).*dist_token"):
        load_weights(tiny(distilled=True), tiny().state_dict())
