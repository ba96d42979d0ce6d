"""Memory of a process that answers once, and of one that answers all day."""

import subprocess
import sys

import pytest

from visus.core.heap import keep_heap, reserve_heap

FAULTS = """
import ctypes, resource, sys
from visus.core.heap import keep_heap, reserve_heap
took = {"reserved": lambda: reserve_heap(256 << 20), "kept": keep_heap, "plain": lambda: None}[sys.argv[1]]()
size = int(sys.argv[2]) << 20
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    places = [libc.malloc(size) for _ in range(3)]
    for place in places:
        ctypes.memset(place, 1, size)
    for place in places:
        libc.free(place)
print(took, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
@pytest.mark.parametrize("way, size", [("reserved", 48), ("kept", 8)])
def test_copies_that_replace_each_other_take_no_new_pages(way, size):
    def faults(way):
        said = subprocess.run([sys.executable, "-c", FAULTS, way, str(size)], check=True, capture_output=True,
                              text=True)
        took, count = said.stdout.split()
        return took, int(count)

    took, few = faults(way)
    if took != "True":
        pytest.skip("this C library or this system has no such heap")
    assert few < faults("plain")[1] / 3


def test_little_memory_and_other_systems_are_left_as_they_are(monkeypatch):
    assert reserve_heap(1 << 20) is False
    monkeypatch.setattr(sys, "platform", "darwin")
    assert reserve_heap(1 << 30) is False and keep_heap() is False
