"""Who may import whom. The table is the design: change it together with a page in docs/decisions/."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "visus"

MAY_IMPORT = {
    "core": {"ops"},  # Preprocessing resizes with ops.resample: docs/decisions/0003
    "ops": {"core"},
    "optim": {"core"},
    "foundations": {"core"},
    "labs": {"core", "foundations"},  # exercises and their checks: docs/decisions/0012
    "layers": {"core", "ops"},
    "losses": {"core", "ops"},
    "metrics": {"core", "ops"},
    "data": {"core", "ops"},
    "models": {"core", "ops", "layers", "losses"},
    "deploy": {"core", "ops"},
    "explain": {"core", "ops", "losses", "metrics"},
    "attack": {"core", "ops", "losses", "metrics"},
    "classical": {"core", "ops", "layers", "losses"},
    "calibrate": {"core", "ops", "losses", "metrics"},
    "doctor": {"core", "ops", "losses", "metrics"},
    "tasks": {"core", "ops", "losses", "metrics"},
    "train": {"core", "optim", "tasks"},
    "search": {"core", "optim", "models"},  # candidates are registered models: docs/decisions/0006
    "report": {"core"},
    "run": {"core", "ops", "optim", "layers", "losses", "metrics", "data", "models", "tasks", "train", "report",
            "explain", "attack", "calibrate", "doctor", "deploy", "search", "classical", "foundations",
            "labs"},
    "cli": {"run", "core"},
}
# Opening, decoding and writing happen in one place each (the page of rules in docs/decisions/0004).
ONE_PLACE = {
    r"Image\.open\(": {"core/images.py"},
    r"torch\.load\(": {"core/weights.py"},
    r"pickle\.loads?\(|import pickle$": set(),
    r"allow_pickle=True": set(),
    r"yaml\.(unsafe_|full_)?load\(": set(),
    r"(?<![\w.])(eval|exec)\(": set(),
    r"extractall\(|shell=True|ElementTree\.parse|torch\.hub": set(),
    r"open\([^)\n]*[\"']w": {"core/files.py"},
    r"\.write_(text|bytes)\(": set(),
}
FILES = sorted(PACKAGE.rglob("*.py"))


@cache
def imported_modules(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.append(node.module or "")
    return names


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "visus" and len(parts) > 1 else None


def test_every_room_is_in_the_table():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert rooms == set(MAY_IMPORT)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down_only(path: Path):
    room = path.relative_to(PACKAGE).parts[0]
    if room.endswith(".py"):
        return
    for module in imported_modules(path):
        other = room_of(module)
        assert other is None or other == room or other in MAY_IMPORT[room], f"{path}: {room} may not import {module}"


@pytest.mark.parametrize("path", [p for p in FILES if "/models/" in str(p)], ids=lambda p: p.name)
def test_a_model_file_never_imports_another(path: Path):
    for module in imported_modules(path):
        assert not module.startswith("visus.models.") and module != "torchvision", f"{path} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_forbidden_import(path: Path):
    for module in imported_modules(path):
        assert module.split(".")[0] not in {"torchvision", "timm", "cv2", "sklearn", "scipy", "pandas", "requests",
                                            "ultralytics"}, f"{path} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_dangerous_calls_have_one_home(path: Path):
    name, text = str(path.relative_to(PACKAGE)), path.read_text()
    for pattern, homes in ONE_PLACE.items():
        if name not in homes:
            assert not re.search(pattern, text, re.MULTILINE), f"{name} matches {pattern}"


@pytest.mark.parametrize("path", [p for p in FILES if "/foundations/" in str(p)], ids=lambda p: p.name)
def test_foundations_know_numpy_and_errors_only(path: Path):
    for module in imported_modules(path):
        assert room_of(module) in {None, "foundations"} or module == "visus.core.errors", f"{path} imports {module}"
        assert module.split(".")[0] not in {"torch", "jax", "tensorflow"}, f"{path} imports {module}"


def test_no_file_without_a_subject():
    assert not [p for p in FILES if p.stem in {"utils", "helpers", "common", "misc"}]


def test_no_machine_path_and_no_unfinished_code():
    for path in FILES:
        text = path.read_text()
        assert not re.search(r"TODO|FIXME|XXX|raise NotImplementedError|/work/|/root/|/home/", text), path
