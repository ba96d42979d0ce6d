"""Linear classifiers: losses and optima against scikit-learn, bounds that theory gives, the choice of strength."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.classical.digits import digits, examples
from visus.classical.hinge import FORMULATIONS, Hinge
from visus.classical.linear import STRENGTHS, with_ones
from visus.classical.logistic_regression import LogisticRegression, LogisticRegressionConfig, gradient, solution
from visus.classical.perceptron import Perceptron, PerceptronConfig, learn, margin_and_bound
from visus.classical.splitting import Splitting, rotate
from visus.classical.svm import SVM, SVMConfig
from visus.classical.weight_search import WeightSearch, WeightSearchConfig
from visus.core.errors import UserError
from visus.foundations.gradient_check import centred_difference
from visus.foundations.layers import logistic_loss, svm_loss
from visus.losses.classification import multiclass_hinge, squared_hinge

HINGES = [Hinge(name, squared) for name in FORMULATIONS for squared in (False, True)
          if not (squared and name == "crammer_singer")]


def some(count: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows with a column of ones, float64 [count, 65], labels)."""
    (images, labels), _ = digits()
    return with_ones(images[:count].flatten(1).double()), labels[:count]


def score(model, split: int = 1) -> float:
    images, labels = digits()[split]
    with torch.no_grad():
        return float((model(images).argmax(1) == labels).double().mean())


# -- hinges ------------------------------------------------------------------------------------------------------


def test_weston_watkins_is_the_loss_of_the_course_and_of_the_networks():
    scores, targets = torch.randn(20, 5, dtype=torch.float64), torch.arange(20) % 5
    by_hand, _ = svm_loss(scores.numpy(), targets.numpy(), margin=0.7)
    assert float(Hinge(margin=0.7).losses(scores, targets).mean()) == pytest.approx(by_hand, rel=1e-12)
    for squared, loss in ((False, multiclass_hinge), (True, squared_hinge)):
        ours = Hinge(squared=squared).losses(scores, targets).mean()
        torch.testing.assert_close(ours, loss(scores, targets), rtol=1e-12, atol=0)


def test_one_vs_all_and_crammer_singer_are_their_definitions():
    scores, targets = torch.randn(30, 4, dtype=torch.float64), torch.arange(30) % 4
    for row, label, all_, worst in zip(scores, targets, Hinge("one_vs_all").losses(scores, targets),
                                       Hinge("crammer_singer").losses(scores, targets), strict=True):
        binary = sum(max(0.0, 1 - float(s) * (1 if k == label else -1)) for k, s in enumerate(row))
        assert float(all_) == pytest.approx(binary)
        assert float(worst) == pytest.approx(max(float(s) - float(row[label]) + (k != label)
                                                 for k, s in enumerate(row)))


@pytest.mark.parametrize("hinge", HINGES, ids=str)
@pytest.mark.parametrize("step", [0.05, 1.0, 20.0])
def test_no_step_from_a_proximal_point_makes_its_objective_smaller(hinge, step):
    draw = torch.Generator().manual_seed(0)
    scores = 2 * torch.randn(60, 6, dtype=torch.float64, generator=draw)
    scores[:5] = scores[:5].round()  # ties
    targets = torch.arange(60) % 6

    def objective(z):
        return step * hinge.losses(z, targets) + 0.5 * (z - scores).square().sum(1)

    at = hinge.proximal(scores, targets, step)
    least = objective(at)
    for size in (1e-4, 1e-2, 1.0):
        for _ in range(50):
            moved = at + size * torch.randn(at.shape, dtype=at.dtype, generator=draw)
            assert (objective(moved) >= least - 1e-10).all()


def test_a_hinge_refuses_what_it_cannot_be():
    for wrong in ({"formulation": "ovo"}, {"formulation": "crammer_singer", "squared": True}, {"margin": 0.0}):
        with pytest.raises(UserError, match=next(reversed(wrong))):
            SVMConfig(**wrong)


# -- optima ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("l2", [0.1, 1e-3])
@pytest.mark.parametrize("hinge", HINGES, ids=str)
def test_the_gap_closes_and_the_dual_is_a_lower_bound(hinge, l2):
    rows, targets = some()
    found = Splitting(rows, targets, 10, hinge).solve(1 / (l2 * len(rows)), tolerance=1e-4, max_iterations=2000)
    assert 0 <= found.gap < 1e-4
    cost = 1 / (l2 * len(rows))
    stated = 0.5 * found.weight.square().sum() + cost * hinge.losses(rows @ found.weight.T, targets).sum()
    assert float(stated) == pytest.approx(found.objective, rel=1e-9)
    for size in (1e-3, 1e-1):  # no weights are better than the bound says
        other = found.weight + size * torch.randn_like(found.weight)
        assert float(0.5 * other.square().sum() + cost * hinge.losses(rows @ other.T, targets).sum()) > found.dual


@pytest.mark.parametrize("l2", [0.1, 1e-3])
@pytest.mark.parametrize(("hinge", "peer"), [
    (Hinge("one_vs_all"), {"loss": "hinge", "multi_class": "ovr"}),
    (Hinge("one_vs_all", squared=True), {"loss": "squared_hinge", "multi_class": "ovr"}),
    (Hinge("crammer_singer"), {"multi_class": "crammer_singer"})], ids=str)
def test_the_objective_is_that_of_scikit_learns_linear_svc(hinge, peer, l2):
    svm = pytest.importorskip("sklearn.svm")
    rows, targets = some()
    cost = 1 / (l2 * len(rows))
    ours = Splitting(rows, targets, 10, hinge).solve(cost, tolerance=2e-5, max_iterations=3000)
    theirs = svm.LinearSVC(C=cost, fit_intercept=False, dual=True, tol=1e-7, max_iter=100_000, **peer)
    theirs.fit(rows.numpy(), targets.numpy())
    weight = torch.from_numpy(theirs.coef_)
    objective = 0.5 * weight.square().sum() + cost * hinge.losses(rows @ weight.T, targets).sum()
    assert ours.objective == pytest.approx(float(objective), rel=1e-4)


def test_fewer_images_than_pixels_are_solved_in_as_many_directions():
    rows, targets = some(40)
    rotated, axes, squares = rotate(rows)
    assert rotated.shape[1] <= 40 and torch.allclose(axes.T @ axes, torch.eye(axes.shape[1], dtype=axes.dtype))
    torch.testing.assert_close(rotated.square().sum(0), squares)
    few = Splitting(rows, targets, 10, Hinge()).solve(1.0, tolerance=1e-5, max_iterations=3000)
    many = Splitting(torch.cat([rows, rows[:, :0].new_zeros(len(rows), 1)], 1), targets, 10, Hinge())
    assert many.solve(1.0, tolerance=1e-5, max_iterations=3000).objective == pytest.approx(few.objective, rel=1e-4)


def test_the_strength_is_the_best_on_val_and_is_said():
    said: list[str] = []
    model = SVM(SVMConfig(image_size=8, max_iterations=60))
    model.fit(examples(say=said.append))
    taken = float(said[0].split("model.config.l2=")[1].rstrip(")"))
    assert taken in STRENGTHS and all(f"{one:g}:" in said[0] for one in STRENGTHS)
    again = SVM(SVMConfig(image_size=8, l2=taken, tolerance=1e-4, max_iterations=2000))
    again.fit(examples())
    (images, labels), _ = digits()
    assert again.objective(images, labels, taken) <= model.objective(images, labels, taken) * (1 + 1e-4)
    assert abs(score(model) - score(again)) < 0.02


def test_the_scale_makes_the_labels_likelier_and_changes_no_answer():
    model = SVM(SVMConfig(image_size=8, l2=0.01))
    model.fit(examples())
    images, labels = digits()[1]
    scores = model.scores(images)
    torch.testing.assert_close(model(images), scores * model.scale)
    losses = [float(torch.nn.functional.cross_entropy(scores * model.scale * factor, labels))
              for factor in (0.8, 1.0, 1.25)]
    assert model.scale > 0 and losses[1] == min(losses)


def test_templates_are_the_slopes_of_the_scores():
    model = SVM(SVMConfig(image_size=8, l2=0.1, max_iterations=30))
    model.fit(examples())
    image = torch.zeros(1, 1, 8, 8, requires_grad=True)
    model.scores(image)[0, 3].backward()
    assert image.grad is not None and torch.equal(image.grad[0], model.templates()[3])


# -- logistic regression -----------------------------------------------------------------------------------------


def signs(targets: torch.Tensor, classes: int = 10) -> torch.Tensor:
    return (targets[:, None] == torch.arange(classes)).double() * 2 - 1


def test_the_derivative_is_that_of_finite_differences_and_of_the_foundations():
    rows, targets = some(30)
    y, weight, l2 = signs(targets)[:, :1], 0.1 * torch.randn(1, 65, dtype=torch.float64), 0.3

    def objective(w):
        loss, _ = logistic_loss(rows.numpy() @ w.T, (y.numpy() + 1) / 2)
        return loss + 0.5 * l2 * float((w[:, :-1] ** 2).sum())

    numeric = centred_difference(objective, weight.numpy().copy())
    np.testing.assert_allclose(gradient(weight, rows, y, l2).numpy(), numeric, rtol=0, atol=1e-8)


@pytest.mark.parametrize("solver", ["newton", "lbfgs"])
def test_the_coefficients_are_scikit_learns(solver):
    linear_model = pytest.importorskip("sklearn.linear_model")
    rows, targets = some()
    ours = solution(rows, signs(targets)[:, :3], 0.1, torch.zeros(3, 65, dtype=torch.float64), solver, 1e-8, 1000)
    for k in range(3):
        theirs = linear_model.LogisticRegression(C=1 / (0.1 * len(rows)), tol=1e-10, max_iter=10_000)
        theirs.fit(rows[:, :-1].numpy(), targets.numpy() == k)
        np.testing.assert_allclose(ours[k, :-1].numpy(), theirs.coef_[0], rtol=0, atol=1e-5)
        assert float(ours[k, -1]) == pytest.approx(theirs.intercept_[0], abs=1e-4)


def test_two_classes_have_one_vector_and_its_sigmoid():
    (images, labels), _ = digits()
    kept = labels < 2
    model = LogisticRegression(LogisticRegressionConfig(image_size=8, num_classes=2, l2=0.01))
    model.fit(examples((images[kept], labels[kept]), num_classes=2))
    assert model.weight.shape == (1, 64) and model.templates().shape == (2, 1, 8, 8)
    probs = model(images[kept]).softmax(1)[:, 1]
    torch.testing.assert_close(probs, torch.sigmoid(model.scores(images[kept])[:, 0]))


def test_probabilities_of_several_classes_are_their_shares():
    model = LogisticRegression(LogisticRegressionConfig(image_size=8, l2=0.01))
    model.fit(examples())
    images, _ = digits()[1]
    each = torch.sigmoid(model.scores(images))
    torch.testing.assert_close(model(images).softmax(1), each / each.sum(1, keepdim=True))


# -- perceptron --------------------------------------------------------------------------------------------------


def test_the_rule_is_that_of_one_image_at_a_time():
    rows, targets = some(700)  # two blocks
    found = learn(rows, targets, 10, epochs=2)
    weight = torch.zeros(10, 65, dtype=torch.float64)
    total, mistakes = torch.zeros_like(weight), 0
    for _ in range(2):
        for x, y in zip(rows, targets, strict=True):
            taken = int((weight @ x).argmax())
            if taken != y:
                weight[y] += x
                weight[taken] -= x
                mistakes += 1
            total += weight
    torch.testing.assert_close(found.weight, weight)
    torch.testing.assert_close(found.mean, total / (2 * len(rows)))
    assert sum(found.by_epoch) == mistakes == len(found.seen)
    assert int(found.survived.sum()) == 2 * len(rows)


def test_mistakes_stay_below_novikoffs_bound_on_separable_images():
    (images, labels), _ = digits()
    kept = labels < 4
    rows, targets = with_ones(images[kept].flatten(1)), labels[kept]
    found = learn(rows, targets, 4, epochs=50)
    assert found.separated and bool(((rows @ found.weight.T).argmax(1) == targets).all())
    gamma, bound = margin_and_bound(found.weight, rows, targets)
    assert gamma > 0 and 0 < sum(found.by_epoch) <= bound


def test_of_two_classes_the_bound_is_novikoffs_of_one_vector():
    rows = torch.tensor([[1.0, 0.0], [3.0, 4.0], [-1.0, 0.0], [-2.0, 1.0]])
    targets = torch.tensor([1, 1, 0, 0])
    w = torch.tensor([2.0, 0.0])
    gamma = 1.0  # of w / |w|: the least |x_1|
    _, bound = margin_and_bound(torch.stack([-w, w]), rows, targets)
    assert bound == pytest.approx(25.0 / gamma**2)  # R = |(3, 4)|
    assert margin_and_bound(torch.stack([w, -w]), rows, targets)[1] == float("inf")


def test_it_says_whether_the_images_are_separable():
    (images, labels), _ = digits()
    for classes, word in ((2, "are linearly separable"), (10, "may not be")):
        said: list[str] = []
        kept = labels < classes
        model = Perceptron(PerceptronConfig(image_size=8, num_classes=classes, epochs=3))
        few = images[kept], labels[kept]
        model.fit(examples(few, few, num_classes=classes, say=said.append))
        assert word in said[0] and "mistakes" in said[0]


def test_votes_are_those_of_every_perceptron_on_the_way():
    (images, labels), _ = digits()
    model = Perceptron(PerceptronConfig(image_size=8, epochs=1, keep="voted"))
    model.fit(examples((images[:150], labels[:150])))
    rows = with_ones(images[:20].flatten(1))
    weight, votes = torch.zeros(10, 65), torch.zeros(20, 10)
    for m in range(len(model.seen) + 1):
        votes[torch.arange(20), (rows @ weight.T).argmax(1)] += model.survived[m]
        if m < len(model.seen):
            weight[model.right[m]] += model.seen[m]
            weight[model.taken[m]] -= model.seen[m]
    torch.testing.assert_close(model(images[:20]).softmax(1), votes / votes.sum(1, keepdim=True), rtol=0, atol=1e-4)


# -- search ------------------------------------------------------------------------------------------------------


def test_tries_at_random_are_poor_steps_at_random_less_so_and_both_far_from_the_optimum():
    accuracy = {}
    for local in (False, True):
        model = WeightSearch(WeightSearchConfig(image_size=8, local=local, tries=500))
        model.fit(examples())
        accuracy[local] = score(model)
    best = SVM(SVMConfig(image_size=8, l2=0.1, max_iterations=60))
    best.fit(examples())
    assert 0.1 < accuracy[False] < accuracy[True] < score(best) - 0.1


def test_more_tries_never_end_with_a_larger_loss():
    (images, labels), _ = digits()
    losses = []
    for tries in (1, 50, 400):
        points: list[float] = []
        model = WeightSearch(WeightSearchConfig(image_size=8, tries=tries, images=500))
        model.fit(examples(log=lambda number, train_loss, points=points: points.append(train_loss)))
        losses.append(points[-1] if points else 9.5)
    assert losses == sorted(losses, reverse=True)
