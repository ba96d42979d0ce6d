"""The courses' tables of AlexNet and VGG, recomputed and judged."""

from __future__ import annotations

import json

import pytest

from visus.cli.main import main
from visus.run.layer_table import agrees_with, layer_tables

ALEXNET = {  # catalogue C1: weights and MACs of the grouped net, and of the ungrouped one where they differ
    "features.0": (34_848, 105_415_200), "features.4": (307_200, 223_948_800, 614_400, 447_897_600),
    "features.8": (884_736, 149_520_384), "features.10": (663_552, 112_140_288, 1_327_104, 224_280_576),
    "features.12": (442_368, 74_760_192, 884_736, 149_520_384), "classifier.0": (37_748_736, 37_748_736),
    "classifier.3": (16_777_216, 16_777_216), "classifier.6": (4_096_000, 4_096_000),
}


def test_the_alexnet_table_is_reproduced_grouped_and_ungrouped_and_its_inconsistent_row_flagged():
    own, course = layer_tables("alexnet")
    assert own.model == "alexnet" and own.total.ours["", "weights"] == 61_090_496
    assert (course.model, course.input_shape) == ("alexnet_original", (1, 3, 227, 227))
    for line in course.lines:
        grouped, ungrouped = ALEXNET[line.layer][:2], ALEXNET[line.layer][-2:]
        assert (line.ours["2 groups", "weights"], line.ours["2 groups", "macs"]) == grouped, line.layer
        assert (line.ours["1 group", "weights"], line.ours["1 group", "macs"]) == ungrouped, line.layer
    verdicts = {line.layer: line.verdict for line in course.lines}
    assert verdicts.pop("features.10") == "INCONSISTENT: weights of 1 group, MACs of 2 groups"
    assert set(verdicts.values()) == {"agrees"} and len(course.lines) == len(ALEXNET)
    assert course.total.ours["2 groups", "macs"] == 724_406_816
    assert "59.97M weights, 720.00M MACs" in course.notes[0]


def test_the_vgg_memory_table_is_reproduced_and_its_total_questioned():
    (table,) = layer_tables("vgg16")
    assert len(table.lines) == 21 and {line.verdict for line in table.lines} == {"agrees"}
    assert table.total.verdict == "DIFFERS: values" and table.total.ours["", "weights"] == 138_344_128
    # 15.24M with the image's 150,528, as the catalogue computes it
    assert table.total.ours["", "values"] + 3 * 224 * 224 == 15_237_608


@pytest.mark.parametrize(("ours", "printed", "agrees"), [
    (34_848, "35K", True), (884_736, "884K", True), (884_736, "885K", True), (884_736, "886K", False),
    (663_552, "1.3M", False), (1_327_104, "1.3M", True), (802_816, "800K", True), (902_816, "800K", False),
    (1728, "1728", True), (1729, "1728", False), (4_096_000, "4M", True), (5_096_000, "4M", False),
])
def test_printed_figures_are_read_as_rounded_or_cut(ours, printed, agrees):
    assert agrees_with(ours, printed) is agrees


def test_a_model_without_a_printed_table_shows_its_own():
    (table,) = layer_tables("resnet18", image_size=64)
    assert table.source is None and table.input_shape == (1, 3, 64, 64)
    assert table.total.ours["", "weights"] == 11_689_512 - 9_600 - 1_000  # all but scales, shifts and biases
    assert [line.kind for line in table.lines].count("Conv2d") == 20


def test_the_command_prints_it(capsys):
    assert main(["models", "show", "alexnet", "--table"]) == 0
    printed = capsys.readouterr().out
    assert "features.10: INCONSISTENT" in printed and "7 of 8 printed rows agree" in printed
    assert main(["models", "show", "alexnet", "--table", "--json"]) == 0
    tables = json.loads(capsys.readouterr().out)
    assert tables[1]["rows"][0]["ours"]["weights 2 groups"] == 34_848
