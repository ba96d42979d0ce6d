"""ONNX files: what is written into them is read again without their graph, and what points elsewhere is refused."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from visus.core.errors import CheckpointError, UserError
from visus.deploy.onnx_file import KEY, describe, open_graph, read_about, refuse_other_files, write_onnx

onnx = pytest.importorskip("onnx", reason="the extra export is not installed")
pytest.importorskip("onnxruntime", reason="the extra export is not installed")
pytest.importorskip("onnxscript", reason="the extra export is not installed")

TensorProto, helper = onnx.TensorProto, onnx.helper


def small_model(location: str | None = None, inside: str = "initializer") -> onnx.ModelProto:
    """y = x + w. location: of w's numbers, in another file."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4], np.arange(4, dtype=np.float32))
    if location is not None:
        weight.ClearField("float_data")
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=location)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 4]) for name in "xy")
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    if inside == "constant":
        nodes.insert(0, helper.make_node("Constant", [], ["w"], value=weight))
    graph = helper.make_graph(nodes, "g", [x], [y], [weight] if inside == "initializer" else [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.fixture
def small_file(tmp_path):
    path = tmp_path / "small.onnx"
    path.write_bytes(small_model().SerializeToString())
    return path


def test_a_description_is_read_back_and_replaced(small_file):
    describe(small_file, {"labels": ["ä", "b"], "nan": float("nan")})
    assert read_about(small_file) == {"labels": ["ä", "b"], "nan": None}
    describe(small_file, {"second": 2})
    assert read_about(small_file) == {"second": 2}
    assert [entry.key for entry in onnx.load(small_file).metadata_props] == [KEY]
    assert open_graph(small_file).run(None, {"x": np.ones((1, 4), np.float32)})[0].tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize("inside", ["initializer", "constant"])
@pytest.mark.parametrize("location", ["weights.bin", "link.bin", "../outside.bin", "/etc/hostname"])
def test_weights_in_another_file_are_refused(tmp_path, location, inside):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in (folder / "weights.bin", tmp_path / "outside.bin"):
        file.write_bytes(np.arange(4, dtype=np.float32).tobytes())
    os.symlink(tmp_path / "outside.bin", folder / "link.bin")
    path = folder / "model.onnx"
    path.write_bytes(small_model(location, inside).SerializeToString())
    with pytest.raises(CheckpointError, match="other files"):
        open_graph(path)


def test_weights_that_onnx_itself_put_elsewhere_are_refused(tmp_path):
    path = tmp_path / "model.onnx"
    model = small_model()
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.arange(4000, dtype=np.float32)[:4], "w"))
    onnx.save_model(model, path, save_as_external_data=True, location="data.bin", size_threshold=0)
    assert (tmp_path / "data.bin").is_file()
    with pytest.raises(CheckpointError, match="other files"):
        open_graph(path)


def test_references_deep_inside_are_found(tmp_path):
    inner = small_model("elsewhere").graph
    node = helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=small_model().graph)
    model = small_model()
    model.graph.node.append(node)
    path = tmp_path / "deep.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match="other files"):
        refuse_other_files(path)
    sparse = small_model()
    made = helper.make_sparse_tensor(small_model("elsewhere").graph.initializer[0],
                                     helper.make_tensor("i", TensorProto.INT64, [4], range(4)), [8])
    sparse.graph.sparse_initializer.append(made)
    path.write_bytes(sparse.SerializeToString())
    with pytest.raises(CheckpointError, match="other files"):
        refuse_other_files(path)


def test_a_reference_behind_a_tensors_values_or_in_a_second_graph_is_found(tmp_path):
    """Fields may come in any order and more than once: protobuf joins them."""
    path, plain = tmp_path / "model.onnx", small_model().SerializeToString()
    outside = onnx.ModelProto()
    outside.graph.initializer.add().CopyFrom(small_model("elsewhere").graph.initializer[0])
    outside.graph.initializer[0].raw_data = b"\0" * 16
    path.write_bytes(plain + outside.SerializeToString())
    with pytest.raises(CheckpointError, match="other files"):
        refuse_other_files(path)
    path.write_bytes(outside.SerializeToString() + plain)
    with pytest.raises(CheckpointError, match="other files"):
        refuse_other_files(path)


def test_values_that_spell_location_are_not_looked_at(tmp_path, monkeypatch):
    model = small_model()
    model.graph.initializer[0].raw_data = b"locationlocation"
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    monkeypatch.setattr(onnx, "load_model_from_string", lambda data: pytest.fail("parsed"))
    open_graph(path)


def test_a_file_that_changes_while_it_is_read_is_refused(small_file, monkeypatch):
    import onnxruntime

    opened = onnxruntime.InferenceSession

    def slow(*args, **kwargs):
        small_file.write_bytes(small_file.read_bytes() + b"\x72\x00")
        return opened(*args, **kwargs)

    monkeypatch.setattr(onnxruntime, "InferenceSession", slow)
    with pytest.raises(CheckpointError, match="changed while it was read"):
        open_graph(small_file)


def test_the_word_location_alone_is_no_reason_to_refuse(tmp_path):
    path = tmp_path / "small.onnx"
    path.write_bytes(small_model().SerializeToString())
    describe(path, {"labels": ["location"]})
    assert b"location" in path.read_bytes()
    open_graph(path)


@pytest.mark.parametrize("data", [b"", b"\0" * 64, b"not a model", b"\x08\x09ORTM" + b"\0" * 40, b"PK\x03\x04" * 20,
                                  b"\x89PNG\r\n\x1a\n" + b"\0" * 100, b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f"])
def test_what_is_no_onnx_model_is_refused(tmp_path, data):
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    for read in (open_graph, read_about):
        with pytest.raises(CheckpointError):
            read(path)
    with pytest.raises(CheckpointError):
        read_about(tmp_path / "none.onnx")


def test_a_tensor_that_claims_to_be_huge_is_refused(tmp_path):
    model = small_model()
    model.graph.initializer[0].dims[:] = [1 << 40]
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError):
        open_graph(path)


def test_every_truncated_file_is_refused_or_works(small_file, tmp_path):
    whole = small_file.read_bytes()
    cut = tmp_path / "cut.onnx"
    for length in range(0, len(whole), 3):
        cut.write_bytes(whole[:length])
        for read in (open_graph, read_about):
            with pytest.raises(CheckpointError):
                read(cut)


@settings(max_examples=150, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6))
def test_changed_bytes_give_an_error_of_ours_or_work(tmp_path, changes):
    model = small_model()
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, json.dumps({"format": 1})
    data = bytearray(model.SerializeToString())
    for place, value in changes:
        data[int(place * len(data))] = value
    path = tmp_path / "model.onnx"
    path.write_bytes(bytes(data))
    for read in (open_graph, read_about):
        try:
            read(path)
        except CheckpointError:
            pass


class _Pooled(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.model = torch.nn.Conv2d(3, 5, 3)

    def forward(self, images):
        return self.model(images.permute(0, 3, 1, 2).float() / 255).mean((2, 3)).softmax(1)


@pytest.mark.parametrize("quick", [False, True])
def test_the_written_graph_computes_the_same_for_any_batch_and_size(tmp_path, quick):
    program, path = _Pooled().eval(), tmp_path / "net.onnx"
    images = np.random.default_rng(0).integers(0, 256, (3, 12, 10, 3), dtype=np.uint8)
    write_onnx(program, torch.from_numpy(images[:2]), path, {"a": 1}, dynamic_size=True, quick=quick)
    assert read_about(path) == {"a": 1} and not list(tmp_path.glob("*.data"))
    assert os.path.basename(__file__).encode() not in path.read_bytes()  # nor any other place of this machine's source
    session = open_graph(path)
    for part in (images, images[:1], images[:, :7, :9]):
        with torch.no_grad():
            expected = program(torch.from_numpy(part.copy())).numpy()
        np.testing.assert_allclose(session.run(None, {"images": part.copy()})[0], expected, atol=1e-6)


def test_a_forward_that_depends_on_values_is_refused_in_words(tmp_path, capfd):
    class Branches(torch.nn.Module):
        def forward(self, images):
            return images.float() if images.float().mean() > 3 else images.float() * 2

    path = tmp_path / "net.onnx"
    with pytest.raises(UserError, match="cannot be written as ONNX") as caught:
        write_onnx(Branches(), torch.zeros((2, 4, 4, 3), dtype=torch.uint8), path)
    assert "safetensors" in caught.value.remedy and not path.exists()
    assert capfd.readouterr().err == ""
