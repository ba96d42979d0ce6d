"""Weights in 16-bit floats, arithmetic in 32 bits: a file of half the size that answers nearly the same.

Every large constant is stored as float16 and widened by a Cast, which runtimes carry out once, while they load the
file. So the answers come as fast as before. The arithmetic stays in float32 because most processors have no products in
float16 and imitate them: `half_speed` measures what it would be on this one. float16 has 11 significant bits, so a
weight moves by at most 2^-11 of itself (IEEE 754-2019, section 3.6); those below 2^-14 lose more, and a constant with
values beyond 65504 stays as it is.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from pathlib import Path

import numpy as np

from visus.core.errors import CheckpointError, UserError
from visus.core.files import write_bytes
from visus.deploy.onnx_file import KEY, open_graph_bytes
from visus.deploy.quantise import Graph, load_graph

FEWEST = 512  # numbers in a constant that is worth a node more


def half_precision(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> tuple[str, ...]:
    """Write the twin of an .onnx file of ours with float16 weights; input, output, preprocessing and calibration stay
    as they are. Returns the names of the constants that were narrowed.

    Raises UserError where there are none, CheckpointError for another file, MissingExtra without onnx and onnxruntime.
    """
    import onnx
    from onnx import helper, numpy_helper

    graph = Graph(load_graph(Path(source)))
    tail = graph.tail()
    behind = {name for node in graph.nodes if tail & set(node.output) for name in node.input}
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    narrow: dict[str, np.ndarray] = {}
    for name, tensor in graph.constants.items():
        if tensor.data_type != onnx.TensorProto.FLOAT or name in behind or np.prod(tensor.dims) < FEWEST:
            continue
        values = numpy_helper.to_array(tensor)
        if np.abs(values).max() <= np.finfo(np.float16).max:
            narrow[name] = values.astype(np.float16)
    if not narrow:
        raise UserError("has no weights that are worth storing in 16 bits", where=source,
                        remedy="Keep float32: leave --half out")
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in narrow]
    del model.graph.initializer[:]
    model.graph.initializer.extend([*kept, *(numpy_helper.from_array(values, f"{name}_half")
                                             for name, values in narrow.items())])
    casts = [helper.make_node("Cast", [f"{name}_half"], [name], to=onnx.TensorProto.FLOAT) for name in narrow]
    nodes = list(model.graph.node)
    for node in nodes:
        del node.metadata_props[:]  # where the exporter was called from
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])
    for entry in model.metadata_props:
        if entry.key == KEY:
            entry.value = json.dumps(json.loads(entry.value) | {"precision": "float16"}, allow_nan=False)
    onnx.checker.check_model(model)
    write_bytes(Path(target), model.SerializeToString())
    return tuple(narrow)


def half_speed(side: int = 256, rounds: int = 5) -> float:
    """How many times as fast a float16 matrix product is as a float32 one, in onnxruntime on this machine, one thread;
    0 where there is none."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    values = np.random.default_rng(0).standard_normal((side, side)).astype(np.float32)
    sessions = {}
    for kind, array in ((TensorProto.FLOAT, np.float32), (TensorProto.FLOAT16, np.float16)):
        sides = [helper.make_tensor_value_info(name, kind, [side, side]) for name in ("x", "y")]
        graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "product", sides[:1], sides[1:],
                                  [numpy_helper.from_array(values.astype(array), "w")])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        try:
            sessions[array] = open_graph_bytes(model.SerializeToString())
        except CheckpointError:  # no kernel for this type
            return 0.0
    onnx.checker.check_model(model)
    found = []
    for _ in range(rounds):
        seconds = {}
        for array, session in sessions.items():
            start = time.perf_counter()
            session.run(None, {"x": values.astype(array)})
            seconds[array] = time.perf_counter() - start
        found.append(seconds[np.float32] / seconds[np.float16])
    return statistics.median(found)
