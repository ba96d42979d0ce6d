"""Weight files: what visus writes comes back, and what others write cannot hurt."""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import struct
import time
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from visus.core.errors import CheckpointError
from visus.core.weights import (
    fingerprint,
    non_finite,
    read_metadata,
    read_state_dict,
    with_tensors,
    write_state_dict,
)

TENSORS = {
    "b.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3), "a": torch.tensor(7),
           "empty": torch.empty(0, 3),
    "half": torch.tensor([1.5, -2], dtype=torch.bfloat16), "mask": torch.tensor([True, False, True]),
    "double": torch.tensor([1e300], dtype=torch.float64),
}


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


def test_what_is_written_is_what_safetensors_reads(tmp_path):
    from safetensors.torch import load_file

    write_state_dict(tmp_path / "m.safetensors", TENSORS, {"config": "{}"})
    assert_equal(load_file(tmp_path / "m.safetensors"), TENSORS)
    assert_equal(read_state_dict(tmp_path / "m.safetensors"), TENSORS)
    assert read_metadata(tmp_path / "m.safetensors")["config"] == "{}"


def test_what_safetensors_writes_is_read(tmp_path):
    from safetensors.torch import save_file

    save_file(TENSORS, tmp_path / "m.safetensors")
    assert_equal(read_state_dict(tmp_path / "m.safetensors"), TENSORS)


def test_same_tensors_give_same_bytes_in_any_order(tmp_path):
    metadata = {f"k{i}": str(i) for i in range(9)}
    write_state_dict(tmp_path / "1", TENSORS, metadata)
    write_state_dict(tmp_path / "2", dict(reversed(TENSORS.items())), dict(reversed(metadata.items())))
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_every_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "m.safetensors"
    write_state_dict(path, {"w": torch.ones(5), "n": torch.tensor([3])})
    whole = path.read_bytes()
    data = 8 + struct.unpack("<Q", whole[:8])[0]
    for position in range(data, len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1:])
        with pytest.raises(CheckpointError, match="checksum"):
            read_state_dict(path)


def test_type_that_safetensors_lacks_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="z is torch.complex128"):
        write_state_dict(tmp_path / "m", {"z": torch.zeros(1, dtype=torch.complex128)})


@pytest.mark.parametrize("wrap",
                         [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s},
                                  lambda s: {"model_state_dict": OrderedDict(s), "loss": 0.5},
                                  lambda s: {"epoch": 3, "model_state": s}])
@pytest.mark.parametrize("legacy", [False, True])
def test_torch_checkpoints_are_read(tmp_path, wrap, legacy):
    tensors = {k: v for k, v in TENSORS.items() if k != "empty"}
    torch.save(wrap(tensors), tmp_path / "m.pt", _use_new_zipfile_serialization=not legacy)
    assert_equal(read_state_dict(tmp_path / "m.pt"), tensors)


def test_parameters_and_tied_tensors_are_read(tmp_path):
    shared = torch.arange(4.0)
    torch.save({"p": nn.Parameter(torch.ones(2)), "x": shared, "y": shared[1:3]}, tmp_path / "m.pt")
    found = read_state_dict(tmp_path / "m.pt")
    assert_equal(found, {"p": torch.ones(2), "x": shared, "y": shared[1:3]})
    assert not found["p"].requires_grad


def test_checkpoints_with_a_zip64_directory_are_read(tmp_path):
    """As torch writes above 4 GiB: the same small file with the long form of the directory's record."""
    path = tmp_path / "m.pt"
    torch.save({"w": torch.arange(3.0)}, path)
    raw = path.read_bytes()
    count, length, offset = struct.unpack("<10xHLL2x", raw[-22:])
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, length, offset)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, offset + length, 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0)
    path.write_bytes(raw[:offset + length] + record + locator + end)
    assert_equal(read_state_dict(path), {"w": torch.arange(3.0)})


def test_non_finite_tensors_are_named():
    assert non_finite({"a": torch.ones(2), "b": torch.tensor([1, float("nan")]), "c": torch.tensor([3]),
                       "d": torch.tensor([float("inf")])}) == ["b", "d"]


# Malicious and damaged files. Each maker gets the path to write and a marker that the payload would create.


class Payload:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def zip_of(path: Path, pickled: bytes, extra: dict[str, bytes] | None = None,
           kind: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", b"3\n")
        for name, data in (extra or {}).items():
            archive.writestr(f"archive/{name}", data)


def touching(marker: Path):
    return Payload(os.system, f"touch {marker}")


def make_zip_system(path, marker):
    torch.save({"w": torch.ones(1), "x": touching(marker)}, path)


def make_legacy_system(path, marker):
    torch.save({"x": touching(marker)}, path, _use_new_zipfile_serialization=False)


def make_plain_pickle(path, marker):
    path.write_bytes(pickle.dumps(touching(marker)))


def make_eval(path, marker):
    zip_of(path, pickle.dumps(Payload(eval, f"open({str(marker)!r}, 'w')"), protocol=2))


def make_exec(path, marker):
    zip_of(path, pickle.dumps(Payload(exec, f"open({str(marker)!r}, 'w')"), protocol=4))


def make_pathlib(path, marker):
    zip_of(path, pickle.dumps(Payload(Path.touch, marker), protocol=4))


def make_getattr(path, marker):
    length = struct.pack("<I", len(str(marker)) + 6)
    zip_of(path, b"\x80\x02c__builtin__\ngetattr\ncos\nX\x06\0\0\0system\x86RX" + length
           + f"touch {marker}".encode() + b"\x85R.")


def make_in_optimizer(path, marker):
    torch.save({"state_dict": {"w": torch.ones(1)}, "optimizer": {"state": [{"step": touching(marker)}]}},
               path)


def make_broken_tail(path, marker):
    zip_of(path, pickle.dumps(touching(marker), protocol=2)[:-1] + b"\xff\xff")


def make_memo_nested(path, marker):
    nested: object = touching(marker)
    for _ in range(50):
        nested = [nested, {"k": nested}]
    zip_of(path, pickle.dumps(nested, protocol=2))


def make_missing_module(path, marker):
    zip_of(path, b"\x80\x02cnot_installed_package\nrun\n)R.")


def make_npy_object(path, marker):
    np.save(path.with_suffix(".npy"), np.array([touching(marker)], dtype=object), allow_pickle=True)
    path.with_suffix(".npy").rename(path)


def make_cache(path, marker):
    np.savez(path.with_suffix(".npz"), x=np.array([touching(marker)], dtype=object))
    path.with_suffix(".npz").rename(path)


def make_yaml(path, marker):
    path.write_text(f"!!python/object/apply:os.system ['touch {marker}']\n")


def make_torchscript(path, marker):
    zip_of(path, b"\x80\x02}.", {"code/__torch__.py": b"import os", "constants.pkl": b"\x80\x02)."})


def make_inst_opcode(path, marker):
    zip_of(path, f"\x80\x02(X{chr(5)}\0\0\0touchios\nsystem\n.".encode("latin1"))


def make_ext_opcode(path, marker):
    zip_of(path, b"\x80\x02\x82\x01.")


def make_deflated_bomb(path, marker):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        with archive.open("archive/data/0", "w", force_zip64=True) as entry:
            block = bytes(1 << 20)
            for _ in range(64):
                entry.write(block)
    raw = path.read_bytes()
    assert raw.count(b"archive/data/0") == 2  # the size is then claimed to be 3 GB in both places
    path.write_bytes(raw.replace(struct.pack("<Q", 64 << 20), struct.pack("<Q", 3 << 30))
                     .replace(struct.pack("<I", 64 << 20), struct.pack("<I", 3 << 30)))


def storage_pickle(count: int, kind: str = "FloatStorage", size: int = 1, stride: int = 1) -> bytes:
    """{"w": a tensor of `size` on a storage that is declared to hold `count`}, as torch.save writes it."""
    integer = struct.pack("<i", count) if count < 1 << 31 else b""
    number = b"J" + integer if integer else b"\x8a\x08" + struct.pack("<q", count)
    shape = b"\x8a\x08" + struct.pack("<q", size)
    return (b"\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\n"
            + kind.encode() + b"\nX\x01\0\0\x000X\x03\0\0\0cpu" + number + b"tQK\0" + shape
            + b"\x85\x8a\x08" + struct.pack("<q", stride)
            + b"\x85\x89ccollections\nOrderedDict\n)RtRs.")


def make_declared_too_large(path, marker):
    zip_of(path, storage_pickle(1 << 40), {"data/0": bytes(4)})


def make_storage_larger_than_declared(path, marker):
    zip_of(path, storage_pickle(1), {"data/0": bytes(400)})


def make_tensor_larger_than_storage(path, marker):
    zip_of(path, storage_pickle(1, size=1 << 29), {"data/0": bytes(4)})


def make_expanded_tensor(path, marker):
    zip_of(path, storage_pickle(1, size=1 << 40, stride=0), {"data/0": bytes(4)})


def make_legacy_declared_too_large(path, marker):
    whole = io.BytesIO()
    torch.save({"w": torch.ones(3)}, whole, _use_new_zipfile_serialization=False)
    raw = whole.getvalue()
    assert raw.count(b"K\x03N") == 1  # the count of the storage, before "no view"
    path.write_bytes(raw.replace(b"K\x03N", b"\x8a\x06" + struct.pack("<q", 1 << 40)[:6] + b"N"))


def make_many_entries(path, marker):
    path.write_bytes(_many_entries(1_000_000))


def _many_entries(count: int) -> bytes:
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 0, 0, 0, 0, 1, 0) + b"a"
    row = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    directory = row * count
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(directory), len(local))
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(local) + len(directory), 1)
    return local + directory + record + locator + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65535, 65535,
                                                              2**32 - 1,
                                                              2**32 - 1, 0)


def make_duplicate_entries(path, marker):
    path.write_bytes(_many_entries(3))


def make_recursion(path, marker):
    path.write_bytes(struct.pack("<Q", 200_000) + b'{"a":' + b"[" * 199_995)


def make_huge_header(path, marker):
    path.write_bytes(struct.pack("<Q", 1 << 60) + b"{}" + bytes(100))


def make_huge_header_named(path, marker):
    path.write_bytes(struct.pack("<Q", 1 << 60) + b"{}" + bytes(100))


def make_overlap(path, marker):
    row = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    text = json.dumps({"a": row, "b": row}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))


def make_memo_bomb(path, marker):
    zip_of(path, b"\x80\x02}r\xff\xff\xff\x7f.")


def make_bytes_bomb(path, marker):
    zip_of(path, b"\x80\x05\x96" + struct.pack("<Q", 3 << 30) + b".")


def make_empty(path, marker):
    path.write_bytes(b"")


def make_html(path, marker):
    path.write_text("\n<!DOCTYPE html><html><body>404 Not Found</body></html>")


def make_lfs(path, marker):
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 46830571\n")


def make_truncated_zip(path, marker):
    torch.save({"w": torch.ones(1000)}, path)
    path.write_bytes(path.read_bytes()[:-500])


def make_truncated_legacy(path, marker):
    torch.save({"w": torch.ones(1000)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-500])


def make_truncated_safetensors(path, marker):
    write_state_dict(path, {"w": torch.ones(1000)})
    path.write_bytes(path.read_bytes()[:-500])


def make_state_of_objects(path, marker):
    torch.save({"args": {"lr": 0.1}, "names": ["a"]}, path)


def make_text(path, marker):
    path.write_text("epoch,loss\n1,0.5\n")


BAD = {  # maker -> (suffix, a word of the message)
    make_zip_system: (".pt", "system"), make_legacy_system: (".pt", "system"),
       make_plain_pickle: (".pkl", "system"),
    make_eval: (".pt", "eval"), make_exec: (".pt", "exec"), make_pathlib: (".pt", "Python objects"),
    make_getattr: (".pt", "getattr"), make_in_optimizer: (".pt", "system"),
       make_broken_tail: (".pt", "system"),
    make_memo_nested: (".pt", "system"), make_missing_module: (".pt", "not_installed_package.run"),
    make_npy_object: (".pt", "NumPy array"), make_cache: (".cache", "compressed|NumPy"),
       make_yaml: (".pt", "not a weights"),
    make_torchscript: (".pt", "TorchScript"), make_inst_opcode: (".pt", "INST"),
       make_ext_opcode: (".pt", "EXT1"),
    make_deflated_bomb: (".pt", "compressed"), make_declared_too_large: (".pt", "declares storage"),
    make_storage_larger_than_declared: (".pt", "declares storage"),
       make_tensor_larger_than_storage: (".pt", "larger|damaged"),
    make_expanded_tensor: (".pt", "larger"), make_legacy_declared_too_large: (".pt", "declares storages"),
    make_many_entries: (".pt", "1000000 entries"), make_duplicate_entries: (".pt", "twice"),
    make_recursion: (".safetensors", "damaged"), make_huge_header: (".bin", "truncated|not a weights"),
    make_huge_header_named: (".safetensors", "claims"), make_overlap: (".safetensors", "damaged"),
    make_memo_bomb: (".pt", "no named tensors"), make_bytes_bomb: (".pt", "BYTEARRAY8|damaged"),
    make_empty: (".pt", r"0 bytes"), make_html: (".pth", "web page"),
       make_lfs: (".safetensors", "git lfs pull"),
    make_truncated_zip: (".pt", "truncated"), make_truncated_legacy: (".pt", "declares storages"),
    make_truncated_safetensors: (".safetensors", "truncated"), make_state_of_objects: (".pt", "not tensors"),
    make_text: (".pt", "not a weights"),
}


@pytest.fixture(scope="module", autouse=True)
def warm(tmp_path_factory):
    """The first torch.load imports half of torch; the time limits below are for what comes after."""
    path = tmp_path_factory.mktemp("warm") / "m.pt"
    torch.save({"w": torch.ones(1)}, path)
    read_state_dict(path)


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
def test_bad_file_is_refused_fast_without_running_or_allocating(make, tmp_path):
    suffix, word = BAD[make]
    path, marker = tmp_path / f"file{suffix}", tmp_path / "marker"
    make(path, marker)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    with pytest.raises(CheckpointError, match=word) as caught:
        read_state_dict(path)
    assert time.process_time() - start < 0.1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10  # KiB
    assert not marker.exists()
    assert caught.value.where == str(path)
    assert "weights_only" not in str(caught.value)


def test_refusal_allocates_little(tmp_path):
    zip_of(tmp_path / "m.pt", storage_pickle(1 << 40), {"data/0": bytes(4)})
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError):
            read_state_dict(tmp_path / "m.pt")
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_damaged_checkpoints_never_raise_anything_else(tmp_path):
    """Fuzz: any byte changed or any cut is read or refused, never another exception."""
    generator = np.random.default_rng(0)
    for legacy in (False, True):
        path = tmp_path / "m.pt"
        torch.save({"w": torch.ones(3), "b": torch.zeros(1)}, path, _use_new_zipfile_serialization=not legacy)
        whole = path.read_bytes()
        for _ in range(400):
            raw = bytearray(whole)
            for _ in range(generator.integers(1, 4)):
                raw[generator.integers(len(raw))] = generator.integers(256)
            path.write_bytes(bytes(raw[:generator.integers(1, len(raw))] if generator.random() < 0.2
                                   else raw))
            try:
                read_state_dict(path)
            except CheckpointError:
                pass


@pytest.mark.parametrize("name", ["missing.pt", "."])
def test_missing_file_and_folder_are_refused(tmp_path, name):
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_state_dict(tmp_path / name)


def test_copy_with_tensors_keeps_ties_and_leaves_the_model():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    kept = model[0].weight.clone()
    copy = with_tensors(model, lambda name, tensor: torch.zeros_like(tensor))
    assert copy[0].weight is copy[1].weight and copy[0].weight.abs().sum() == 0
    assert torch.equal(model[0].weight, kept)


def test_fingerprint_equals_the_formula_by_hand():
    """One linear layer: the numbers can be written down with the hash alone."""
    from visus.core.seeds import uniform

    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    weight = ((uniform(np.arange(8), "fingerprint", "1.weight") - 0.5) * 2 * (6 / 4) ** 0.5).reshape(2, 4)
    bias = (uniform(np.arange(2), "fingerprint", "1.bias") - 0.5) * 0.2
    images = (uniform(np.arange(12), "fingerprint", "images") * 2 - 1).reshape(3, 4)
    out = images @ weight.T + bias
    expected = out.mean(), out.std(), out[0, 0], out[-1, -1]
    assert fingerprint(model, (3, 1, 2, 2)) == pytest.approx(expected, rel=1e-12)
