"""Static 8-bit quantisation of an exported classifier, calibrated on images (Jacob et al. 2018, arXiv:1712.05877).

A number x is held as q = round(x / scale) + zero, an 8-bit integer. Weights have a scale for each output channel and
zero = 0; activations one for each tensor, found on calibration images. The file is written in ONNX's QuantizeLinear and
DequantizeLinear pairs: a runtime that knows them multiplies integers, any other computes the same in floats.

Weights have 7 bits by default. Processors with AVX2 alone add two products of an unsigned and a signed byte in 16 bits
and saturate: 2 * 255 * 63 = 32130 fits into them, 2 * 255 * 127 does not. So a file means the same on all processors.
A file for one machine may have 8 (`weight_bits_here`).

Ranges are those of least squared error (Nagel et al. 2021, arXiv:2106.08295, section 3.1), which may cut off outliers.
The rounding of weights shifts the mean of what a layer gives; the bias takes the expected shift back (Nagel et al.
2019, arXiv:1906.04721, section 4.2). Layers that cost the most stay in floats until the answers agree.

The package onnxruntime.quantization can do the first part as well. It knows neither the correction nor which layers to
leave out, and always rounds what a convolution gives, also where OpenVINO could go on in the accumulated sum.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from visus.core.errors import CheckpointError, MissingExtra, UserError
from visus.core.files import write_bytes
from visus.core.validate import natural, one_of, positive, require
from visus.deploy import exact_products
from visus.deploy.onnx_file import KEY, open_graph_bytes, read_graph

LAYERS = ("Conv", "Gemm", "MatMul")      # with constant weights
HULLS = ("Relu", "Clip")                 # what a quantised output's range takes in
GATES = ("Sigmoid", "HardSigmoid")
ACTIVATIONS = ("HardSwish", "HardSigmoid", "Sigmoid", "Mul", "LeakyRelu", "PRelu", "Elu", "Gelu", "Tanh", "Mish")
RANGES = ("mse", "minmax")
RUNTIMES = ("any", "openvino")
BINS = 2048
SAMPLES = 1024  # of a tensor, of each calibration image
FLAT = -3.0     # HardSwish is 0 below it


@dataclass(frozen=True, kw_only=True)
class QuantiseConfig:
    """weight_bits: 7 or 8. runtime: that the file is made for, among 'any' and 'openvino'; both run either. They differ
    in nets with activations other than Relu and Clip: onnxruntime multiplies integers only where the output of a
    convolution is rounded too, and gates (HardSwish, SiLU, squeeze and excitation) where every factor is; OpenVINO
    computes the activation on the accumulated sum and needs no rounding before it.
    ranges: of activations: 'mse', of least squared error, or 'minmax', all that was seen.
    correct_bias: take back the mean shift. agreement: the wanted share of calibration images whose likeliest class
    stays; below it up to a third of the layers goes back to floats, in at most `tries` steps. It lies above what is
    asked of held-out images, as those of training are answered more surely. least_agreement: where no step gives the
    wanted share, the first one is taken that gives this one, as more floats would be paid for in vain; where none does
    either, the best. ranges_from: how many of the images the
    ranges are taken from; all of them tell the agreement. probes: how many tell which layers cost most. keep_float:
    names of layers (of their weights) that stay in floats from the start."""

    weight_bits: int = 7
    runtime: str = "any"
    ranges: str = "mse"
    correct_bias: bool = True
    agreement: float = 0.995
    least_agreement: float = 0.99
    tries: int = 5
    ranges_from: int = 256
    probes: int = 16
    keep_float: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        one_of(RANGES, ranges=self.ranges)
        one_of(RUNTIMES, runtime=self.runtime)
        require(self.weight_bits in (7, 8), "weight_bits", self.weight_bits, "be 7 or 8")
        natural(tries=self.tries)
        positive(probes=self.probes, ranges_from=self.ranges_from)
        for name in ("agreement", "least_agreement"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "lie between 0 and 1")


@dataclass(frozen=True)
class Quantised:
    """layers: names of those in 8 bits; kept_float: of those that could have been. agreement: share of the calibration
    images whose likeliest class stayed (of several labels: those that stayed on their side of one half)."""

    layers: tuple[str, ...]
    kept_float: tuple[str, ...]
    agreement: float


@dataclass(frozen=True)
class Scale:
    """x = (q - zero) * scale, q in 0..255."""

    scale: float
    zero: int


@dataclass(frozen=True)
class Layer:
    """A node with constant weights. name: of the weights. weight: as stored; axis: of it, along which the outputs lie.
    bias: [outputs] or None. source, output: names of tensors; output is behind the Relu or Clip that follows alone."""

    name: str
    node: Any
    weight: np.ndarray
    axis: int
    bias: np.ndarray | None
    source: str
    output: str


@dataclass(frozen=True)
class Seen:
    """Of one tensor on the calibration images. values: a sample of it. means: [C], by channel. places: the most values
    that a channel has."""

    low: float
    high: float
    values: np.ndarray
    means: np.ndarray
    places: int


@dataclass(frozen=True)
class Tables:
    """What was found once. scales: of tensors; weights: (int8, scales) of layers, by the name of their output; means:
    [C] of tensors, by channel."""

    scales: Mapping[str, Scale]
    weights: Mapping[str, tuple[np.ndarray, np.ndarray]]
    means: Mapping[str, np.ndarray]


def quantised(source: str | os.PathLike[str], target: str | os.PathLike[str], images: Sequence[np.ndarray], *,
              config: QuantiseConfig | None = None, advance: Callable[[int], Any] = lambda steps: None) -> Quantised:
    """Write the 8-bit twin of an .onnx file of ours. images: uint8 [H, W, C] as the network takes them, of the kind
    that it will see: 100 to 300 give the ranges, some 1,000 tell the share of equal answers to a fraction of a percent.
    advance: is called with numbers of images that are done, all of them together.

    One file, weights inside, with the source's description and precision 'int8'. Raises UserError without images or
    layers to quantise, CheckpointError for another file, MissingExtra without onnx and onnxruntime.
    """
    config = config or QuantiseConfig()
    if not len(images):
        raise UserError("needs images to calibrate on", where="int8", remedy="Give some 100 images of the usual kind")
    source = Path(source)
    model = load_graph(source)
    lengthen(model)
    graph = Graph(model)
    layers = [layer for layer in graph.layers() if layer.name not in config.keep_float]
    looked = images[:config.ranges_from]
    seen = _look(graph, layers, looked, config, advance) if layers else {}
    layers = [layer for layer in layers if not _is_gate(layer, seen)]
    if not layers:
        raise UserError("has no convolution or linear layer with constant weights", where=source,
                        remedy="Keep float32: leave --int8 out")
    tables = Tables({name: _range(graph, name, of, config.ranges) for name, of in seen.items()},
                    {layer.node.output[0]: quantised_weight(layer.weight, layer.axis, config.weight_bits, config.ranges)
                     for layer in layers}, {name: of.means for name, of in seen.items()})
    before = _answers(graph.model.SerializeToString(), images)
    advance(len(images) - len(looked))

    def attempt(kept: Sequence[Layer]) -> tuple[bytes, float]:
        data = _write(graph, kept, tables, config).SerializeToString()
        return data, agreement(before, _answers(data, images))

    best, share = attempt(layers)
    chosen = layers
    if share < config.agreement and config.tries:
        order = _most_costly(graph, layers, tables, config, images[:config.probes], before[:config.probes])
        for step in range(config.tries):
            if 2**step > max(2, len(layers) // 3):  # little would be won with fewer layers than that
                break
            dropped = {layer.name for layer in order[:2**step]}
            kept = [layer for layer in layers if layer.name not in dropped]
            data, found = attempt(kept)
            if found >= config.agreement or (share < config.least_agreement and found > share):
                best, share, chosen = data, found, kept
            if share >= config.agreement:
                break
    names = {layer.name for layer in chosen}
    kept_float = tuple(layer.name for layer in graph.layers() if layer.name not in names)
    result = Quantised(tuple(layer.name for layer in chosen), kept_float, share)
    write_bytes(Path(target), _described(best, result, config, len(images)))
    return result


def weight_bits_here(runtime: str) -> int:
    """The most bits of weights with which `runtime` computes exactly on this machine: 8 where onnxruntime was seen to
    add products without saturation, else 7. For files that are used here only. Raises MissingExtra."""
    return 8 if runtime == "any" and exact_products.products_are_exact() else 7


def agreement(before: np.ndarray, after: np.ndarray) -> float:
    """The share of equal decisions. before, after: probabilities [N, K]."""
    return float((before.argmax(1) == after.argmax(1)).mean())


def best_range(values: np.ndarray, low: float, high: float, ranges: str = "mse") -> Scale:
    """The scale for values of which `values` is a sample and [low, high] the hull. 0 is always exact.

    'mse': of the ranges inside the hull that of least squared error over the sample, rounding and cutting together.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if ranges == "minmax" or not len(values) or high - low < 1e-12:
        return _scale(low, high)
    counts, edges = np.histogram(values, BINS, (low, high))
    at = (edges[:-1] + edges[1:]) / 2
    counts, at = counts[counts > 0], at[counts > 0]
    best, least = _scale(low, high), np.inf
    for top in np.linspace(1, 0.2, 33) if high > 0 else (1.0,):
        for bottom in np.linspace(1, 0.2, 9) if low < 0 else (1.0,):
            trial = _scale(low * bottom, high * top)
            error = float((counts * (rounded(at, trial) - at) ** 2).sum())
            if error < least * (1 - 1e-9):
                best, least = trial, error
    return best


def _range(graph: Graph, name: str, seen: Seen, ranges: str) -> Scale:
    """best_range, but for what HardSwish alone takes: from -3, with whole steps to 0."""
    if not graph.only_hard_swish(name):
        return best_range(seen.values, seen.low, seen.high, ranges)
    top = best_range(seen.values.clip(0), 0.0, seen.high, ranges).scale * 255
    zero = int(np.clip(round(255 * FLAT / (FLAT - top)), 1, 255))
    return Scale(float(np.float32(-FLAT / zero)), zero)


def _scale(low: float, high: float) -> Scale:
    scale = max((high - low) / 255, 1e-10)
    return Scale(float(np.float32(scale)), int(np.clip(round(-low / scale), 0, 255)))


def rounded(values: np.ndarray, scale: Scale) -> np.ndarray:
    """The values as they come back from 8 bits: half to even, as ONNX rounds."""
    return (np.clip(np.rint(values / scale.scale) + scale.zero, 0, 255) - scale.zero) * scale.scale


def quantised_weight(weight: np.ndarray, axis: int, bits: int, ranges: str = "mse") -> tuple[np.ndarray, np.ndarray]:
    """(int8 of the same shape, float32 scales [outputs]): symmetric, one scale for each output along `axis`, of least
    squared error."""
    most = 2 ** (bits - 1) - 1
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)  # [outputs, rest]
    reach = np.maximum(np.abs(rows).max(1), 1e-8)
    best, least = reach / np.float32(most), np.full(len(rows), np.inf, np.float32)
    for part in np.linspace(1, 0.5, 11, dtype=np.float32) if ranges == "mse" else (1.0,):
        scale = reach * part / most
        error = ((np.clip(np.rint(rows / scale[:, None]), -most, most) * scale[:, None] - rows) ** 2).sum(1)
        better = error < least * (1 - 1e-9)
        best, least = np.where(better, scale, best), np.where(better, error, least)
    return integers(weight, axis, best, bits), best


def integers(weight: np.ndarray, axis: int, scales: np.ndarray, bits: int) -> np.ndarray:
    """int8 of the same shape: weight / scale, rounded. scales: float32 [outputs], along `axis`."""
    most = 2 ** (bits - 1) - 1
    shape = [1] * weight.ndim
    shape[axis] = -1
    return np.clip(np.rint(weight / scales.reshape(shape)), -most, most).astype(np.int8)


# -- the graph ------------------------------------------------------------------------------------------------------


class Graph:
    """An ONNX model with its edges. model stays as it is."""

    def __init__(self, model: Any):
        from onnx import numpy_helper

        self.model = model
        self.nodes = list(model.graph.node)
        self.constants: Mapping[str, Any] = {tensor.name: tensor for tensor in model.graph.initializer}
        self.consumers: dict[str, list[Any]] = {}
        self.producer = {name: node for node in self.nodes for name in node.output}
        for node in self.nodes:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)
        self.outputs = {value.name for value in model.graph.output}
        self._array = numpy_helper.to_array

    def array(self, name: str) -> np.ndarray | None:
        """The constant of this name."""
        tensor = self.constants.get(name)
        return None if tensor is None else np.asarray(self._array(tensor))

    def layers(self) -> list[Layer]:
        """Those with constant float weights, in order, but for those behind the probabilities (calibration)."""
        tail = self.tail()
        found = [self._layer(node) for node in self.nodes if node.op_type in LAYERS and not tail & set(node.output)]
        return [layer for layer in found if layer is not None]

    def _layer(self, node: Any) -> Layer | None:
        attributes = {attribute.name: attribute for attribute in node.attribute}
        weight = self.array(node.input[1])
        source = node.input[0]
        if weight is None or weight.dtype != np.float32 or source in self.constants:
            return None
        bias = self.array(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if len(node.input) > 2 and node.input[2] and (bias is None or bias.ndim != 1):
            return None
        axis = 0
        if node.op_type == "Gemm":
            plain = all(attributes[name].f == 1 for name in ("alpha", "beta") if name in attributes)
            if not plain or ("transA" in attributes and attributes["transA"].i):
                return None
            axis = 0 if "transB" in attributes and attributes["transB"].i else 1
        elif node.op_type == "MatMul":
            if weight.ndim != 2:
                return None
            axis = 1
        return Layer(node.input[1], node, weight, axis, bias, source, self.behind(node.output[0]))

    def behind(self, name: str) -> str:
        """The tensor behind the Relu or Clip that alone takes this one, else itself."""
        users = self.consumers.get(name, [])
        if len(users) == 1 and users[0].op_type in HULLS and name not in self.outputs:
            return str(users[0].output[0])
        return name

    def only_hard_swish(self, name: str) -> bool:
        users = self.consumers.get(name, [])
        return bool(users) and all(node.op_type == "HardSwish" for node in users)

    def tail(self) -> set[str]:
        """The tensors from the Softmax or Sigmoid on that every path to the output goes through."""
        for node in self.nodes:
            if node.op_type in ("Softmax", "Sigmoid") and not self._reached({str(node.output[0])}) & self.outputs:
                return {str(node.output[0])} | self._reached(set(), {str(node.output[0])})
        return set()

    def _reached(self, without: set[str], start: set[str] | None = None) -> set[str]:
        """The tensors that the graph's inputs (or `start`) lead to when those of `without` are cut."""
        known = set(start) if start is not None else {value.name for value in self.model.graph.input}
        for node in self.nodes:
            if known & set(node.input):
                known |= set(node.output) - without
        return known


def load_graph(path: Path) -> Any:
    try:
        import onnx
        import onnxruntime  # noqa: F401
    except ImportError:
        raise MissingExtra("Quantisation", "export") from None
    from google.protobuf.message import DecodeError

    data = read_graph(path)
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError:
        raise CheckpointError("is not an ONNX model", where=path) from None
    del model.graph.value_info[:]  # stale shapes, which runtimes would compare with those of the new graph
    return model


def lengthen(model: Any) -> None:
    """Where images have a fixed width, repeat the few numbers by which the channels are scaled and shifted along it.

    onnxruntime computes nets of 8 bits with the channels last, where such a product is one of rows of three numbers
    and takes as long as three of the convolutions; of rows of a whole image it takes nothing.
    """
    from onnx import numpy_helper

    shape = model.graph.input[0].type.tensor_type.shape.dim
    width, channels = (shape[-2].dim_value, shape[-1].dim_value) if len(shape) == 4 else (0, 0)
    if not 1 <= channels <= 4 or width < 2:
        return
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    reached = {model.graph.input[0].name}
    for node in model.graph.node:
        if node.op_type not in ("Transpose", "Cast", "Mul", "Add", "Sub", "Div") or not reached & set(node.input):
            continue
        reached |= set(node.output)
        for place, name in enumerate(node.input):
            if name in constants and list(constants[name].dims) == [1, channels, 1, 1]:
                long = np.repeat(numpy_helper.to_array(constants[name]), width, 3)
                model.graph.initializer.append(numpy_helper.from_array(long, f"{name}_of_{node.output[0]}"))
                node.input[place] = f"{name}_of_{node.output[0]}"


def _answers(data: bytes, images: Iterable[np.ndarray]) -> np.ndarray:
    """Probabilities [N, K], each image asked for alone."""
    session = open_graph_bytes(data)
    outputs = [session.get_outputs()[0].name]
    return np.concatenate([session.run(outputs, _fed(session, image))[0][:1] for image in images])


def _fed(session: Any, image: np.ndarray) -> dict[str, np.ndarray]:
    """The session's input: the image alone, or repeated where the model takes a fixed number."""
    given = session.get_inputs()[0]
    return {given.name: image[None].repeat(given.shape[0] if isinstance(given.shape[0], int) else 1, 0)}


# -- calibration ----------------------------------------------------------------------------------------------------


def _look(graph: Graph, layers: Sequence[Layer], images: Sequence[np.ndarray], config: QuantiseConfig,
          advance: Callable[[int], Any]) -> dict[str, Seen]:
    """What every tensor that may be quantised holds on the images."""
    import onnx

    names = sorted(_places(graph, layers, config.runtime))
    probe = onnx.ModelProto()
    probe.CopyFrom(graph.model)
    probe.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names
                              if name not in graph.outputs)
    session = open_graph_bytes(probe.SerializeToString())
    lows, highs, places = (dict.fromkeys(names, start) for start in (np.inf, -np.inf, 0))
    values: dict[str, list[np.ndarray]] = {name: [] for name in names}
    sums: dict[str, np.ndarray] = {}
    draw = np.random.default_rng(0)
    for image in images:
        found = session.run(names, _fed(session, image))
        for name, tensor in zip(names, found, strict=True):
            lows[name], highs[name] = min(lows[name], tensor.min()), max(highs[name], tensor.max())
            flat = tensor.reshape(-1)
            values[name].append(flat if flat.size <= SAMPLES else flat[draw.integers(0, flat.size, SAMPLES)])
            by_channel = np.moveaxis(tensor, 1 if tensor.ndim == 4 else -1, 0)
            by_channel = by_channel.reshape(len(by_channel), -1)                        # [C, places]
            sums[name] = sums.get(name, 0) + by_channel.mean(1, dtype=np.float64)
            places[name] = max(places[name], by_channel.shape[1])
        advance(1)
    return {name: Seen(float(lows[name]), float(highs[name]), np.concatenate(values[name]), sums[name] / len(images),
                       int(places[name])) for name in names}


def _is_gate(layer: Layer, seen: Mapping[str, Seen]) -> bool:
    """A 1 x 1 convolution of one place, as squeeze and excitation has: too small to be worth the roundings."""
    return layer.node.op_type == "Conv" and seen[layer.source].places == 1


def _places(graph: Graph, layers: Sequence[Layer], runtime: str) -> dict[str, str]:
    """{tensor that is rounded: the one whose scale it takes}: what goes into the layers and comes out of convolutions,
    and sums, products, pools and joins between such tensors, which runtimes then compute on integers too."""
    found: dict[str, str] = {}
    tail = graph.tail()
    for layer in layers:
        found.setdefault(layer.source, layer.source)
        if layer.node.op_type == "Conv" and layer.output not in graph.outputs and not (
                runtime == "openvino" and _only_activated(graph, layer.output)):
            found.setdefault(layer.output, layer.output)
    for node in graph.nodes:
        if runtime == "any" and node.op_type == "Mul" and node.output[0] in found:
            for name in node.input:
                if name in graph.producer and graph.producer[name].op_type in GATES:
                    found.setdefault(name, name)
        if not node.input or not all(name in found for name in node.input) or node.output[0] in graph.outputs:
            continue
        if node.op_type == "MaxPool":
            found[node.output[0]] = found[node.input[0]]
        elif runtime == "any" and node.op_type in ("HardSwish", "Sigmoid", "Mul") and node.output[0] not in tail:
            found.setdefault(node.output[0], node.output[0])
        elif node.op_type in ("Add", "Concat", "AveragePool", "GlobalAveragePool"):
            output = graph.behind(node.output[0])
            if output not in graph.outputs:
                found.setdefault(output, output)
    return found


def _only_activated(graph: Graph, name: str) -> bool:
    users = graph.consumers.get(name, [])
    return bool(users) and all(node.op_type in ACTIVATIONS for node in users)


def _most_costly(graph: Graph, layers: Sequence[Layer], tables: Tables, config: QuantiseConfig,
                 images: Sequence[np.ndarray], before: np.ndarray) -> list[Layer]:
    """The layers, that one first which moves the answers most when it alone is quantised."""
    costs = []
    for layer in layers:
        after = _answers(_write(graph, [layer], tables, config).SerializeToString(), images)
        costs.append(float(((after - before) ** 2).mean()))
    return [layers[place] for place in np.argsort(-np.array(costs), kind="stable")]


# -- writing --------------------------------------------------------------------------------------------------------


def _write(graph: Graph, layers: Sequence[Layer], tables: Tables, config: QuantiseConfig) -> Any:
    """The model with a QuantizeLinear and DequantizeLinear pair at every rounded tensor, and 8-bit weights."""
    import onnx
    from onnx import helper, numpy_helper

    places = _places(graph, layers, config.runtime)
    scales = tables.scales
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    constants: dict[str, Any] = {}
    same: dict[bytes, str] = {}  # weights that are used twice are stored once
    del model.graph.node[:]
    added: list[Any] = []

    def constant(name: str, array: np.ndarray) -> str:
        tensor = numpy_helper.from_array(np.asarray(array), name)
        content = sha256(tensor.raw_data + str((tensor.data_type, array.shape)).encode()).digest()
        name = same.setdefault(content, name)
        constants.setdefault(name, tensor)
        return name

    def dequantised(name: str, numbers: np.ndarray, scale: np.ndarray, axis: int) -> str:
        node = helper.make_node("DequantizeLinear", [
            constant(f"{name}_q", numbers), constant(f"{name}_scale", scale),
            constant(f"{name}_zero", np.zeros(scale.shape, numbers.dtype))], [f"{name}_dq"], axis=axis)
        added.append(node)
        return f"{name}_dq"

    def pair(name: str) -> list[Any]:
        held = scales[places[name]]
        scale = constant(f"{places[name]}_scale", np.array(held.scale, np.float32))
        zero = constant(f"{places[name]}_zero", np.array(held.zero, np.uint8))
        return [helper.make_node("QuantizeLinear", [name, scale, zero], [f"{name}_q"]),
                helper.make_node("DequantizeLinear", [f"{name}_q", scale, zero], [f"{name}_dq"])]

    def hard_swish(source: str, output: str) -> list[Any]:
        """x clip(x + 3, 0, 6) / 6 as a product, which runtimes know in integers. Where x is rounded with the least
        value -3 (_range), its gate is the same integer, cut at twice its zero and read as a number up to 1."""
        held = scales[places[source]]
        name = f"{places[source]}_gate"
        most = constant(f"{name}_most", np.array(min(2 * held.zero, 255), np.uint8))
        scale = constant(f"{name}_scale", np.array(held.scale / (-2 * FLAT), np.float32))
        zero = constant(f"{name}_zero", np.array(0, np.uint8))
        return [helper.make_node("Clip", [f"{source}_q", "", most], [f"{output}_gate_q"]),
                helper.make_node("DequantizeLinear", [f"{output}_gate_q", scale, zero], [f"{output}_gate"]),
                helper.make_node("Mul", [f"{source}_dq", f"{output}_gate"], [output])]

    by_output = {layer.node.output[0]: layer for layer in layers}
    nodes: list[Any] = [made for name in places if name not in graph.producer for made in pair(name)]
    for node in graph.nodes:
        new = onnx.NodeProto()
        new.CopyFrom(node)
        del new.metadata_props[:]  # where the exporter was called from
        for place, name in enumerate(node.input):
            if name in places:
                new.input[place] = f"{name}_dq"
        layer = by_output.get(node.output[0])
        if layer is not None:
            weight, scale = tables.weights[node.output[0]]
            bias = _bias(layer, weight, scale, tables.means[layer.source], config)
            source_scale = scales[places[layer.source]].scale
            wide = _wide_enough(scale, source_scale, bias)
            if (wide != scale).any():
                weight, scale = integers(layer.weight, layer.axis, wide, config.weight_bits), wide
            name = f"{layer.name}.{node.output[0]}" if len(graph.consumers[layer.name]) > 1 else layer.name
            new.input[1] = dequantised(name, weight, scale, layer.axis)
            if bias is not None:
                product = (scale * np.float32(source_scale)).astype(np.float32)
                del new.input[2:]
                whole = np.rint(bias / product.astype(np.float64)).astype(np.int32)
                new.input.append(dequantised(f"{name}_bias", whole, product, 0))
        if config.runtime == "any" and node.op_type == "HardSwish" and node.input[0] in places \
                and graph.only_hard_swish(node.input[0]):
            nodes.extend(hard_swish(node.input[0], node.output[0]))
        else:
            nodes.extend([*added, new])
        added.clear()
        for name in node.output:
            if name in places:
                nodes.extend(pair(name))
    model.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend([*kept, *constants.values()])
    return model


def _bias(layer: Layer, weight: np.ndarray, scale: np.ndarray, means: np.ndarray, config: QuantiseConfig
          ) -> np.ndarray | None:
    """float64 [outputs]: the bias, less the mean of what the rounding of the weights adds, (W' - W) E[x]."""
    if layer.node.op_type == "MatMul":
        return None  # its bias, if any, is another node's
    bias = None if layer.bias is None else layer.bias.astype(np.float64)
    if not config.correct_bias:
        return bias
    shape = [1] * weight.ndim
    shape[layer.axis] = -1
    apart = np.moveaxis(weight * scale.reshape(shape).astype(np.float64) - layer.weight, layer.axis, 0)
    apart = apart.reshape(*apart.shape[:2], -1).sum(2)                                  # [outputs, inputs of a group]
    groups = len(means) // apart.shape[1]
    means = means.reshape(groups, apart.shape[1]).repeat(len(apart) // groups, 0)       # [outputs, inputs of a group]
    return (0.0 if bias is None else bias) - (apart * means).sum(1)


def _wide_enough(scale: np.ndarray, source_scale: float, bias: np.ndarray | None) -> np.ndarray:
    """Scales of weights with which the bias fits into 32 bits: those of dead channels are too small."""
    if bias is None:
        return scale
    return np.maximum(scale, (np.abs(bias) / 2.0**30 / source_scale).astype(np.float32))


def _described(data: bytes, result: Quantised, config: QuantiseConfig, images: int) -> bytes:
    """With the precision in our description, and checked."""
    import onnx

    model = onnx.load_model_from_string(data)
    for entry in model.metadata_props:
        if entry.key == KEY:
            about = json.loads(entry.value)
            about |= {"precision": "int8", "quantisation": {
                "weight_bits": config.weight_bits, "ranges": config.ranges, "bias_correction": config.correct_bias,
                "images": images, "layers": len(result.layers), "kept_float": list(result.kept_float)}}
            entry.value = json.dumps(about, allow_nan=False)
    onnx.checker.check_model(model)
    return model.SerializeToString()
