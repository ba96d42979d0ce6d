"""Every family of classifiers gives the same answers through ONNX Runtime, on 200 real images."""

from __future__ import annotations

import pytest
import torch

from benchmarks import export_families as families
from tests.rows_models import MODELS
from visus.run.models import create_model

pytest.importorskip("onnxscript", reason="the extra export is not installed")
pytest.importorskip("onnxruntime", reason="the extra export is not installed")

FAMILIES = families.variants()
QUICK = {"visus.models.cnn.lenet5", "visus.models.cnn.cifar_resnet", "visus.models.vit.vit",
         "visus.models.vit.mlp_mixer", "visus.models.cnn.squeezenet", "visus.models.cnn.convnext"}


def test_the_quick_ones_are_families():
    assert set(FAMILIES) >= QUICK


@pytest.mark.parametrize("module", [pytest.param(module, marks=() if module in QUICK else pytest.mark.slow)
                                    for module in FAMILIES])
def test_answers_are_equal_through_onnxruntime(module, tmp_path):
    name = FAMILIES[module]
    row = MODELS[name]
    torch.manual_seed(0)
    model = create_model(name, **{"num_classes": 7, "in_channels": 3} | row.tiny)
    found, about = families.compared(model, row.size, families.real_images(None, 200, row.size), tmp_path)
    assert found.images == 200 and about["classes"] > 1
    assert found.largest <= families.TOLERANCE and found.changed == 0
