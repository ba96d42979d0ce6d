"""OpenVINO computes only where it is known not to end the process."""

from __future__ import annotations

import pytest

from visus.core.errors import ResourceError
from visus.deploy import openvino_package

CPU = "processor : 0\nflags : fpu {} avx2 {}\n\nprocessor : 1\n"


@pytest.mark.parametrize(("flags", "risky"), [
    (("hypervisor", "amx_tile"), True), (("hypervisor", ""), False), (("", "amx_tile"), False)])
def test_only_virtual_machines_with_tiles_are_at_risk(tmp_path, flags, risky):
    (tmp_path / "cpuinfo").write_text(CPU.format(*flags))
    assert openvino_package._virtual_with_tiles(tmp_path / "cpuinfo") is risky


def test_there_it_is_refused_until_it_is_asked_for(monkeypatch):
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    monkeypatch.setattr(openvino_package, "_virtual_with_tiles", lambda: True)
    monkeypatch.delenv(openvino_package.ASKED, raising=False)
    with pytest.raises(ResourceError, match="set VISUS_OPENVINO=1"):
        openvino_package.openvino_to_compute("The OpenVINO backend")
    monkeypatch.setenv(openvino_package.ASKED, "1")
    assert openvino_package.openvino_to_compute("The OpenVINO backend").Core
