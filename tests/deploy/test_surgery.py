"""A net that was operated on is built again from its config and the record; a record that does not fit is refused."""

import json

import pytest
import torch
from torch import nn

from visus.core.errors import CheckpointError
from visus.deploy.low_rank import low_rank
from visus.deploy.prune_channels import prune_channels
from visus.deploy.quantise_aware import quantise_aware
from visus.deploy.surgery import operate, record_of, surgery_of
from visus.run.models import create_model, head_parameters, model_config

SHAPE = (1, 3, 32, 32)


def plain():
    torch.manual_seed(0)
    return create_model("mobilenet_v3_small", num_classes=7).eval()


def channels(model):
    return prune_channels(model, SHAPE, 0.5).model


def rank(model):
    return low_rank(model, amount=0.3, kinds=("full", "channel")).model


def rounding(model):
    return quantise_aware(model, [torch.randn(*SHAPE)], SHAPE)


@pytest.mark.parametrize("steps", [(channels,), (rank,), (rounding,), (channels, rank), (channels, rounding)],
                         ids=lambda steps: "-".join(step.__name__ for step in steps))
def test_the_record_brings_the_net_back(steps):
    model = plain()
    for step in steps:
        model = step(model)
    record = json.loads(json.dumps(record_of(model, plain())))
    again = create_model("mobilenet_v3_small", num_classes=7, surgery=record)
    again.load_state_dict(model.state_dict(), strict=True)
    images = torch.randn(2, *SHAPE[1:])
    with torch.no_grad():
        assert torch.equal(again.eval()(images), model.eval()(images))
    assert surgery_of(again) == record and model_config(again)["surgery"] == record
    for module in again.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.shape[:2] == (module.out_channels, module.in_channels // module.groups)
        if isinstance(module, nn.Linear):
            assert module.weight.shape == (module.out_features, module.in_features)


def test_a_net_as_its_config_builds_it_has_no_record():
    assert record_of(plain(), plain()) == {}
    assert "surgery" not in model_config(plain())


def test_the_classifier_of_a_narrower_net_is_still_known():
    model = channels(plain())
    operate(plain(), record_of(model, plain()))
    again = create_model("mobilenet_v3_small", num_classes=7, surgery=record_of(model, plain()))
    assert head_parameters(again) == head_parameters(plain())


@pytest.mark.parametrize("record", [
    [], {"code": {}}, {"shapes": []}, {"shapes": {"features.0.0.weight": [1 << 20, 1 << 20]}},
    {"shapes": {"features.0.0.weight": [-1]}}, {"shapes": {"features.0.0.weight": "8"}},
    {"shapes": {"features.0.0.weight": [2.5]}}, {"shapes": {"absent.weight": [3]}},
    {"shapes": {"features.0.0.forward": [3]}},
    {"identity": {"absent": True}}, {"groups": {"classifier.0": 2}}, {"groups": {"features.0.0": "2"}},
    {"groups": {"features.0.0": 0}}, {"split": {"features": {"kind": "full", "rank": 2}}},
    {"split": {"classifier.0": {"kind": "full", "rank": 1 << 40}}}, {"quantised": {"features.0.0": 99}},
    {"quantised": {"features": 8}}])
def test_a_record_that_does_not_fit_is_refused(record):
    with pytest.raises(CheckpointError):
        operate(plain(), record)
