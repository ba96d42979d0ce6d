"""visus recipes NAME --preview FILE."""

from __future__ import annotations

import pytest

from visus.cli.main import main


def test_a_recipes_rates_are_drawn_and_told(tmp_path, capsys):
    out = tmp_path / "rates.svg"
    assert main(["recipes", "cifar10-resnet20", "--preview", str(out), "--set", "optimizer.head_lr=10"]) == 0
    said = capsys.readouterr().out
    assert out.read_text().startswith("<svg") and str(out) in said.replace("\n", "")  # a long path is wrapped
    assert all(word in said for word in ("head, decay", "backbone, no decay", "0.0005", "128 images per update"))


@pytest.mark.parametrize("arguments, words", [
    (["recipes", "--preview", "a.svg"], "is of a recipe"),
    (["recipes", "cifar10-resnet20", "--set", "train.epochs=3"], "no --preview"),
    (["recipes", "cifar10-resnet20", "--preview", "a.png"], "a.png"),
    (["recipes", "cifar10-resnet20", "--preview", "a.svg", "--set", "schedule.nam=step"], "schedule.name"),
])
def test_what_cannot_be_drawn_is_an_error_of_one_message(arguments, words, capsys):
    assert main(arguments) == 2
    assert words in capsys.readouterr().err
