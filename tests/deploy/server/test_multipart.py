import pytest

pytest.importorskip("python_multipart", reason="the extra serve is not installed")

from visus.deploy.server.errors import Refusal
from visus.deploy.server.multipart import LONGEST_NAME, echoed, files

FORM = b"multipart/form-data; boundary=b-1"


def part(data: bytes, disposition: bytes = b'form-data; name="f"; filename="a.png"', more: bytes = b"") -> bytes:
    return b"--b-1\r\nContent-Disposition: " + disposition + b"\r\n" + more + b"\r\n" + data + b"\r\n"


def test_files_come_in_order_with_their_bytes_whatever_these_are():
    tricky = b"\r\n--b-\r\n--b-2\r\n\0" + bytes(range(256)) * 300
    body = part(tricky) + part(b"", b'form-data; name=g; filename="b"') + part(b"x", b'form-data; name="note"')
    body += b"--b-1--\r\n"
    found = files(body, FORM, 5)
    assert [(file.name, file.data) for file in found] == [("a.png", tricky), ("b", b"")]


@pytest.mark.parametrize(("body", "kind"), [
    (part(b"x"), FORM), (part(b"x") + b"--b-1", FORM), (part(b"x")[:-9], FORM), (b"", FORM), (b"--b-1--\r\n", FORM),
    (part(b"x") + b"--b-1--", b"multipart/form-data"), (part(b"x") + b"--b-1--", b"multipart/form-data; boundary="),
    (part(b"x") + b"--b-1--", b"multipart/form-data; boundary=" + b"b" * 71),
    (part(b"x") + b"--b-1--", b"multipart/form-data; boundary=other"), (b"garbage" * 100, FORM),
    (part(b"x", b'form-data; name="f"') + b"--b-1--", FORM),
    (part(b"x", more=b"X-A: " + b"a" * 10_000 + b"\r\n") + b"--b-1--", FORM),
    (part(b"x", more=b"X-A: a\r\n" * 30) + b"--b-1--", FORM),
    (part(b"x", b'form-data; name="f"') * 5000 + b"--b-1--", FORM)],
    ids=["no end", "half an end", "cut", "empty", "no part", "no boundary", "empty boundary", "long boundary",
         "other boundary", "garbage", "no file", "long header", "many headers", "many fields"])
def test_what_is_no_form_with_files_is_400(body, kind):
    with pytest.raises(Refusal) as error:
        files(body, kind, 5)
    assert (error.value.status, error.value.code) == (400, "malformed_multipart")


def test_more_files_than_allowed_are_413():
    with pytest.raises(Refusal) as error:
        files(part(b"x") * 5000 + b"--b-1--\r\n", FORM, 4)
    assert error.value.status == 413


@pytest.mark.parametrize(("given", "shown"), [
    (b"../../etc/passwd", "passwd"), (b"C:\\pictures\\cat.png", "cat.png"), (b"", "image"), (b"a/", "image"),
    (b"a\0\x1b[31mb", "a\\x00\\x1b[31mb"), (b"\xff\xfe", "\\udcff\\udcfe"), ("ü.png".encode(), "ü.png")])
def test_names_are_echoed_without_folders_and_without_control(given, shown):
    assert echoed(given) == shown


def test_a_long_name_is_cut():
    assert len(echoed(b"\0" * 5000)) == LONGEST_NAME
