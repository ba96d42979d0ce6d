"""DenseNet against what the paper states."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from visus.models.cnn.densenet import DenseBlock, DenseNet, DenseNetConfig
from visus.run.models import create_model, load_weights


@pytest.mark.parametrize(("name", "layers"), [
    ("densenet121", 121), ("densenet161", 161), ("densenet169", 169), ("densenet201", 201),
    ("densenet_bc_100_12", 100), ("densenet_bc_250_24", 250), ("densenet_bc_190_40", 190)])
def test_it_has_as_many_weighted_layers_as_its_name_says(name, layers):
    with torch.device("meta"):
        model = create_model(name)
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) == layers


def test_layer_l_reads_the_input_and_what_every_earlier_layer_added():
    """Equation 2: x_l = H_l([x_0, ..., x_(l-1)]), here with a concatenation of all parts at every layer."""
    torch.manual_seed(0)
    block = DenseBlock(6, 4, 3, 0.0).double().eval()
    parts = [torch.randn(2, 6, 5, 5, dtype=torch.float64)]
    with torch.no_grad():
        out = block(parts[0])
        for layer in block:
            parts.append(layer(torch.cat(parts, 1)))
        torch.testing.assert_close(out, torch.cat(parts, 1), rtol=0, atol=0)
    assert [part.shape[1] for part in parts] == [6, 4, 4, 4]


def test_features_are_the_blocks_and_the_last_ones_are_rectified():
    model = DenseNet(DenseNetConfig(growth_rate=4, depths=(2, 2), num_classes=3)).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        first, last = model.features(images)
        pooled = model.classifier(last.mean((2, 3)))
        torch.testing.assert_close(model(images), pooled)
    assert first.shape == (2, 16, 8, 8) and last.shape == (2, 16, 4, 4)  # 8 + 2 * 4, then 16 / 2 + 2 * 4
    assert first.min() < 0 <= last.min()


def test_the_names_of_torchvisions_old_files_are_read():
    model = DenseNet(DenseNetConfig(growth_rate=4, depths=(2, 1), num_classes=3))
    old = {}
    for name, tensor in model.state_dict().items():
        for part in ("norm1", "norm2", "conv1", "conv2"):
            name = name.replace(f".{part}.", f".{part[:-1]}.{part[-1]}.")
        old[name] = tensor + 1
    assert "features.denseblock1.denselayer2.norm.1.weight" in old
    load_weights(model, old, "torchvision")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), old.values(), strict=True))
