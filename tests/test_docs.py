"""Every command and every Python block that the documentation shows is run, in order, in one folder."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visus.cli.main import main

ROOT = Path(__file__).resolve().parent.parent
GUIDE = ["train", "doctor", "check-grad", "evaluate", "predict", "models", "data", "recipes", "explain", "attack",
         "calibrate", "report", "engine", "optimizers", "transfer", "ensemble", "tune", "classical", "regions", "demo",
         "lab", "export", "precision", "optimize", "bench", "compress", "serve", "page", "monitor"]
# train first: the others use its run
PAGES = [ROOT / "README.md"] + [ROOT / f"docs/guide/{name}.md" for name in GUIDE]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """photos/ with three classes, new/ with unlabelled images, labels.csv."""
    folder = tmp_path_factory.mktemp("docs")
    generator = np.random.Generator(np.random.PCG64(0))
    rows = ["path,label"]
    for number, name in enumerate(("cat", "dog", "owl")):
        for i in range(12):
            pixels = generator.integers(0, 90, (44, 48, 3), dtype=np.uint8)
            pixels[:, 16 * number:16 * number + 16, number] += 150
            path = folder / f"photos/{name}/{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
            rows.append(f"{path.relative_to(folder)},{name}")
    (folder / "new").mkdir()
    (folder / "new/one.jpg").write_bytes((folder / "photos/cat/0.jpg").read_bytes())
    (folder / "new/two.jpg").write_bytes((folder / "photos/owl/0.jpg").read_bytes())
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


def blocks(page: Path) -> list[tuple[str, str]]:
    """('console' | 'python', text) in order of appearance."""
    return re.findall(r"```(console|python)\n(.*?)```", page.read_text(), re.DOTALL)


def test_every_guide_page_is_run_here():
    assert sorted(p.stem for p in (ROOT / "docs/guide").glob("*.md")) == sorted(GUIDE)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_what_a_page_shows_works(page: Path, workplace: Path, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    monkeypatch.delenv("VISUS_OPENVINO", raising=False)  # as a user has it
    assert blocks(page)
    for kind, text in blocks(page):
        if kind == "python":
            exec(compile(text, str(page), "exec"), {})
            continue
        for line in text.strip().splitlines():
            assert line.startswith("$ visus "), line
            assert main(shlex.split(line)[2:]) == 0, capsys.readouterr().err


def test_the_two_commands_of_the_readme_are_targets_of_the_makefile():
    shown = re.findall(r"^    make (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert shown == ["demo", "test"] and set(shown) <= set(targets)


@pytest.mark.parametrize("tool", ["course_map", "results"])
def test_generated_pages_are_fresh(tool: str):
    done = subprocess.run([sys.executable, str(ROOT / f"tools/{tool}.py"), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_model_table_is_fresh():
    sys.path.insert(0, str(ROOT / "tools"))
    import passports

    assert (ROOT / "docs/models.md").read_text() == passports.table()


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if not link.startswith("http"):
                assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_commands_in_passing_are_real_verbs():
    from visus.cli.main import VERBS

    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for verb in re.findall(r"`visus ([a-z][a-z-]*)", page.read_text()):
            assert verb in VERBS, f"{page.name}: visus {verb}"
