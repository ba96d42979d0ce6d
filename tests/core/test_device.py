"""On what, and in which precision, is computed."""

from __future__ import annotations

import pytest
import torch

from visus.core import device
from visus.core.device import autocast, pick_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_a_precision_that_is_named_stays(name):
    assert pick_precision(name, CPU) == name


@pytest.mark.parametrize(("may_pay", "expected"), [(False, "fp32"), (True, "auto")])
def test_a_processor_that_imitates_bfloat16_computes_in_float32_and_another_leaves_it_to_the_model(
        monkeypatch, may_pay, expected):
    monkeypatch.setattr(device, "bf16_may_pay_on_cpu", lambda: may_pay)
    assert pick_precision("auto", CPU) == expected


@pytest.mark.parametrize(("precision", "kind"), [("fp32", torch.float32), ("bf16", torch.bfloat16),
                                                 ("fp16", torch.float16)])
def test_products_are_computed_in_the_asked_precision(precision, kind):
    a = torch.ones(2, 2)
    with autocast(CPU, precision):
        assert (a @ a).dtype == kind
    assert (a @ a).dtype == torch.float32


def test_an_open_precision_computes_nothing():
    with pytest.raises(KeyError):
        autocast(CPU, "auto")
