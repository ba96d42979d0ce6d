"""Reading passports, and when a number agrees with a printed one."""

from __future__ import annotations

import json

import pytest

from visus.core.errors import UserError
from visus.core.passport import agrees, read_passports


@pytest.mark.parametrize(("ours", "published", "expected"), [
    (269_722, "0.27e6", True), (275_001, "0.27e6", False), (274_999, "0.27e6", True),
    (19_421_274, "19.4e6", True),
    (1_814_073_344, "1.814e9", True), (4_089_184_256, "3.8e9", False), (60_000, "60000", True),
    (60_001, "60000", False), (0.955, "0.95", True), (0.956, "0.95", False),
])
def test_a_number_agrees_within_half_a_unit_of_the_last_printed_digit(ours, published, expected):
    assert agrees(ours, published) is expected


def test_a_file_that_is_no_passport_is_named(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"net": {"params": 3}}))
    with pytest.raises(UserError, match=r"x.json.*net"):
        read_passports(tmp_path)
