"""A .deep file gives back the very bits, is as small as its parts, and refuses what was changed."""

import json
import struct

import numpy as np
import pytest

from visus.core.errors import CheckpointError
from visus.deploy.deep_file import MAGIC, read_deep, write_deep


def tensors():
    rng = np.random.default_rng(0)
    weight = np.round(rng.normal(size=(16, 8, 3, 3)) * 2).astype(np.float32) / 7
    weight[np.abs(weight) < 0.4] = 0
    full = np.where(rng.random((40, 300)) < 0.02, rng.choice([-1.5, 0.25, 3.0], (40, 300)), 0).astype(np.float32)
    full[0, :5], full[-1] = 0.25, 0  # begins at once, and ends in zeros
    return {"conv.weight": weight, "fc.weight": full, "fc.bias": rng.normal(size=40).astype(np.float32),
            "norm.count": np.array(7), "empty.weight": np.zeros((9, 400), np.float32),
            "many.weight": rng.normal(size=(30, 30)).astype(np.float32),
            "last.weight": np.eye(1, 500, 499, dtype=np.float32)}


def test_every_tensor_comes_back_to_the_bit(tmp_path):
    given = tensors()
    write_deep(tmp_path / "net.deep", given)
    found = read_deep(tmp_path / "net.deep")
    assert list(found) == list(given)
    for name, values in given.items():
        assert found[name].dtype == values.dtype and found[name].shape == values.shape
        assert np.array_equal(found[name], values)


def test_the_stages_add_up(tmp_path):
    written = write_deep(tmp_path / "net.deep", tensors())
    layer = written.layers["fc.weight"]
    values = tensors()["fc.weight"]
    places = np.flatnonzero(values)
    fillers = ((np.diff(places, prepend=-1) - 1) // 32).sum()  # a gap of 5 bits holds 31 zeros, the filler is one more
    stored = len(places) + fillers
    assert (layer.entries, layer.kept) == (values.size, len(places)) and fillers > 0
    assert layer.plain == 4 * values.size
    assert layer.pruned == stored * (32 + 5) / 8
    assert layer.shared == stored * (2 + 5) / 8 + 3 * 4
    assert layer.huffman < layer.shared
    assert "many.weight" not in written.layers and "fc.bias" not in written.layers
    assert written.size == (tmp_path / "net.deep").stat().st_size
    assert written.total.plain == sum(v.nbytes for v in tensors().values())


def parts(path):
    data = path.read_bytes()
    length = struct.unpack("<I", data[8:12])[0]
    return json.loads(data[12:12 + length]), data[12 + length:]


def put(path, header, rest):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(MAGIC + struct.pack("<I", len(text)) + text + rest)


@pytest.mark.parametrize("change", [
    lambda e: e.update(shape=[1 << 40]), lambda e: e.update(shape=[-1, 5]), lambda e: e.update(shape="x"),
    lambda e: e.update(shape=[True, 1152]), lambda e: e.update(shape=[3, 3]), lambda e: e.update(kind="pickle"),
    lambda e: e.update(stored=10**15), lambda e: e.update(stored=-1), lambda e: e.update(values=10**9),
    lambda e: e.update(gap_bytes=10**12), lambda e: e.update(gap_bytes=-4), lambda e: e.update(index_bytes="9"),
    lambda e: e.update(gap_lengths=[1, 1, 1]), lambda e: e.update(index_lengths=None), lambda e: e.pop("kind"),
    lambda e: e.update(name="fc.weight"), lambda e: e.update(name=["x"]), lambda e: e.update(values=e["values"] - 1)])
def test_a_changed_header_is_refused(tmp_path, change):
    path = tmp_path / "net.deep"
    write_deep(path, tensors())
    header, rest = parts(path)
    change(header["tensors"][0])
    put(path, header, rest)
    with pytest.raises(CheckpointError):
        read_deep(path)


def test_every_truncation_is_refused(tmp_path):
    path = tmp_path / "net.deep"
    write_deep(path, {name: values for name, values in tensors().items() if name != "many.weight"})
    data = path.read_bytes()
    for length in (*range(40), *range(40, len(data), 37), len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError):
            read_deep(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(CheckpointError, match="belong to no tensor"):
        read_deep(path)


def test_flipped_bits_are_refused_or_change_a_number_only(tmp_path):
    path = tmp_path / "net.deep"
    write_deep(path, {"fc.weight": tensors()["fc.weight"]})
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(data), 60):
        broken = bytearray(data)
        broken[place] ^= 1 << rng.integers(0, 8)
        path.write_bytes(bytes(broken))
        try:
            found = read_deep(path)
        except CheckpointError:
            continue
        assert all(values.size <= 12_000 * 10 for values in found.values())


def test_many_tensors_of_zeros_are_no_bomb(tmp_path):
    entry = {"kind": "shared", "shape": [1 << 14, 1 << 14], "values": 0, "stored": 0, "gap_lengths": [], "gap_bytes": 0,
             "index_lengths": [], "index_bytes": 0}
    path = tmp_path / "net.deep"
    put(path, {"tensors": [entry | {"name": str(k)} for k in range(50)]}, b"")
    with pytest.raises(CheckpointError, match="do not describe so many"):
        read_deep(path)
    put(path, b"[" * 100_000, b"")
    with pytest.raises(CheckpointError):
        read_deep(path)
    with pytest.raises(CheckpointError):
        read_deep(tmp_path / "absent.deep")
