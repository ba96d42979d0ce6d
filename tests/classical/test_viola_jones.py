"""The Viola-Jones detector: boosting against the rule written out, cascades, scanning, real faces."""

from __future__ import annotations

import pytest
import torch

from visus.classical.boosted_stumps import adaboost, grow_stage, lowered_threshold
from visus.classical.fitted import Examples
from visus.classical.viola_jones import ViolaJones, ViolaJonesConfig, object_class, train_detector
from visus.classical.window_scan import normalised, scan
from visus.core.errors import DataError, UserError
from visus.ops.boxes import box_iou

SMALL = {"window": 8, "features": 400, "stages": 4, "stumps": 12}


def by_hand(values: torch.Tensor, objects: torch.Tensor, rounds: int) -> list[tuple[int, float, float]]:
    """Table 1 of the paper with every feature, threshold and sign tried: (feature, error, alpha) of each round."""
    weights = torch.where(objects, 0.5 / objects.sum(), 0.5 / (~objects).sum()).double()
    found = []
    for _ in range(rounds):
        weights = weights / weights.sum()
        best = (2.0, 0, objects)
        for feature in range(values.shape[1]):
            column = values[:, feature]
            for threshold in [*column.tolist(), float(column.max()) + 1]:
                for said in (column < threshold, column >= threshold):
                    error = float(weights[said != objects].sum())
                    if error < best[0] - 1e-9:
                        best = (error, feature, said)
        error, feature, said = best
        beta = error / (1 - error)
        weights = torch.where(said == objects, weights * beta, weights)
        found.append((feature, error, -torch.tensor(beta).log().item()))
    return found


def blobs(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches 8 x 8 with a bright left half are the object; others have an edge elsewhere. Noise on all."""
    draw = torch.Generator().manual_seed(seed)
    patches = 0.3 * torch.randn(count, 1, 8, 8, generator=draw)
    objects = torch.arange(count) % 2 == 1
    patches[objects, :, :, :4] += 1
    patches[~objects, :, :4] += 1
    return patches, objects.long()


def examples(images: torch.Tensor, labels: torch.Tensor, said: list[str] | None = None, **told) -> Examples:
    told = {"names": ("background", "face")} | told
    return Examples(train=lambda: iter([(images, labels)]), val=lambda: iter([(images[::3], labels[::3])]),
                    count=len(images), num_classes=2, seed=0, device=torch.device("cpu"),
                    say=(said if said is not None else []).append, **told)


def test_rounds_of_boosting_are_those_of_the_paper_tried_by_brute_force():
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(40, 12, generator=draw)
    values[:, 3] = values[:, 3].round()  # ties
    objects = values[:, :3].sum(1) + 0.5 * torch.randn(40, generator=draw) > 0
    stumps = adaboost(values, objects, 8)
    expected = by_hand(values, objects, 8)
    assert stumps.feature.tolist() == [feature for feature, _, _ in expected]
    torch.testing.assert_close(stumps.error, torch.tensor([error for _, error, _ in expected]), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(stumps.alpha, torch.tensor([alpha for *_, alpha in expected]), rtol=1e-3, atol=1e-4)
    votes = stumps.votes(values[:, stumps.feature])
    wrong = [int(((votes[:, :k].sum(1) >= stumps.alpha[:k].sum() / 2) != objects).sum()) for k in (1, 8)]
    assert wrong[1] < wrong[0]


def test_the_training_error_is_below_the_product_that_theory_gives():
    draw = torch.Generator().manual_seed(1)
    values = torch.randn(200, 30, generator=draw)
    objects = values[:, :5].sum(1) > 0.3
    stumps = adaboost(values, objects, 25)
    said = stumps.votes(values[:, stumps.feature]).sum(1) >= stumps.alpha.sum() / 2
    weights = torch.where(objects, 0.5 / objects.sum(), 0.5 / (~objects).sum())
    bound = float((2 * (stumps.error * (1 - stumps.error)).sqrt()).prod())
    assert float(weights[said != objects].sum()) <= bound < 1


def test_a_stage_keeps_its_objects_and_lets_few_others_pass():
    draw = torch.Generator().manual_seed(2)
    values = torch.randn(300, 20, generator=draw)
    objects = values[:, :4].sum(1) + torch.randn(300, generator=draw) > 0
    stage = grow_stage((values, objects), (values, objects), 0.99, 0.4, 50)
    passed = stage.stumps.votes(values[:, stage.stumps.feature]).sum(1) >= stage.threshold
    assert float(passed[objects].float().mean()) == pytest.approx(stage.detection)
    assert stage.detection >= 0.99 and stage.false_positives <= 0.4
    assert float(passed[~objects].float().mean()) == pytest.approx(stage.false_positives)


def test_a_threshold_is_lowered_until_enough_objects_reach_it():
    objects, every = torch.tensor([1.0, 2, 3, 4]), torch.tensor([1.0, 2, 3, 4, 0.5, 1.5])
    assert lowered_threshold(objects, every, 0.7, 0.99) == 0.7
    assert lowered_threshold(objects, every, 2.5, 0.99) == 0.75
    assert lowered_threshold(objects, every, 2.5, 0.75) == 1.75


def test_it_learns_an_object_and_says_which_class_it_took():
    said: list[str] = []
    model = ViolaJones(ViolaJonesConfig(in_channels=1, **SMALL))
    patches, labels = blobs(120, 0)
    model.fit(examples(patches, labels, said))
    assert any("'face' is taken for the object" in line for line in said)
    unseen, truth = blobs(200, 1)
    logits = model(unseen)
    assert float((logits.argmax(1) == truth).float().mean()) > 0.94 and bool((logits[:, 0] == 0).all())
    torch.testing.assert_close(model(3 * unseen + 5), logits, rtol=1e-4, atol=1e-4)  # brightness and contrast
    again = ViolaJones(ViolaJonesConfig(**vars(model.config)))
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(unseen), logits)


@pytest.mark.parametrize("names, place", [(("background", "face"), 1), (("cat", "none"), 0), (("face", "non-face"), 0),
                                          ((), 1), (("not face", "zebra"), 1)])
def test_the_object_is_the_class_that_is_not_the_background(names: tuple[str, ...], place: int):
    assert object_class(names) == place


def test_a_scan_gives_what_each_window_gives_alone():
    model = ViolaJones(ViolaJonesConfig(in_channels=1, **SMALL))
    model.fit(examples(*blobs(120, 0)))
    picture = torch.rand(1, 30, 26, generator=torch.Generator().manual_seed(3))
    boxes, _, patches = model.windows(picture, scale=100)
    windows = picture[0].unfold(0, 8, 1).unfold(1, 8, 1)
    passing = (model.margins(windows.reshape(-1, 8, 8), 1) > 0).view(23, 19).nonzero()
    assert boxes[:, [1, 0]].long().tolist() == passing.tolist() and len(passing) > 0
    torch.testing.assert_close(normalised(patches)[0], normalised(windows[passing[:, 0], passing[:, 1]])[0],
                               rtol=1e-4, atol=1e-4)


def test_windows_of_all_sizes_cover_the_picture():
    boxes, margins, _ = scan([], torch.rand(40, 30), 10, 0.0, scale=2.0, step=1)
    assert len(boxes) == 31 * 21 + 11 * 6 and bool((margins == 0).all())
    assert boxes.amax(0).tolist() == [20, 30, 30, 40]
    assert len(scan([], torch.rand(40, 30), 10, 0.0, scale=2.0, min_size=20)[0]) == 11 * 6


def test_what_it_cannot_use_is_refused():
    with pytest.raises(UserError, match="min_detection=1"):
        ViolaJonesConfig(min_detection=1)
    with pytest.raises(DataError, match="not"):
        ViolaJones(ViolaJonesConfig(in_channels=1, **SMALL)).fit(examples(blobs(20, 0)[0], torch.ones(20).long()))
    with pytest.raises(DataError, match="3 patches"):
        train_detector(torch.rand(3, 1, 25, 25), [torch.rand(1, 50, 50)])


def faces_and_pictures() -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
    data = pytest.importorskip("skimage.data")
    faces = torch.from_numpy(data.lfw_subset()[:100]).float()[:, None]
    names = ("chelsea", "coffee", "rocket", "brick", "grass", "gravel", "page", "clock", "moon", "coins", "text")
    pictures = [torch.from_numpy(getattr(data, name)().astype("float32") / 255) for name in names]
    pictures = [(part.mean(-1) if part.ndim == 3 else part)[None] for part in pictures]
    return faces, pictures, torch.from_numpy(data.astronaut().astype("float32") / 255).permute(2, 0, 1)


@pytest.mark.slow
def test_trained_on_a_hundred_faces_it_finds_the_face_in_a_photograph():
    faces, pictures, astronaut = faces_and_pictures()
    model = train_detector(faces, pictures, seed=0, negatives=1000, features=2500, stages=9, min_detection=0.985,
                           max_false_positives=0.4)
    boxes, scores = model.detect(astronaut, min_size=48)
    face = torch.tensor([[176.0, 70, 272, 168]])  # seen by eye: brows to chin
    overlap = box_iou(boxes, face)[:, 0]
    assert float(overlap.max()) > 0.5 and int(overlap.argmax()) == 0 and len(boxes) < 12
    assert bool((scores[:-1] >= scores[1:]).all())
