"""Channels that belong together are found by following them, and removing them computes what zeroing them does."""

import copy

import pytest
import torch
from torch import nn

from visus.core.errors import UserError
from visus.deploy.channels import find_channels
from visus.deploy.prune_channels import chosen, prune_channels, removable, without
from visus.run.models import create_model

SHAPE = (1, 3, 32, 32)


def with_statistics(model):
    """Random norms, so that nothing cancels and nothing vanishes; float64."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.05, 0.3)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    return model.double().eval()


def zeroed(model, slots):
    """The whole net with all that makes these channels set to zero: filters, biases, scales and shifts. Independent of
    what `find_channels` says about the layers that read them."""
    out = copy.deepcopy(model)
    parameters = dict(out.named_parameters())
    with torch.no_grad():
        for slot in slots:
            for (name, axis), entries in slot.made.items():
                if name in parameters:
                    parameters[name].index_fill_(axis, torch.tensor(entries), 0.0)
    return out


def every_other(groups):
    return [slot for group in groups for slot in group.slots[1::2]]


@pytest.mark.parametrize(("name", "config"), [
    ("resnet18", {}), ("resnet20", {"depth": 1}), ("mobilenet_v3_small", {}), ("mobilenet_v2", {}),
    ("squeezenet1_1", {}),
    pytest.param("vgg11_bn", {}, marks=pytest.mark.slow),
    pytest.param("densenet121", {}, marks=pytest.mark.slow),
    pytest.param("efficientnet_b0", {}, marks=pytest.mark.slow),
    pytest.param("resnext50_32x4d", {}, marks=pytest.mark.slow), pytest.param("googlenet", {}, marks=pytest.mark.slow)])
def test_the_smaller_net_computes_what_the_whole_one_does_with_those_channels_at_zero(name, config):
    shape = (1, 3, 64, 64) if name == "squeezenet1_1" else SHAPE
    torch.manual_seed(0)
    model = with_statistics(create_model(name, num_classes=7, **config))
    slots = every_other(removable(model, shape).groups)
    smaller = without(model, slots)
    images = torch.randn(2, *shape[1:], dtype=torch.float64)
    with torch.no_grad():
        whole, small, full = zeroed(model, slots)(images), smaller(images), model(images)
    assert (whole - small).abs().max() < 1e-6 * whole.abs().max()
    assert (full - small).abs().max() > 1e-2 * full.abs().max()  # the channels mattered
    assert sum(p.numel() for p in smaller.parameters()) < 0.7 * sum(p.numel() for p in model.parameters())


class _Net(nn.Module):
    """Every kind of meeting once: a residual sum, a concatenation, a depthwise and a grouped convolution, a gate, a
    scale, flattening."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, 6, 3, padding=1)
        self.back = nn.Conv2d(6, 8, 1)
        self.beside = nn.Conv2d(8, 4, 1)
        self.depth = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.grouped = nn.Conv2d(12, 8, 1, groups=4)
        self.gate = nn.Conv2d(8, 8, 1)
        self.scale = nn.Parameter(torch.rand(8, 1, 1) + 0.5)
        self.full = nn.Linear(8 * 16, 10)
        self.last = nn.Linear(10, 5)

    def forward(self, images):
        x = self.first(images).relu()
        x = x + self.back(self.inner(x).relu())
        x = torch.cat([x, self.beside(x)], 1)
        x = self.grouped(self.depth(x).relu()).relu()
        x = x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid() * self.scale
        return self.last(self.full(nn.functional.adaptive_avg_pool2d(x, 4).flatten(1)).relu())


def group_of(found, layer):
    return next(group for group in found.groups if layer in group.layers)


def test_channels_that_meet_are_one():
    found = find_channels(_Net(), (1, 3, 16, 16))
    assert set(group_of(found, "inner").layers) == {"inner"}
    residual = group_of(found, "first")
    assert {"first", "back", "depth"} <= set(residual.layers)
    # 12 channels in 4 groups: places 0, 1, 2 of each are one, so the sum's 8 and the branch's 4 are 3 in all
    assert len(residual.slots) == 3
    gated = group_of(found, "grouped")
    assert set(gated.layers) == {"grouped", "gate", "scale"}
    assert len(gated.slots) == 2  # 8 outputs in 4 groups
    slot = gated.slots[0]
    assert slot.made["grouped.weight", 0] == (0, 2, 4, 6)
    assert slot.read["full.weight", 1] == tuple(16 * c + k for c in (0, 2, 4, 6) for k in range(16))
    assert dict(found.kept) == {"last": "they are the answer"}


def test_every_kind_of_meeting_can_be_pruned():
    torch.manual_seed(0)
    model = _Net().double().eval()
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    slots = every_other(removable(model, (1, 3, 16, 16)).groups)
    smaller = without(model, slots)
    with torch.no_grad():
        assert (zeroed(model, slots)(images) - smaller(images)).abs().max() < 1e-12
    assert (smaller.depth.groups, smaller.depth.in_channels, smaller.grouped.groups) == (8, 8, 4)


@pytest.mark.parametrize("operation", [
    lambda x: x.view(2, 2, 4, -1).transpose(1, 2).flatten(1, 2).mean(2),       # a channel shuffle
    lambda x: nn.functional.layer_norm(x.mean((2, 3)), (8,)),                   # statistics over all channels
    lambda x: x[:, :8].mean((2, 3)) + x[:, 2:3].mean((2, 3)),                   # a place among the channels
    lambda x: nn.functional.group_norm(x, 2).mean((2, 3)),
    lambda x: x.sum(1, keepdim=True).flatten(1)[:, :8] + x.mean((2, 3)),
    lambda x: nn.functional.pad(x, (0, 0, 0, 0, 0, 2))[:, :8].mean((2, 3)),     # a number of channels in the code
])
def test_what_cannot_be_followed_is_left_alone(operation):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 5)

        def forward(self, images):
            return self.last(operation(self.first(images)))

    found = removable(Net(), (2, 3, 8, 8))
    assert not found.groups
    assert {"first", "last"} == set(dict(found.kept))
    with pytest.raises(UserError, match="no channels that could be removed"):
        prune_channels(Net(), (2, 3, 8, 8), 0.5)


def test_a_net_that_counts_its_channels_itself_keeps_them():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.middle, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 1), nn.Linear(6, 5)

        def forward(self, images):
            x = self.middle(self.first(images).relu())
            return self.last(x.view(x.shape[0], 6, -1).mean(2))

    found = removable(Net(), (1, 3, 8, 8))
    assert [group.layers for group in found.groups] == [("first",)]
    assert dict(found.kept)["middle"] == "the net counts its channels itself"


def test_the_least_filters_go_by_their_absolute_sum():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 10, 3), nn.ReLU(), nn.Conv2d(10, 4, 1), nn.Flatten(), nn.Linear(4 * 36, 2))
    norms = model[0].weight.detach().abs().sum((1, 2, 3))
    pruned = prune_channels(model, (1, 3, 8, 8), 0.3)
    kept = sorted(norms.argsort()[3:].tolist())
    assert torch.equal(pruned.model[0].weight, model[0].weight[kept])
    assert torch.equal(pruned.model[2].weight[:, :], model[2].weight[sorted(
        model[2].weight.detach().abs().sum((1, 2, 3)).argsort()[1:].tolist())][:, kept])
    assert pruned.removed["0"] == (10, 7)
    assert model[0].out_channels == 10  # the model is left as it is


def test_batch_norm_scales_and_gradients_decide_where_asked():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([0.5, -0.1, 0.3, 0.9, -0.7, 0.2]))
    by_norm = prune_channels(model, (1, 3, 8, 8), 0.5, criterion="bn").model
    assert by_norm[1].weight.tolist() == pytest.approx([0.5, 0.9, -0.7])
    model(torch.randn(4, 3, 8, 8)).square().sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    worth = sum((p * p.grad).reshape(6, -1).sum(1) for p in (*model[0].parameters(), *model[1].parameters())).square()
    by_loss = prune_channels(model, (1, 3, 8, 8), 0.5, criterion="taylor", gradients=gradients).model
    assert torch.equal(by_loss[0].weight, model[0].weight[sorted(worth.argsort()[3:].tolist())])
    with pytest.raises(UserError, match="without a batch norm"):
        prune_channels(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), (1, 4), 0.5, criterion="bn")


def test_one_channel_stays_however_much_is_asked_for():
    worth = [torch.tensor([1.0, 2.0]), torch.tensor([5.0, 1.0, 3.0, 2.0])]
    assert chosen(worth, 0.99, "layer") == [[0], [1, 3, 2]]
    assert chosen(worth, 0.99, "global") == [[0], [1, 3, 2]]
    assert chosen(worth, 0.34, "global") == [[0], [1]]  # shares of the means 1.5 and 2.75: 0.67 and 0.36 are the least
    with pytest.raises(UserError):
        chosen(worth, 0.5, "everywhere")
