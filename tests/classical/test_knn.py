"""k nearest neighbours: scikit-learn's answers, the course's vote, the choice of k, the approximate search."""

from __future__ import annotations

import builtins
import math

import pytest
import torch

from tests.classical.digits import digits, examples
from visus import classical
from visus.classical.knn import CANDIDATES, KNN, KNNConfig
from visus.classical.votes import CANDIDATES as CANDIDATES_SHARED
from visus.core.errors import UserError

PEER = {"l1": "manhattan", "l2": "euclidean", "cosine": "cosine"}


def fitted(said=None, points=None, **config) -> KNN:
    model = KNN(KNNConfig(**config))
    model.fit(examples(say=(said if said is not None else []).append,
                       log=lambda number, **values: points.append((number, values)) if points is not None else None))
    return model


@pytest.mark.parametrize("metric", list(PEER))
@pytest.mark.parametrize("votes", ["uniform", "distance"])
def test_probabilities_are_scikit_learns_but_for_the_shared_vote(metric, votes):
    neighbors = pytest.importorskip("sklearn.neighbors")
    model = fitted(k=5, metric=metric, votes=votes, shared=1.0)
    (train, labels), (val, _) = digits()
    peer = neighbors.KNeighborsClassifier(5, metric=PEER[metric], weights=votes, algorithm="brute")
    peer.fit(train.flatten(1).double().numpy(), labels.numpy())
    theirs = torch.from_numpy(peer.predict_proba(val.flatten(1).double().numpy()))
    ours = model(val).double().softmax(1) * 6 / 5 - 0.1 / 5
    clear = theirs.topk(2).values.diff(dim=1).abs().flatten() > 1e-9
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert torch.equal(ours.argmax(1)[clear], theirs.argmax(1)[clear])


def test_a_tie_goes_to_the_smaller_label():
    model = KNN(KNNConfig(k=2, shared=1.0, num_images=2, dim=1, num_classes=4))
    model.load_state_dict({"images": torch.tensor([[0.0], [1.0]]), "labels": torch.tensor([3, 1])})
    assert model(torch.tensor([[[[0.1]]], [[[0.9]]]])).argmax(1).tolist() == [1, 1]
    assert model(torch.full((1, 1, 1, 1), 0.1)).softmax(1)[0].tolist() == pytest.approx([1 / 12, 5 / 12] * 2)


def test_k_is_chosen_by_cross_validation_and_said_aloud():
    said, points = [], []
    model = fitted(said, points)
    assert [number for number, _ in points] == [k for k in CANDIDATES if k <= 1000]
    best = max(points, key=lambda point: (point[1]["cv_accuracy"], -point[0]))
    assert model.config.k == best[0] and f"k={best[0]} of 1, 3, 5" in said[0] and "5-fold" in said[0]
    assert best[1]["cv_accuracy"] > 0.95 > points[-1][1]["cv_accuracy"]
    assert 0 < best[1]["cv_deviation"] < 0.05


def test_the_cross_validated_accuracy_is_that_of_the_same_folds_by_hand():
    from visus.core.seeds import permutation
    from visus.foundations import nearest

    points = []
    fitted(points=points)
    (train, labels), _ = digits()
    order = permutation(len(labels), 0, "knn folds")
    right = nearest.cross_validate(train.flatten(1).double().numpy()[order], labels.numpy()[order], [1, 10, 100])
    found = dict(points)
    for k, shares in right.items():
        assert found[k]["cv_accuracy"] == pytest.approx(sum(shares) / 5, abs=2e-3)  # equal distances may part


def test_the_shared_part_is_the_one_under_which_the_labels_of_val_are_likeliest():
    said = []
    chosen = fitted(said, k=3)
    images, labels = digits()[1]
    losses = {shared: float(torch.nn.functional.cross_entropy(fitted(k=3, shared=shared)(images), labels))
              for shared in CANDIDATES_SHARED}
    assert chosen.config.shared == min(losses, key=losses.get) and f"shared={chosen.config.shared:g}" in said[0]
    assert torch.equal(chosen(images).argmax(1), fitted(k=3, shared=3.0)(images).argmax(1))


def test_distance_weights_pass_gradients_on_to_the_image():
    model = fitted(k=5, votes="distance", shared=1.0)
    images = digits()[1][0][:200].clone().requires_grad_()
    logits = model(images)
    logits[:, 0].sum().backward()
    mixed = (logits.exp() > 0.05).sum(1) > 1  # neighbours of one class keep all votes wherever the image moves
    told = images.grad.flatten(1).norm(dim=1) > 1e-6
    assert mixed.any() and not told[~mixed].any() and told[mixed & (logits[:, 0].exp() > 0.05)].all()


@pytest.mark.parametrize("search", ["hnsw", "ivf"])
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_an_approximate_search_finds_most_and_says_how_many(search, metric):
    pytest.importorskip("faiss")
    said = []
    model = fitted(said, k=5, search=search, metric=metric)
    share = float(said[0].split("finds ")[1].split("%")[0])
    assert share > 80 and f"search={search}" in said[0]
    exact = fitted(k=5, metric=metric)
    val = digits()[1][0]
    assert (model(val).argmax(1) == exact(val).argmax(1)).float().mean() > 0.95
    again = KNN(KNNConfig(**model.config.__dict__))
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(val), model(val))


def test_a_missing_faiss_is_an_error_that_names_the_extra(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **named):
        if name == "faiss":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"needs the extra 'search'.*visus\[search\]"):
        fitted(search="hnsw")


@pytest.mark.parametrize("config, says", [
    ({"k": 0}, "k=0: must be a whole number"),
    ({"metric": "l7"}, "metric='l7': must be one of l1, l2, cosine"),
    ({"search": "tree"}, "search='tree'"),
    ({"search": "hnsw", "metric": "l1"}, "must be 'exact' with metric 'l1'"),
    ({"votes": "far"}, "votes='far'"),
])
def test_a_wrong_field_is_named(config, says):
    with pytest.raises(UserError, match=says):
        KNNConfig(**config)


def test_k_above_the_number_of_images_and_images_of_another_size_are_named():
    with pytest.raises(UserError, match="model.config.k=5000: must be at most 1257"):
        fitted(k=5000)
    with pytest.raises(UserError, match="images of 49 values, fitted to 64"):
        fitted(k=1)(torch.zeros(1, 1, 7, 7))
    with pytest.raises(UserError, match="fit it first"):
        KNN(KNNConfig())(torch.zeros(1, 1, 8, 8))


def test_one_neighbour_knows_its_own_images():
    model = fitted(**classical.registry.get("nearest_neighbour").variant, shared=1.0)
    (train, labels), _ = digits()
    assert torch.equal(model(train).argmax(1), labels)
    assert math.isclose(float(model(train).softmax(1).amax()), 1.1 / 2, rel_tol=1e-5)
