"""ZFNet against what its paper states."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from visus.core.errors import UserError
from visus.layers.response_norm import ResponseNorm
from visus.models.cnn.zfnet import renormalise_filters
from visus.run.models import create_model, describe_model


def test_the_maps_have_the_sides_that_figure_3_prints():
    for name in ("zfnet", "zfnet_wide"):
        rows = describe_model(name).rows
        assert [(row.output_shape[2], row.type[0]) for row in rows if row.type in ("Conv2d", "MaxPool2d")] == [
            (110, "C"), (55, "M"), (26, "C"), (13, "M"), (13, "C"), (13, "C"), (13, "C"), (6, "M")]


def test_weights_of_each_layer_are_figure_3s():
    rows = {row.name: row for row in describe_model("zfnet").rows if row.params}
    sizes = {"features.0": (96, 3 * 7 * 7), "features.4": (256, 96 * 5 * 5), "features.8": (384, 256 * 9),
             "features.10": (384, 384 * 9), "features.12": (256, 384 * 9), "classifier.0": (4096, 256 * 36),
             "classifier.3": (4096, 4096), "classifier.6": (1000, 4096)}
    assert {name: row.params for name, row in rows.items()} == {n: out * (fan + 1) for n, (out, fan) in sizes.items()}
    assert sum(row.params for row in rows.values()) == 62_357_608
    wide, base = describe_model("zfnet_wide").params, 62_357_608
    more = (256 * 512 + 512 * 1024 + 1024 * 512 - 256 * 384 - 384 * 384 - 384 * 256) * 9
    assert wide - base == more + (512 + 1024 + 512 - 384 - 384 - 256) + 36 * 256 * 4096


def test_pooled_maps_are_normalised_across_five_maps_and_not_before_pooling():
    model = create_model("zfnet", dims=(8, 8, 8, 8, 8), hidden_dim=4).double().eval()
    images = torch.randn(2, 3, 63, 63, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 1e3
    with torch.no_grad():
        maps = model.features(images)
        pooled = nn.functional.max_pool2d(maps[0], 3, 2, ceil_mode=True)
        expected = torch.stack([pooled[:, i] / (2 + 1e-4 * pooled[:, max(i - 2, 0):i + 3].square().sum(1)) ** 0.75
                                for i in range(8)], dim=1)
        torch.testing.assert_close(maps[1], expected, rtol=1e-12, atol=1e-12)
        assert (maps[1] / pooled.clamp(min=1e-9)).std() > 0.01  # the normalisation is felt


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_response_norm_is_torchs_and_takes_half_precision(dtype):
    maps = torch.randn(2, 7, 5, 4, generator=torch.Generator().manual_seed(0)) * 100
    maps = maps.to(dtype).to(memory_format=torch.channels_last).requires_grad_()
    out = ResponseNorm(size=3, alpha=2e-3, beta=0.6, k=1.5)(maps)
    expected = nn.LocalResponseNorm(3, alpha=6e-3, beta=0.6, k=1.5)(maps.double())
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-6)
    out.sum().backward()
    assert maps.grad.isfinite().all()


def test_filters_are_scaled_down_to_the_radius_and_never_up():
    model = create_model("zfnet", dims=(4, 4, 4, 4, 4), hidden_dim=4)
    with torch.no_grad():
        model.features[0].weight[0] = 3.0
        model.features[0].weight[1] = -0.05
        others = model.features[4].weight.clone(), model.classifier[0].weight.fill_(5.0).clone()
    renormalise_filters(model)
    weight = model.features[0].weight
    torch.testing.assert_close(weight[0], torch.full_like(weight[0], 0.1))
    torch.testing.assert_close(weight[1], torch.full_like(weight[1], -0.05))
    assert torch.equal(model.features[4].weight, others[0]) and torch.equal(model.classifier[0].weight, others[1])


@pytest.mark.parametrize(("field", "value"), [("dims", (8,)), ("dims", (8, 8, 8, 8, 0)), ("hidden_dim", 0),
                                              ("dropout", 1.0)])
def test_wrong_configs_are_refused_by_name(field, value):
    with pytest.raises(UserError, match=field):
        create_model("zfnet", **{field: value})
