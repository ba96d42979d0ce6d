"""What was found fastest holds for this machine, this graph and this batch, and for nothing else."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from visus.core.files import sha256
from visus.deploy import machine
from visus.deploy.artifact import CHOICES, read_bundle
from visus.deploy.machine import chosen, remember

FOUND = {"backend": "onnxruntime", "threads": 1, "p50_ms": 1.5, "ratio": 2.0}


@pytest.fixture
def bundle(digits_bundle, tmp_path):
    shutil.copytree(digits_bundle, tmp_path / "bundle", ignore=shutil.ignore_patterns(CHOICES))
    return read_bundle(tmp_path / "bundle")


def test_a_choice_is_remembered_for_its_batch_and_the_bundle_stays_sealed(bundle):
    assert chosen(bundle) == {}
    assert remember(bundle, 1, {"fastest": FOUND | {"backend": "torch"}, "without_torch": FOUND})
    assert chosen(bundle) == FOUND
    assert chosen(bundle, with_torch=True)["backend"] == "torch"
    assert chosen(bundle, batch=8) == {}
    read_bundle(bundle.path, verify=True)


@pytest.mark.parametrize("other", [{"cpu": "another"}, {"cores": 1024}, {"flags": ["avx512f"]},
                                   {"versions": {"onnxruntime": "1.0"}}])
def test_the_choice_of_another_machine_is_ignored_and_kept(bundle, monkeypatch, other):
    own = machine.machine()
    with monkeypatch.context() as patch:
        patch.setattr(machine, "machine", lambda: own | other)
        remember(bundle, 1, {"fastest": FOUND, "without_torch": FOUND})
        assert chosen(bundle) == FOUND
    assert chosen(bundle) == {}
    remember(bundle, 1, {"fastest": FOUND, "without_torch": FOUND | {"p50_ms": 9.0}})
    assert chosen(bundle)["p50_ms"] == 9.0
    assert len(json.loads((bundle.path / CHOICES).read_text())["choices"]) == 2


@pytest.mark.parametrize("damage", ["", "[]", "{", '{"choices": []}', '{"choices": {"KEY": 1}}',
                                    '{"choices": {"KEY": {"without_torch": {"backend": "rm", "threads": 1}}}}',
                                    '{"choices": {"KEY": {"without_torch": {"backend": "openvino", "threads": 9999}}}}',
                                    '{"choices": {"KEY": {"without_torch": {"backend": "onnxruntime", "threads": 1, '
                                    '"file": "../../etc/passwd", "sha256": ""}}}}'])
def test_a_damaged_file_is_as_none(bundle, damage):
    (bundle.path / CHOICES).write_text(damage.replace("KEY", machine.key(bundle, 1)))
    assert chosen(bundle) == {}
    remember(bundle, 1, {"fastest": FOUND, "without_torch": FOUND})
    assert chosen(bundle) == FOUND


def test_another_graph_counts_only_with_its_own_bytes(bundle):
    file = bundle.path / "model.int8.onnx"
    file.write_bytes(b"graph")
    remember(bundle, 1, {"without_torch": FOUND | {"file": file.name, "sha256": sha256(file)}})
    assert chosen(bundle)["file"] == file.name
    file.write_bytes(b"other")
    assert chosen(bundle) == {}


def test_files_of_all_choices_are_named(bundle):
    remember(bundle, 1, {"fastest": FOUND, "without_torch": FOUND | {"file": "one.onnx"}})
    remember(bundle, 8, {"fastest": FOUND | {"file": "two.onnx"}})
    assert machine.chosen_files(bundle) == {"one.onnx", "two.onnx"}


def test_only_the_latest_machines_are_kept(bundle, monkeypatch):
    own = machine.machine()
    for cores in range(machine.MOST_MACHINES + 3):
        monkeypatch.setattr(machine, "machine", lambda cores=cores: own | {"cores": cores})
        remember(bundle, 1, {"without_torch": FOUND})
    held = list(json.loads((bundle.path / CHOICES).read_text())["choices"].values())
    assert len(held) == machine.MOST_MACHINES and held[-1]["machine"]["cores"] == machine.MOST_MACHINES + 2


def test_a_single_file_has_no_room_for_a_choice(bundle):
    assert remember(read_bundle(bundle.onnx), 1, {"without_torch": FOUND}) is None


def test_a_choice_is_looked_up_without_torch(bundle):
    remember(bundle, 1, {"without_torch": FOUND})
    code = ("import sys; from visus.deploy.predictor import open_predictor; from visus.deploy import machine; "
            f"p = open_predictor({str(bundle.path)!r}); assert machine.chosen(p.bundle)['p50_ms'] == 1.5; "
            "assert 'torch' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True)
