"""visus bench: numbers that fit together, for runs, bundles and names."""

from __future__ import annotations

import json
import sys

import pytest

import visus
from visus.cli.main import main
from visus.core.errors import MissingExtra, UserError
from visus.run import bench as verb


def test_a_bundles_numbers_fit_together(digits_bundle, capsys):
    assert main(["bench", str(digits_bundle), "--backend", "onnxruntime", "eager", "--batch", "1", "4", "--seconds",
                 "0.3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = {(row["backend"], row["batch"]): row for row in found["rows"]}
    assert set(rows) == {("onnxruntime", 1), ("onnxruntime", 4), ("eager", 1), ("eager", 4)}
    for row in rows.values():
        assert row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"]
        assert row["images_per_s"] == pytest.approx(1e3 * row["batch"] / row["mean_ms"], rel=0.01)
        assert row["gflops"] == pytest.approx(2 * found["macs"] * row["batch"] / (row["p50_ms"] * 1e6), rel=1e-6)
        assert row["fraction"] == pytest.approx(row["gflops"] / found["peak_gflops"]["1"], rel=1e-6)
        assert row["memory_mb"] is None or 0 < row["memory_mb"] < 2000
    assert found["preparing"]["decode_ms"] > 0 and found["preparing"]["resize_ms"] > 0


def test_the_table_and_what_stands_under_it(digits_run, capsys):
    assert main(["bench", str(digits_run), "--seconds", "0.1", "--threads", "1"]) == 0
    out = capsys.readouterr().out
    for said in ("16 x 16 px", "p50 ms", "images/s", "of the peak", "peak: the best float32 matrix product"):
        assert said in out, out


def test_a_registered_name_has_its_published_operations():
    found = visus.bench("resnet18", image_size=64, seconds=0.1)
    [row] = found.rows
    assert row.backend == "eager" and row.measured is not None and found.image_size == (64, 64)
    # 1.814 G multiply-adds at 224 px (He et al. 2016: 1.8e9); convolutions scale with the area
    assert found.macs == pytest.approx(1.814e9 * (64 / 224) ** 2, rel=0.01)
    assert found.preparing is None


def test_a_run_without_a_bundle_is_computed_by_torch(digits_run, tmp_path):
    import shutil

    shutil.copytree(digits_run, tmp_path / "run", ignore=shutil.ignore_patterns("export", "checkpoints"))
    found = visus.bench(tmp_path / "run", seconds=0.1)
    assert [row.backend for row in found.rows] == ["eager"] and found.rows[0].measured is not None


def test_what_cannot_be_measured_is_a_row_with_its_reason(monkeypatch, capsys):
    assert main(["bench", "resnet18", "--image-size", "32", "--backend", "onnxruntime", "--seconds", "0.1"]) == 2
    assert "needs an exported model" in capsys.readouterr().out


def test_a_missing_extra_is_a_row_with_the_command(digits_bundle, monkeypatch):
    def missing(spec):
        raise MissingExtra("The OpenVINO backend", "openvino")

    monkeypatch.setattr(verb, "_in_a_process", missing)
    [row] = visus.bench(digits_bundle, backend="openvino", seconds=0.1).rows
    assert row.measured is None and "pip install 'visus[openvino]'" in row.reason
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtra):  # what the process itself would say
        verb._wanted("openvino", "The OpenVINO backend", "openvino")


def test_errors_of_the_process_come_back_as_they_were(digits_bundle, tmp_path):
    spec = {"backend": "onnxruntime", "batch": 1, "threads": 1, "seconds": 0.1, "size": [16, 16],
            "bundle": str(tmp_path / "none.onnx"), "run": None, "registered": None}
    with pytest.raises(UserError, match="cannot be read"):
        verb._in_a_process(spec)


@pytest.mark.parametrize("options, message", [({"batch": 0}, "at least 1"), ({"threads": []}, "at least 1"),
                                              ({"backend": "onnxrutime"}, "onnxruntime"), ({"seconds": 0}, "above 0")])
def test_wrong_values_are_named(options, message):
    with pytest.raises(UserError, match=message):
        visus.bench("resnet18", **options)
    with pytest.raises(UserError, match="there is no model"):
        visus.bench("resnet1888")
    with pytest.raises(UserError, match="there is no such run or bundle"):
        visus.bench("no/such/run")
