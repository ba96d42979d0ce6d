"""DINO's backbone: what parity with a peer does not show."""

from __future__ import annotations

import pytest
import torch

from visus.core.errors import UserError
from visus.models.vit.dino import DINO, DINOConfig
from visus.run.models import create_model, load_weights

TINY = {"image_size": 32, "patch_size": 8, "dim": 24, "depth": 3, "num_heads": 3, "num_classes": 5}


def tiny(**config) -> DINO:
    torch.manual_seed(0)
    return DINO(DINOConfig(**{**TINY, **config})).eval()


@pytest.mark.parametrize(("field", "value"), [("image_size", 33), ("dim", 25), ("class_layers", 4), ("class_layers", 0),
                                              ("mean", 1), ("drop_path", 1.0)])
def test_wrong_config_is_refused_by_name(field, value):
    with pytest.raises(UserError, match=f"{field}={value!r}"):
        DINOConfig(**{**TINY, field: value})


def test_it_is_a_vit():
    model, vit = tiny(), create_model("vit_tiny_16", **TINY).eval()
    assert load_weights(vit, model.state_dict()) == []
    images = torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(model(images), vit(images))
        torch.testing.assert_close(model.features(images)[0], vit.features(images)[0])


def test_embedding_of_several_blocks_is_the_class_tokens_of_networks_cut_short():
    """The paper's linear protocol: each block's class token is normalised by the last norm."""
    model, images = tiny(), torch.randn(2, 3, 32, 32)
    parts = []
    for depth in (2, 3):
        short = tiny(depth=depth)
        short.load_state_dict({name: tensor for name, tensor in model.state_dict().items()
                               if name in short.state_dict()})
        with torch.no_grad():
            parts.append(short.embed(images))
    with torch.no_grad():
        torch.testing.assert_close(model.embed(images, 2), torch.cat(parts, dim=1))


@pytest.mark.parametrize(("layers", "mean"), [(3, False), (1, True), (2, True)])
def test_the_head_reads_what_the_config_says(layers, mean):
    model, images = tiny(class_layers=layers, mean=mean), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        read = model.embed(images, layers)
        if mean:
            read = torch.cat([read, model.features(images)[0].mean((2, 3))], dim=1)
        torch.testing.assert_close(model(images), model.head(read))


def test_a_public_file_has_no_classifier():
    model = tiny()
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("head.")}
    assert load_weights(tiny(), state, "original") == ["the weights have no classifier: head starts fresh"]
