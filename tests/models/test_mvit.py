"""MViT against what the paper states."""

from __future__ import annotations

import pytest
import torch

from visus.core.errors import UserError
from visus.models.vit.mvit import Attention, MViT, MViTConfig
from visus.run.models import create_model, load_weights

TINY = {"depths": (1, 1, 1, 2), "dim": 4, "image_size": 64, "num_classes": 5}


@torch.no_grad()
@pytest.mark.parametrize("max_pool", [False, True])
def test_queries_keys_and_values_are_pooled_and_the_class_token_goes_by(max_pool):
    """Section 3.1, head by head: the same kernel for all heads, and no pooling without a stride by the maximum."""
    torch.manual_seed(0)
    layer, tokens = Attention(6, 2, 2, 4, max_pool).double(), torch.randn(1, 1 + 64, 6, dtype=torch.float64)
    q, k, v = (part.view(65, 2, 3).transpose(0, 1) for part in layer.qkv(tokens)[0].chunk(3, 1))  # [heads, N, 3]
    pooled = []
    for part, name, stride in ((q, "q", 2), (k, "k", 4), (v, "v", 4)):
        maps = part[:, 1:].mT.unflatten(2, (8, 8))  # [heads, 3, 8, 8]
        if max_pool:
            padded = torch.nn.functional.pad(maps, [stride // 2] * 4, value=-torch.inf)
            maps = padded.unfold(2, stride + 1, stride).unfold(3, stride + 1, stride).amax((4, 5))
        else:
            windows = torch.nn.functional.pad(maps, [1] * 4).unfold(2, 3, stride).unfold(3, 3, stride)
            maps = torch.einsum("ncyxij,cij->ncyx", windows, getattr(layer, f"pool_{name}").weight[:, 0])
        part = torch.cat([part[:, :1], maps.flatten(2).mT], 1)
        pooled.append(part if max_pool else getattr(layer, f"norm_{name}")(part))
    q, k, v = pooled
    assert q.shape == (2, 17, 3) and k.shape == v.shape == (2, 5, 3)
    out = (q @ k.mT / 3**0.5).softmax(-1) @ v
    found, size = layer(tokens, (8, 8))
    assert size == (4, 4)
    torch.testing.assert_close(found[0], layer.proj(out.transpose(0, 1).flatten(1)), rtol=1e-10, atol=1e-12)


def test_channels_double_at_a_stage_s_end_and_heads_at_its_start():
    with torch.device("meta"):
        model = MViT(MViTConfig(**TINY))
    assert [block.attn.num_heads for block in model.blocks] == [1, 2, 4, 8, 8]
    assert [block.attn.qkv.in_features for block in model.blocks] == [4, 8, 16, 32, 32]
    assert [block.attn.pool_q is not None for block in model.blocks] == [False, True, True, True, False]
    assert [block.attn.pool_k.stride[0] for block in model.blocks] == [4, 2, 1, 1, 1]
    assert model.feature_channels == (8, 16, 32, 32)


@torch.no_grad()
def test_positions_are_resized_alike_at_run_time_and_on_loading():
    torch.manual_seed(0)
    small, large = (MViT(MViTConfig(**TINY | {"image_size": size})).eval() for size in (64, 96))
    assert load_weights(large, small.state_dict()) == ["pos_embed was resized from 16 x 16 patches to 24 x 24"]
    images = torch.randn(1, 3, 96, 96)
    torch.testing.assert_close(small(images), large(images))
    assert [tuple(m.shape[2:]) for m in small.features(torch.randn(1, 3, 71, 98))] == [(18, 25), (9, 13), (5, 7),
                                                                                      (3, 4)]


def test_a_file_of_pytorchvideo_is_read():
    """Names of pytorchvideo 0.1.5, mvit_base_16: three linear layers, kernels with an axis of time, positions apart."""
    model = create_model("mvit_base_16", **TINY)
    theirs = {}
    for name, tensor in model.state_dict().items():
        if ".qkv." in name:
            thirds = zip("qkv", tensor.chunk(3), strict=True)
            theirs |= {name.replace(".qkv.", f".{part}."): third for part, third in thirds}
        elif ".pool_" in name:
            theirs[name] = tensor.unsqueeze(2)
        elif name == "pos_embed":
            frame = torch.full((1, 1, 4), 0.5)
            theirs |= {"cls_positional_encoding.pos_embed_class": tensor[:, :1],
                       "cls_positional_encoding.pos_embed_spatial": tensor[:, 1:] - frame,
                       "cls_positional_encoding.pos_embed_temporal": frame}
        else:
            for ours, other in (("cls_token", "cls_positional_encoding.cls_token"), ("head.", "head.proj."),
                                ("patch_embed.proj.", "patch_embed.patch_model.")):
                name = name.replace(ours, other)
            theirs["norm_embed." + name.removeprefix("norm.") if name.startswith("norm.") else name] = tensor
    assert "blocks.3.attn.pool_q.weight" in theirs and "norm_embed.bias" in theirs
    again = create_model("mvit_base_16", **TINY)
    assert load_weights(again, theirs, "pytorchvideo") == []
    for name, tensor in again.state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[name])


@pytest.mark.parametrize(("field", "value"), [("depths", (1, 1)), ("max_pool", 1), ("num_heads", 7),
                                              ("drop_path", 1.0)])
def test_wrong_configs_are_refused(field, value):
    with pytest.raises(UserError, match=field):
        MViTConfig(**{field: value})
