"""The deformable part model: scores, placements, the latent SVM, and what parts bring."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from visus.classical.deformable_parts import DeformablePartModel, PartModelConfig, place_parts
from visus.classical.latent_svm import fit_svm, hard, objective
from visus.classical.part_pyramid import BIAS, Filters, Pyramid, root_only
from visus.core.errors import DataError, UserError
from visus.metrics.box_precision import box_average_precision
from visus.ops.boxes import box_iou

BCCD = Path(__file__).resolve().parents[3] / "shared" / "data" / "bccd_voc.zip"


def random_filters(seed: int = 0, parts: int = 3) -> Filters:
    draw = torch.Generator().manual_seed(seed)
    return Filters(torch.randn(31, 4, 3, generator=draw), torch.randn(parts, 31, 3, 3, generator=draw),
                   torch.randint(0, 3, (parts, 2), generator=draw),
                   torch.rand(parts, 4, generator=draw) * torch.tensor([0.1, 0.1, 0.5, 0.5]) + 0.02, 0.3)


def crosses(count: int, seed: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Pictures with a bright cross of bars and, elsewhere, single bars."""
    draw = torch.Generator().manual_seed(seed)
    images, boxes = [], []
    for _ in range(count):
        image = 0.05 * torch.rand(1, 160, 176, generator=draw)
        x, y = (int(torch.randint(4, 80, (), generator=draw)) for _ in range(2))
        image[:, y + 28:y + 36, x:x + 64] += 0.8
        image[:, y:y + 64, x + 28:x + 36] += 0.8
        images.append(image.clamp(0, 1))
        boxes.append(torch.tensor([[x, y, x + 64.0, y + 64]]))
    return images, boxes


def test_scores_are_products_of_features_and_weights_and_the_best_over_all_part_places():
    image = torch.rand(3, 120, 104, generator=torch.Generator().manual_seed(1))
    pyramid, filters = Pyramid(image, per_octave=2), random_filters()
    at = pyramid.place(filters)
    assert len(at.score) > 30
    torch.testing.assert_close(pyramid.features(filters, at) @ filters.vector(), at.score, rtol=1e-4, atol=1e-4)
    chosen = int(at.score.argmax())
    y, x = at.root[chosen].tolist()
    coarse, fine = pyramid.pair(int(at.level[chosen]))
    total = float((coarse[:, y:y + 4, x:x + 3] * filters.root).sum()) + BIAS * filters.bias
    for part, (v0, u0), cost in zip(filters.parts, filters.anchors.tolist(), filters.costs, strict=True):
        best = -1e9
        for v in range(fine.shape[1] - 2):
            for u in range(fine.shape[2] - 2):
                dy, dx = v - (2 * y + 1 + v0), u - (2 * x + 1 + u0)
                price = float(cost @ torch.tensor([dx, dy, dx * dx, dy * dy], dtype=torch.float32))
                best = max(best, float((fine[:, v:v + 3, u:u + 3] * part).sum()) - price)
        total += best
    assert float(at.score[chosen]) == pytest.approx(total, abs=1e-3)


def test_weights_become_one_vector_and_back():
    filters = random_filters()
    again = filters.with_vector(filters.vector())
    assert torch.equal(again.root, filters.root) and torch.equal(again.costs, filters.costs)
    assert torch.equal(again.parts, filters.parts) and again.bias == pytest.approx(filters.bias)


def test_boxes_of_roots_lie_where_their_cells_are():
    pyramid = Pyramid(torch.zeros(1, 160, 160), per_octave=1, border=2)
    box = pyramid.boxes(0, torch.tensor([[2, 3]]), (4, 5))  # half the size: a cell is 16 px, the rim one cell
    assert box.tolist() == [[32.0, 16.0, 112.0, 80.0]]


def test_the_svm_is_scikit_learns():
    svm = pytest.importorskip("sklearn.svm")
    draw = torch.Generator().manual_seed(2)
    features = torch.randn(120, 6, generator=draw, dtype=torch.float64)
    signs = torch.sign(features[:, 0] + features[:, 1] + 0.7 * torch.randn(120, generator=draw).double())
    ours = fit_svm(features, signs, 0.3, steps=500)
    theirs = svm.LinearSVC(C=0.3, loss="squared_hinge", fit_intercept=False, tol=1e-10, max_iter=200_000).fit(
        features.numpy(), signs.numpy()).coef_[0]
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-4)


def test_bounded_weights_stay_above_and_are_the_best_there():
    draw = torch.Generator().manual_seed(3)
    features = torch.randn(80, 3, generator=draw, dtype=torch.float64)
    signs = torch.sign(-features[:, 0] + features[:, 1])
    lowest = torch.tensor([0.2, -torch.inf, -torch.inf], dtype=torch.float64)
    weights = fit_svm(features, signs, 1.0, torch.full((3,), 0.5, dtype=torch.float64), lowest, steps=300)
    assert float(weights[0]) == pytest.approx(0.2, abs=1e-6)
    for step in torch.eye(3, dtype=torch.float64) * 1e-3:
        for side in (1, -1):
            other = (weights + side * step).maximum(lowest)
            assert objective(weights, features, signs, 1.0) <= objective(other, features, signs, 1.0) + 1e-12
    assert hard(torch.tensor([[1.0], [-3.0]]), torch.tensor([1.0])).tolist() == [True, False]


def test_parts_lie_where_the_root_has_energy():
    root = torch.zeros(31, 6, 6)
    root[3, 0, 0], root[5, 5, 4] = 2.0, 1.0
    root[7, 2:4, 2:4] = -5.0  # negative weights draw no part
    filters = place_parts(root, 2)
    size = filters.parts.shape[-1]
    assert size == round((0.8 * 4 * 36 / 2) ** 0.5)
    assert filters.anchors[0, 0] <= 1 and filters.anchors[0, 1] <= 1
    assert root_only(4, 3).size == (4, 3) and len(root_only(4, 3).parts) == 0


def test_it_learns_a_shape_and_finds_it_in_new_pictures():
    images, boxes = crosses(8, 0)
    model = DeformablePartModel.train(images, boxes, PartModelConfig(root_cells=16, parts=2, rounds=1, per_octave=2))
    assert float(model.components[0].filters.costs[:, 2:].min()) >= 0.01 - 1e-6
    unseen, truth = crosses(6, 1)
    found = [model.detect(image) for image in unseen]
    assert box_average_precision(found, truth) == (1.0, 1.0)
    boxes_of, parts = model.part_boxes(unseen[0])
    assert parts.shape == (len(found[0][0]), 2, 4) and float(box_iou(boxes_of[:1], truth[0])) > 0.5


def test_a_mixture_splits_objects_by_shape():
    images, boxes = crosses(8, 0)
    boxes = [box if number % 2 else box + torch.tensor([0.0, 16, 0, -16]) for number, box in enumerate(boxes)]
    config = PartModelConfig(root_cells=16, parts=0, components=2, per_octave=2)
    model = DeformablePartModel.train(images, boxes, config)
    heights = [component.filters.size[0] / component.filters.size[1] for component in model.components]
    assert len(heights) == 2 and heights[0] < heights[1]


def test_what_it_cannot_use_is_refused():
    images, boxes = crosses(3, 0)
    with pytest.raises(DataError, match="too few"):
        DeformablePartModel.train(images[:1], boxes[:1])
    with pytest.raises(DataError, match="no area"):
        DeformablePartModel.train(images, [boxes[0], boxes[1], torch.tensor([[5.0, 5, 5, 9]])])
    with pytest.raises(DataError, match="3 images, but 2"):
        DeformablePartModel.train(images, boxes[:2])
    with pytest.raises(UserError, match="cost=0"):
        PartModelConfig(cost=0)
    with pytest.raises(DataError, match="large enough"):
        DeformablePartModel.train(images, [box + torch.tensor([30.0, 30, -30, -30]) for box in boxes],
                                  PartModelConfig(root_cells=36, parts=1, rounds=1))


def white_cells(split: str, count: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The first pictures of a split of BCCD at half their size, and the boxes of their white cells."""
    archive = zipfile.ZipFile(BCCD)
    images, boxes = [], []
    for name in archive.read(f"BCCD/ImageSets/Main/{split}.txt").decode().split()[:count]:
        with Image.open(io.BytesIO(archive.read(f"BCCD/JPEGImages/{name}.jpg"))) as photo:
            image = photo.convert("RGB").resize((320, 240), Image.Resampling.BOX)
        found = [[int(one.findtext(f"bndbox/{side}", "0")) / 2 for side in ("xmin", "ymin", "xmax", "ymax")]
                 for one in ElementTree.fromstring(archive.read(f"BCCD/Annotations/{name}.xml")).iter("object")
                 if one.findtext("name") == "WBC"]
        images.append(torch.from_numpy(np.asarray(image).astype(np.float32) / 255).permute(2, 0, 1))
        boxes.append(torch.tensor([box for box in found if box[2] > box[0] and box[3] > box[1]]).view(-1, 4))
    return images, boxes


@pytest.mark.slow
@pytest.mark.skipif(not BCCD.is_file(), reason="the BCCD pictures are not here")
def test_parts_bring_precision_on_white_blood_cells():
    images, boxes = white_cells("train", 30)
    unseen, truth = white_cells("test", 20)
    precision = {}
    for parts in (0, 6):
        model = DeformablePartModel.train(images, boxes, PartModelConfig(parts=parts))
        precision[parts] = box_average_precision([model.detect(image, -1.0) for image in unseen], truth)[0]
    assert precision[6] > precision[0] > 0.5
