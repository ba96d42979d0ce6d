"""RegNet against what the paper states."""

from __future__ import annotations

import pytest
import torch

from visus.core.errors import UserError
from visus.models.cnn import regnet
from visus.models.cnn.regnet import RegNetConfig, stages_of
from visus.run.models import create_model, describe_model


@pytest.mark.parametrize(("name", "depths", "widths"), [
    ("regnet_x_800mf", (1, 3, 7, 5), (64, 128, 288, 672)),
    ("regnet_x_3_2gf", (2, 6, 15, 2), (96, 192, 432, 1008)),
    ("regnet_x_32gf", (2, 7, 13, 1), (336, 672, 1344, 2520)),
    ("regnet_y_3_2gf", (2, 5, 13, 1), (72, 216, 576, 1512)),
    ("regnet_y_16gf", (2, 4, 11, 1), (224, 448, 1232, 3024)),
])
def test_rule_gives_the_papers_depths_and_widths(name, depths, widths):
    """Figures 16 and 17 of the paper (from memory)."""
    with torch.device("meta"):
        model = create_model(name)
    assert tuple(len(stage) for stage in model.trunk_output) == depths and model.feature_channels == widths


def test_widths_follow_equations_2_to_4():
    """w_0 = 8, w_a = 8, w_m = 2: linear widths 8 to 64 go to the nearest power of two of 8, in the logarithm."""
    assert stages_of(8, 8, 8.0, 2.0) == [(8, 1), (16, 1), (32, 3), (64, 3)]


@pytest.mark.parametrize(("name", "params", "macs"), [("regnet_x_400mf", 5_157_512, 0.398),
                                                      ("regnet_y_800mf", 6_263_168, 0.797),
                                                      ("regnet_y_8gf", 39_180_068, 7.963)])
def test_the_papers_rounding_costs_what_the_passport_says(name, params, macs, monkeypatch):
    monkeypatch.setattr(regnet, "round_width", lambda width, group: max(group, round(width / group) * group))
    summary = describe_model(name)
    assert summary.params == params and summary.macs / 1e9 == pytest.approx(macs, abs=5e-4)


def test_a_rule_of_other_than_four_stages_is_refused():
    with pytest.raises(UserError, match="four stages|4 stages, not 1"):
        RegNetConfig(depth=4, w_0=8, w_a=0.0, w_m=2.0)
