"""What every registered model must do. A model without a row in tests/rows_models.py fails here."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
import torch
from torch import nn

from tests.rows_models import MODELS
from visus.core.errors import UserError
from visus.core.meta import on_meta
from visus.core.passport import agrees
from visus.core.preprocessing import Preprocessing
from visus.core.weights import fingerprint, read_state_dict, write_state_dict
from visus.models import registry
from visus.run.models import create_model, describe_model, load_weights, passports

NAMES = sorted(MODELS)
PASSPORTS = passports()


def _distinct() -> list[str]:
    """A name for each net that the rows describe: variants whose tiny form is the same net are built once."""
    found = {}
    for entry in registry.entries():
        if entry.name not in MODELS:  # the first test says so
            continue
        row = MODELS[entry.name]
        config = sorted((dict(entry.variant) | row.tiny).items())
        found.setdefault((entry.build, repr(config), row.size, row.lost, row.still), entry.name)
    return sorted(found.values())


DISTINCT = _distinct()
# of each file, the variant that a forward pass costs least
CHEAPEST = set({registry.index()[name]: name
                for name in sorted(MODELS, key=lambda name: (PASSPORTS[name].macs, name), reverse=True)}.values())


def tiny(name: str, **config):
    torch.manual_seed(0)
    return create_model(name, **{"num_classes": 7, "in_channels": 2} | MODELS[name].tiny | config)


def images_for(name: str, batch: int = 3):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 2, MODELS[name].size, MODELS[name].size, generator=generator)


def test_every_registered_model_has_a_row_and_a_passport():
    assert set(registry.fresh_index()) == set(MODELS) == set(PASSPORTS)


@pytest.mark.parametrize("name", NAMES)
def test_parameter_count_equals_row_and_passport(name):
    with on_meta():
        counted = sum(p.numel() for p in create_model(name).parameters())
    assert counted == MODELS[name].params == PASSPORTS[name].params


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in CHEAPEST else pytest.mark.slow)
                                  for name in NAMES])
def test_description_equals_row_and_passport(name):
    summary = describe_model(name)
    assert summary.params == MODELS[name].params
    assert summary.macs == PASSPORTS[name].macs and summary.input_shape == tuple(PASSPORTS[name].input_shape)


@pytest.mark.parametrize("name", DISTINCT)
def test_classes_and_channels_are_respected(name):
    model = tiny(name).eval()
    with torch.no_grad():
        logits = model(images_for(name))
    assert logits.shape == (3, 7) and logits.dtype == torch.float32 and logits.isfinite().all()
    assert (model.config.num_classes, model.config.in_channels) == (7, 2)
    with pytest.raises(FrozenInstanceError):
        model.config.num_classes = 3


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in CHEAPEST else pytest.mark.slow)
                                  for name in DISTINCT])
def test_samples_do_not_see_each_other_in_eval(name):
    model, images = tiny(name).double().eval(), images_for(name).double()
    with torch.no_grad():
        together, apart = model(images), torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(together, apart, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", DISTINCT)
def test_gradient_reaches_every_parameter(name):
    model = tiny(name).train()
    nn.functional.cross_entropy(model(images_for(name, 8)) * 0.01, torch.arange(8) % 7).backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert dead == list(MODELS[name].still)


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in CHEAPEST else pytest.mark.slow)
                                  for name in DISTINCT])
def test_features_keep_the_contract(name):
    model = tiny(name).eval()
    if not hasattr(model, "features"):
        assert registry.get(name).about["family"] in ("linear", "mlp", "lenet")
        return
    images = images_for(name)
    maps = model.features(images)
    assert len(maps) == len(model.feature_channels) == len(model.feature_strides)
    for m, channels, stride in zip(maps, model.feature_channels, model.feature_strides, strict=True):
        assert m.shape[:2] == (3, channels) and m.shape[2] == m.shape[3]
        assert 0 <= images.shape[2] // stride - m.shape[2] <= MODELS[name].lost


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in CHEAPEST else pytest.mark.slow)
                                  for name in DISTINCT])
def test_state_survives_a_file(name, tmp_path):
    model, other = tiny(name), tiny(name)
    for parameter in other.parameters():
        nn.init.constant_(parameter, 0.5)
    write_state_dict(tmp_path / "m.safetensors", model.state_dict())
    assert load_weights(other, tmp_path / "m.safetensors") == []
    loaded = other.state_dict()
    for key, tensor in model.state_dict().items():
        assert torch.equal(loaded[key], tensor), key
    assert read_state_dict(tmp_path / "m.safetensors").keys() == model.state_dict().keys()


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in CHEAPEST and not MODELS[name].slow
                                               else pytest.mark.slow) for name in NAMES])
def test_fingerprint_equals_the_passports(name):
    passport = PASSPORTS[name]
    found = fingerprint(create_model(name), tuple(passport.fingerprint["images_shape"]))
    assert found == pytest.approx(tuple(passport.fingerprint["values"]),
                                  rel=1e-7), "python tools/passports.py"


@pytest.mark.parametrize("name", NAMES)
def test_preprocessing_of_the_registration_is_valid_and_in_the_passport(name):
    about = registry.get(name).about["preprocessing"]
    preprocessing = Preprocessing(**about)
    assert preprocessing.channels == create_config(name).in_channels
    assert Preprocessing.from_dict(PASSPORTS[name].preprocessing) == preprocessing


def create_config(name: str):
    entry = registry.get(name)
    return entry.build.Config(**entry.variant)


@pytest.mark.parametrize("name", NAMES)
def test_published_figures_agree_or_have_a_reason(name):
    stated = registry.get(name).about.get("published", {}).get(name, [])
    assert len(PASSPORTS[name].published) == len(stated), "python tools/passports.py"
    for row, fact in zip(PASSPORTS[name].published, stated, strict=True):
        assert {key: row[key] for key in fact if key != "reason"} == {k: v for k, v in fact.items() if k != "reason"}
        ours = getattr(PASSPORTS[name], row["what"]) if row["what"] != "top1" else None
        assert row["ours"] == ours and row["agrees"] == (None if ours is None else agrees(ours, row["value"]))
        assert row["reason"] == (None if row["agrees"] else fact.get("reason"))
        assert row["source"] and (row["agrees"] is not False or row["reason"]), row


@pytest.mark.parametrize("name", NAMES)
def test_recorded_peer_differences_are_rounding(name):
    peer = PASSPORTS[name].peer
    assert (peer is None) == (name not in registry.get(name).about.get("peers", {}))
    if peer is not None:
        assert peer["float32"] <= 1e-5 and peer["float64"] <= 1e-10


@pytest.mark.parametrize("name", DISTINCT)
def test_wrong_counts_are_refused_by_name(name):
    for field in ("num_classes", "in_channels"):
        for value in (0, -1, 2.5, True, "3"):
            with pytest.raises(UserError, match=f"{field}={value!r}"):
                create_model(name, **{field: value})
