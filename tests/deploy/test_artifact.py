"""A bundle is whole, ours, and of this version, or it is refused by name."""

from __future__ import annotations

import json
import shutil

import pytest

from visus.core.errors import CheckpointError, UserError
from visus.deploy.artifact import NAME, is_bundle, read_bundle, seal
from visus.deploy.predictor import open_predictor


@pytest.fixture
def bundle(digits_bundle, tmp_path):
    return shutil.copytree(digits_bundle, tmp_path / "bundle")


def change(bundle, **values):
    about = json.loads((bundle / NAME).read_text()) | values
    (bundle / NAME).write_text(json.dumps(about))


def test_it_names_all_its_files(bundle):
    about = json.loads((bundle / NAME).read_text())
    there = {str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file()}
    assert there == set(about["files"]) | {NAME}
    assert {"model.onnx", "model/model.json", "model/model.safetensors", "golden.npz", "card.json", "passport.json",
            "LICENSE.txt"} <= there
    assert is_bundle(bundle) and is_bundle(bundle / "model.onnx") and not is_bundle(bundle / "model")


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "card.json", "model/model.safetensors"])
def test_a_damaged_or_missing_file_is_named(bundle, name):
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        read_bundle(bundle)
    (bundle / name).unlink()
    with pytest.raises(CheckpointError, match="missing"):
        read_bundle(bundle)


def test_answering_looks_at_the_graph_alone(bundle):
    (bundle / "card.json").write_text("{}")
    open_predictor(bundle)
    graph = bundle / "model.onnx"
    graph.write_bytes(graph.read_bytes() + b"\0")
    with pytest.raises(CheckpointError, match="damaged"):
        open_predictor(bundle)


def test_choices_may_change_without_breaking_the_seal(bundle):
    (bundle / "choices.json").write_text("{}")
    read_bundle(bundle)


@pytest.mark.parametrize("values", [
    {"format": 99}, {"format": "1"}, {"preprocessing": {}}, {"preprocessing": []}, {"preprocessing": {"size": 3}},
    {"thresholds": [0.5]}, {"files": {}}, {"files": [1]}])
def test_a_description_that_is_wrong_is_refused(bundle, values):
    change(bundle, **values)
    with pytest.raises(CheckpointError):
        read_bundle(bundle)


def test_a_name_that_leads_outside_is_refused(bundle):
    change(bundle, files={"../../secret": "0"})
    with pytest.raises(UserError, match="outside"):
        read_bundle(bundle)


def test_what_is_no_bundle_is_refused(bundle, tmp_path):
    for text in ("", "[]", "{}", "null", '{"format": 1}'):
        (bundle / NAME).write_text(text)
        with pytest.raises(CheckpointError):
            read_bundle(bundle)
    with pytest.raises(CheckpointError):
        read_bundle(tmp_path / "nothing")


def test_sealing_again_takes_in_what_was_changed(bundle):
    about = json.loads((bundle / NAME).read_text())
    (bundle / "card.json").write_text("{}")
    seal(bundle, {name: value for name, value in about.items() if name != "files"})
    read_bundle(bundle)


def test_the_single_file_is_a_bundle_too(bundle):
    whole, alone = read_bundle(bundle), read_bundle(bundle / "model.onnx")
    assert alone.labels == whole.labels and alone.preprocessing == whole.preprocessing
    assert alone.identity == whole.identity and alone.model_folder is None
