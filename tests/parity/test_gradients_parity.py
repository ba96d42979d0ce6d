"""Gradient methods against captum 0.9, in float64: the same model, the same images, the same classes."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.explain.test_every_method import images_for, tiny
from tools.peers import load_peer
from visus.explain.input_gradient import input_times_gradient
from visus.explain.integrated_gradients import completeness_error, integrated_gradients
from visus.explain.relevance import deep_lift, layer_relevance
from visus.explain.relu_rules import ruled_gradients
from visus.explain.saliency import image_gradients
from visus.explain.smooth_grad import smooth_gradients
from visus.run.models import create_model

TOLERANCE = {"rtol": 1e-8, "atol": 1e-10}
TARGETS = torch.tensor([1, 4, 0])


@pytest.fixture(autouse=True)
def captum_is_there():
    try:
        load_peer("captum.attr")
    except ImportError as error:
        pytest.skip(str(error))


class Apart(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps * 1


class SmallNet(nn.Module):
    """Each activation a module of its own, used once, as captum's hooks need it; ours have no such need. apart: a
    tensor of its own goes into each pooling, for captum's DeepLift hooks both ends of the one between it and a ReLU."""

    def __init__(self, norm: bool = True, bias: bool = True, apart: bool = False):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.layers = nn.Sequential()
            for dims in ((3, 8), (8, 12)):
                self.layers.append(nn.Conv2d(*dims, 3, padding=1, bias=bias))
                if norm:
                    self.layers.append(nn.BatchNorm2d(dims[1]))
                self.layers.extend([nn.ReLU(), *([Apart()] if apart else []), nn.MaxPool2d(2)])
            self.head = nn.Sequential(nn.Linear(12 * 16, 20, bias=bias), nn.ReLU(), nn.Linear(20, 5, bias=bias))
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    for values in (module.running_mean, module.bias):
                        nn.init.uniform_(values, -0.3, 0.3)
                    for values in (module.running_var, module.weight):
                        nn.init.uniform_(values, 0.5, 2)
        self.double().eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.layers(images).flatten(1))


def resnet20() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return create_model("resnet20", num_classes=5).double().eval()


class Modular(nn.Module):
    """A CIFAR ResNet whose activations are modules, each used once, with the same weights: what captum's hooks see."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = copy.deepcopy(net)
        self.relu, self.pool, self.flat = nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        blocks = [block for layer in (self.net.layer1, self.net.layer2, self.net.layer3) for block in layer]
        self.relus = nn.ModuleList(nn.ModuleList([nn.ReLU(), nn.ReLU()]) for _ in blocks)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.relu(self.net.bn1(self.net.conv1(images)))
        blocks = [block for layer in (self.net.layer1, self.net.layer2, self.net.layer3) for block in layer]
        for block, (first, second) in zip(blocks, self.relus, strict=True):
            out = block.bn2(block.conv2(first(block.bn1(block.conv1(maps)))))
            maps = second(out + block.downsample(maps))
        return self.net.fc(self.flat(self.pool(maps)))


def pairs() -> dict[str, Callable[[], tuple[nn.Module, nn.Module]]]:
    def same(make: Callable[[], nn.Module]) -> Callable[[], tuple[nn.Module, nn.Module]]:
        return lambda: (make(), make())

    def modular() -> tuple[nn.Module, nn.Module]:
        net = resnet20()
        return net, Modular(net)
    return {"small": same(SmallNet), "resnet20": modular}


PAIRS = pairs()
IMAGES = {name: images_for("resnet").double() for name in PAIRS}


def captum(kind: str, model: nn.Module, *arguments: Any, **options: Any) -> Any:
    attr = load_peer("captum.attr")
    return getattr(attr, kind)(model, *arguments, **options)


def attributed(method: Any, images: Tensor, targets: Tensor = TARGETS, **options: Any) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it tells of the hooks and gradients that it sets
        return method.attribute(images.clone().requires_grad_(), target=targets, **options).detach()


@pytest.mark.parametrize("name", PAIRS)
def test_the_modular_copy_computes_the_same(name):
    ours, theirs = PAIRS[name]()
    torch.testing.assert_close(ours(IMAGES[name]), theirs(IMAGES[name]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", PAIRS)
def test_saliency(name):
    ours, theirs = PAIRS[name]()
    found = image_gradients(ours, IMAGES[name], TARGETS)
    torch.testing.assert_close(found, attributed(captum("Saliency", theirs), IMAGES[name], abs=False), **TOLERANCE)


@pytest.mark.parametrize("name", PAIRS)
def test_input_times_gradient(name):
    ours, theirs = PAIRS[name]()
    found = input_times_gradient(ours, IMAGES[name], TARGETS)
    torch.testing.assert_close(found, attributed(captum("InputXGradient", theirs), IMAGES[name]), **TOLERANCE)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("statistic, theirs_name", [("mean", "smoothgrad"), ("square", "smoothgrad_sq"),
                                                    ("variance", "vargrad")])
def test_noise_tunnel(name, statistic, theirs_name):
    """The same draws: of one image captum draws samples x C x H x W from the process's generator."""
    ours, theirs = PAIRS[name]()
    for number in range(2):
        image, target = IMAGES[name][number:number + 1], TARGETS[number:number + 1]
        found = smooth_gradients(ours, image, target, samples=6, noise=0.1, statistic=statistic, seed=7)
        tunnel = captum("NoiseTunnel", captum("Saliency", theirs))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            expected = attributed(tunnel, image, target, nt_type=theirs_name, nt_samples=6, abs=False,
                                  stdevs=0.1 * float(image.max() - image.min()))
        torch.testing.assert_close(found, expected, **TOLERANCE)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("start", ["zero", "images"])
def test_integrated_gradients(name, start):
    ours, theirs = PAIRS[name]()
    baseline = torch.zeros_like(IMAGES[name]) if start == "zero" else IMAGES[name].flip(3) * 0.3
    found = integrated_gradients(ours, IMAGES[name], baseline, TARGETS, steps=12)
    expected = attributed(captum("IntegratedGradients", theirs), IMAGES[name], baselines=baseline, n_steps=12)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)  # captum rounds its points to float32


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("rule, kind", [("guided", "GuidedBackprop"), ("deconvnet", "Deconvolution")])
def test_rules_for_relus(name, rule, kind):
    ours, theirs = PAIRS[name]()
    found = ruled_gradients(ours, IMAGES[name], TARGETS, rule=rule)
    torch.testing.assert_close(found, attributed(captum(kind, theirs), IMAGES[name]), **TOLERANCE)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("start", ["zero", "images"])
def test_deep_lift(name, start):
    ours, theirs = (SmallNet(), SmallNet(apart=True)) if name == "small" else PAIRS[name]()
    baseline = torch.zeros_like(IMAGES[name]) if start == "zero" else IMAGES[name].flip(3) * 0.3
    found = deep_lift(ours, IMAGES[name], baseline, TARGETS)
    expected = attributed(captum("DeepLift", theirs, eps=1e-10), IMAGES[name], baselines=baseline)
    torch.testing.assert_close(found, expected, **TOLERANCE)


def test_where_captum_loses_shares_ours_are_complete():
    """A pooling right behind a ReLU: captum 0.9 misses the difference of the scores by some per cent, ours do not."""
    images, model = IMAGES["small"], SmallNet()
    baseline = torch.zeros_like(images)
    theirs = attributed(captum("DeepLift", SmallNet(), eps=1e-10), images, baselines=baseline)
    assert completeness_error(model, images, baseline, theirs, TARGETS).min() > 0.01
    ours = deep_lift(model, images, baseline, TARGETS)
    assert completeness_error(model, images, baseline, ours, TARGETS).max() < 1e-12


def lrp(model: nn.Module, image: Tensor, target: Tensor, rules: dict[nn.Module, Any]) -> Tensor:
    for layer, rule in rules.items():
        layer.rule = rule
    return attributed(captum("LRP", model), image, target)


def test_lrp_zero():
    """Where epsilon is nothing, the rule is gradient x input, batch norms apart or folded."""
    rules = load_peer("captum.attr._utils.lrp_rules")
    model = SmallNet()
    theirs = SmallNet()
    expected = lrp(theirs, IMAGES["small"], TARGETS, {layer: rules.EpsilonRule(1e-14) for layer in
                                                      (*theirs.layers, *theirs.head) if not isinstance(layer, nn.ReLU)})
    found = layer_relevance(model, IMAGES["small"], TARGETS, rule="epsilon", epsilon=0)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)


def linear_layers(model: SmallNet) -> list[nn.Module]:
    return [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]


def test_lrp_epsilon():
    """One image at a time, with an epsilon for each layer that is our share of its root mean square there."""
    rules = load_peer("captum.attr._utils.lrp_rules")
    for number in range(3):
        image, target = IMAGES["small"][number:number + 1], TARGETS[number:number + 1]
        model, seen = SmallNet(norm=False), {}
        for layer in linear_layers(model):
            layer.register_forward_hook(
                lambda layer, _, out, seen=seen: seen.update({layer: out.square().mean().sqrt()}))
        with torch.no_grad():
            model(image)
        plain = SmallNet(norm=False)
        expected = lrp(plain, image, target, {
            layer: rules.EpsilonRule(0.2 * float(seen[ours])) for layer, ours in
            zip(linear_layers(plain), linear_layers(model), strict=True)})
        found = layer_relevance(SmallNet(norm=False), image, target, rule="epsilon", epsilon=0.2)
        torch.testing.assert_close(found, expected, **TOLERANCE)


@pytest.mark.parametrize("rule", ["gamma", "alpha_beta"])
def test_lrp_gamma_and_alpha_one(rule):
    """captum's gamma and alpha 1 take values of at least 0 and no biases; there both are the same."""
    rules = load_peer("captum.attr._utils.lrp_rules")
    images = IMAGES["small"].abs()
    model, theirs = SmallNet(norm=False, bias=False), SmallNet(norm=False, bias=False)
    convolution = {"gamma": lambda: rules.GammaRule(0.3), "alpha_beta": rules.Alpha1_Beta0_Rule}[rule]
    given = {layer: convolution() if isinstance(layer, nn.Conv2d) else rules.EpsilonRule(1e-14)
             for layer in linear_layers(theirs)}
    given |= {layer: rules.EpsilonRule(1e-14) for layer in theirs.layers if isinstance(layer, nn.MaxPool2d)}
    for one in given.values():
        one.STABILITY_FACTOR = 1e-14
    expected = lrp(theirs, images, TARGETS, given)
    found = layer_relevance(model, images, TARGETS, rule=rule, gamma=0.3, alpha=1, epsilon=0)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)


def test_our_methods_need_no_modules():
    """What captum's hooks miss: activations that are functions. There its guided backpropagation is the plain
    gradient, silently; ours is the rule's."""
    net = tiny("resnet").double()
    images = images_for("resnet").double()
    silent = attributed(captum("GuidedBackprop", net), images)
    torch.testing.assert_close(silent, image_gradients(net, images, TARGETS), **TOLERANCE)
    assert not torch.allclose(silent, ruled_gradients(net, images, TARGETS, rule="guided"))
