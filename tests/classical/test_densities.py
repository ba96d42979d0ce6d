"""Classes as Gaussians, as mixtures and as eigenspaces: scikit-learn's and Bayes' answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.classical.digits import digits, examples
from visus.classical.gaussian_classifier import SHRINKAGES, GaussianClassifier, GaussianClassifierConfig
from visus.classical.gmm_classifier import GMMClassifier, GMMClassifierConfig
from visus.classical.pca_neighbour import PCANeighbour, PCANeighbourConfig
from visus.core.errors import UserError
from visus.ops.mixture import Mixture
from visus.ops.principal import Principal

(TRAIN, LABELS), (VAL, TRUTH) = digits()
SMALL = Principal.fit(TRAIN.flatten(1), 20)


def points(images: torch.Tensor) -> np.ndarray:
    return SMALL.transform(images.flatten(1)).double().numpy()


def gaussian(said=None, **config) -> GaussianClassifier:
    model = GaussianClassifier(GaussianClassifierConfig(image_size=8, **config))
    model.fit(examples(say=(said if said is not None else []).append))
    return model


def test_a_shared_covariance_is_scikit_learns_linear_discriminant():
    analysis = pytest.importorskip("sklearn.discriminant_analysis")
    for shrinkage in (0.0, 0.1):
        ours = gaussian(covariance="shared", shrinkage=shrinkage, components=20)(VAL).double().softmax(1)
        peer = analysis.LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage)
        theirs = peer.fit(points(TRAIN), LABELS.numpy()).predict_proba(points(VAL))
        assert np.abs(ours.numpy() - theirs).max() < 1e-3
        assert np.array_equal(ours.argmax(1).numpy(), theirs.argmax(1))


def test_diagonal_covariances_are_scikit_learns_naive_bayes():
    bayes = pytest.importorskip("sklearn.naive_bayes")
    ours = gaussian(covariance="diag", shrinkage=0.0, components=20)(VAL).double().softmax(1)
    theirs = bayes.GaussianNB().fit(points(TRAIN), LABELS.numpy()).predict_proba(points(VAL))
    assert np.abs(ours.numpy() - theirs).max() < 1e-3


def test_own_covariances_are_bayes_rule_over_torchs_normal_densities():
    ours = gaussian(covariance="own", shrinkage=0.0, components=20)(VAL).double()
    train, asked = torch.from_numpy(points(TRAIN)), torch.from_numpy(points(VAL))
    theirs = torch.stack([torch.distributions.MultivariateNormal(
        mine.mean(0), mine.T.cov(correction=0)).log_prob(asked) + np.log(len(mine) / len(train))
        for mine in (train[label == LABELS] for label in range(10))], 1)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-2)
    peer = pytest.importorskip("sklearn.discriminant_analysis").QuadraticDiscriminantAnalysis()
    said = peer.fit(train.numpy(), LABELS.numpy()).predict(asked.numpy())
    assert (ours.argmax(1).numpy() == said).mean() > 0.99  # they divide by N - 1


def test_the_shrinkage_is_chosen_on_val_and_said_aloud():
    said = []
    model = gaussian(said)
    right = {share: float((gaussian(shrinkage=share)(VAL).argmax(1) == TRUTH).double().mean()) for share in SHRINKAGES}
    assert right[model.config.shrinkage] == max(right.values()) > right[0.0]
    assert f"shrinkage={model.config.shrinkage:g}" in said[0]


def test_gradients_reach_the_image():
    images = VAL[:5].clone().requires_grad_()
    for model in (gaussian(shrinkage=0.1), gmm(gaussians=2)):
        model(images)[:, 0].sum().backward()
        assert images.grad.flatten(1).norm(dim=1).min() > 0


def gmm(said=None, **config) -> GMMClassifier:
    model = GMMClassifier(GMMClassifierConfig(image_size=8, components=15, **config))
    model.fit(examples(say=(said if said is not None else []).append))
    return model


@pytest.mark.parametrize("covariance", ["full", "diag", "tied"])
def test_mixtures_and_bayes_rule_by_hand(covariance):
    model = gmm(gaussians=3, covariance=covariance)
    principal = Principal.fit(TRAIN.flatten(1), 15)
    train, asked = (principal.transform(images.flatten(1)).double() for images in (TRAIN, VAL))
    ridge = 1e-2 * float(train.var(0, correction=0).mean()) + 1e-12
    theirs = torch.stack([Mixture.fit(train[label == LABELS], 3, covariance, ridge=ridge).log_prob(asked)
                          + np.log(float((label == LABELS).double().mean())) for label in range(10)], 1)
    torch.testing.assert_close(model(VAL).double(), theirs, rtol=1e-3, atol=1e-2)
    assert (model(VAL).argmax(1) == TRUTH).double().mean() > 0.93


def test_the_number_of_gaussians_is_chosen_on_val_and_few_images_take_fewer():
    said = []
    model = gmm(said)
    assert model.config.gaussians in (1, 2, 4, 8) and f"gaussians={model.config.gaussians}" in said[0]
    few = GMMClassifier(GMMClassifierConfig(image_size=8, components=5, gaussians=8))
    few.fit(examples((TRAIN[:150], LABELS[:150])))
    assert few.log_weights.isfinite().sum(1).max() <= 2  # some fifteen images a class: at least ten for each
    assert few(VAL).isfinite().all()


def eigenfaces(**config) -> tuple[PCANeighbour, list[str]]:
    said: list[str] = []
    model = PCANeighbour(PCANeighbourConfig(image_size=8, **config))
    model.fit(examples(say=said.append))
    return model, said


def test_eigenfaces_are_a_nearest_neighbour_among_coefficients():
    neighbors = pytest.importorskip("sklearn.neighbors")
    model, said = eigenfaces(components=20)
    theirs = neighbors.KNeighborsClassifier(1).fit(points(TRAIN), LABELS.numpy()).predict(points(VAL))
    assert np.array_equal(model(VAL).argmax(1).numpy(), theirs)
    white, _ = eigenfaces(components=20, whiten=True)
    torch.testing.assert_close(white.coefficients.std(0), torch.ones(20), rtol=1e-3, atol=0)
    some, said = eigenfaces()
    held = Principal.fit(TRAIN.flatten(1))
    assert f"components={some.config.components}: they hold 95%" in said[0]
    assert float(held.shares[:some.config.components].sum()) >= 0.95


@pytest.mark.parametrize("build, says", [
    (lambda: GaussianClassifierConfig(covariance="round"), "covariance='round': must be one of own, shared, diag"),
    (lambda: GaussianClassifierConfig(shrinkage=2.0), r"shrinkage=2.0: must lie in \[0, 1\]"),
    (lambda: GMMClassifierConfig(gaussians=0), "gaussians=0"),
    (lambda: GMMClassifierConfig(covariance="own"), "covariance='own'"),
    (lambda: PCANeighbourConfig(components=0), "components=0"),
    (lambda: PCANeighbourConfig(shared=0.0), "shared=0.0: must be above 0"),
])
def test_a_wrong_field_is_named(build, says):
    with pytest.raises(UserError, match=says):
        build()


def test_images_of_another_size_are_refused():
    for model in (gaussian(shrinkage=0.1), gmm(gaussians=1), eigenfaces(components=3)[0]):
        with pytest.raises(UserError, match="images of 49 values, fitted to 64"):
            model(torch.zeros(1, 1, 7, 7))
