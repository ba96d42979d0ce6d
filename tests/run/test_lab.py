"""visus lab: exercises are handed out and kept, wrong code cannot hurt, and progress is remembered."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from visus.cli.main import main
from visus.core.errors import UserError
from visus.labs import shelf
from visus.run.lab import RECORD, check_lab, lab_of, list_labs, show_lab, start_lab

SOLUTIONS = Path(__file__).parent.parent / "labs" / "solutions"


@pytest.fixture
def svm(tmp_path: Path) -> Path:
    """The solution, to be spoilt by a test."""
    path = tmp_path / "svm.py"
    path.write_text((SOLUTIONS / "svm.py").read_text())
    return path


def spoilt(path: Path, old: str, new: str) -> Path:
    text = path.read_text()
    assert text.count(old) == 1, old
    path.write_text(text.replace(old, new))
    return path


def test_start_writes_the_exercise_and_never_over_work(tmp_path: Path):
    path = start_lab("svm", tmp_path / "labs")
    assert path.read_text() == shelf.exercise("svm") and lab_of(path) == "svm"
    path.write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        start_lab("svm", tmp_path / "labs")
    assert path.read_text() == "mine"
    assert start_lab("svm", tmp_path / "labs", overwrite=True).read_text() == shelf.exercise("svm")
    with pytest.raises(UserError, match="Did you mean 'svm'"):
        start_lab("smv", tmp_path)
    with pytest.raises(UserError, match="not a folder"):
        start_lab("knn", path)


def test_check_says_what_is_right_and_exits_0_only_then(svm: Path, capsys, monkeypatch):
    monkeypatch.chdir(svm.parent)
    assert main(["lab", "check", "svm"]) == 0  # by the name of the lab
    said = capsys.readouterr().out
    assert "4 of 4 right" in said and "times as fast as svm_loss_naive (at least 4 expected)" in said
    spoilt(svm, "    return np.argmax(x @ w, axis=1)", "    return np.argmax(x @ w, axis=0)")
    assert main(["lab", "check", str(svm)]) == 1
    said = capsys.readouterr().out
    assert "labels has the shape (4), expected (8)" in said and "classes are axis 1" in said and "3 of 4 right" in said


def test_an_endless_loop_ends_and_the_functions_after_it_are_still_checked(svm: Path):
    spoilt(svm, "    rows = np.arange(len(x))\n", "    print('I am here')\n    while True:\n        pass\n")
    began = time.monotonic()
    found = check_lab(svm, limit_s=1.5)
    assert time.monotonic() - began < 60
    verdicts = {verdict.name: verdict for verdict in found.verdicts}
    assert verdicts["svm_loss"].verdict == "stopped" and "did not end within 1.5 s" in verdicts["svm_loss"].words
    assert verdicts["predict"].verdict == "right" and not found.right
    assert "I am here" in found.printed
    assert [verdict.name for verdict in found.verdicts] == [part.name for part in shelf.get("svm").parts]


@pytest.mark.parametrize("bodies", [
    {"svm_loss_naive": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "segmentation fault"),
     "svm_loss": ("import os; os._exit(3)", "exit code 3"), "predict": ("raise SystemExit", "calls exit()"),
     "sgd_step": ("return sgd_step(w, x, labels, reg, lr)", "RecursionError")},
    {"svm_loss_naive": ("return np.zeros((1 << 37, 64)), w", "Memory"), "svm_loss": ("return input(), w", "EOFError"),
     "predict": ("return 'seven'", "not numbers"), "sgd_step": ("return None", "nothing (None)")}])
def test_whatever_their_code_does_is_told_and_the_rest_is_checked(tmp_path: Path, bodies):
    takes = {part.name: next(iter(part.cases)).make for part in shelf.get("svm").parts}
    rng = np.random.Generator(np.random.PCG64(0))
    path = tmp_path / "svm.py"
    path.write_text('import numpy as np\n\nLAB = "svm"\n' + "".join(
        f"\n\ndef {name}({', '.join(takes[name](rng))}):\n    {body}\n" for name, (body, _) in bodies.items()))
    for verdict in check_lab(path).verdicts:
        assert verdict.verdict in ("stopped", "wrong") and bodies[verdict.name][1] in verdict.words, verdict


@pytest.mark.parametrize(("text", "words"), [
    ("LAB = 'svm'\ndef f(:\n", "line 2"),
    ("def svm_loss(): pass\n", "lacks its line"),
    ("LAB = 'smv'\n", "no such lab"),
    ("LAB = 'svm'\nraise RuntimeError('at the top')\n", "at the top"),
    ("LAB = 'svm'\nexit()\n", "top level"),
    ("LAB = 'svm'\nimport os\nos._exit(0)\n", "ended while it was loaded"),
    ("\x00", "not Python"),
])
def test_a_file_that_is_no_exercise_exits_2_with_the_reason(tmp_path: Path, capsys, text: str, words: str):
    path = tmp_path / "mine.py"
    path.write_text(text)
    assert main(["lab", "check", str(path)]) == 2
    said = capsys.readouterr().err
    assert words in said and "Traceback" not in said and "mine.py" in said


def test_a_function_that_stops_at_the_size_that_is_timed_is_told_and_files_import_others(svm: Path, monkeypatch):
    (svm.parent / "helping.py").write_text("LIMIT = 100\n")
    spoilt(svm, "def svm_loss(w, x, labels, reg):\n", "def svm_loss(w, x, labels, reg):\n"
           "    from helping import LIMIT\n    assert len(x) < LIMIT, 'too many'\n")
    monkeypatch.chdir(svm.parent.parent)
    found = {verdict.name: verdict for verdict in check_lab(svm).verdicts}["svm_loss"]
    assert found.verdict == "stopped" and "too many" in found.words and "timed on larger ones" in found.words


def test_a_missing_file_and_a_lab_that_is_not_started_say_what_to_do(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["lab", "check", "svn.py"]) == 2
    assert main(["lab", "show", "svm"]) == 2
    assert "visus lab start svm" in capsys.readouterr().err


def test_the_list_shows_how_far_one_is_and_that_a_file_changed(svm: Path, monkeypatch, capsys):
    row = {one.name: one for one in list_labs(svm.parent)}["svm"]
    assert row.file == svm and row.right is None
    check_lab(svm)
    row = {one.name: one for one in list_labs(svm.parent)}["svm"]
    assert (row.right, row.functions, row.changed) == (4, 4, False)
    svm.write_text(svm.read_text() + "\n")
    assert {one.name: one for one in list_labs(svm.parent)}["svm"].changed
    (svm.parent / RECORD).write_text("{broken")  # what was found last is a help, never a reason to fail
    monkeypatch.chdir(svm.parent)
    assert main(["lab", "list"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^svm +started", said, re.MULTILINE) and f"0 of {len(shelf.names())} finished" in said
    numbers = [lab.number for lab in shelf.labs()]
    assert numbers == sorted(set(numbers)), "two labs with one number"


def test_show_draws_what_their_code_does_as_one_page_of_its_own(svm: Path, capsys):
    assert main(["lab", "show", str(svm)]) == 0
    page = svm.with_suffix(".html").read_text()
    assert "http-equiv=\"Content-Security-Policy\"" in page and page.count("<image ") == 10
    assert not re.search(r"(src|href)=\"(?!data:)", page), "the page asks for another file"
    spoilt(svm, "    return w - lr * dw, loss", "    return w + lr * dw, loss")  # uphill
    _, shown = show_lab(svm, svm.parent / "uphill.html")
    assert not all(fact["holds"] for fact in shown["facts"])
    assert "not what a right solution gives" in (svm.parent / "uphill.html").read_text()
    spoilt(svm, "    return w + lr * dw, loss", "    return w")
    with pytest.raises(UserError, match="visus lab check"):
        show_lab(svm, svm.parent / "none.html")
    assert not (svm.parent / "none.html").exists()


def test_show_of_an_exercise_that_is_not_written_says_so(tmp_path: Path):
    with pytest.raises(UserError, match="not written yet"):
        show_lab(start_lab("softmax", tmp_path))


def test_text_of_theirs_stands_on_the_page_as_text_and_odd_numbers_are_drawn(tmp_path: Path):
    from visus.report.lab import render_lab

    page = render_lab({"name": "svm", "title": "<script>alert(1)</script>", "source": "s", "file": "<b>.py"}, {
        "words": "<i>", "facts": [{"claim": "<u>", "found": "1", "expected": "2", "holds": False}], "figures": [
            {"kind": "lines", "title": "t", "caption": "", "x_label": "x", "lines": {"<a>": [[0, 1], [1, None]]}},
            {"kind": "lines", "title": "t", "caption": "", "x_label": "x", "lines": {"a": [[0, None]]}},
            {"kind": "tiles", "title": "t", "caption": "", "pictures": [["<p>", [[None, 0.5], [1, 2]]]]}]})
    assert not re.search(r"<(script|b|i|u|p)>(alert|\.py|</)", page) and "&lt;a&gt;" in page


def test_nothing_here_loads_torch(tmp_path: Path):
    (tmp_path / "svm.py").write_text((SOLUTIONS / "svm.py").read_text())
    code = ("import sys; from visus.cli.main import main; main(['lab', 'list']); main(['lab', 'check', 'svm.py']); "
            "main(['lab', 'show', 'svm.py']); import visus.run.lab_worker; print('torch' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip().endswith("False")


def test_the_record_holds_nothing_but_what_was_found(svm: Path):
    check_lab(svm)
    record = json.loads((svm.parent / RECORD).read_text())
    assert set(record) == {"svm.py"} and set(record["svm.py"]) == {"lab", "sha256", "right"}
