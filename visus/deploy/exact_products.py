"""Whether this processor adds products of 8-bit numbers without loss, asked of the runtime itself.

Processors with AVX2 alone add two products of an unsigned and a signed byte in 16 bits and saturate: of 255 * 127
twice 32767 is left in place of 64770. Those with VNNI (or Arm's dot products) add in 32 bits. Weights of 7 bits never
saturate (visus.deploy.quantise); where nothing does, those of 8 bits round half as coarsely, and are computed as fast.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from visus.core.errors import MissingExtra
from visus.deploy.onnx_file import open_graph_bytes

INPUTS, OUTPUTS = 64, 16


@cache
def products_are_exact() -> bool:
    """Of onnxruntime on this machine. Raises MissingExtra without onnx and onnxruntime."""
    session = open_graph_bytes(largest_products())
    return exact(lambda images: session.run(None, {"x": images})[0])


def exact(multiply: Callable[[np.ndarray], np.ndarray]) -> bool:
    """multiply: of the graph of largest_products. Whether the sums of the largest products are right."""
    found = multiply(np.full((1, INPUTS, 4, 4), 255, np.float32))
    return bool(np.allclose(found, 255.0 * 127 * INPUTS, rtol=0.01))  # the result is rounded to 8 bits, too


def largest_products() -> bytes:
    """An ONNX model: float [1, 64, 4, 4], rounded to whole numbers up to 255, by a 1 x 1 convolution with weights of
    127 to 16 channels, as 8-bit integers."""
    try:
        from onnx import TensorProto, helper, numpy_helper
    except ImportError:
        raise MissingExtra("Quantisation", "export") from None
    constants = {"one": np.float32(1), "none": np.uint8(0), "w": np.full((OUTPUTS, INPUTS, 1, 1), 127, np.int8),
                 "ones": np.ones(OUTPUTS, np.float32), "nones": np.zeros(OUTPUTS, np.int8),
                 "step": np.float32(127 * INPUTS)}
    nodes = [helper.make_node("QuantizeLinear", ["x", "one", "none"], ["x_q"]),
             helper.make_node("DequantizeLinear", ["x_q", "one", "none"], ["x_dq"]),
             helper.make_node("DequantizeLinear", ["w", "ones", "nones"], ["w_dq"], axis=0),
             helper.make_node("Conv", ["x_dq", "w_dq"], ["y"]),
             helper.make_node("QuantizeLinear", ["y", "step", "none"], ["y_q"]),
             helper.make_node("DequantizeLinear", ["y_q", "step", "none"], ["z"])]
    graph = helper.make_graph(
        nodes, "products", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, INPUTS, 4, 4])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, OUTPUTS, 4, 4])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())
