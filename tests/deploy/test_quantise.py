"""8 bits: the arithmetic by hand, what stays in floats, and that runtimes agree on what the file means."""

from __future__ import annotations

import json

import numpy as np
import pytest

from visus.core.errors import UserError

onnx = pytest.importorskip("onnx", reason="the extra export is not installed")
pytest.importorskip("onnxruntime", reason="the extra export is not installed")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from visus.deploy import quantise  # noqa: E402
from visus.deploy.onnx_file import KEY, read_about  # noqa: E402
from visus.deploy.quantise import (  # noqa: E402
    Graph,
    QuantiseConfig,
    best_range,
    lengthen,
    load_graph,
    quantised,
    quantised_weight,
    rounded,
)
from visus.deploy.session import open_session  # noqa: E402

PLAIN = QuantiseConfig(ranges="minmax", correct_bias=False, tries=0)


def write(path, layers, constants, tail=(), channels=1, features=None):
    """A classifier of ours in small: uint8 [B, H, W, C] -> float -> `layers` -> mean over places -> softmax -> `tail`.
    layers: nodes from 'x' to 'y'."""
    nodes = [helper.make_node("Transpose", ["images"], ["t"], perm=[0, 3, 1, 2]),
             helper.make_node("Cast", ["t"], ["x"], to=TensorProto.FLOAT), *layers,
             helper.make_node("ReduceMean", ["y", "axes"], ["z"], keepdims=0),
             helper.make_node("Softmax", ["z"], ["p" if tail else "probs"], axis=1), *tail]
    constants = constants | {"axes": np.array([2, 3])}
    graph = helper.make_graph(
        nodes, "small", [helper.make_tensor_value_info("images", TensorProto.UINT8, ["b", "h", "w", channels])],
        [helper.make_tensor_value_info("probs", TensorProto.FLOAT, ["b", features])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, json.dumps({"format": 1, "model": "small", "precision": "float32", "labels": ["é"]})
    path.write_bytes(model.SerializeToString())
    return path


def one_conv(path, weight, bias=None):
    names = ["x", "w"] + ([] if bias is None else ["b"])
    constants = {"w": weight} | ({} if bias is None else {"b": bias})
    return write(path, [helper.make_node("Conv", names, ["y"])], constants, channels=weight.shape[1],
                 features=len(weight))


def photos(count, side=6, channels=1, seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (count, side, side, channels), dtype=np.uint8)
    images[:, 0, 0], images[:, 0, 1] = 0, 255
    return list(images)


def softmax(values):
    values = np.exp(values - values.max())
    return values / values.sum()


@pytest.mark.parametrize("low, high", [(0.0, 3.0), (-1.0, 2.0), (-0.375, 8.0), (-5.0, 0.0)])
def test_zero_is_exact_and_what_is_seen_moves_by_half_a_step_at_most(low, high):
    values = np.random.default_rng(0).uniform(low, high, 1000)
    scale = best_range(values, low, high, "minmax")
    assert scale.scale == pytest.approx((high - low) / 255, rel=1e-6)
    assert rounded(np.zeros(1), scale)[0] == 0
    assert np.abs(rounded(values, scale) - values).max() <= scale.scale  # half a step, and half for a shifted zero


def test_the_best_range_cuts_an_outlier_off_where_that_loses_less():
    values = np.random.default_rng(0).normal(0, 1, 20_000)  # a sample of a tensor that once reached 40
    best, whole = (best_range(values, values.min(), 40.0, ranges) for ranges in ("mse", "minmax"))
    errors = [float(((rounded(values, scale) - values) ** 2).mean()) for scale in (best, whole)]
    assert best.scale < 0.4 * whole.scale and errors[0] < 0.2 * errors[1]


@pytest.mark.parametrize("axis", [0, 1])
def test_weights_have_a_scale_for_each_output_and_two_products_fit_into_16_bits(axis):
    weight = np.random.default_rng(0).normal(0, 1, (5, 7)).astype(np.float32)
    weight *= np.array([1, 10, 100, 1e3, 0], np.float32)[:, None] if axis == 0 else np.float32(1)
    integers, scales = quantised_weight(weight, axis, 7, "minmax")
    assert integers.dtype == np.int8 and scales.shape == (weight.shape[axis],)
    assert 2 * 255 * int(np.abs(integers).max()) < 2**15
    back = integers * (scales[:, None] if axis == 0 else scales)
    step = scales[:, None] if axis == 0 else scales
    assert (np.abs(back - weight) <= step / 2 + 1e-6).all()


def test_a_single_convolution_gives_what_the_arithmetic_by_hand_gives(tmp_path):
    # inputs are integers of 0 to 255 and weights whole steps of 1/63, so that only the output is rounded
    weight = np.array([[[[63]]], [[[-20]]], [[[7]]]], np.float32) / 63
    bias = np.array([2.0, -1.0, 0.5], np.float32)
    source = one_conv(tmp_path / "a.onnx", weight, bias)
    images = photos(3)
    quantised(source, tmp_path / "b.onnx", images, config=PLAIN)
    session = open_session(tmp_path / "b.onnx")
    low, high = 255 * -20 / 63 - 1, 255 + 2.0
    step = (high - low) / 255
    zero = round(-low / step)
    own_step = np.abs(weight[:, 0, 0, 0]) / 63             # of each output's weights: its largest is 63 steps
    for image in images:
        exact = image[..., 0].reshape(-1)[:, None] * weight[:, 0, 0, 0] + np.rint(bias / own_step) * own_step
        held = (np.clip(np.rint(exact / step) + zero, 0, 255) - zero) * step
        np.testing.assert_allclose(session(image[None])[0], softmax(held.mean(0)), atol=2e-4)


def test_the_bias_takes_the_mean_shift_of_rounded_weights_back(tmp_path):
    # 0.3 steps each: all but the first are rounded away, and the output falls by 8 * 0.3 steps of the mean
    weight = np.full((2, 9, 1, 1), 0.3 / 63, np.float32)
    weight[:, 0] = 1
    weight[1] *= -1
    source = one_conv(tmp_path / "a.onnx", weight / 100)
    images = photos(8, channels=9)
    float_gap = np.array([np.diff(np.log(open_session(source)(i[None])[0]))[0] for i in images])
    gaps = {}
    for correct in (False, True):
        quantised(source, tmp_path / "b.onnx", images, config=QuantiseConfig(ranges="minmax", correct_bias=correct,
                                                                              tries=0))
        session = open_session(tmp_path / "b.onnx")
        gaps[correct] = np.array([np.diff(np.log(session(i[None])[0]))[0] for i in images]) - float_gap
    assert abs(gaps[False].mean()) > 0.05
    assert abs(gaps[True].mean()) < 0.2 * abs(gaps[False].mean())


def test_what_comes_behind_the_probabilities_stays_in_floats(tmp_path):
    tail = [helper.make_node("Log", ["p"], ["l"]), helper.make_node("MatMul", ["l", "m"], ["c"]),
            helper.make_node("Softmax", ["c"], ["probs"], axis=1)]
    constants = {"w": np.random.default_rng(0).normal(size=(3, 1, 1, 1)).astype(np.float32) / 255,
                 "m": np.eye(3, dtype=np.float32) * 2}
    source = write(tmp_path / "a.onnx", [helper.make_node("Conv", ["x", "w"], ["y"])], constants, tail, features=3)
    assert [layer.name for layer in Graph(load_graph(source)).layers()] == ["w"]
    quantised(source, tmp_path / "b.onnx", photos(2), config=PLAIN)
    nodes = onnx.load(tmp_path / "b.onnx").graph.node
    assert [list(node.input) for node in nodes if node.op_type == "MatMul"] == [["l", "m"]]


def test_a_layer_that_costs_the_answers_goes_back_to_floats(tmp_path):
    # the first channel reaches 2,000 times as far as the two that decide, and nothing takes it: a common scale
    # of 8 bits leaves nothing of them
    first = np.array([2000, 1, -1], np.float32).reshape(3, 1, 1, 1) / 255
    second = np.array([[0, 1, 0], [0, 0, 1]], np.float32).reshape(2, 3, 1, 1) * 50
    layers = [helper.make_node("Conv", ["x", "w1", "b1"], ["h"]), helper.make_node("Conv", ["h", "w2"], ["g"]),
              helper.make_node("Conv", ["g", "w3"], ["y"])]
    third = np.eye(2, dtype=np.float32).reshape(2, 2, 1, 1)
    source = write(tmp_path / "a.onnx", layers, {"w1": first, "b1": np.array([0, -0.5, 0.5], np.float32), "w2": second,
                                                 "w3": third}, features=2)
    images = [np.full((4, 4, 1), value, np.uint8) for value in (0, 40, 90, 110, 120, 135, 150, 200, 255)]
    without = quantised(source, tmp_path / "b.onnx", images, config=PLAIN)
    with_tries = quantised(source, tmp_path / "c.onnx", images, config=QuantiseConfig(ranges="minmax", tries=2))
    assert without.agreement < 0.8 and without.kept_float == ()
    assert with_tries.agreement == 1
    assert with_tries.kept_float == ("w1", "w2") and with_tries.layers == ("w3",)


@pytest.mark.parametrize(("shares", "in_floats"), [
    ((0.996, 1, 1, 1), 0), ((0.98, 0.985, 0.996, 1), 2), ((0.98, 0.991, 0.993, 0.994), 1),
    ((0.992, 0.993, 0.994, 0.991), 0), ((0.992, 0.993, 0.995, 1), 2), ((0.9, 0.95, 0.92, 0.94), 1)])
def test_no_more_layers_stay_in_floats_than_the_wanted_share_or_else_the_least_one_needs(tmp_path, monkeypatch, shares,
                                                                                         in_floats):
    draw = np.random.default_rng(0)
    names = [f"w{number}" for number in range(12)]
    layers = [helper.make_node("Conv", ["x" if not number else f"h{number}", name],
                               ["y" if number == 11 else f"h{number + 1}"]) for number, name in enumerate(names)]
    source = write(tmp_path / "a.onnx", layers, {name: draw.normal(size=(1, 1, 1, 1)).astype(np.float32)
                                                 for name in names}, features=1)
    left = iter(shares)
    monkeypatch.setattr(quantise, "agreement", lambda before, after: next(left))
    found = quantised(source, tmp_path / "b.onnx", photos(2), config=QuantiseConfig(tries=3))
    assert (len(found.kept_float), found.agreement) == (in_floats, shares[(0, 1, 2, 4).index(in_floats)])


def test_the_file_is_one_keeps_its_description_and_says_int8(digits_bundle, tmp_path):
    source = digits_bundle / "model.onnx"
    shape = open_input(source)
    images = photos(4, shape[1], shape[3])
    result = quantised(source, tmp_path / "int8.onnx", images)
    assert [file.name for file in tmp_path.iterdir()] == ["int8.onnx"]
    about, old = read_about(tmp_path / "int8.onnx"), read_about(source)
    assert about.pop("precision") == "int8" and about.pop("quantisation")["layers"] == len(result.layers)
    assert about == {name: value for name, value in old.items() if name != "precision"}
    assert (tmp_path / "int8.onnx").stat().st_size < 0.4 * source.stat().st_size
    made = onnx.load(tmp_path / "int8.onnx")
    assert not any(tensor.external_data for tensor in made.graph.initializer) and not made.graph.value_info
    assert sum(tensor.data_type == TensorProto.INT8 for tensor in made.graph.initializer) >= len(result.layers)


def open_input(path):
    return [size.dim_value for size in onnx.load(path).graph.input[0].type.tensor_type.shape.dim]


def test_onnxruntime_and_openvino_agree_on_the_file_and_answers_do_not_depend_on_the_batch(digits_bundle, digit_files,
                                                                                          tmp_path):
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    from visus.deploy.predictor import open_predictor

    predictor = open_predictor(digits_bundle)
    images = [predictor.prepared(predictor.read(file).pixels) for file in sorted(digit_files.iterdir())]
    for runtime in ("any", "openvino"):
        quantised(digits_bundle / "model.onnx", tmp_path / "int8.onnx", images, config=QuantiseConfig(runtime=runtime))
        probs = {name: np.concatenate([open_session(tmp_path / "int8.onnx", name)(image[None]) for image in images])
                 for name in ("onnxruntime", "openvino")}
        exact = np.stack([predictor.probs(image) for image in images])
        assert np.abs(probs["onnxruntime"] - probs["openvino"]).max() < 0.06
        assert np.abs(probs["onnxruntime"] - probs["openvino"]).mean() < 0.003
        for name in probs:
            assert (probs[name].argmax(1) == exact.argmax(1)).mean() >= 0.95, (runtime, name)
        together = open_session(tmp_path / "int8.onnx", batch=None)(np.stack(images))
        np.testing.assert_allclose(together, probs["onnxruntime"], atol=1e-5)


def as_computed(path, target):
    """The operators of the graph that onnxruntime makes of the file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(target)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(target).graph.node]


def test_hard_swish_is_a_product_of_integers_and_gives_what_the_arithmetic_by_hand_gives(tmp_path):
    slopes = np.array([63, -30, 10], np.float32).reshape(3, 1, 1, 1) / 63 / 32        # -3.8 .. 8.0 behind it
    source = write(tmp_path / "a.onnx", [
        helper.make_node("Conv", ["x", "w1"], ["g"]), helper.make_node("HardSwish", ["g"], ["h"]),
        helper.make_node("Conv", ["h", "w2"], ["y"])],
        {"w1": slopes, "w2": np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)}, features=3)
    images = photos(3)
    quantised(source, tmp_path / "b.onnx", images, config=PLAIN)
    operators = as_computed(tmp_path / "b.onnx", tmp_path / "made.onnx")
    assert operators.count("QLinearConv") == 2 and operators.count("QLinearMul") == 1
    assert not {"HardSwish", "HardSigmoid", "Mul"} & set(operators)
    top = 255 / 32
    zero = round(255 * 3 / (3 + top))
    after = best_range(np.zeros(0), -3 / 8, top, "minmax")                                  # HardSwish is least at -1.5
    session = open_session(tmp_path / "b.onnx")
    for image in images:
        exact = image[..., 0].reshape(-1)[:, None] * slopes[:, 0, 0, 0]
        held = np.clip(np.rint(exact / (3 / zero)) + zero, 0, 255)
        gate = np.minimum(held, 2 * zero) / (2 * zero)
        swished = rounded((held - zero) * (3 / zero) * gate, after)
        np.testing.assert_allclose(session(image[None])[0], softmax(swished.mean(0)), atol=2e-3)
        plain = exact * np.clip(exact + 3, 0, 6) / 6
        np.testing.assert_allclose(session(image[None])[0], softmax(plain.mean(0)), atol=1e-2)


def test_a_gate_on_what_is_rounded_is_rounded_too(tmp_path):
    # SiLU, and squeeze and excitation: for onnxruntime products of integers; OpenVINO computes them on sums
    draw = np.random.default_rng(0)
    weights = {f"w{k}": draw.normal(0, 0.05, (2, 2, 1, 1)).astype(np.float32) for k in range(3)}
    layers = [helper.make_node("Conv", ["x", "w0"], ["a"]), helper.make_node("Sigmoid", ["a"], ["s"]),
              helper.make_node("Mul", ["a", "s"], ["b"]), helper.make_node("GlobalAveragePool", ["b"], ["c"]),
              helper.make_node("Conv", ["c", "w1"], ["d"]), helper.make_node("HardSigmoid", ["d"], ["e"]),
              helper.make_node("Mul", ["b", "e"], ["f"]), helper.make_node("Conv", ["f", "w2"], ["y"])]
    source = write(tmp_path / "a.onnx", layers, weights, channels=2, features=2)
    images = photos(8, channels=2)
    exact = np.concatenate([open_session(source)(image[None]) for image in images])
    for runtime, products in (("any", 2), ("openvino", 0)):
        quantised(source, tmp_path / "b.onnx", images, config=QuantiseConfig(runtime=runtime, tries=0))
        operators = as_computed(tmp_path / "b.onnx", tmp_path / "made.onnx")
        assert operators.count("QLinearMul") == products, runtime
        given = np.concatenate([open_session(tmp_path / "b.onnx")(image[None]) for image in images])
        np.testing.assert_allclose(given, exact, atol=0.02)


@pytest.mark.parametrize("width", [None, 6])
def test_channels_are_scaled_in_rows_of_a_whole_image_where_its_width_is_known(tmp_path, width):
    constants = {"w": np.ones((2, 3, 1, 1), np.float32), "std": np.array([3, 5, 7], np.float32).reshape(1, 3, 1, 1),
                 "mean": np.array([-1, 0.3, 2], np.float32).reshape(1, 3, 1, 1)}
    source = write(tmp_path / "a.onnx", [
        helper.make_node("Div", ["x", "std"], ["n"]), helper.make_node("Add", ["n", "mean"], ["m"]),
        helper.make_node("Conv", ["m", "w"], ["y"])], constants, channels=3, features=2)
    model = onnx.load(source)
    if width is not None:
        model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = width
    source.write_bytes(model.SerializeToString())
    made = load_graph(source)
    lengthen(made)
    shapes = {tuple(tensor.dims) for tensor in made.graph.initializer if tensor.name.startswith(("std_of", "mean_of"))}
    assert shapes == ({(1, 3, 1, width)} if width else set())
    (tmp_path / "b.onnx").write_bytes(made.SerializeToString())
    for image in photos(2, channels=3):
        assert np.array_equal(*(open_session(tmp_path / name)(image[None]) for name in ("a.onnx", "b.onnx")))


def test_it_is_refused_without_images_and_without_layers(tmp_path):
    source = one_conv(tmp_path / "a.onnx", np.ones((2, 1, 1, 1), np.float32))
    with pytest.raises(UserError, match="needs images"):
        quantised(source, tmp_path / "b.onnx", [])
    bare = write(tmp_path / "c.onnx", [helper.make_node("Relu", ["x"], ["y"])], {}, features=1)
    with pytest.raises(UserError, match="no convolution or linear layer"):
        quantised(bare, tmp_path / "b.onnx", photos(1))
    with pytest.raises(UserError, match="weight_bits=4"):
        QuantiseConfig(weight_bits=4)
