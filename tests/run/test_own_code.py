"""A file of one's own is run as it is now."""

from __future__ import annotations

import os
import sys

import pytest

from visus.core.errors import UserError
from visus.run.own_code import run_file


def test_an_edit_within_the_same_second_and_of_the_same_size_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = tmp_path / "mine_edited_quickly.py"
    for number in (1, 2):
        path.write_text(f"value = {number}\n")
        os.utime(path, (1, 1))
        assert run_file(path, "mine").value == number
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_file_that_stops_or_is_not_there_is_named(tmp_path):
    path = tmp_path / "mine_that_stops.py"
    path.write_text("import visus\n1 / 0\n")
    with pytest.raises(UserError, match="could not be run: ZeroDivisionError"):
        run_file(path, "mine")
    path.write_text("def (:\n")
    with pytest.raises(UserError, match="could not be run: SyntaxError"):
        run_file(path, "mine")
    with pytest.raises(UserError, match="there is no such file"):
        run_file(tmp_path / "none.py", "mine")
