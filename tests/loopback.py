"""A server on the loopback device for tests of what comes from the network."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CONTENT = bytes(range(256)) * 4096 * 3  # 3 MiB: several blocks
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server:
    """What each request is answered with is up to `behave(handler, path, number)`; `seen` keeps the requests."""

    def __init__(self):
        server = self
        self.seen: list[tuple[str, str | None]] = []
        self.behave = serve

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.seen.append((self.path, self.headers.get("Range")))
                server.behave(self, self.path, len(server.seen))

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def close(self):
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


def serve(handler, path, number, *, content=CONTENT, cut=None, etag='"one"', headers=()):
    """The file as a whole or from the asked byte on, or only its first `cut` bytes."""
    start, asked = 0, handler.headers.get("Range")
    if asked and handler.headers.get("If-Range") == etag:
        start = int(asked.removeprefix("bytes=").rstrip("-"))
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    else:
        handler.send_response(200)
    handler.send_header("Content-Length", str(len(content) - start))
    handler.send_header("ETag", etag)
    for name, value in headers:
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(content[start:cut])
