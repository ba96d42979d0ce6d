"""DINOv2's backbone: what parity with a peer does not show."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from visus.core.errors import CheckpointError, UserError
from visus.models.vit.dinov2 import DINOv2, DINOv2Config, SwiGLU, gated_width
from visus.run.models import create_model, load_weights

TINY = {"image_size": 32, "patch_size": 8, "dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}


def tiny(**config) -> DINOv2:
    torch.manual_seed(0)
    return DINOv2(DINOv2Config(**{**TINY, "layer_scale": 0.5, **config})).eval()


@pytest.mark.parametrize(("field", "value"), [("image_size", 33), ("dim", 25), ("dropout", 1.0), ("layer_scale", 0),
                                              ("registers", -1), ("gated", 1), ("pool", "max"), ("antialias", None)])
def test_wrong_config_is_refused_by_name(field, value):
    with pytest.raises(UserError, match=f"{field}={value!r}"):
        DINOv2Config(**{**TINY, field: value})


def test_gated_width_is_the_authors_for_their_largest_size():
    """Table 17 of the paper: dim 1536; 4096 hidden units are two thirds of 4 x 1536."""
    assert gated_width(4 * 1536) == 4096
    assert gated_width(100) == 72  # 66, upwards to a multiple of 8


def test_swiglu_is_the_papers_equation():
    """Shazeer 2020, equation 6: (SiLU(x W) * x V) W_2."""
    torch.manual_seed(0)
    layer, x = SwiGLU(6, 8, 0.0), torch.randn(2, 3, 6)
    w, v = layer.fc1.weight.chunk(2)
    b, c = layer.fc1.bias.chunk(2)
    expected = (F.silu(x @ w.T + b) * (x @ v.T + c)) @ layer.fc2.weight.T + layer.fc2.bias
    torch.testing.assert_close(layer(x), expected)


def test_without_registers_and_with_scales_of_one_it_is_a_vit():
    model, vit = tiny(layer_scale=1.0), create_model("vit_tiny_16", **TINY).eval()
    state = {name: tensor for name, tensor in model.state_dict().items() if ".ls" not in name}
    assert load_weights(vit, state) == []
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(images), vit(images))


def test_registers_are_read_by_others_and_stand_in_no_map():
    model, images = tiny(registers=3), torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        tokens, (maps,) = model.tokens(images), model.features(images)
        assert model.num_prefix_tokens == 4 and tokens.shape == (2, 4 + 4 * 6, 24)
        torch.testing.assert_close(maps.flatten(2).transpose(1, 2), tokens[:, 4:])
        torch.testing.assert_close(model.embed(images), tokens[:, 0])
        model.reg_token += torch.randn(3, 24)
        assert not torch.allclose(model(images), model.head(tokens[:, 0]))


def test_masked_patches_leave_no_trace_of_their_pixels():
    model, images = tiny(), torch.randn(1, 3, 32, 32)
    masked = torch.zeros(1, 16, dtype=torch.bool)
    masked[0, 5] = True  # row 1, column 1
    other = images.clone()
    other[..., 8:16, 8:16] += 1
    with torch.no_grad():
        token = torch.randn(24)
        torch.testing.assert_close(model.tokens(images, masked, token), model.tokens(other, masked, token))
        assert not torch.allclose(model.tokens(images), model.tokens(other))


def test_the_last_of_the_last_tokens_are_the_tokens():
    model, images = tiny(depth=3), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        last = model.last_tokens(images, 2)
        assert len(last) == 2
        torch.testing.assert_close(last[1], model.tokens(images))
        assert not torch.allclose(last[0], last[1])


def test_class_mean_head_reads_class_token_and_mean_of_patches():
    model, images = tiny(pool="class_mean", registers=2), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        tokens = model.tokens(images)
        expected = model.head(torch.cat([tokens[:, 0], tokens[:, 3:].mean(1)], dim=1))
        torch.testing.assert_close(model(images), expected)


def test_antialias_changes_positions_of_smaller_grids_alone():
    model, plain = tiny(image_size=64), tiny(image_size=64, antialias=False)
    with torch.no_grad():
        for size, same in ((64, True), (32, False)):
            images = torch.randn(1, 3, size, size)
            assert torch.allclose(model(images), plain(images), rtol=1e-5, atol=1e-6) is same


def test_a_file_without_classifier_starts_a_fresh_one_and_says_so():
    model = tiny()
    state = {name: tensor + 1 for name, tensor in model.state_dict().items() if not name.startswith("head.")}
    head = model.head.weight.clone()
    assert load_weights(model, state) == ["the weights have no classifier: head starts fresh"]
    assert torch.equal(model.head.weight, head) and torch.equal(model.cls_token, state["cls_token"])
    with pytest.raises(CheckpointError, match=r"missing \(1\): head\.weight"):
        load_weights(model, {**state, "head.bias": model.head.bias})


def test_a_side_that_patches_do_not_fill_is_refused_with_a_remedy():
    with pytest.raises(UserError, match=r"40x37.*multiples of the patches' 8 pixels.*40 x 40"):
        tiny()(torch.zeros(1, 3, 40, 37))
