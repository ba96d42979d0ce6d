"""Looking names up."""

from __future__ import annotations

import subprocess
import sys

import pytest

from visus.core.errors import UserError
from visus.core.registry import Registry
from visus.models import registry


def test_index_on_disk_is_fresh():
    assert registry.index() == registry.fresh_index(), "run python tools/passports.py"


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(UserError, match="Did you mean .*'resnet50'"):
        registry.get("resnet5O")


def test_one_name_from_two_modules_is_a_bug():
    one, other = type("A", (), {"__module__": "one"}), type("B", (), {"__module__": "other"})
    names = Registry("thing", "visus.models")
    names.add(one, {"a": {}})
    with pytest.raises(ValueError, match="one and other"):
        names.add(other, {"a": {}})


@pytest.mark.parametrize(("code", "absent"), [
    ("from visus.models import registry; registry.names()", "torch"),
    ("from visus.run.models import list_models; assert len(list_models()) > 20", "torch"),
    ("from visus.models import registry; registry.get('resnet18')", "visus.models.vit.vit"),
])
def test_looking_up_imports_no_more_than_it_needs(code, absent):
    subprocess.run([sys.executable, "-c", f"import sys; {code}; assert {absent!r} not in sys.modules"],
                   check=True)
