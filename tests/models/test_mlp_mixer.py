"""MLP-Mixer: what parity with timm does not show."""

from __future__ import annotations

import pytest
import torch

from visus.core.errors import CheckpointError, UserError
from visus.models.vit.mlp_mixer import Mixer, MixerConfig
from visus.run.models import create_model, describe_model, load_weights

TINY = {"image_size": 32, "patch_size": 8, "dim": 24, "depth": 2, "token_dim": 10, "channel_dim": 40, "num_classes": 5}


@pytest.mark.parametrize(("field", "value"), [("image_size", 33), ("patch_size", 0), ("token_dim", 0), ("dropout", 1.0),
                                              ("channel_dim", 2.5), ("drop_path", -0.1)])
def test_wrong_config_is_refused_by_name(field, value):
    with pytest.raises(UserError, match=f"{field}={value}"):
        MixerConfig(**{**TINY, field: value})


def test_another_image_size_is_refused_with_a_remedy():
    with pytest.raises(UserError, match=r"40x40.*32 x 32.*image_size"):
        Mixer(MixerConfig(**TINY))(torch.zeros(1, 3, 40, 40))


def test_weights_of_another_image_size_are_refused():
    source = create_model("mixer_small_16", **TINY).state_dict()
    with pytest.raises(CheckpointError, match="mlp_tokens"):
        load_weights(create_model("mixer_small_16", **{**TINY, "image_size": 64}), source)


def test_places_mix_in_the_token_mlp_alone():
    """With the token MLPs at zero, a change in one patch changes the features of this patch and no other."""
    torch.manual_seed(0)
    model = Mixer(MixerConfig(**TINY)).eval()
    images = torch.randn(1, 3, 32, 32)
    changed = images.clone()
    changed[..., :8, 8:16] += 1  # the patch of row 0, column 1
    with torch.no_grad():
        moved = (model.features(images)[0] - model.features(changed)[0]).abs().amax(1)[0]
        assert (moved > 0).all()
        for block in model.blocks:
            block.mlp_tokens.fc2.weight.zero_()
        moved = (model.features(images)[0] - model.features(changed)[0]).abs().amax(1)[0]
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[0, 1] = True
    assert torch.equal(moved > 0, expected)


def test_the_count_is_the_papers_formula():
    """Table 1's sizes: each block has 2 N D_S + 2 C D_C weights, their biases and two layer norms (section 2)."""
    for name, (patch, dim, depth, token_dim, channel_dim) in {
            "mixer_small_32": (32, 512, 8, 256, 2048), "mixer_base_16": (16, 768, 12, 384, 3072),
            "mixer_large_16": (16, 1024, 24, 512, 4096)}.items():
        places = (224 // patch) ** 2
        block = (2 * places * token_dim + token_dim + places) + (2 * dim * channel_dim + channel_dim + dim) + 4 * dim
        stem, head = 3 * patch**2 * dim + dim, 2 * dim + dim * 1000 + 1000
        assert describe_model(name).params == stem + depth * block + head


def test_drop_path_grows_linearly_with_depth():
    model = Mixer(MixerConfig(**{**TINY, "depth": 3, "drop_path": 0.4}))
    assert [getattr(block.drop_path, "rate", 0) for block in model.blocks] == pytest.approx([0, 0.2, 0.4])
