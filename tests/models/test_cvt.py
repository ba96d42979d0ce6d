"""CvT against what the paper states."""

from __future__ import annotations

import pytest
import torch

from visus.core.errors import UserError
from visus.models.vit.cvt import Attention, CvT, CvTConfig
from visus.run.models import create_model, load_weights


@torch.no_grad()
def test_queries_and_keys_are_of_strided_convolutions_and_the_class_token_goes_by():
    """Squeezed projection: a key for every second row and column, and scores over the root of all channels."""
    torch.manual_seed(0)
    layer, tokens = Attention(6, 2).double().eval(), torch.randn(1, 1 + 16, 6, dtype=torch.float64)
    first, maps = tokens[:, :1], tokens[:, 1:].mT.view(1, 6, 4, 4)
    seen = {}
    for name, stride in (("q", 1), ("k", 2), ("v", 2)):
        projection = getattr(layer, f"conv_proj_{name}")
        at_each = torch.nn.functional.conv2d(maps, projection.conv.weight, padding=1, groups=6)[..., ::stride, ::stride]
        seen[name] = getattr(layer, f"proj_{name}")(torch.cat([first, projection.bn(at_each).flatten(2).mT], 1))
    assert seen["q"].shape[1] == 17 and seen["k"].shape[1] == 5
    out = [(seen["q"][..., part] @ seen["k"][..., part].mT / 6**0.5).softmax(-1) @ seen["v"][..., part]
           for part in (slice(0, 3), slice(3, 6))]
    torch.testing.assert_close(layer(tokens, (4, 4)), layer.proj(torch.cat(out, -1)), rtol=1e-10, atol=1e-12)


def test_only_the_last_stage_has_a_class_token_and_drop_path():
    model = CvT(CvTConfig(depths=(1, 1, 3), dims=(4, 6, 12), drop_path=0.2))
    assert [name for name, _ in model.named_parameters() if "cls_token" in name] == ["stages.2.cls_token"]
    assert [[block.drop_path.rate for block in stage.blocks] for stage in model.stages] == [[0], [0], [0, 0.1, 0.2]]


def test_the_activation_is_the_authors():
    """x sigmoid(1.702 x), which public weights were trained with."""
    model, exact = (CvT(CvTConfig(depths=(1, 1, 1), dims=(4, 6, 12), quick_gelu=quick)) for quick in (True, False))
    values = torch.linspace(-3, 3, 7, dtype=torch.float64)
    torch.testing.assert_close(model.stages[0].blocks[0].mlp.act(values), values / (1 + torch.exp(-1.702 * values)))
    assert isinstance(exact.stages[0].blocks[0].mlp.act, torch.nn.GELU)
    assert model.state_dict().keys() == exact.state_dict().keys()


def test_the_authors_names_are_read():
    """Names in lib/models/cls_cvt.py of microsoft/CvT."""
    model = create_model("cvt_13", depths=(1, 1, 1), dims=(4, 6, 12))
    theirs = {name.replace("stages.", "stage"): tensor for name, tensor in model.state_dict().items()}
    assert {"stage0.patch_embed.proj.weight", "stage1.blocks.0.attn.conv_proj_k.bn.running_mean", "stage2.cls_token",
            "stage2.blocks.0.attn.proj_q.bias", "stage0.blocks.0.mlp.fc1.weight", "norm.bias",
            "head.weight"} < theirs.keys()
    assert load_weights(model, theirs, "original") == []


@pytest.mark.parametrize(("field", "value"), [("depths", (1, 1)), ("dims", (8, 16, 384)), ("drop_path", 1.0),
                                              ("quick_gelu", 1)])
def test_wrong_configs_are_refused(field, value):
    with pytest.raises(UserError, match=field):
        CvTConfig(**{field: value})
