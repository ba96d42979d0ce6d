"""Folded models against the models that they were made of, for every family; and the cases that must not fold."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.models.test_every_model import images_for, tiny
from tests.parity.test_models_parity import randomise
from tests.rows_models import MODELS
from visus.core.errors import UserError
from visus.core.passport import read_passports
from visus.deploy.fold import fold_batch_norm, reparameterise
from visus.models import registry
from visus.models.cnn.acnet import AsymmetricConv
from visus.run.models import create_model

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
FAMILY = {name: p.family for name, p in read_passports(registry.index_path.parent / "passports").items()}
FIRST = {family: name for name, family in reversed(FAMILY.items()) if name in MODELS}  # the first of each family
WHOLE = ("resnet", "vgg", "googlenet", "inception", "regnet", "mobilenet", "mnasnet", "efficientnet", "shufflenet")


def bn_count(model: nn.Module) -> int:
    return sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())


def assert_near(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    assert ((found - expected).abs().max() / expected.abs().max()).item() <= tolerance


@pytest.mark.parametrize(("family", "change"), [*((family, fold_batch_norm) for family in sorted(FIRST)),
                                                *((family, reparameterise) for family in ("acnet", "repvgg"))])
def test_every_family_computes_the_same_folded(family, change):
    """Folding is float64 arithmetic in any type, so that one folded model serves both comparisons."""
    name = FIRST[family]
    model, images = tiny(name), images_for(name)
    randomise(model)
    model = model.double().train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    found = change(model, tuple(images.shape))
    assert model.training and model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert not found.model.training and type(found.model) is type(model)
    assert bn_count(found.model) == len(found.kept)
    if change is fold_batch_norm:
        assert len(found.folded) + len(found.kept) == bn_count(model)
        assert found.folded or not bn_count(model) or family == "convmixer"  # an activation stands before each norm
    if family in WHOLE or change is reparameterise:
        assert not found.kept
    model.eval()
    with torch.no_grad():
        for dtype, tolerance in TOLERANCE.items():
            ours, theirs, given = found.model.to(dtype), model.to(dtype), images.to(dtype)
            assert_near(ours(given), theirs(given), tolerance)
            if callable(getattr(type(model), "features", None)):
                for a, b in zip(ours.features(given), theirs.features(given), strict=True):
                    assert_near(a, b, tolerance)


def fold(*layers: nn.Module, shape: tuple[int, ...] = (2, 4, 9, 9)):
    """Folds layers in a row with random numbers, and checks that nothing changes."""
    model = nn.Sequential(*layers).double()
    randomise(model)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = fold_batch_norm(model, shape)
    with torch.no_grad():
        torch.testing.assert_close(found.model(images), model.eval()(images), rtol=1e-10, atol=1e-12)
    return found


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_a_norm_after_a_convolution_folds(kind, bias, groups):
    found = fold(kind(4, 8, 3, 2, 1, groups=groups, bias=bias), nn.BatchNorm2d(8), nn.ReLU())
    assert found.folded == (("1", "0"),) and not found.kept


@pytest.mark.parametrize("groups", [1, 2])
def test_a_norm_before_a_convolution_without_padding_folds(groups):
    found = fold(nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, 2, groups=groups, bias=False))
    assert found.folded == (("1", "2"),)


def test_norms_around_full_layers_fold():
    found = fold(nn.Flatten(), nn.BatchNorm1d(36), nn.Linear(36, 8), nn.BatchNorm1d(8), nn.BatchNorm1d(8),
                 shape=(2, 4, 3, 3))
    assert sorted(found.folded) == [("1", "2"), ("3", "2"), ("4", "2")] and not found.kept


def test_other_ranks_and_no_affine():
    found = fold(nn.Conv1d(4, 6, 3, bias=False), nn.BatchNorm1d(6, affine=False), nn.ReLU(), shape=(2, 4, 9))
    assert len(found.folded) == 1
    found = fold(nn.Conv3d(4, 6, 2), nn.BatchNorm3d(6), shape=(2, 4, 3, 3, 3))
    assert len(found.folded) == 1


class Shared(nn.Module):
    """One convolution, two norms, as the heads of detectors have over levels."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(4)])

    def forward(self, maps):
        return self.norms[0](self.conv(maps)) + self.norms[1](self.conv(maps * 2))


class SeenTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, maps):
        maps = self.conv(maps)
        return maps + self.norm(maps)


class Standardised(nn.Conv2d):
    def forward(self, maps):
        return F.conv2d(maps, self.weight - self.weight.mean(), self.bias)


class Shown(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def features(self, maps):
        return [self.conv(maps)]

    def forward(self, maps):
        return self.norm(self.conv(maps))


class InPlace(SeenTwice):
    def forward(self, maps):
        return self.norm(self.conv(maps).relu_())


@pytest.mark.parametrize(("layers", "reason"), [
    ((nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)), "zeros of a padding"),
    ((nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 4, 3)), "borders of a transposed"),
    ((nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3)), "no convolution"),
    ((nn.Conv2d(4, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)), "no convolution"),
    ((Shared(),), "used more than once|shared"),
    ((SeenTwice(),), "something else"),
    ((InPlace(),), "something else"),
    ((Shown(),), "features"),
    ((Standardised(4, 4, 1), nn.BatchNorm2d(4)), "computed"),
    ((nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1)), nn.BatchNorm2d(4)), "computed"),
    ((nn.Conv2d(4, 4, 1), nn.Flatten(2), nn.BatchNorm1d(4)), "no convolution"),
    ((nn.Linear(9, 9), nn.BatchNorm2d(4)), "channels"),
    ((nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)), "own statistics"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_what_would_not_be_exact_stays_with_its_reason(layers, reason):
    if isinstance(layers[0], Shown):
        found = fold_batch_norm(layers[0], (1, 4, 5, 5))
    else:
        found = fold(*layers)
    assert not found.folded and found.kept
    for _, why in found.kept:
        assert re.search(reason, why), why


def test_auxiliary_heads_that_eval_does_not_run_stay():
    model = create_model("googlenet", num_classes=5, aux_heads=True)
    found = fold_batch_norm(model, (1, 3, 64, 64))
    assert found.kept and all("aux" in name and "does not call" in why for name, why in found.kept)


def test_the_copy_keeps_class_features_memory_format_and_dtype():
    model = create_model("resnet18", num_classes=5).to(torch.bfloat16, memory_format=torch.channels_last)
    found = fold_batch_norm(model).model
    weight = found.layer2[0].conv1.weight
    assert weight.dtype == torch.bfloat16 and weight.is_contiguous(memory_format=torch.channels_last)
    assert found.config is model.config or found.config == model.config
    assert isinstance(found.layer2[0].bn1, nn.Identity) and found.layer2[0].conv1.bias.dtype == torch.bfloat16
    assert not {p.data_ptr() for p in found.parameters()} & {p.data_ptr() for p in model.parameters()}


@pytest.mark.parametrize("name", ["resnet20", "repvgg_a0", "ac_resnet56"])
def test_what_is_folded_can_be_exported(name):
    model = tiny(name)
    randomise(model)
    images = images_for(name)
    plain = reparameterise(model, tuple(images.shape)).model
    program = torch.export.export(plain, (images,))
    assert not [node for node in program.graph.nodes if "batch_norm" in str(node.target)]
    with torch.no_grad():
        torch.testing.assert_close(program.module()(images), model.eval()(images), rtol=1e-4, atol=1e-5)


def test_a_model_without_a_config_needs_a_shape():
    with pytest.raises(UserError, match="images_shape"):
        fold_batch_norm(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))


@pytest.mark.parametrize("fused", [False, True])
def test_parts_with_a_plain_form_are_found_inside_other_models(fused):
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), AsymmetricConv(4, 6, 2), nn.ReLU(),
                          tiny("repvgg_a0", in_channels=6, fused=fused)).double()
    randomise(model)
    before = str(model)
    images = torch.randn(2, 2, 64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = reparameterise(model, (1, 2, 64, 64))
    assert str(model) == before and not bn_count(found.model) and found.folded == (("1", "0"),)
    assert not {p.data_ptr() for p in found.model.parameters()} & {p.data_ptr() for p in model.parameters()}
    with torch.no_grad():
        assert_near(found.model(images), model.eval()(images), 1e-10)
