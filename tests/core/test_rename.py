"""Names of other packages' parameters under ours."""

from __future__ import annotations

import torch

from visus.core.rename import join_parts, rename


def test_patterns_apply_in_order_and_may_compute():
    state = {"layers.1.up.bias": torch.ones(1), "classifier.weight": torch.ones(2)}
    patterns = ((r"^layers\.(\d)", lambda found: f"stages.{int(found[1]) + 1}"), (r"^classifier", "head"),
                (r"^head", "fc"))
    assert list(rename(state, patterns)) == ["stages.2.up.bias", "fc.weight"]
    assert rename(state, patterns)["fc.weight"] is state["classifier.weight"]


def test_parts_are_joined_in_order_and_only_when_all_are_there():
    state = {f"a.{part}.weight": torch.full((2, 3), float(i)) for i, part in enumerate("qkv")}
    state |= {"a.q.bias": torch.zeros(2), "a.v.bias": torch.zeros(2), "quiet": torch.ones(1)}
    out = join_parts(state, "qkv", "qkv")
    assert set(out) == {"a.qkv.weight", "a.q.bias", "a.v.bias", "quiet"}
    assert out["a.qkv.weight"][:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert len(state) == 6
