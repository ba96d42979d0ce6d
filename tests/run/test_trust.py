"""What a run adds to its metrics: explanations, robustness, the map of its images; within a budget, and drawn."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

import visus
from visus.cli.main import main
from visus.core.record import RunFolder
from visus.report.page import render
from visus.run import trust


@pytest.fixture
def data(tmp_path):
    """Two easy classes and a handful of images that lie: mistakes are certain."""
    generator = np.random.Generator(np.random.PCG64(0))
    labels = np.arange(160) % 2
    images = generator.integers(0, 90, (160, 16, 16, 3), dtype=np.uint8)
    images[labels == 1, 4:12, 4:12] += 120
    labels[::16] = 1 - labels[::16]
    path = tmp_path / "squares.npz"
    np.savez(path, images=images, labels=labels)
    return path


def trained(data, tmp_path, **values):
    return visus.train(str(data), out=str(tmp_path / "run"), progress=False, values={
        "model.name": "resnet20", "model.config.depth": 1, "train.epochs": 3, "train.threads": 1,
        "train.layout": "contiguous", "data.workers": 0, **values})


def test_a_run_is_explained_attacked_and_mapped_and_the_page_shows_it(data, tmp_path, with_trust):
    run = trained(data, tmp_path, **{"report.budget_s": 600})
    record = json.loads((run.path / trust.FILE).read_text())
    assert record["left_out"] == [] and set(record["sections"]) == set(trust.SECTIONS)
    explained = record["sections"]["explanations"]
    assert explained["method"] == "grad_cam"
    assert {item["hit"] for item in explained["items"]} == {True, False}
    assert all((run.path / item["image"]).is_file() for item in explained["items"])
    robust = record["sections"]["robustness"]
    accuracies = [point["accuracy"] for point in robust["points"]]
    assert accuracies == sorted(accuracies, reverse=True) and accuracies[0] > accuracies[-1]
    measured = json.loads((run.path / "metrics.json").read_text())["splits"]["test"]
    assert robust["count"] == measured["count"]
    assert accuracies[0] == pytest.approx(measured["metrics"]["accuracy"]["value"]), "unmoved images: plain accuracy"
    mapped = record["sections"]["embedding"]
    assert len(mapped["points"]) == len(mapped["targets"]) == len(mapped["sources"])
    page = render(RunFolder.open(run.path))
    assert (run.path / "calibration" / "results.json").is_file() and "Sets of classes that hold the true one" in page
    for name in ("explanations", "robustness", "embedding"):
        assert f'<section id="{name}"' in page and f'href="#{name}"' in page
    assert page.count('<ul class="explained">') == 2 and "visus attack" in page
    assert "://" not in page.replace("http://www.w3.org/2000/svg", "")


def test_without_a_budget_the_report_holds_the_metrics_alone(data, tmp_path, with_trust):
    run = trained(data, tmp_path, **{"report.budget_s": 0})
    assert not (run.path / trust.FILE).exists()
    assert '<section id="explanations"' not in (run.path / "report.html").read_text()


def test_what_the_budget_does_not_allow_is_named_with_the_command_that_makes_it(data, tmp_path, with_trust):
    run = trained(data, tmp_path, **{"report.budget_s": 1e-9})
    record = json.loads((run.path / trust.FILE).read_text())
    assert record["sections"] == {} and [row["section"] for row in record["left_out"]] == list(trust.SECTIONS)
    page = (run.path / "report.html").read_text()
    for row in record["left_out"]:
        assert re.search(re.escape(row["command"][1]) + r".*" + re.escape(run.path.name), page)


def test_a_finished_run_gets_its_sections_later(data, tmp_path, capsys):
    run = trained(data, tmp_path)
    assert not (run.path / trust.FILE).exists()
    assert main(["report", str(run.path), "--budget", "600"]) == 0
    assert set(json.loads((run.path / trust.FILE).read_text())["sections"]) == set(trust.SECTIONS)
    assert '<section id="robustness"' in (run.path / "report.html").read_text()
    capsys.readouterr()
    assert main(["report", str(run.path), "--budget", "0"]) == 2 and "budget=0" in capsys.readouterr().err


def test_several_labels_are_explained_but_not_attacked(tmp_path, with_trust):
    generator = np.random.Generator(np.random.PCG64(1))
    targets = generator.integers(0, 2, (120, 3)).astype(np.uint8)
    images = generator.integers(0, 60, (120, 16, 16, 3), dtype=np.uint8)
    for k in range(3):
        images[targets[:, k] == 1, :, :, k] += 120
    np.savez(tmp_path / "several.npz", images=images, labels=targets)
    run = trained(tmp_path / "several.npz", tmp_path, **{"report.budget_s": 600})
    record = json.loads((run.path / trust.FILE).read_text())
    assert "explanations" in record["sections"]
    assert [(row["section"], row["why"]) for row in record["left_out"]] == [
        ("calibration", "takes one label per image"), ("robustness", "attacks need one label for each image")]
