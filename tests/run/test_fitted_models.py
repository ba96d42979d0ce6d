"""Classical models in `visus models`, before anything is fitted."""

from __future__ import annotations

import subprocess
import sys

import pytest

from visus import classical
from visus.cli.main import main
from visus.core.errors import UserError
from visus.run.fitted_models import describe_fitted, list_fitted


@pytest.mark.parametrize("name", classical.registry.names())
def test_every_classical_model_says_what_it_is_and_what_it_can_be_told(name):
    summary = describe_fitted(name)
    assert len(summary.words) > 200 and summary.paper and summary.family
    for option in summary.options:
        assert option in summary.meanings, f"{name}: {option} is not explained"


def test_the_list_holds_them_and_a_search_finds_them(capsys):
    assert main(["models", "--search", "nearest_m"]) == 0
    assert "nearest_mean" in capsys.readouterr().out
    assert list_fitted("NEAREST_mean") == ["nearest_mean"]
    assert list_fitted() == sorted(classical.registry.names())


def test_one_of_them_is_described_in_words(capsys):
    assert main(["models", "show", "nearest_mean"]) == 0
    assert "visus train PATH --model nearest_mean" in capsys.readouterr().out
    with pytest.raises(UserError, match="nearest_mean"):
        describe_fitted("resnet20")


def test_the_names_load_no_torch():
    code = "from visus.run.fitted_models import list_fitted; import sys; list_fitted(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
