"""Rounding equals torch's fake quantisation, forward and backward; the file that is exported has the trained scales."""

import numpy as np
import pytest
import torch
from torch import nn

from visus.core.errors import CheckpointError, UserError
from visus.deploy.quantise_aware import (
    Quantised,
    input_scale,
    plain,
    quantise_aware,
    quantised_layer,
    ranges,
    round_input,
    round_weight,
    weight_scales,
)


@pytest.mark.parametrize("bits", [4, 7, 8])
@pytest.mark.parametrize("shape", [(6, 3, 3, 3), (5, 11)])
def test_weights_round_as_torch_rounds_them(bits, shape):
    torch.manual_seed(0)
    weight = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    other = weight.detach().float().requires_grad_()
    top = 2 ** (bits - 1) - 1
    scales = weight_scales(other, bits)
    wanted = torch.fake_quantize_per_channel_affine(other, scales, torch.zeros(len(scales), dtype=torch.int32), 0, -top,
                                                    top)
    price = torch.randn(shape)
    wanted.backward(price)
    found = round_weight(weight, bits)
    found.backward(price.double())
    assert torch.allclose(found.float(), wanted, atol=1e-6)
    assert torch.equal(weight.grad.float(), other.grad)
    with torch.no_grad():
        assert torch.equal(round_weight(weight, bits), found)  # with and without a graph to the bit


def test_inputs_round_as_torch_rounds_them_and_the_gradient_is_cut_where_they_are():
    values = torch.linspace(-3, 5, 4001, requires_grad=True)
    other = values.detach().clone().requires_grad_()
    low, high = torch.tensor(-1.0), torch.tensor(3.0)
    scale, zero = input_scale(low, high)
    wanted = torch.fake_quantize_per_tensor_affine(other, float(scale), int(zero), 0, 255)
    found = round_input(values, low, high)
    wanted.sum().backward()
    found.sum().backward()
    assert int(((found - wanted).abs() > 1e-6).sum()) <= 4  # halves, which x / s and x * (1 / s) put on different sides
    assert int((values.grad != other.grad).sum()) <= 2
    assert values.grad[0] == 0 and values.grad[2000] == 1 and values.grad[-1] == 0
    assert round_input(torch.zeros(1), low, high) == 0  # 0 is held exactly (equation 1 of the paper)
    assert torch.equal(round_input(values, torch.tensor(0.0), torch.tensor(0.0)), values)


def test_ranges_are_running_averages_in_training_and_fixed_afterwards():
    layer = Quantised(nn.Linear(2, 2))
    layer.train()
    layer(torch.tensor([[1.0, 4.0]]))
    assert (float(layer.low), float(layer.high)) == (0.0, 4.0)  # the first batch; a range holds 0
    layer(torch.tensor([[-2.0, 8.0]]))
    assert float(layer.low) == pytest.approx(-0.02) and float(layer.high) == pytest.approx(0.99 * 4 + 0.01 * 8)
    layer.eval()
    layer(torch.tensor([[-9.0, 9.0]]))
    assert float(layer.high) == pytest.approx(4.04)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8),
                         nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)).eval()


def test_norms_are_folded_and_every_layer_rounds():
    model = net()
    model[1].running_var.fill_(4.0)
    images = torch.randn(8, 3, 8, 8)
    made = quantise_aware(model, [images], (1, 3, 8, 8), 8)
    assert [type(module).__name__ for module in made] == ["Quantised", "Identity", "ReLU", "Quantised", "ReLU",
                                                         "Flatten", "Quantised"]
    with torch.no_grad():
        gap = (made(images) - model(images)).abs().max()
        assert 0 < gap < 0.05 * model(images).abs().max()
        assert (plain(made)(images) - model(images)).abs().max() < 0.05 * model(images).abs().max()
    found = ranges(made)
    assert found["0"].input_low == pytest.approx(float(images.min()))
    assert found["3"].input_low == 0.0 and found["3"].bits == 8
    assert found["0"].weight_scales == pytest.approx((made[0].layer.weight.abs().amax((1, 2, 3)) / 127).tolist())
    assert isinstance(model[1], nn.BatchNorm2d)


def test_it_learns_through_the_rounding():
    made = quantise_aware(net(), [torch.randn(8, 3, 8, 8)], (1, 3, 8, 8), 4).train()
    images, targets = torch.randn(32, 3, 8, 8), torch.arange(32) % 5
    optimizer = torch.optim.SGD(made.parameters(), 0.05, momentum=0.9)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(made(images), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_the_exported_file_computes_in_int8_with_these_scales(tmp_path):
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from visus.core.preprocessing import Preprocessing
    from visus.deploy.onnx_file import write_onnx
    from visus.deploy.program import Program

    made = quantise_aware(net(), [torch.randn(8, 3, 8, 8)], (1, 3, 8, 8), 7)
    program = Program(made, Preprocessing(size=(8, 8), labels=tuple("abcde")), "classification").eval()
    images = torch.randint(0, 256, (16, 8, 8, 3), dtype=torch.uint8)
    write_onnx(program, images[:2], tmp_path / "net.onnx")
    graph = onnx.load(tmp_path / "net.onnx").graph
    whole = {tuple(one.dims): onnx.numpy_helper.to_array(one) for one in graph.initializer
             if one.data_type == onnx.TensorProto.INT8 and len(one.dims) > 1}
    for layer in (made[0], made[3], made[6]):
        kept = whole[tuple(layer.layer.weight.shape)]
        with torch.no_grad():
            assert np.allclose(kept * layer.scales.numpy().reshape(-1, *[1] * (kept.ndim - 1)),
                               round_weight(layer.layer.weight, 7).numpy(), atol=1e-7)
        assert np.abs(kept).max() <= 63
    assert sum(node.op_type == "QuantizeLinear" for node in graph.node) == 3
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    answers = runtime.InferenceSession(tmp_path / "net.onnx", options).run(None, {"images": images.numpy()})[0]
    with torch.no_grad():
        assert np.abs(answers - program(images).numpy()).max() < 0.02


def test_what_cannot_round_is_refused():
    for bits in (1, 9):
        with pytest.raises(UserError):
            quantise_aware(net(), [], (1, 3, 8, 8), bits)
    with pytest.raises(UserError, match="no convolution"):
        quantise_aware(nn.Sequential(nn.Flatten()), [], (1, 3, 8, 8))
    for layer, bits in ((nn.ReLU(), 8), (nn.Linear(2, 2), 99), (nn.Linear(2, 2), True)):
        with pytest.raises(CheckpointError):
            quantised_layer(layer, bits)
