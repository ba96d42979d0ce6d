"""Building optimizers, grouping parameters, clipping, averaging."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from tools.peers import load_peer
from visus.core.errors import CheckpointError, RecipeError, UserError
from visus.optim.build import OPTIMIZERS, build_optimizer
from visus.optim.clip import clip_gradients
from visus.optim.ema import EMA
from visus.optim.lamb import Lamb
from visus.optim.parameter_groups import parameter_groups


class Small(nn.Module):
    """Two-dimensional, one-dimensional and token parameters, float and integer buffers."""

    def __init__(self):
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, 4))
        self.pos_embed = nn.Parameter(torch.randn(1, 6, 4))
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 1)

    def forward(self, images):
        maps = self.norm(self.conv(images))
        return self.head(maps.mean((2, 3)) + self.pos_embed.mean(1) + self.cls_token[0])


def small(seed: int = 0) -> Small:
    torch.manual_seed(seed)
    return Small()


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    optimizer.zero_grad()
    images = torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    model(images.to(model.head.weight.dtype)).square().mean().backward()
    optimizer.step()


class PlainLamb:
    """You et al. 2020, Algorithm 2, tensor by tensor in NumPy."""

    def __init__(self, parameters, lr, betas, eps, weight_decay):
        self.parameters, self.lr, self.betas = list(parameters), lr, betas
        self.eps, self.weight_decay = eps, weight_decay
        self.m = [np.zeros(p.shape) for p in self.parameters]
        self.v = [np.zeros(p.shape) for p in self.parameters]
        self.t = 0

    def zero_grad(self):
        for p in self.parameters:
            p.grad = None

    def step(self):
        self.t += 1
        for p, m, v in zip(self.parameters, self.m, self.v, strict=True):
            x, g = p.detach().numpy(), p.grad.numpy()
            m += (1 - self.betas[0]) * (g - m)
            v += (1 - self.betas[1]) * (g * g - v)
            direction = m / (1 - self.betas[0]**self.t)
            update = direction / (np.sqrt(v / (1 - self.betas[1]**self.t)) + self.eps) + self.weight_decay * x
            size, length = np.sqrt((x**2).sum()), np.sqrt((update**2).sum())
            x -= self.lr * (size / length if size > 0 and length > 0 else 1.0) * update  # p's own memory


PEERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.01, momentum=0.8, nesterov=True, weight_decay=0.1, foreach=False),
    "adam": lambda p: torch.optim.Adam(p, 0.01, (0.8, 0.95), 1e-6, weight_decay=0.1, foreach=False),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, (0.8, 0.95), 1e-6, weight_decay=0.1, foreach=False),
    "nadam": lambda p: torch.optim.NAdam(p, 0.01, (0.8, 0.95), 1e-6, weight_decay=0.1, foreach=False),
    "radam": lambda p: torch.optim.RAdam(p, 0.01, (0.8, 0.95), 1e-6, weight_decay=0.1, foreach=False),
    "adamax": lambda p: torch.optim.Adamax(p, 0.01, (0.8, 0.95), 1e-6, weight_decay=0.1, foreach=False),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, eps=1e-6, momentum=0.8, weight_decay=0.1, foreach=False),
    "adagrad": lambda p: torch.optim.Adagrad(p, 0.01, eps=1e-6, weight_decay=0.1, foreach=False),
    "adadelta": lambda p: torch.optim.Adadelta(p, 0.01, eps=1e-6, weight_decay=0.1, foreach=False),
    "lamb": lambda p: PlainLamb(p, 0.01, (0.8, 0.95), 1e-6, 0.1),
    "rprop": lambda p: torch.optim.Rprop(p, 0.01, foreach=False),
}
IN_FILES_OF_THEIR_OWN = {"lars", "lion", "muon", "muon_sgd", "muon_unit", "asgd", "lbfgs", "newton", "diagonal_lm",
                         "random_search", "local_search"}


def test_every_optimizer_has_a_peer_in_this_file_or_a_file_of_its_own():
    assert PEERS.keys() | IN_FILES_OF_THEIR_OWN == OPTIMIZERS.keys()


@pytest.mark.parametrize("name", list(PEERS))
def test_three_steps_equal_torchs_plain_loop(name):
    ours, theirs = small().double(), small().double()
    a = build_optimizer(name, ours.parameters(), lr=0.01, momentum=0.8, nesterov=True, betas=(0.8, 0.95), eps=1e-6,
                        weight_decay=0.1)
    b = PEERS[name](theirs.parameters())
    for seed in range(3):
        step(ours, a, seed)
        step(theirs, b, seed)
    for x, y in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(x, y, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("name", "fused"), [("sgd", True), ("adam", True), ("adamw", True), ("adagrad", True),
                                             ("rmsprop", None), ("nadam", None)])
def test_on_the_cpu_the_kernel_is_fused_or_the_loop_but_never_foreach(name, fused):
    optimizer = build_optimizer(name, parameter_groups(small(), 0.1), lr=0.1)
    for group in optimizer.param_groups:
        assert group.get("fused") is fused
        assert not group["foreach"]


@pytest.mark.parametrize("foreach", [False, True])
def test_lamb_equals_timms_step_by_step(foreach):
    try:
        load_peer("timm")
        from timm.optim.lamb import Lamb as Theirs
    except ImportError as error:
        pytest.skip(str(error))
    ours, theirs = small().double(), small().double()
    a = Lamb(parameter_groups(ours, 0.1), 0.02, (0.8, 0.95), 1e-6, foreach=foreach)
    b = Theirs(parameter_groups(theirs, 0.1), 0.02, betas=(0.8, 0.95), eps=1e-6, max_grad_norm=None)
    for seed in range(5):  # without decay: Adam's own step, in both
        step(ours, a, seed)
        step(theirs, b, seed)
        for (name, x), y in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            assert torch.allclose(x, y, rtol=1e-9, atol=1e-12), name


def test_lamb_moves_each_layer_by_the_rate_times_its_own_norm():
    torch.manual_seed(0)
    layers = [nn.Parameter(10.0**k * torch.randn(7, 5)) for k in range(-2, 3)] + [nn.Parameter(torch.zeros(3, 3))]
    before = [p.detach().clone() for p in layers]
    optimizer = Lamb([{"params": layers, "weight_decay": 0.1}], 0.01)
    for p in layers:
        p.grad = torch.randn_like(p)
    optimizer.step()
    for p, was in zip(layers[:-1], before, strict=False):
        assert (p.detach() - was).norm().item() == pytest.approx(0.01 * was.norm().item(), rel=1e-4)
    assert layers[-1].abs().max().item() == pytest.approx(0.01, rel=1e-4), "no weights yet: Adam's step"
    everything = Lamb([nn.Parameter(torch.ones(4))], 0.01, adapt_all=True)
    everything.param_groups[0]["params"][0].grad = torch.ones(4)
    everything.step()
    assert everything.param_groups[0]["params"][0].tolist() == pytest.approx([0.99] * 4, rel=1e-5)


def test_lamb_goes_on_to_the_same_bits_from_its_state():
    first, second = small(), small()
    a, b = (build_optimizer("lamb", parameter_groups(m, 0.1), lr=0.02) for m in (first, second))
    for seed in range(3):
        step(first, a, seed)
    second.load_state_dict(first.state_dict())
    b.load_state_dict(copy.deepcopy(a.state_dict()))
    step(first, a, 7)
    step(second, b, 7)
    assert all(torch.equal(x, y) for x, y in zip(first.parameters(), second.parameters(), strict=True))
    with pytest.raises(RecipeError, match="beta"):
        build_optimizer("lamb", first.parameters(), lr=0.1, betas=(0.9, 1.0))


def test_groups_keep_their_own_weight_decay():
    optimizer = build_optimizer("sgd", parameter_groups(small(), 0.3), lr=0.1, weight_decay=7.0)
    assert [(g["name"], g["weight_decay"]) for g in optimizer.param_groups] == [("decay", 0.3), ("no_decay", 0.0)]


def test_unknown_optimizer_names_the_nearest_and_a_wrong_value_is_a_recipe_error():
    with pytest.raises(RecipeError, match="'adamw'"):
        build_optimizer("adamww", small().parameters(), lr=0.1)
    with pytest.raises(RecipeError, match="beta"):
        build_optimizer("adamw", small().parameters(), lr=0.1, betas=(1.5, 0.9))


def test_only_kernels_and_matrices_decay_each_once():
    model = small()
    model.twin = model.head
    groups = {g["name"]: g["params"] for g in parameter_groups(model, 0.1)}
    names = {id(p): n for n, p in model.named_parameters()}
    assert [names[id(p)] for p in groups["decay"]] == ["conv.weight", "head.weight"]
    assert sorted(names[id(p)] for p in groups["no_decay"]) == [
        "cls_token", "conv.bias", "head.bias", "norm.bias", "norm.weight", "pos_embed"]


def test_frozen_parameters_are_in_no_group_and_nothing_to_train_is_an_error():
    model = small().requires_grad_(False)
    model.head.requires_grad_(True)
    assert sum(len(g["params"]) for g in parameter_groups(model, 0.1)) == 2
    with pytest.raises(UserError, match="no parameter"):
        parameter_groups(model.requires_grad_(False), 0.1)


# -- clipping


def with_gradients(scale: float, dtype=torch.float32) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.zeros(s, dtype=dtype)) for s in ((7, 5), (3,), (), (2, 3, 4))]
    for p in parameters[:-1]:
        p.grad = (torch.randn(p.shape, generator=generator) * scale).to(dtype)
    return parameters


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_clipping_equals_torchs(scale, dtype):
    ours, theirs = with_gradients(scale, dtype), with_gradients(scale, dtype)
    norm = clip_gradients(ours, 0.7)
    expected = nn.utils.clip_grad_norm_(theirs, 0.7)
    assert norm.dtype == dtype
    assert norm.item() == pytest.approx(expected.item(), rel=1e-6)
    for a, b in zip(ours[:-1], theirs[:-1], strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-6, atol=0)


def test_a_norm_below_the_limit_and_a_mere_measurement_leave_the_bits():
    for limit in (1e9, None, float("inf")):
        parameters = with_gradients(1.0)
        before = [p.grad.clone() for p in parameters[:-1]]
        norm = clip_gradients(parameters, limit)
        assert norm.item() == pytest.approx(torch.cat([g.flatten() for g in before]).norm().item(), rel=1e-6)
        assert all(torch.equal(p.grad, g) for p, g in zip(parameters[:-1], before, strict=True))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_norm_that_is_not_finite_comes_back_and_gradients_stay(bad):
    parameters = with_gradients(1.0)
    other = parameters[0].grad.clone()
    parameters[1].grad[0] = bad
    assert not torch.isfinite(clip_gradients(parameters, 1.0))
    assert torch.equal(parameters[0].grad, other)


def test_float16_gradients_do_not_overflow_the_norm():
    parameter = nn.Parameter(torch.zeros(100, dtype=torch.float16))
    parameter.grad = torch.full((100,), 6e4, dtype=torch.float16)
    assert clip_gradients([parameter], None).item() == pytest.approx(6e5, rel=1e-3)
    assert clip_gradients([nn.Parameter(torch.zeros(2))], 1.0).item() == 0


# -- averaging


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("warmup", [True, False])
def test_ema_equals_a_tensor_by_tensor_average_to_the_bit(warmup, layout):
    model = small().to(memory_format=layout)
    ema = EMA(model, 0.9, warmup=warmup)
    naive = {n: t.clone() for n, t in model.state_dict().items()}
    optimizer = build_optimizer("sgd", model.parameters(), lr=0.1)
    for t in range(12):
        step(model, optimizer, t)
        ema.update(model)
        decay = min(0.9, (1 + t) / (10 + t)) if warmup else 0.9
        for name, now in model.state_dict().items():
            if now.is_floating_point():
                naive[name].lerp_(now, 1 - decay)
            else:
                naive[name].copy_(now)
    ema.copy_to(model)
    for name, value in model.state_dict().items():
        assert torch.equal(value, naive[name]), name
    assert naive["norm.num_batches_tracked"] == 12


def test_copy_to_as_a_block_gives_the_own_weights_back_to_the_bit_even_after_an_error():
    model = small()
    ema = EMA(model, 0.5, warmup=False)
    step(model, build_optimizer("sgd", model.parameters(), lr=0.5), 0)
    ema.update(model)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ZeroDivisionError), ema.copy_to(model):
        assert not torch.equal(model.head.weight, before["head.weight"])
        raise ZeroDivisionError
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())


def test_ema_goes_on_to_the_same_bits_from_its_state_in_another_layout():
    first, second = small(), small()
    a = EMA(first, 0.99)
    optimizer = build_optimizer("adamw", first.parameters(), lr=0.1)
    for seed in range(3):
        step(first, optimizer, seed)
        a.update(first)
    b = EMA(second.to(memory_format=torch.channels_last), 0.99)
    b.load_state_dict(copy.deepcopy(a.state_dict()))
    step(first, optimizer, 9)
    a.update(first)
    second.load_state_dict(first.state_dict())
    b.update(second)
    assert torch.equal(a.state_dict()["flat"], b.state_dict()["flat"])
    assert a.updates == b.updates == 4


def test_half_precision_weights_are_averaged_in_float32():
    model = nn.Linear(2, 1, bias=False).to(torch.bfloat16)
    nn.init.zeros_(model.weight)
    ema = EMA(model, 0.999, warmup=False)
    nn.init.ones_(model.weight)
    ema.update(model)
    assert ema.flat.tolist() == pytest.approx([0.001, 0.001], rel=1e-5)


def test_the_state_of_another_model_is_refused_and_changes_nothing():
    ema = EMA(small())
    before = ema.flat.clone()
    with pytest.raises(CheckpointError, match=r"conv\.weight"):
        ema.load_state_dict(EMA(nn.Linear(2, 2)).state_dict())
    assert torch.equal(ema.flat, before)
