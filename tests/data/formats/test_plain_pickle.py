"""Pickles read as data: equal to pickle.loads where the file is data, refused by name where it is a program."""

from __future__ import annotations

import builtins
import os
import pickle
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import visus.data.formats.cifar.plain_pickle as module
from visus.core.errors import DataError, UserError
from visus.data.formats.cifar.plain_pickle import plain_pickle, read_plain_pickle

BATCH = {b"data": np.arange(6144, dtype=np.uint8).reshape(2, 3072), b"labels": [3, 70000], b"filenames": [b"a\n'.png"],
         b"batch_label": b"training batch 1 of 5", b"offset": -5, b"none": None, b"pair": (True, False)}
# what Python 2's cPickle wrote: byte strings as SHORT_BINSTRING and BINSTRING
PYTHON_2 = (b"\x80\x02}q\x01(U\x06labelsq\x02]q\x03(K\x06K\x09eU\x04dataq\x04cnumpy.core.multiarray\n_reconstruct\n"
            b"q\x05cnumpy\nndarray\nq\x06K\x00\x85U\x01b\x87Rq\x07(K\x01K\x02K\x03\x86cnumpy\ndtype\nq\x08U\x02u1K\x00"
            b"K\x01\x87Rq\x09(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T\x06\x00\x00\x00\x00\x01\xff"
            b"\x03\x04\x05tbu.")
PROTOCOL_0 = b"(dp1\nS'num_cases_per_batch'\np2\nI10000\nsS'label_names'\np3\n(lp4\nS'airplane'\np5\naS'cat'\np6\nas."


class Runs:
    """Pickled, it calls `function` when it is loaded."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def refused(data: bytes, *words: str) -> None:
    with pytest.raises(DataError) as caught:
        plain_pickle(data, where="batch")
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert "batch" in caught.value.where


@pytest.mark.parametrize("protocol", [0, 1, 2, 3])
def test_data_equal_what_pickle_loads(protocol):
    found = plain_pickle(pickle.dumps(BATCH, protocol))
    expected = {k.decode(): v for k, v in pickle.loads(pickle.dumps(BATCH, protocol)).items()}
    np.testing.assert_array_equal(found.pop("data"), expected.pop("data"))
    assert found == expected


@pytest.mark.parametrize("dtype", ["u1", "<i4", ">i8", "<f4", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_keep_type_byte_order_and_layout(dtype, order):
    array = np.asarray(np.arange(12).reshape(3, 4), dtype=dtype, order=order)
    found = plain_pickle(pickle.dumps({"a": array}, 2))["a"]
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_files_written_by_python_2_give_bytes():
    found = plain_pickle(PYTHON_2)
    assert found["labels"] == [6, 9] and found["data"].tolist() == [[0, 1, 255], [3, 4, 5]]
    assert plain_pickle(PROTOCOL_0) == {"num_cases_per_batch": 10000, "label_names": [b"airplane", b"cat"]}
    assert pickle.loads(PYTHON_2, encoding="bytes")[b"data"].tolist() == found["data"].tolist()
    assert plain_pickle(rb"(dS'a'" + b"\n" + rb"""S'q\'\"\\ \n\x00\xff'""" + b"\ns.") == {"a": b"q'\"\\ \n\0\xff"}
    refused(rb"(dS'a'" + b"\n" + rb"S'\u0041'" + b"\ns.", "unknown escape")


@pytest.mark.parametrize("protocol", [0, 1, 2, 3])
@pytest.mark.parametrize("function, arguments", [
    (os.system, ("touch RAN",)), (builtins.eval, ("open('RAN','x')",)), (getattr, ("a", "upper")), (open, ("RAN", "x")),
    (np.load, ("x.npy",)), (pickle.loads, (b"N.",))])
def test_a_pickle_that_calls_anything_is_refused_by_that_name_and_nothing_runs(
        tmp_path, monkeypatch, protocol, function, arguments):
    monkeypatch.chdir(tmp_path)
    refused(pickle.dumps({"data": Runs(function, *arguments)}, protocol), function.__name__, "names")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("data, word", [
    (pickle.dumps({"a": {1, 2}}, 4), "protocol 4"), (b"\x80\x05.", "protocol 5"),
    (b"(S'a'\nios\nsystem\n.", "INST"), (b"(S'a'\nos.", "OBJ"), (b"P0\n.", "PERSID"), (b"}Q.", "BINPERSID"),
    (b"\x82\x01.", "EXT1"), (b"}2.", "DUP"), (b"G" + bytes(8) + b".", "BINFLOAT"), (b"F1.5\n.", "FLOAT"),
    (b"cnumpy\ndtype\nX\x02\x00\x00\x00u1\x85\x81.", "NEWOBJ"), (b"\x96" + bytes(8) + b".", "BYTEARRAY8"),
    (b"\xff.", "0xff"), (b"", "ends in the middle"), (b"}", "ends in the middle"), (b"K\x05.", "int"), (b"].", "list"),
    (b"T\xff\xff\xff\x7fabc.", "claims 2,147,483,647 bytes"), (b"T\xff\xff\xff\xffabc.", "claims -1 bytes"),
    (b"B\xff\xff\xff\xff.", "claims"), (b"\x8a\xff" + bytes(255) + b".", "a number of 255 bytes"),
    (b"I" + b"9" * 100000 + b"\n.", "no end"), (b"(" * 100 + b".", "groups within groups"), (b"e.", "damaged"),
    (b"h\x05.", "damaged"), (b"](K\x01K\x02u.", "no dictionary"), (b"}(K\x01u.", "no dictionary"),
    (b"}K\x01K\x02s.", "a key is no text"), (b"}}K\x01s.", "a key is no text"), (b"}K\x01a.", "no list"),
    (b"cnumpy\nndarray\n)R.", "numpy.ndarray"), (b"K\x01K\x02R.", "no function"), (b"}K\x01b.", "has none"),
    (b"}X\x01\x00\x00\x00\xffK\x01s.", "damaged"),
])
def test_what_data_do_not_need_is_refused_by_name(data, word):
    refused(data, word)


@pytest.mark.parametrize("shape, kind, raw, word", [
    ("(K\x02K\x03t", "u1", 5, "in 5 bytes"), ("(J\xff\xff\xff\x7fJ\xff\xff\xff\x7ft", "u8", 6, "impossible shape"),
    ("(J\xff\xff\xff\xfft", "u1", 6, "impossible shape"), ("(K\x06t", "O8", 6, "'O8'"), ("(K\x06t", "V1", 6, "'V1'"),
    ("(" + "K\x00" * 9 + "t", "u1", 0, "impossible shape")])
def test_an_array_that_is_none_is_refused(shape, kind, raw, word):
    text = (f"}}X\x01\x00\x00\x00acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
            f"(K\x01{shape}cnumpy\ndtype\nX\x02\x00\x00\x00{kind}K\x00K\x01\x87R\x89C")
    refused(text.encode("latin-1") + bytes([raw]) + bytes(raw) + b"tbs.", word)


def test_nested_tuples_as_a_key_do_not_take_for_ever():
    refused(b"}K\x01\x85" + b"q\x00h\x00\x86" * 200 + b"K\x01s.", "a key is no text")


def test_one_text_cannot_be_encoded_again_and_again():
    data = b"X" + struct.pack("<I", 5000) + b"a" * 5000 + b"q\x00X\x06\x00\x00\x00latin1q\x01"
    refused(data + b"c_codecs\nencode\nh\x00h\x01\x86R" * 400 + b"}.", "more bytes than it has")


def test_instructions_are_counted(monkeypatch):
    monkeypatch.setattr(module, "MAX_STEPS", 1000)
    refused(b"]" * 2000 + b"}.", "more than 1,000 instructions")


def test_the_length_is_checked_before_reading(tmp_path):
    path = tmp_path / "batch"
    with open(path, "wb") as file:
        file.truncate(1 << 31)
    with pytest.raises(DataError, match="over the limit"):
        read_plain_pickle(str(path))
    with pytest.raises(DataError, match="cannot be read"):
        read_plain_pickle(str(tmp_path / "nothing"))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_mutated_pickles_end_in_data_or_in_an_error_of_ours(data):
    base = bytearray(data.draw(st.sampled_from([PYTHON_2, PROTOCOL_0, pickle.dumps(BATCH, 2)[:400]])))
    for _ in range(data.draw(st.integers(1, 6))):
        base[data.draw(st.integers(0, len(base) - 1))] = data.draw(st.integers(0, 255))
    try:
        plain_pickle(bytes(base))
    except UserError:
        pass
