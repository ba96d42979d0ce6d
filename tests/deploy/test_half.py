"""16-bit weights: half the file, nearly the same answers, the same outside."""

from __future__ import annotations

import json

import numpy as np
import pytest

from visus.core.errors import UserError

onnx = pytest.importorskip("onnx", reason="the extra export is not installed")
pytest.importorskip("onnxruntime", reason="the extra export is not installed")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from visus.deploy.half import half_precision, half_speed  # noqa: E402
from visus.deploy.onnx_file import KEY, read_about  # noqa: E402
from visus.deploy.session import open_session  # noqa: E402


def net(path, scale=1.0):
    """Two 3 x 3 convolutions of 64 channels and a calibration of 24 x 24 behind the softmax."""
    draw = np.random.default_rng(0)
    constants = {"w1": draw.normal(0, scale, (64, 3, 3, 3)) / 400, "w2": draw.normal(0, 0.05, (24, 64, 3, 3)),
                 "m": np.eye(24) * 1.0001}
    nodes = [helper.make_node("Transpose", ["images"], ["t"], perm=[0, 3, 1, 2]),
             helper.make_node("Cast", ["t"], ["x"], to=TensorProto.FLOAT), helper.make_node("Conv", ["x", "w1"], ["a"]),
             helper.make_node("Relu", ["a"], ["r"]), helper.make_node("Conv", ["r", "w2"], ["y"]),
             helper.make_node("ReduceMean", ["y", "axes"], ["z"], keepdims=0),
             helper.make_node("Softmax", ["z"], ["p"], axis=1), helper.make_node("MatMul", ["p", "m"], ["q"]),
             helper.make_node("Softmax", ["q"], ["probs"], axis=1)]
    stored = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in constants.items()]
    graph = helper.make_graph(
        nodes, "small", [helper.make_tensor_value_info("images", TensorProto.UINT8, ["b", "h", "w", 3])],
        [helper.make_tensor_value_info("probs", TensorProto.FLOAT, ["b", 24])],
        [*stored, numpy_helper.from_array(np.array([2, 3]), "axes")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, json.dumps({"format": 1, "model": "small", "precision": "float32"})
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_half_the_size_and_nearly_the_same_answers(backend, tmp_path):
    pytest.importorskip(backend, reason=f"{backend} is not installed")
    source = net(tmp_path / "a.onnx")
    assert half_precision(source, tmp_path / "b.onnx") == ("w1", "w2")
    sizes = [(tmp_path / name).stat().st_size for name in ("a.onnx", "b.onnx")]
    assert 0.48 < sizes[1] / sizes[0] < 0.58
    images = np.random.default_rng(1).integers(0, 256, (20, 12, 12, 3), dtype=np.uint8)
    before, after = (open_session(tmp_path / name, backend)(images) for name in ("a.onnx", "b.onnx"))
    assert after.dtype == np.float32
    assert 0 < np.abs(after - before).max() < 2e-3


def test_the_arithmetic_is_that_of_the_rounded_weights_in_float32(tmp_path):
    source = net(tmp_path / "a.onnx")
    half_precision(source, tmp_path / "b.onnx")
    model = onnx.load(source)
    for tensor in model.graph.initializer:
        if tensor.name in ("w1", "w2"):
            values = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    (tmp_path / "c.onnx").write_bytes(model.SerializeToString())
    images = np.random.default_rng(1).integers(0, 256, (5, 12, 12, 3), dtype=np.uint8)
    answers = [open_session(tmp_path / name)(images) for name in ("b.onnx", "c.onnx")]
    np.testing.assert_array_equal(*answers)


def test_weights_beyond_the_range_and_the_calibration_stay_in_float32(tmp_path):
    source = net(tmp_path / "a.onnx", scale=1e8)
    assert half_precision(source, tmp_path / "b.onnx") == ("w2",)
    kinds = {tensor.name: tensor.data_type for tensor in onnx.load(tmp_path / "b.onnx").graph.initializer}
    assert kinds["w1"] == kinds["m"] == TensorProto.FLOAT and kinds["w2_half"] == TensorProto.FLOAT16


def test_the_description_stays_and_says_float16(digits_bundle, tmp_path):
    half_precision(digits_bundle / "model.onnx", tmp_path / "b.onnx")
    about, old = read_about(tmp_path / "b.onnx"), read_about(digits_bundle / "model.onnx")
    assert about == old | {"precision": "float16"}


def test_a_model_without_weights_is_refused(tmp_path):
    source = net(tmp_path / "a.onnx")
    model = onnx.load(source)
    for tensor in model.graph.initializer:
        if tensor.name in ("w1", "w2"):
            tensor.CopyFrom(numpy_helper.from_array(np.full(tensor.dims, 1e6, np.float32), tensor.name))
    source.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="no weights"):
        half_precision(source, tmp_path / "b.onnx")
    assert not (tmp_path / "b.onnx").exists()


def test_the_speed_of_16_bit_products_is_measured():
    assert 0 <= half_speed(64, rounds=3) < 100
