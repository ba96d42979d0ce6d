"""The program that every export writes down gives what `visus predict` gives, for every task, calibration and views."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from visus.calibrate.choosing import FITS, to_record
from visus.core.errors import UserError
from visus.core.preprocessing import Preprocessing
from visus.deploy.program import Program

LABELS = ("a", "b", "c", "d")


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(4, 3, 5, 5, generator=generator))

    def forward(self, images):
        return torch.nn.functional.conv2d(images, self.weight).mean((2, 3)) * 4


def rules(views="none"):
    return Preprocessing(size=(8, 8), mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), labels=LABELS, views=views)


def images(count=40):
    return torch.from_numpy(np.random.default_rng(1).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8))


@pytest.mark.parametrize("views", ["none", "flip", "flip_shift"])
@pytest.mark.parametrize("task", ["classification", "multilabel"])
def test_probabilities_are_those_of_the_model_and_its_views(task, views):
    net, one = Net().eval(), rules(views)
    with torch.no_grad():
        logits = one.answers(net, images().permute(0, 3, 1, 2).float() / 255)
        expected = logits.sigmoid() if task == "multilabel" else logits.softmax(1)
        given = Program(net, one, task)(images())
    assert given.dtype == torch.float32
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", list(FITS))
def test_a_calibration_is_that_of_visus_calibrate(method):
    rng = np.random.default_rng(3)
    net = Net().eval()
    with torch.no_grad():
        plain = Program(net, rules(), "classification")(images(400)).numpy()
    targets = np.array([rng.choice(4, p=row / row.sum()) for row in plain ** 0.7 + 0.02])
    calibrator = FITS[method](plain, targets)
    with torch.no_grad():
        given = Program(net, rules(), "classification", to_record(calibrator))(images(400)).numpy()
    assert np.abs(given - plain).max() > 1e-3
    np.testing.assert_allclose(given, calibrator(plain), atol=3e-6)


def test_an_unknown_calibration_is_refused():
    with pytest.raises(UserError, match="calibration"):
        Program(Net(), rules(), "classification", {"method": "beta"})
