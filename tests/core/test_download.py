"""Downloads against a server on the loopback device that breaks, lies and changes its mind."""

from __future__ import annotations

import pytest

import visus.core.download
from tests.loopback import CONTENT, DIGEST, Server, serve
from visus.core.download import DownloadError, download
from visus.core.errors import ResourceError


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(visus.core.download, "PAUSE_S", 0.0)
    server = Server()
    yield server
    server.close()


def test_a_file_arrives_whole_and_nothing_else_is_left(server, tmp_path):
    told = []
    path = download(f"{server.url}/f.bin", tmp_path / "a" / "f.bin", digest=DIGEST, progress=lambda *n: told.append(n))
    assert path.read_bytes() == CONTENT and [p.name for p in path.parent.iterdir()] == ["f.bin"]
    assert told[-1] == (len(CONTENT), len(CONTENT)) and [n for n, _ in told] == sorted(n for n, _ in told)


def test_a_broken_connection_is_gone_on_with_from_the_byte_where_it_broke(server, tmp_path):
    cut = 1_500_000
    server.behave = lambda h, p, n: serve(h, p, n, cut=cut if n == 1 else None)
    download(f"{server.url}/f.bin", tmp_path / "f.bin", digest=DIGEST)
    assert [r for _, r in server.seen] == [None, f"bytes={cut}-"]
    assert (tmp_path / "f.bin").read_bytes() == CONTENT


def test_a_new_process_goes_on_with_what_the_last_one_left(server, tmp_path):
    server.behave = lambda h, p, n: serve(h, p, n, cut=1000) if n == 1 else h.send_error(404)
    with pytest.raises(DownloadError, match="404"):
        download(f"{server.url}/f.bin", tmp_path / "f.bin")
    assert not (tmp_path / "f.bin").exists() and (tmp_path / "f.bin.part").stat().st_size == 1000
    server.behave = serve
    download(f"{server.url}/f.bin", tmp_path / "f.bin", digest=DIGEST)
    assert server.seen[-1][1] == "bytes=1000-"


def test_a_file_that_changed_at_the_server_is_begun_again(server, tmp_path):
    new = CONTENT[::-1]
    server.behave = lambda h, p, n: serve(h, p, n, cut=1000) if n == 1 else serve(h, p, n, content=new, etag='"two"')
    download(f"{server.url}/f.bin", tmp_path / "f.bin")
    assert (tmp_path / "f.bin").read_bytes() == new


def test_a_shorter_file_at_the_server_is_begun_again(server, tmp_path):
    def behave(handler, path, number):
        if number == 1:
            serve(handler, path, number, cut=1000)
        elif handler.headers.get("Range"):
            handler.send_response(416)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
        else:
            serve(handler, path, number, content=b"short")
    server.behave = behave
    download(f"{server.url}/f.bin", tmp_path / "f.bin")
    assert (tmp_path / "f.bin").read_bytes() == b"short"


@pytest.mark.parametrize("digest", ["0" * 64, "00000000"])
def test_a_wrong_digest_leaves_no_file(server, tmp_path, digest):
    with pytest.raises(DownloadError, match=f"SHA-256 {DIGEST[:16]}.*expected"):
        download(f"{server.url}/f.bin", tmp_path / "f.bin", digest=digest)
    assert not (tmp_path / "f.bin").exists() and (tmp_path / "f.bin.part").stat().st_size == 0
    download(f"{server.url}/f.bin", tmp_path / "f.bin", digest=DIGEST[:8])


def test_the_digest_that_the_server_states_is_checked_across_a_redirect(server, tmp_path):
    def behave(handler, path, number, digest=DIGEST):
        if path == "/repository/model.safetensors":
            handler.send_response(302)
            handler.send_header("Location", f"{server.url}/storage")
            handler.send_header("X-Linked-Etag", f'"{digest}"')
            handler.send_header("Content-Length", "0")
            handler.end_headers()
        else:
            serve(handler, path, number)
    server.behave = behave
    url = f"{server.url}/repository/model.safetensors"
    assert download(url, tmp_path / "right").read_bytes() == CONTENT
    server.behave = lambda h, p, n: behave(h, p, n, digest="1" * 64)
    with pytest.raises(DownloadError, match="stated by the server"):
        download(url, tmp_path / "wrong")


@pytest.mark.parametrize(("code", "requests"), [(404, 1), (403, 1), (503, 4), (429, 4)])
def test_an_error_page_is_no_file_and_busy_servers_are_asked_again(server, tmp_path, code, requests):
    server.behave = lambda h, p, n: h.send_error(code)
    with pytest.raises(DownloadError, match=f"{code}.*by other means") as caught:
        download(f"{server.url}/f.bin", tmp_path / "f.bin")
    assert caught.value.exit_code == 2 and caught.value.where == f"{server.url}/f.bin"
    assert len(server.seen) == requests and not (tmp_path / "f.bin").exists()


def test_no_server_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr(visus.core.download, "PAUSE_S", 0.0)
    with pytest.raises(DownloadError, match="could not be fetched"):
        download("http://127.0.0.1:9/f.bin", tmp_path / "f.bin")


@pytest.mark.parametrize("url", ["http://example.org/f", "ftp://127.0.0.1/f", "file:///etc/passwd", "f.bin"])
def test_only_secure_addresses_are_opened(url, tmp_path):
    with pytest.raises(DownloadError, match="not an https address"):
        download(url, tmp_path / "f")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["http://example.org/f", "file:///etc/passwd"])
def test_a_redirect_to_an_insecure_address_is_refused(server, tmp_path, target):
    def behave(handler, path, number):
        handler.send_response(302)
        handler.send_header("Location", target)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
    server.behave = behave
    with pytest.raises(DownloadError):
        download(f"{server.url}/f.bin", tmp_path / "f.bin")
    assert len(server.seen) == 1


def test_more_than_the_limit_is_refused_before_it_is_read(server, tmp_path):
    with pytest.raises(DownloadError, match="limit of 1 MiB"):
        download(f"{server.url}/f.bin", tmp_path / "f.bin", max_bytes=1 << 20)
    assert (tmp_path / "f.bin.part").stat().st_size == 0


def test_a_full_disk_is_told_before_the_first_byte(server, tmp_path, monkeypatch):
    monkeypatch.setattr(visus.core.download.shutil, "disk_usage", lambda _: type("U", (), {"free": 1 << 20}))
    with pytest.raises(ResourceError, match="3 MiB are needed, 1 MiB are free"):
        download(f"{server.url}/f.bin", tmp_path / "f.bin")
    assert not (tmp_path / "f.bin").exists()


def test_two_at_once_fetch_it_once(server, tmp_path):
    import subprocess
    import sys

    code = (f"from visus.core.download import download; "
            f"download({server.url + '/f.bin'!r}, {str(tmp_path / 'f.bin')!r}, digest={DIGEST!r})")
    both = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(2)]
    for process in both:
        assert process.communicate()[1] == b"" and process.returncode == 0
    assert (tmp_path / "f.bin").read_bytes() == CONTENT and len(server.seen) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["f.bin"]
