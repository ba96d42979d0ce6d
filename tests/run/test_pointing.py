"""The pointing game on images with boxes: hits are counted where the boxes lie as the model sees them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from visus.cli.main import main
from visus.core.errors import UserError
from visus.core.preprocessing import Preprocessing
from visus.run.bundle import TrainedModel
from visus.run.pointing import pointing_game, seen_boxes

CLASSES = ("red", "green")


class ColourSeeker(nn.Module):
    """The logit of a class is the mean of its colour's excess over the others: its map is the square itself."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        red, green = images[:, 0] - images[:, 1:].mean(1), images[:, 1] - images[:, [0, 2]].mean(1)
        return self.scale * torch.stack([red.relu().mean((1, 2)), green.relu().mean((1, 2))], 1)


@pytest.fixture
def coloured(tmp_path: Path) -> Path:
    """COCO: 12 grey images of 60 x 40, each with a red square in the left quarter and a green one in the right; a blue
    class that the model does not know; in one image the red square is a crowd."""
    folder, images, annotations = tmp_path / "set", [], []
    folder.mkdir()
    random = np.random.Generator(np.random.PCG64(0))
    for n in range(12):
        pixels = np.full((40, 60, 3), 120, np.uint8)
        for label, left in ((0, random.integers(0, 8)), (1, random.integers(46, 52))):
            top = int(random.integers(0, 30))
            pixels[top:top + 8, left:left + 8] = (230, 20, 20) if label == 0 else (20, 230, 20)
            annotations.append({"id": len(annotations) + 1, "image_id": n, "category_id": label + 1,
                                "bbox": [int(left), top, 8, 8], "area": 64, "iscrowd": int(n == 3 and label == 0)})
        Image.fromarray(pixels).save(folder / f"{n}.png")
        images.append({"id": n, "file_name": f"{n}.png", "width": 60, "height": 40})
    (folder / "annotations.json").write_text(json.dumps({
        "images": images, "annotations": annotations,
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate((*CLASSES, "blue"))]}))
    return folder


def model(**values) -> TrainedModel:
    preprocessing = Preprocessing(**{"size": (32, 32), "mean": (0.0,) * 3, "std": (1.0,) * 3, "labels": CLASSES,
                                     **values})
    return TrainedModel(model=ColourSeeker().eval(), preprocessing=preprocessing, name="seeker",
                        task="classification", about={})


@pytest.mark.parametrize("resize", ["squash", "pad"])
def test_a_map_that_is_the_object_always_hits_and_the_middle_never_does(coloured, resize):
    found = pointing_game(model(resize=resize), coloured, "occlusion", window=4, stride=2)
    assert found.accuracy == 1.0 and found.middle == 0.0 and found.method == "occlusion"
    assert found.classes == {"red": (11, 0, 11), "green": (12, 0, 12)}, "a crowd is not pointed at"


def test_a_map_of_the_other_class_misses(coloured):
    swapped = model(labels=CLASSES[::-1])
    assert pointing_game(swapped, coloured, "occlusion", window=4, stride=2).accuracy == 0.0


def test_boxes_follow_the_models_own_resizing():
    boxes = np.array([[10.0, 0, 30, 20], [58, 38, 60, 40]])
    squash = seen_boxes(boxes, (40, 60), Preprocessing(size=(20, 30), mean=(0.0,) * 3, std=(1.0,) * 3))
    assert squash.tolist() == [[5, 0, 15, 10], [29, 19, 30, 20]]
    cropped = Preprocessing(size=(40, 40), resize="crop", crop_fraction=1.0, mean=(0.0,) * 3, std=(1.0,) * 3)
    assert seen_boxes(boxes, (40, 60), cropped).tolist() == [[0, 0, 20, 20]], "the second lies outside the crop"


def test_what_cannot_be_pointed_at_is_refused(coloured, tmp_path):
    for k, name in enumerate("ab"):
        (tmp_path / "plain" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), (k, 0, 0)).save(tmp_path / "plain" / name / "x.png")
    with pytest.raises(UserError, match="no boxes"):
        pointing_game(model(), tmp_path / "plain")
    with pytest.raises(UserError, match="no class that the model knows"):
        pointing_game(model(labels=("cat", "dog")), coloured)
    with pytest.raises(UserError, match="no map"):
        pointing_game(model(), coloured, "fooling")


def test_the_command_asks_for_one_set(capsys):
    assert main(["explain", "resnet20", "a", "b", "--pointing"]) == 2
    assert "one set with boxes" in capsys.readouterr().err
