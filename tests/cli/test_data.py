"""visus data: its actions, their help, and what must not be loaded for it."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from visus.cli.data import ACTIONS
from visus.cli.main import main


def test_every_action_is_there_with_examples():
    assert list(ACTIONS) == ["show", "convert", "get", "toy"]
    for action in ACTIONS:
        code = importlib.import_module(f"visus.cli.data_{action}")
        assert f"  visus data {action} " in code.__doc__ and callable(code.add_arguments) and callable(code.run)


@pytest.mark.parametrize("words", [[], ["show"], ["convert"], ["get"], ["toy"]])
def test_help_is_printed(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["data", *words, "--help"])
    said = capsys.readouterr().out
    assert ended.value.code == 0 and said.startswith("usage: visus data") and "--debug" in said
    assert all(action in said for action in ([] if words else ACTIONS))


@pytest.mark.parametrize("words, message", [
    (["data"], "ACTION"), (["data", "shwo", "digits"], "shwo"), (["data", "show"], "PATH"),
    (["data", "show", "digits", "--sheeet", "x"], "--sheeet")])
def test_a_wrong_command_ends_with_2_and_names_it(words, message, capsys):
    assert main(words) == 2
    said = capsys.readouterr().err
    assert message in said and "--help" in said and "Traceback" not in said


def test_debug_may_stand_before_and_behind_the_action(tmp_path):
    from visus.core.errors import UserError

    none = str(tmp_path / "none")
    for words in (["data", "--debug", "show", none], ["data", "show", none, "--debug"]):
        with pytest.raises(UserError):
            main(words)


def test_help_of_the_actions_loads_neither_torch_nor_numpy():
    code = "import visus.cli.main as m, sys; m.verb_parser('data'); print({'torch', 'numpy', 'PIL'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
