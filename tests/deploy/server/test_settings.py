import pytest

from visus.core.errors import UserError
from visus.deploy.server.keys import accepted, digest, given, read_keys
from visus.deploy.server.settings import ServerSettings, usable_cores


@pytest.mark.parametrize(("name", "value"), [
    ("port", -1), ("port", 70_000), ("workers", 0), ("queue", -1), ("streams", 1.5), ("max_images", 0),
    ("header_seconds", 0), ("answer_seconds", float("inf")), ("batch_delay_ms", 2000), ("max_held_bytes", 2048)])
def test_a_value_that_cannot_be_meant_is_refused_by_name(name, value):
    with pytest.raises(UserError, match=name):
        ServerSettings(**{name: value})


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "::", "example.org"])
def test_beyond_this_machine_only_with_keys_or_insecure(host):
    with pytest.raises(UserError, match="no key"):
        ServerSettings(host=host)
    assert ServerSettings(host=host, insecure=True).host_names == frozenset()
    assert ServerSettings(host=host, keys=(digest(b"k"),)).host_names == frozenset()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "localhost", "::1", "[::1]"])
def test_loopback_addresses_need_no_key_and_have_known_names(host):
    assert {"localhost", "127.0.0.1", "[::1]"} <= ServerSettings(host=host).host_names


def test_streams_share_the_cores_between_workers():
    assert ServerSettings(streams=3).computing_streams == 3
    assert ServerSettings(workers=1).computing_streams == usable_cores()
    assert ServerSettings(workers=1000).computing_streams == 1


def test_keys_are_read_as_digests_and_compared(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"# ours\nabcdefghijklmnop\n\nsha256:{digest(b'another-key-of-ours').upper()}\n")
    digests = read_keys(file)
    assert digests == (digest(b"abcdefghijklmnop"), digest(b"another-key-of-ours"))
    assert accepted(b"another-key-of-ours", digests) and accepted(b"abcdefghijklmnop", digests)
    assert not accepted(b"abcdefghijklmno", digests) and not accepted(None, digests) and not accepted(b"x", ())


@pytest.mark.parametrize(("text", "where"), [("", "keys"), ("short", "line 1"), ("sha256:12", "line 1"),
                                             ("good-key-of-many-letters\nwith a space in it", "line 2")])
def test_a_bad_keys_file_is_refused_and_its_key_not_shown(tmp_path, text, where):
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        read_keys(file)
    assert where in str(error.value.where) and "space in it" not in str(error.value)


def test_a_key_is_taken_from_either_header():
    assert given([(b"host", b"x"), (b"authorization", b"bearer  abc ")]) == b"abc"
    assert given([(b"x-api-key", b"abc")]) == b"abc"
    assert given([(b"authorization", b"Basic abc")]) is None
