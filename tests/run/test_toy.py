"""Decision boundaries of toy sets, and the command that draws them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from visus.cli.main import main
from visus.core.errors import UserError
from visus.run.toy import decision_boundary


def test_on_the_spiral_a_line_stays_at_half_and_two_layers_get_nearly_all():
    found = decision_boundary("spiral", side=120)
    assert 0.45 <= found.linear <= 0.56  # CS231n's notes: 49 %
    assert found.network >= 0.97  # and 98 %
    picture = np.asarray(Image.open(io.BytesIO(found.png)))
    assert picture.shape == (120, 240, 3)
    assert len(np.unique(picture[:, :120].reshape(-1, 3), axis=0)) > 6  # regions, points and a title
    assert not np.array_equal(picture[:, :120], picture[:, 120:])


def test_the_same_seed_draws_the_same_picture_and_clouds_need_no_second_layer():
    first, second = (decision_boundary("blobs", 8, 60, side=40) for _ in range(2))
    assert first == second and first.linear > 0.98
    assert decision_boundary("blobs", 8, 60, seed=1, side=40).png != first.png


def test_the_command_prints_both_and_writes_the_picture(tmp_path, capsys):
    out = tmp_path / "xor.png"
    assert main(["data", "toy", "xor", "--hidden", "8", "--steps", "40", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "linear" in printed and "2 layers" in printed and str(out) in printed
    assert Image.open(io.BytesIO(out.read_bytes())).size == (800, 400)


@pytest.mark.parametrize("arguments, words", [({"name": "spirl"}, "'spiral'"), ({"hidden": 0}, "hidden=0"),
                                              ({"steps": 0}, "steps=0"), ({"noise": -1.0}, "noise=-1")])
def test_wrong_calls_are_refused(arguments, words):
    with pytest.raises(UserError, match=words):
        decision_boundary(**arguments)
