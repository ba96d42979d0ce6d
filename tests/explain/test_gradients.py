"""Gradient methods: what the papers' equations say of nets whose answer is known, and their axioms in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.explain.test_every_method import images_for, tiny
from visus.core.errors import UserError
from visus.deploy.frozen import frozen
from visus.explain import registry
from visus.explain.input_gradient import input_times_gradient
from visus.explain.integrated_gradients import (
    IntegratedGradients,
    baselines,
    blurred,
    completeness_error,
    integrated_gradients,
)
from visus.explain.relevance import DeepLift, LayerRelevance, deep_lift, layer_relevance
from visus.explain.relu_rules import Deconvnet, GuidedBackprop, ruled_gradients
from visus.explain.saliency import Saliency, class_scores, image_gradients
from visus.explain.smooth_grad import smooth_gradients

CLOSE = {"rtol": 1e-10, "atol": 1e-12}


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Linear(nn.Module):
    def __init__(self, bias: bool = True):
        super().__init__()
        self.fc = nn.Linear(3 * 4 * 4, 5, bias=bias).double()
        with torch.no_grad():
            for number, parameter in enumerate(self.fc.parameters()):
                parameter.copy_(rand(*parameter.shape, seed=number))

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(images.flatten(1))

    def weights(self, targets: Tensor) -> Tensor:
        return self.fc.weight[targets].detach().view(-1, 3, 4, 4)


class Quadratic(nn.Module):
    """Score k of an image x: (k + 1) sum(x^2)."""

    def forward(self, images: Tensor) -> Tensor:
        return images.square().sum((1, 2, 3))[:, None] * torch.arange(1, 4).to(images)


# -- gradients -----------------------------------------------------------------------------------------------------


def test_of_a_linear_model_the_gradient_is_its_weights_whatever_the_image():
    model, images, targets = Linear(), rand(2, 3, 4, 4), torch.tensor([3, 0])
    torch.testing.assert_close(image_gradients(model, images, targets), model.weights(targets), **CLOSE)
    torch.testing.assert_close(image_gradients(model, images, 2), model.weights(torch.tensor([2, 2])), **CLOSE)
    heat = Saliency(target=1)(model, images).heat
    torch.testing.assert_close(heat, model.weights(torch.tensor([1, 1])).abs().amax(1), **CLOSE)
    for statistic, expected in (("mean", model.weights(targets)), ("square", model.weights(targets) ** 2),
                                ("variance", torch.zeros(2, 3, 4, 4).double())):
        found = smooth_gradients(model, images, targets, samples=5, statistic=statistic)
        torch.testing.assert_close(found, expected, **CLOSE)


def test_shares_of_a_linear_model_without_biases_sum_to_its_score():
    model, images = Linear(bias=False), rand(4, 3, 4, 4, seed=3)
    scores, targets = class_scores(model, images)
    assert torch.equal(targets, model(images).argmax(-1))
    torch.testing.assert_close(input_times_gradient(model, images).sum((1, 2, 3)), scores, **CLOSE)


def test_the_gradient_equals_differences_of_the_score():
    model, images = tiny("resnet").double(), images_for("resnet", 1).double()
    step = 1e-6 * rand(*images.shape, seed=4)
    change = (model(images + step) - model(images - step))[0, 2] / 2
    torch.testing.assert_close((image_gradients(model, images, 2) * step).sum(), change.detach(), rtol=1e-6, atol=0)


def test_a_model_that_writes_into_its_input_and_one_inside_inference_of_a_caller_leave_the_images():
    class Writes(Linear):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images.mul_(2))

    images = rand(1, 3, 4, 4)
    kept = images.clone()
    with torch.no_grad():
        found = image_gradients(Writes(), images, 0)
    torch.testing.assert_close(found, 2 * Linear().weights(torch.tensor([0])), **CLOSE)
    assert torch.equal(images, kept)


def test_models_without_a_gradient_or_without_scores_are_told_apart():
    class Rounds(Linear):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).detach().round()

    class Maps(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images

    for name in ("saliency", "smooth_grad", "integrated_gradients", "input_gradient"):
        method = registry.get(name).build()
        assert method.problem(Linear(), rand(1, 3, 4, 4)) is None
        assert "no gradient" in method.problem(Rounds(), rand(1, 3, 4, 4))
        assert "no row of class scores" in method.problem(Maps(), rand(1, 3, 4, 4))


# -- SmoothGrad ----------------------------------------------------------------------------------------------------


def test_noise_is_a_share_of_each_images_range_and_comes_from_the_seed():
    """Of a quadratic the gradient is 2 x: the variance of gradients is four times that of the noise."""
    images = torch.stack([rand(3, 12, 12), 5 * rand(3, 12, 12, seed=1)])
    found = smooth_gradients(Quadratic(), images, 0, samples=400, noise=0.2, statistic="variance", seed=1)
    deviation = 0.2 * (images.amax((1, 2, 3)) - images.amin((1, 2, 3)))
    torch.testing.assert_close(found.mean((1, 2, 3)), 4 * deviation**2, rtol=0.02, atol=0)
    again, other = (smooth_gradients(Quadratic(), images, 0, samples=3, seed=seed) for seed in (0, 1))
    assert torch.equal(again, smooth_gradients(Quadratic(), images, 0, samples=3)) and not torch.equal(again, other)
    still = smooth_gradients(Quadratic(), images, 1, samples=3, noise=0)
    torch.testing.assert_close(still, 4 * images, **CLOSE)


def test_how_many_noisy_images_go_in_one_pass_changes_nothing():
    model, images = tiny("vgg").double(), images_for("vgg", 2).double()
    for statistic in ("mean", "square", "variance"):
        one, all_ = (smooth_gradients(model, images, samples=5, statistic=statistic, batch=batch) for batch in (1, 99))
        torch.testing.assert_close(one, all_, **CLOSE)


# -- integrated gradients ------------------------------------------------------------------------------------------


def test_integrated_gradients_of_a_quadratic_are_the_squares_from_two_steps_on():
    images, start = rand(2, 3, 4, 4), rand(1, 3, 4, 4, seed=1)
    found = integrated_gradients(Quadratic(), images, start, 1, steps=2)
    torch.testing.assert_close(found, 2 * (images**2 - start**2), **CLOSE)


@pytest.mark.parametrize("name", ["resnet", "vgg", "vit"])
def test_the_shares_sum_to_the_difference_of_the_scores(name):
    """Proposition 1, which more steps approach."""
    model, images = tiny(name).double(), images_for(name, 2).double()
    targets = torch.tensor([0, 3])
    errors = []
    for steps in (4, 200):
        shares = integrated_gradients(model, images, torch.zeros_like(images), targets, steps=steps, batch=100)
        errors.append(completeness_error(model, images, torch.zeros_like(images), shares, targets).max())
    assert errors[1] < min(0.01, errors[0] + 1e-6)


def test_what_equals_the_baseline_gets_nothing_and_a_dead_channel_neither():
    """Sensitivity (b), and the departure that makes a baseline matter."""
    model = tiny("resnet").double()
    with torch.no_grad():
        model.conv1.weight[:, 1] = 0
    images = images_for("resnet", 1).double()
    start = torch.zeros_like(images)
    images[:, :, 3:5] = 0
    found = integrated_gradients(model, images, start, 0, steps=4)
    assert (found[:, :, 3:5] == 0).all() and (found[:, 1] == 0).all() and (found[:, 0, 6] != 0).all()


def test_batches_and_several_baselines():
    model, images = tiny("resnet").double(), images_for("resnet", 2).double()
    start = torch.zeros_like(images)
    one, all_ = (integrated_gradients(model, images, start, steps=5, batch=batch) for batch in (1, 99))
    torch.testing.assert_close(one, all_, **CLOSE)
    single = [IntegratedGradients(baseline=name, steps=3)(model, images).heat for name in ("mean", "blur")]
    both = IntegratedGradients(baseline="mean+blur", steps=3)(model, images).heat
    torch.testing.assert_close(both, (single[0] + single[1]) / 2, **CLOSE)


def test_baselines_are_what_they_are_called():
    images, mean, std = rand(2, 3, 20, 30), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    black, grey, own, blur = baselines(images, "black+grey+mean+blur", mean, std)
    torch.testing.assert_close(black[1, :, 4, 5], torch.tensor([-2, -5 / 3, -2.4]).double(), rtol=1e-6, atol=1e-6)
    assert (grey == 0).all() and torch.allclose(own[1, 2], images[1, 2].mean())
    assert blur.shape == images.shape and blur.std() < 0.3 * images.std()
    spike = torch.zeros(1, 1, 41, 41).double()
    spike[0, 0, 20, 20] = 1
    dots = blurred(spike, 3.0)[0, 0]
    torch.testing.assert_close(dots.sum(), torch.tensor(1.0).double(), **CLOSE)
    places = torch.arange(-20, 21).double()
    torch.testing.assert_close((dots.sum(0) * places**2).sum().sqrt(), torch.tensor(3.0).double(), rtol=0.02, atol=0)
    torch.testing.assert_close(blurred(torch.ones(1, 2, 9, 9).double(), 2.0), torch.ones(1, 2, 9, 9).double(), **CLOSE)


def test_the_sentence_tells_the_completeness_error_and_warns_of_too_few_steps():
    model, images = tiny("resnet"), images_for("resnet", 1)
    rough = IntegratedGradients(steps=1, baseline="grey")(model, images).sentence
    assert "take more steps" in rough
    fine = IntegratedGradients(steps=100)(Quadratic(), images).sentence
    assert "by 0.00%." in fine and "take more" not in fine


# -- rules for ReLUs -----------------------------------------------------------------------------------------------


class Rectifies(nn.Module):
    """Two layers with a ReLU between, written in one of many ways."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind
        self.relu = {"module": nn.ReLU(), "in place": nn.ReLU(inplace=True), "relu6": nn.ReLU6(),
                     "relu6 in place": nn.ReLU6(inplace=True)}.get(kind)
        self.a, self.b = (nn.Linear(12, 20).double(), nn.Linear(20, 4).double())
        for number, parameter in enumerate(self.parameters()):
            nn.init.normal_(parameter, generator=torch.Generator().manual_seed(number))

    def activate(self, x: Tensor) -> Tensor:
        match self.kind:
            case "functional":
                return F.relu(x)
            case "functional in place":
                F.relu(x, inplace=True)
                return x
            case "method":
                return x.relu()
            case "method in place":
                x.relu_()
                return x
            case "torch":
                return torch.relu(x)
            case "functional relu6":
                return F.relu6(x, inplace=True)
        return self.relu(x)

    def forward(self, images: Tensor) -> Tensor:
        return self.b(self.activate(self.a(images.flatten(1))))


KINDS = ["module", "in place", "functional", "functional in place", "method", "method in place", "torch", "relu6",
         "relu6 in place", "functional relu6"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_way_to_write_a_relu_follows_the_rules(kind):
    """Fig. 1 of Springenberg et al.: W1^T (r(W2^T e) * mask), by hand."""
    model, images = Rectifies(kind), rand(3, 3, 2, 2)
    with torch.no_grad():
        hidden = model.a(images.flatten(1))
        signal = model.b.weight[2].expand(3, -1)
        ceiling = 6 if "relu6" in kind else float("inf")
        up = (hidden > 0) & (hidden < ceiling)
        assert not up.all() and up.any() and (kind[:5] != "relu6" or (hidden > 6).any())
        expected = {"guided": signal.clamp(min=0) * up, "deconvnet": signal.clamp(min=0)}
        logits = model(images)
    for rule, down in expected.items():
        found = ruled_gradients(model, images, 2, rule=rule)
        torch.testing.assert_close(found.flatten(1), down @ model.a.weight.detach(), **CLOSE)
    assert torch.equal(model(images), logits)
    plain = image_gradients(model, images, 2)
    torch.testing.assert_close(plain.flatten(1), (signal * up) @ model.a.weight.detach(), **CLOSE)


def test_max_pooling_is_undone_by_its_switches():
    class Pools(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return F.max_pool2d(images, 2).relu().flatten(1)

    images = torch.arange(16.0).view(1, 1, 4, 4).flip(3) + 1
    found = ruled_gradients(Pools(), images, 3, rule="deconvnet")
    expected = torch.zeros(4, 4)
    expected[3, 2] = 1  # the largest of the last window [[10, 9], [14, 13]] flipped
    assert torch.equal(found[0, 0], expected)


def test_a_deconvnet_without_switches_sees_no_image_and_is_refused():
    model, images = tiny("resnet"), images_for("resnet", 2)
    first, second = ruled_gradients(model, images, 1, rule="deconvnet")
    assert torch.equal(first, second)
    assert "switches of max pooling" in Deconvnet().problem(model, images[:1])
    first, second = ruled_gradients(tiny("vgg"), images_for("vgg", 2), 1, rule="deconvnet")
    assert not torch.allclose(first, second) and Deconvnet().problem(tiny("vgg"), images_for("vgg", 1)) is None


def test_guided_pictures_are_grey_where_there_is_nothing():
    model, images = tiny("vgg"), images_for("vgg", 2)
    found = GuidedBackprop(target=1)(model, images)
    signal = ruled_gradients(model, images, 1, rule="guided")
    strongest = signal.abs().amax((1, 2, 3))
    torch.testing.assert_close(found.pictures, 0.5 + signal / (2 * strongest[:, None, None, None]))
    assert (found.pictures - 0.5).abs().amax((1, 2, 3)).tolist() == pytest.approx([0.5, 0.5])
    silent = GuidedBackprop()(nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU()).requires_grad_(False),
                              torch.zeros(1, 3, 2, 2))
    assert silent.pictures.isfinite().all()


def test_a_net_without_relus_or_with_others_is_refused():
    for name, said in (("vit", "gelu"), ("tanh", "tanh"), ("convnext", "gelu")):
        assert said in GuidedBackprop().problem(tiny(name), images_for(name, 1))
    assert "has none" in GuidedBackprop().problem(Linear(), rand(1, 3, 4, 4))


def test_wrong_numbers_are_refused():
    with pytest.raises(UserError, match="noise"):
        smooth_gradients(Quadratic(), rand(1, 3, 4, 4), noise=-0.1)
    with pytest.raises(UserError, match="noise"):
        smooth_gradients(Quadratic(), rand(1, 3, 4, 4), noise=True)
    with pytest.raises(UserError, match="steps"):
        integrated_gradients(Quadratic(), rand(1, 3, 4, 4), torch.zeros(1), steps=2.5)


# -- DeepLIFT ------------------------------------------------------------------------------------------------------


def test_deep_lift_of_a_linear_model_is_weight_times_difference():
    model, images, start = Linear(), rand(2, 3, 4, 4), rand(1, 3, 4, 4, seed=5)
    targets = torch.tensor([4, 1])
    torch.testing.assert_close(deep_lift(model, images, start, targets), model.weights(targets) * (images - start),
                               **CLOSE)


@pytest.mark.parametrize("function", [
    F.relu, F.relu6, F.gelu, F.silu, torch.tanh, torch.sigmoid, F.hardswish, F.softplus, torch.square,
    lambda x: F.leaky_relu(x, 0.2, True), lambda x: x.mul(2).relu_()])
def test_the_rescale_rule_is_the_ratio_of_the_differences(function):
    """Equation 4 of the paper for one activation behind a sum: m = (f(s) - f(s0)) / (s - s0) for every input."""

    class Net(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return function(images.flatten(1).sum(1, keepdim=True)).expand(-1, 2)

    images, start = rand(3, 3, 2, 2), rand(3, 3, 2, 2, seed=1)
    with torch.no_grad():
        rise = (Net()(images) - Net()(start))[:, 0]
        expected = (rise / (images - start).sum((1, 2, 3)))[:, None, None, None] * (images - start)
    torch.testing.assert_close(deep_lift(Net(), images, start, 1), expected, **CLOSE)
    still = deep_lift(Net(), images, images.clone(), 1)
    assert torch.equal(still, torch.zeros_like(images)), "no difference, no shares, and nothing endless"


@pytest.mark.parametrize("name", ["resnet", "vgg", "mobilenet", "mlp"])
def test_deep_lift_shares_sum_to_the_difference_of_the_scores(name):
    """Equation 1 of the paper, to rounding: through shortcuts, ReLU6, poolings and batch norms."""
    model, images = tiny(name).double(), images_for(name, 3).double()
    targets = torch.tensor([1, 4, 2])
    for start in (torch.zeros_like(images), images.flip(2)):
        shares = deep_lift(model, images, start, targets)
        rise = class_scores(model, images, targets)[0] - class_scores(model, start, targets)[0]
        torch.testing.assert_close(shares.sum((1, 2, 3)), rise, rtol=1e-9, atol=1e-14)


def test_deep_lift_sums_up_where_pooling_windows_overlap():
    class Pools(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return F.relu(F.max_pool2d(images, 3, 2, padding=1) - 0.2).sum((2, 3))

    images, start = rand(2, 3, 9, 9), rand(2, 3, 9, 9, seed=8)
    shares = deep_lift(Pools(), images, start, 1)
    assert completeness_error(Pools(), images, start, shares, 1).max() < 1e-12
    assert (shares[:, [0, 2]] == 0).all() and "0.00%" in DeepLift()(Pools(), images).sentence


def test_what_has_no_rule_is_named():
    for name, said in (("vit", "layer_norm, scaled_dot_product_attention"), ("convnext", "layer_norm")):
        for method in (DeepLift(), LayerRelevance()):
            assert said in method.problem(tiny(name), images_for(name, 1))
    assert "gelu" in LayerRelevance().problem(tiny("mixer"), images_for("mixer", 1))
    assert "gelu" not in DeepLift().problem(tiny("mixer"), images_for("mixer", 1))

    class Gates(Linear):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images * images.mean((2, 3), keepdim=True))

    assert "no rule for mul," in DeepLift().problem(Gates(), rand(1, 3, 4, 4))


# -- relevance propagation -----------------------------------------------------------------------------------------


def shares_of(values: Tensor, weight: Tensor, bias: Tensor, rule: str, epsilon: float) -> Tensor:
    """[N], [K, N], [K] -> [K, N]: which part of each output's relevance each input gets, term by term."""
    products = weight * values
    whole = products.sum(1, keepdim=True) + bias[:, None]
    small = epsilon * whole.square().mean().sqrt()
    ups, downs = products.clamp(min=0), products.clamp(max=0)
    if rule == "epsilon":
        return products / (whole + torch.where(whole >= 0, small, -small))
    if rule == "alpha_beta":
        return 3 * ups / (ups.sum(1, keepdim=True) + small) - 2 * downs / (downs.sum(1, keepdim=True) - small)
    above = (whole + 0.5 * (ups.sum(1, keepdim=True) + bias[:, None].clamp(min=0))) + small
    below = (whole + 0.5 * (downs.sum(1, keepdim=True) + bias[:, None].clamp(max=0))) - small
    return torch.where(whole >= 0, (products + 0.5 * ups) / above, (products + 0.5 * downs) / below)


@pytest.mark.parametrize("rule", ["epsilon", "gamma", "alpha_beta"])
def test_rules_of_convolutions_are_the_papers_term_by_term(rule):
    """Equations 58 and 60 of Bach et al., and gamma; with biases and with pixels below zero. Through the ReLU and the
    linear layer on top goes epsilon."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 6, 2).double(), nn.Linear(6, 4).double()
            for number, parameter in enumerate(self.parameters()):
                nn.init.normal_(parameter, generator=torch.Generator().manual_seed(number + 3))

        def forward(self, images: Tensor) -> Tensor:
            return self.fc(F.relu(self.conv(images), inplace=True).flatten(1))

    model, images = Net(), rand(2, 3, 2, 2, seed=2)
    found = layer_relevance(model, images, 1, rule=rule, epsilon=0.1, gamma=0.5, alpha=3)
    with torch.no_grad():
        for number, image in enumerate(images):
            hidden = model.conv(image[None]).flatten().relu()
            top = shares_of(hidden, model.fc.weight, model.fc.bias, "epsilon", 0.1)[1] * model(image[None])[0, 1]
            shares = shares_of(image.flatten(), model.conv.weight.flatten(1), model.conv.bias, rule, 0.1)
            torch.testing.assert_close(found[number].flatten(), top @ shares, rtol=1e-10, atol=1e-12)


def without_biases(name: str) -> tuple[nn.Module, Tensor]:
    model, images = tiny(name).double(), images_for(name, 2).double()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("bias"):
                parameter.zero_()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.zero_()
    return model, images


@pytest.mark.parametrize("options", [{"rule": "epsilon"}, {"rule": "gamma", "gamma": 2}, {"rule": "alpha_beta"},
                                     {"rule": "alpha_beta", "alpha": 1}])
@pytest.mark.parametrize("name", ["resnet", "vgg", "mlp"])
def test_relevance_is_conserved_where_there_are_no_biases(name, options):
    """Equation 2 of Bach et al.: what arrives at the pixels is the score, with epsilon at nothing."""
    model, images = without_biases(name)
    targets = torch.tensor([0, 3])
    arrived = layer_relevance(model, images, targets, epsilon=0, **options).sum((1, 2, 3))
    torch.testing.assert_close(arrived, class_scores(model, images, targets)[0], rtol=1e-7, atol=1e-12)


def test_lrp_zero_is_input_times_gradient_and_gamma_at_nothing_is_epsilon():
    for name in ("resnet", "vgg"):
        model, images = tiny(name).double(), images_for(name, 2).double()
        plain = layer_relevance(model, images, 2, rule="epsilon", epsilon=0)
        close = {"rtol": 1e-7, "atol": 1e-10 * float(plain.abs().max())}
        torch.testing.assert_close(plain, input_times_gradient(model, images, 2), **close)
        torch.testing.assert_close(layer_relevance(model, images, 2, rule="gamma", gamma=0, epsilon=0), plain, **close)


@pytest.mark.parametrize("rule", ["epsilon", "gamma", "alpha_beta"])
def test_a_batch_norm_behind_a_convolution_counts_as_part_of_it(rule):
    """The same map for the folded copy, which `visus explain` asks."""
    for name in ("resnet", "vgg"):
        model, images = tiny(name).double(), images_for(name, 2).double()
        found = layer_relevance(model, images, 1, rule=rule, epsilon=0.05)
        folded = frozen(model, tuple(images.shape))
        assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
        torch.testing.assert_close(layer_relevance(folded, images, 1, rule=rule, epsilon=0.05), found,
                                   rtol=1e-7, atol=1e-9 * float(found.abs().max()))


def test_what_stays_with_biases_is_said():
    model, images = without_biases("vgg")
    assert "hold 100.0% of it" in LayerRelevance(rule="gamma", epsilon=0)(model, images).sentence
    torch.manual_seed(0)
    nn.init.uniform_(model.classifier[-1].bias, 1, 2) if hasattr(model, "classifier") else None
    assert "hold 100.0% of it" not in LayerRelevance(rule="gamma", epsilon=0)(model, images).sentence
