"""Every demo: its claims hold, its page is one well-formed document that needs nothing else, a seed fixes it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

import pytest
import torch

import visus
from visus.cli.main import main
from visus.core.errors import UserError
from visus.report.demo import Drawing, Fact, Shown, above, below, near, render_demo, same, shown
from visus.run.demo import FOLDER, TOPICS, Demo, demo, list_demos

NAMES = [about.name for about in list_demos()]
LONG = {"deformable_parts", "eager_and_traced", "ngram", "pictorial_structures", "random_projections",
        "receptive_field", "robust_projection", "truncated_bptt", "viola_jones"}  # a second run of these is slow
VOID = {"meta", "br", "link", "img", "input", "hr"}


class WellFormed(HTMLParser):
    """Collects what is open, and every address that the page names."""

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.ids = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        for key, value in attrs:
            if key in ("src", "href", "action", "xlink:href") or value is None:
                self.addresses.append(value)
            if key == "id":
                self.ids.append(value)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check_page(page: str) -> None:
    reader = WellFormed()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    assert all(address is None or address.startswith(("data:image/", "#")) for address in reader.addresses)
    assert len(reader.ids) == len(set(reader.ids))
    assert "default-src &#39;none&#39;" in page and "@import" not in page and not re.search(r"url\((?!#|data:)", page)


@cache
def made(name: str) -> tuple[Demo, str]:
    """The demo at its small size, and its page."""
    with TemporaryDirectory() as folder:
        found = demo(name, small=True, out=Path(folder) / "page.html", command=["visus", "demo", name])
        return found, found.file.read_text("utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_every_claim_holds_and_the_page_is_whole(name):
    found, page = made(name)
    broken = [fact for fact in found.shown.facts if not fact.holds]
    assert not broken, broken
    assert found.shown.facts and found.shown.figures and found.shown.words
    for figure in found.shown.figures:
        root = ElementTree.fromstring(figure.svg)
        assert root.tag.endswith("svg") and root.get("viewBox") and figure.caption
        assert root.find("{http://www.w3.org/2000/svg}title") is not None
        assert "nan" not in re.sub(r"<(text|title)[^>]*>.*?</\1>|data:[^\"]*", "", str(figure.svg))
        assert "style=" not in figure.svg, "the page's policy leaves styles of elements out"
    check_page(page)
    json.dumps(found.record, allow_nan=False)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name
                                  for name in NAMES])
def test_a_seed_fixes_the_page(name):
    """Another process state, the same drawings and facts."""
    first = made(name)[0].shown
    torch.rand(3)
    before = torch.get_rng_state()
    second = demo(name, small=True).shown
    assert [f.svg for f in first.figures] == [f.svg for f in second.figures]
    assert first.facts == second.facts and first.words == second.words and first.tables == second.tables
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", NAMES)
def test_a_file_tells_its_list_entry(name):
    about = {one.name: one for one in list_demos()}[name]
    assert about.topic in TOPICS and about.source
    assert len(about.summary) <= 90 and "\n" not in about.summary and not about.summary.endswith(".")


def test_the_list_reads_files_and_loads_no_torch():
    code = "import visus, sys; print(len(visus.list_demos()), 'torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    files = [path for path in FOLDER.glob("*.py") if not path.name.startswith("_")]
    assert done.stdout.split() == [str(len(files)), "False", "False"]


def test_the_command_writes_the_page_and_prints_the_claims(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "sparse-connectivity"]) == 0
    assert (tmp_path / "demos" / "sparse_connectivity.html").is_file()
    assert "holds" in capsys.readouterr().out
    assert main(["demo", "list"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in NAMES)
    assert main(["demo", "sparse_connectivity", "--json", "--seed", "2"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["seed"] == 2 and all(fact["holds"] for fact in record["facts"])
    assert not (tmp_path / "demos" / "2.html").exists()


@pytest.mark.parametrize(("words", "said"), [
    (["sparse_conectivity"], "Did you mean 'sparse_connectivity'"), (["../x"], "there is no demo"),
    (["__init__"], "there is no demo"), (["checkerboards"], "Did you mean 'transposed_convolution'"),
    (["toplitz"], "Did you mean 'toeplitz_matrix'"), (["winograd"], "Did you mean 'ways_to_convolve'"),
    (["list", "--topic", "convolutoin"], "Did you mean 'convolution'"),
    (["sparse_connectivity", "--seed", "-1"], "at least 0"), (["list", "--out", "x.html"], "--out"),
    (["sparse_connectivity", "--topic", "gradients"], "--topic"),
])
def test_a_wrong_word_is_refused_with_a_remedy(words, said, capsys):
    assert main(["demo", *words]) == 2
    assert said in capsys.readouterr().err


def test_a_name_that_is_no_demo_is_a_user_error():
    with pytest.raises(UserError, match="there is no demo 'nothing'"):
        visus.demo("nothing")


def test_a_claim_that_does_not_hold_is_shown_as_such():
    facts = [same("a", 1, 2), near("b", 1.0, 1.5, 0.1), below("c", float("nan"), 1.0), above("d", 0.5, 1),
             shown("e", False, "x", "y"), same("f <", 3, 3), near("g", 1.0, 1.05, 0.1), below("h", 0.5, 1)]
    assert [fact.holds for fact in facts] == [False] * 5 + [True] * 3
    page = render_demo(Shown("Title <b>", "One.\n\nTwo.", [], facts), name="x", topic="t", source="s", code="a < b")
    assert page.count('class="broken"') == 5 and "5 of the 8 claims" in page and "f &lt;" in page and "<b>" not in page
    check_page(page)


def test_a_drawing_is_taken_as_it_is_and_all_texts_are_escaped():
    from visus.report.sketch import grid, sheet

    drawing = Drawing(sheet(10, 10, grid([[1, -2]], 0, 0), title="<&"), "caption <i>")
    page = render_demo(Shown("t", "w", [drawing], [Fact("<script>", "", "", True)]), name="x", topic="t", source="s")
    assert "&lt;script&gt;" in page and "<script>" not in page and "caption &lt;i&gt;" in page
    check_page(page)
