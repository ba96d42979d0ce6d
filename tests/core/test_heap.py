"""Memory of a process that answers once."""

import subprocess
import sys

import pytest

from visus.core.heap import reserve_heap

FAULTS = """
import ctypes, resource, sys
from visus.core.heap import reserve_heap
took = reserve_heap(256 << 20) if len(sys.argv) > 1 else None
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    place = libc.malloc(48 << 20)
    ctypes.memset(place, 1, 48 << 20)
    libc.free(place)
print(took, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_copies_that_replace_each_other_take_no_new_pages():
    def faults(*words):
        said = subprocess.run([sys.executable, "-c", FAULTS, *words], check=True, capture_output=True, text=True)
        took, count = said.stdout.split()
        return took, int(count)

    took, few = faults("reserved")
    if took != "True":
        pytest.skip("this C library or this system has no such heap")
    assert few < faults()[1] / 3


def test_little_memory_and_other_systems_are_left_as_they_are(monkeypatch):
    assert reserve_heap(1 << 20) is False
    monkeypatch.setattr(sys, "platform", "darwin")
    assert reserve_heap(1 << 30) is False
