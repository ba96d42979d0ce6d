"""Products of 8-bit numbers: where a processor saturates is seen, and the runtime's answer fits the processor's."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the extra export is not installed")
pytest.importorskip("onnxruntime", reason="the extra export is not installed")

from visus.deploy import exact_products
from visus.deploy.machine import machine
from visus.deploy.quantise import QuantiseConfig, weight_bits_here


def in_pairs(images: np.ndarray, saturating: bool) -> np.ndarray:
    """vpmaddubsw: products of unsigned and signed bytes, added in pairs in 16 bits; then in 32."""
    products = images[0, :, 0, 0].astype(np.int32) * 127
    pairs = products[::2] + products[1::2]
    return np.full((1, 16, 4, 4), (np.minimum(pairs, 32767) if saturating else pairs).sum(), np.float32)


def test_saturating_sums_are_told_from_exact_ones():
    assert exact_products.exact(lambda images: in_pairs(images, saturating=False))
    assert not exact_products.exact(lambda images: in_pairs(images, saturating=True))


def test_a_processor_that_says_vnni_adds_exactly():
    if not any("vnni" in flag for flag in machine()["flags"]):
        pytest.skip("this processor names no VNNI")
    assert exact_products.products_are_exact()


@pytest.mark.parametrize(("exact", "bits"), [(True, 8), (False, 7)])
def test_weights_have_8_bits_where_nothing_saturates(monkeypatch, exact, bits):
    monkeypatch.setattr(exact_products, "products_are_exact", lambda: exact)
    assert weight_bits_here("any") == bits and weight_bits_here("openvino") == 7
    QuantiseConfig(weight_bits=bits)


def test_the_runtime_computes_the_question_in_integers(tmp_path):
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "as_computed.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(exact_products.largest_products(), options, providers=["CPUExecutionProvider"])
    computed = {node.op_type for node in onnx.load(tmp_path / "as_computed.onnx").graph.node}
    assert "QLinearConv" in computed and "Conv" not in computed
