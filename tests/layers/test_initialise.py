"""First weights: their variances, torch's own functions, and what becomes of nets that begin with them."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from visus.core.errors import UserError
from visus.data.opening import open_samples
from visus.foundations import initialisers
from visus.layers.initialise import (
    CONNECTIONS,
    drawn,
    fans,
    identity,
    initialise,
    lsuv,
    recurrent,
    set_weight,
    weight_layers,
)
from visus.layers.normalise import Normalisation, renormalise
from visus.run.models import create_model

LAYERS = {"linear": nn.Linear(300, 200), "conv": nn.Conv2d(32, 64, 3), "grouped": nn.Conv2d(64, 96, 3, groups=4),
          "transposed": nn.ConvTranspose2d(64, 32, 3)}
VARIANCES = {"small": lambda i, o: 1e-4, "lecun": lambda i, o: 1 / i, "xavier": lambda i, o: 2 / (i + o),
             "kaiming": lambda i, o: 2 / i}


@pytest.mark.parametrize("how", VARIANCES)
@pytest.mark.parametrize("kind", LAYERS)
def test_variances_are_those_of_the_formulas(how, kind):
    layer = LAYERS[kind]
    fan_in, fan_out = {"linear": (300, 200), "conv": (288, 576), "grouped": (144, 216), "transposed": (576, 288)}[kind]
    assert fans(layer) == (fan_in, fan_out)
    weight = drawn(layer, how, torch.Generator().manual_seed(3), 0.01).double()
    wanted = VARIANCES[how](fan_in, fan_out)
    assert float(weight.var()) == pytest.approx(wanted, rel=5 * math.sqrt(2 / weight.numel()))
    assert abs(float(weight.mean())) < 5 * math.sqrt(wanted / weight.numel())


@pytest.mark.parametrize("how, torchs", [
    ("small", lambda w, g: nn.init.normal_(w, 0, 0.01, generator=g)),
    ("xavier", lambda w, g: nn.init.xavier_normal_(w, generator=g)),
    ("kaiming", lambda w, g: nn.init.kaiming_normal_(w, nonlinearity="relu", generator=g)),
    ("lecun", lambda w, g: nn.init.kaiming_normal_(w, nonlinearity="linear", generator=g)),
    ("orthogonal", lambda w, g: nn.init.orthogonal_(w, gain=math.sqrt(2), generator=g))])
@pytest.mark.parametrize("kind", ("linear", "conv"))
def test_weights_equal_those_of_torch_to_the_last_bits(how, torchs, kind):
    ours = drawn(LAYERS[kind], how, torch.Generator().manual_seed(7), 0.01)
    theirs = torchs(torch.empty_like(LAYERS[kind].weight), torch.Generator().manual_seed(7))
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-6, atol=0)


def test_the_hand_written_rules_have_the_same_distribution():
    rng, layer = np.random.default_rng(0), nn.Linear(400, 300)
    for how, by_hand in (("lecun", initialisers.calibrated), ("xavier", initialisers.xavier_normal),
                         ("kaiming", initialisers.kaiming_normal)):
        ours = drawn(layer, how, torch.Generator().manual_seed(1))
        assert float(ours.std()) == pytest.approx(by_hand(rng, (400, 300)).std(), rel=0.02)


def test_orthogonal_rows_have_length_sqrt_2_and_no_direction_grows():
    for layer in (nn.Linear(30, 20), nn.Conv2d(4, 9, 3)):
        matrix = drawn(layer, "orthogonal", torch.Generator().manual_seed(0)).flatten(1)
        torch.testing.assert_close(matrix @ matrix.T, 2 * torch.eye(len(matrix)), atol=1e-5, rtol=0)


def test_sparse_units_have_fifteen_inputs_each_and_all_of_them_where_there_are_fewer():
    for layer, count in ((nn.Linear(300, 200), CONNECTIONS), (nn.Conv2d(32, 64, 3), CONNECTIONS),
                         (nn.Linear(7, 20), 7)):
        weight = drawn(layer, "sparse", torch.Generator().manual_seed(0))
        assert ((weight.flatten(1) != 0).sum(1) == count).all()
        chosen = weight[weight != 0]
        assert float(chosen.var()) == pytest.approx(2 / count, rel=0.25)
    first, second = (drawn(nn.Linear(300, 200), "sparse", torch.Generator().manual_seed(s)) for s in (0, 1))
    assert not torch.equal(first != 0, second != 0)


def test_the_same_seed_draws_the_same_weights_whatever_was_drawn_before():
    nets = []
    for before in (0, 1):
        torch.manual_seed(before)
        nets.append(create_model("resnet20", in_channels=1))
        initialise(nets[-1], "kaiming", seed=5)
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))
    initialise(nets[1], "kaiming", seed=6)
    assert not torch.equal(nets[0].conv1.weight, nets[1].conv1.weight)


def test_biases_begin_where_they_are_told():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Conv2d(1, 2, 3))
    initialise(net, "kaiming")
    assert not net[0].bias.any() and not net[2].bias.any()
    initialise(net, "kaiming", bias=0.01)
    assert (net[0].bias == 0.01).all() and (net[2].bias == 0.01).all()


def _digits(count: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    samples = open_samples("digits")
    pixels = torch.tensor(samples.images[:count].reshape(count, 64), dtype=torch.float32)
    return (pixels - pixels.mean()) / pixels.std(), torch.tensor(samples.targets[:count])


def _trained(net: nn.Module, steps: int, lr: float = 0.05) -> float:
    images, labels = _digits()
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    for _ in range(steps):
        loss = F.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(F.cross_entropy(net(images), labels).detach())


def test_hidden_units_that_begin_equal_stay_equal_and_with_zeros_nothing_but_the_last_bias_learns():
    net = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    equal = copy.deepcopy(net)
    for layer in (equal[0], equal[2]):
        nn.init.constant_(layer.weight, 0.1)
        nn.init.zeros_(layer.bias)
    initialise(net, "zeros")
    _trained(net, 30), _trained(equal, 30)
    assert not net[0].weight.any() and not net[2].weight.any() and net[2].bias.any()
    assert equal[0].weight.std(0).max() < 1e-6 < equal[0].weight.std(1).max(), "32 copies of one unit"
    initialise(net, "kaiming", seed=1)
    assert _trained(net, 30) < 0.3 < _trained(equal, 0)


def _deep(depth: int = 30, width: int = 64) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def test_thirty_relu_layers_train_from_kaiming_and_stall_from_xavier():
    """He et al. 2015, Figure 3, on digits: after as many steps the loss of one falls, of the other it is ln 10."""
    net = _deep()
    initialise(net, "xavier")
    stalled = _trained(net, 50, lr=0.002)
    initialise(net, "kaiming")
    assert stalled == pytest.approx(math.log(10), abs=0.02)
    assert _trained(net, 50, lr=0.002) < 2.0


def test_the_signal_keeps_its_size_under_kaiming_and_halves_its_power_in_each_layer_under_xavier():
    x = torch.randn(256, 512, generator=torch.Generator().manual_seed(0))
    powers = {}
    for how in ("kaiming", "xavier"):
        net = _deep(12, 512)[:-1]
        initialise(net, how)
        with torch.no_grad():
            powers[how] = float(net(x).square().mean() / x.square().mean())
    assert 0.3 < powers["kaiming"] < 3
    assert powers["xavier"] * 2**11 == pytest.approx(powers["kaiming"], rel=0.05), "the same draws, halved 11 times"


@pytest.mark.parametrize("name, side", [("resnet20", 16), ("lenet5", 32), ("mlp", 28)])
def test_lsuv_gives_every_layer_outputs_of_variance_one(name, side):
    net = create_model(name, in_channels=1, num_classes=10)
    images = 3 * torch.randn(64, 1, side, side, generator=torch.Generator().manual_seed(0)) + 1
    before = {key: value.clone() for key, value in net.named_buffers()}
    state = torch.get_rng_state()
    notes = initialise(net, "lsuv", images=images)
    assert "variance 1" in notes[0] and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[key], value) for key, value in net.named_buffers()), "running statistics are kept"
    seen = {}
    for key, layer in weight_layers(net):
        layer.register_forward_hook(lambda m, a, out, key=key: seen.__setitem__(key, float(out.var(correction=0))))
    net.train()
    with torch.no_grad():
        net(images)
    assert len(seen) == len(list(weight_layers(net)))
    assert all(abs(variance - 1) < 1e-3 for variance in seen.values()), seen


def test_lsuv_leaves_a_layer_that_gives_a_constant():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    initialise(net, "zeros")
    assert lsuv(net, torch.randn(8, 4)) == 0


def test_fixup_scales_a_branch_by_the_number_of_branches_and_begins_it_at_zero():
    for name, count, layers in (("resnet20", 9, 2), ("resnet56", 27, 2), ("resnet50", 16, 3)):
        net = create_model(name, normalisation={"norm": "fixup"})
        initialise(net, "fixup", seed=0)
        blocks = [m for m in net.modules() if hasattr(m, "downsample")]
        assert len(blocks) == count
        for block in blocks:
            convs = [getattr(block, f"conv{i + 1}") for i in range(layers)]
            assert not convs[-1].weight.any()
            for conv in convs[:-1]:
                wanted = math.sqrt(2 / conv.weight[0].numel()) * count ** (-1 / (2 * layers - 2))
                assert float(conv.weight.detach().std()) == pytest.approx(wanted, rel=0.1)
        assert not net.fc.weight.any() and not any(isinstance(m, nn.BatchNorm2d) for m in net.modules())


def test_a_deep_residual_net_without_norms_trains_from_fixup_and_not_from_kaiming():
    """Zhang et al. 2019, Figure 2, small: after one step at a usual rate kaiming's loss is not a number or huge."""
    images = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(16) % 10
    losses = {}
    for how, norm in (("fixup", "fixup"), ("kaiming", "none")):
        net = create_model("resnet110", in_channels=1, normalisation={"norm": norm})
        initialise(net, how)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        for _ in range(4):
            loss = F.cross_entropy(net(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses[how] = float(loss.detach())
    assert losses["fixup"] < 2.4, losses
    assert not losses["kaiming"] < 10, losses


@pytest.mark.parametrize("name", ("all_cnn_c", "plain20", "mobilenet_v2", "vit_tiny_16", "mlp", "seresnet18"))
def test_fixup_is_refused_where_it_has_no_meaning(name):
    with pytest.raises(UserError, match="residual"):
        renormalise(create_model(name), Normalisation("fixup"))


def test_weights_under_weight_norm_are_those_that_were_drawn():
    net = create_model("resnet20", normalisation={"weight_norm": "weight_norm"})
    plain = create_model("resnet20")
    initialise(net, "kaiming", seed=2), initialise(plain, "kaiming", seed=2)
    for (_, ours), (_, theirs) in zip(weight_layers(net), weight_layers(plain), strict=True):
        torch.testing.assert_close(ours.weight, theirs.weight)


@pytest.mark.parametrize("how, least, most", [("identity", 0.9, 1.1), ("orthogonal", 0.9, 1.1), ("small", 0.0, 1e-3)])
def test_gradients_survive_a_hundred_steps_of_a_recurrent_net_that_begins_orthogonal(how, least, most):
    torch.manual_seed(0)
    rnn = nn.RNN(8, 32, nonlinearity="relu" if how == "identity" else "tanh", batch_first=True)
    if how == "small":
        for parameter in rnn.parameters():
            nn.init.normal_(parameter, 0, 0.05)
    else:
        recurrent(rnn, how, std=0.001)
    state = torch.full((1, 1, 32), 1e-3, requires_grad=True)
    out, _ = rnn(torch.zeros(1, 100, 8), state)
    direction = torch.randn(32)
    (out[0, -1] * direction).sum().backward()
    assert least <= float(state.grad.norm() / direction.norm()) <= most


def test_a_recurrent_gate_is_orthogonal_by_itself_and_wrong_names_are_refused():
    lstm = nn.LSTM(3, 5)
    recurrent(lstm, "orthogonal")
    for gate in lstm.weight_hh_l0.data.split(5):
        torch.testing.assert_close(gate @ gate.T, torch.eye(5), atol=1e-5, rtol=0)
    assert not lstm.bias_hh_l0.any()
    with pytest.raises(UserError, match="recurrent"):
        recurrent(lstm, "xavier")
    with pytest.raises(UserError, match="kaiming"):
        initialise(nn.Linear(2, 2), "he")
    with pytest.raises(UserError, match="no layer"):
        initialise(nn.ReLU(), "kaiming")


def test_identity_layers_give_back_what_they_get():
    x = torch.randn(2, 6, 5, 5)
    for layer, given in ((nn.Conv2d(6, 6, 3, padding=1), x), (nn.Conv2d(6, 6, 1, groups=3), x),
                         (nn.Linear(5, 5), x)):
        identity(layer)
        torch.testing.assert_close(layer(given), given)
    weight = torch.randn(5, 5)
    layer = nn.Linear(5, 5)
    set_weight(layer, weight)
    assert torch.equal(layer.weight.data, weight)
