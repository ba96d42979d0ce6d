"""The charts of a calibration: from the record alone, whatever its shape."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from visus.report.calibration import calibration_svgs, reliability_charts, risk_coverage_chart


def bins(gap: float) -> dict:
    return {"ece": gap, "bins": [{"low": k / 5, "high": (k + 1) / 5, "count": 9, "confidence": (k + 0.5) / 5,
                                  "accuracy": max(0.0, (k + 0.5) / 5 - gap)} for k in range(5)]}


def record() -> dict:
    curve = {"curve": [[0.5, 0.0], [1.0, 0.1]]}
    return {"reliability": {"before": bins(0.1), "after": bins(0.0)}, "selective": {"before": curve, "after": curve}}


def test_each_chart_is_a_whole_file_with_both_lines():
    files = calibration_svgs(record())
    assert set(files) == {"reliability_before.svg", "reliability_after.svg", "risk_coverage.svg"}
    for text in files.values():
        assert ET.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
    assert "as trained" in files["risk_coverage.svg"] and "calibrated" in files["risk_coverage.svg"]
    assert files["risk_coverage.svg"].count("<polyline") == 2


def test_without_a_correction_there_is_one_diagram_and_one_line():
    value = {name: {"before": record()[name]["before"]} for name in record()}
    files = calibration_svgs(value)
    assert set(files) == {"reliability_before.svg", "risk_coverage.svg"}
    assert files["risk_coverage.svg"].count("<polyline") == 1


@pytest.mark.parametrize("value", [None, 7, "text", [None], {"before": None}, {"before": {"bins": [{}], "curve": [[]]}},
                                   {"before": {"bins": 3, "curve": 3}}, {"after": {"curve": [["a", 1], [0.5, None]]}}])
@pytest.mark.parametrize("key", ["reliability", "selective"])
def test_a_record_of_another_shape_is_left_out(key, value):
    drawn = calibration_svgs(record() | {key: value})
    assert "reliability_after.svg" not in drawn if key == "reliability" else "risk_coverage.svg" not in drawn
    assert risk_coverage_chart({}) is None and reliability_charts({}) == {}
