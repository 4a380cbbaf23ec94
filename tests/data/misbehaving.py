"""A real HTTP server on loopback that misbehaves as its paths say: /MANNER/NAME."""

from __future__ import annotations

import gzip
import http.server
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` by NAME. `asked` is the log: (time, path, Range); `sent` counts the body bytes of each path."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = files
        self.asked: list[tuple[float, str, str]] = []
        self.sent: Counter[str] = Counter()
        self.visits: Counter[str] = Counter()
        self.ending = threading.Event()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are no errors here."""


@contextmanager
def misbehaving(files: dict[str, bytes]) -> Iterator[Server]:
    server = Server(files)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.ending.set()
        server.shutdown()
        thread.join()
        server.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None:
        """Nothing on the test's screen."""

    def do_GET(self) -> None:
        manner, _, name = self.path.strip("/").partition("/")
        self.server.asked.append((time.monotonic(), self.path, self.headers.get("Range", "")))
        self.server.visits[self.path] += 1
        visit = self.server.visits[self.path]
        getattr(self, manner.replace("-", "_"))(self.server.files.get(name, b""), name, visit)

    # ---- what ends well

    def good(self, data: bytes, name: str, visit: int, kind: str = "image/png", mark: str = '"one"', ranges: bool = True) -> None:
        start = self._start(data, mark) if ranges else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self._head(kind, len(data) - start, mark)
        self._write(data[start:])

    def flaky(self, data: bytes, name: str, visit: int) -> None:
        if visit <= 2:
            return self._plain((500, 503)[visit - 1])
        return self.good(data, name, visit)

    def busy(self, data: bytes, name: str, visit: int) -> None:
        if visit == 1:
            return self._plain(429, {"Retry-After": "1"})
        return self.good(data, name, visit)

    def cut_once(self, data: bytes, name: str, visit: int) -> None:
        if visit == 1:
            return self._cut(data, len(data) // 2, '"one"')
        return self.good(data, name, visit)

    def cut_and_changed(self, data: bytes, name: str, visit: int) -> None:
        if visit == 1:
            return self._cut(bytes(len(data)), len(data) // 2, '"zero"')
        return self.good(data, name, visit)

    def cut_without_ranges(self, data: bytes, name: str, visit: int) -> None:
        if visit == 1:
            return self._cut(data, len(data) // 2, '"one"')
        return self.good(data, name, visit, ranges=False)

    def lost_place(self, data: bytes, name: str, visit: int) -> None:
        if visit == 1:
            return self._cut(data, len(data) // 2, '"one"')
        if self.headers.get("Range"):
            return self._plain(416)
        return self.good(data, name, visit)

    def other_part(self, data: bytes, name: str, visit: int) -> None:
        if visit == 1:
            return self._cut(data, len(data) // 2, '"one"')
        if self.headers.get("Range"):
            self.send_response(206)
            self.send_header("Content-Range", f"bytes 7-{len(data) - 1}/{len(data)}")
            self._head("image/png", len(data) - 7, '"one"')
            return self._write(data[7:])
        return self.good(data, name, visit)

    def reset_once(self, data: bytes, name: str, visit: int) -> None:
        if visit == 1:
            return self._reset()
        return self.good(data, name, visit)

    def redirect(self, data: bytes, name: str, visit: int) -> None:
        self._plain(302, {"Location": f"/good/{name}"})

    def wrong_type(self, data: bytes, name: str, visit: int) -> None:
        self.good(data, name, visit, kind="text/html; charset=utf-8")

    def no_type(self, data: bytes, name: str, visit: int) -> None:
        self.good(data, name, visit, kind="")

    def no_length(self, data: bytes, name: str, visit: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.send_header("Connection", "close")
        self.end_headers()
        self._write(data)
        self.close_connection = True

    def packed(self, data: bytes, name: str, visit: int) -> None:
        body = gzip.compress(data)
        self.send_response(200)
        self.send_header("Content-Encoding", "gzip")
        self._head("image/png", len(body), '"packed"')
        self._write(body)

    def packed_and_cut(self, data: bytes, name: str, visit: int) -> None:
        if visit > 1:
            return self.packed(data, name, visit)
        body = gzip.compress(data)
        self.send_response(200)
        self.send_header("Content-Encoding", "gzip")
        self._head("image/png", len(body), '"packed"')
        self._write(body[: len(body) // 2])
        self.close_connection = True
        return None

    def slow_once(self, data: bytes, name: str, visit: int) -> None:
        if visit > 1:
            return self.good(data, name, visit)
        self.send_response(200)
        self._head("image/png", len(data), '"one"')
        for start in range(0, len(data), 4096):
            self._write(data[start : start + 4096])
            time.sleep(0.01)
        return None

    # ---- what does not

    def missing(self, data: bytes, name: str, visit: int) -> None:
        self._plain(404)

    def forbidden(self, data: bytes, name: str, visit: int) -> None:
        self._plain(403)

    def broken(self, data: bytes, name: str, visit: int) -> None:
        self._plain(500)

    def page(self, data: bytes, name: str, visit: int) -> None:
        body = b"\n <!DOCTYPE html><html><body>Log in to see this picture.</body></html>"
        self.send_response(200)
        self._head("image/jpeg", len(body), '"page"')
        self._write(body)

    def film(self, data: bytes, name: str, visit: int) -> None:
        self.send_response(200)
        self._head("video/mp4", 64, '"film"')
        self._write(b"\0\0\0\x18ftypmp42" + bytes(52))

    def cut_always(self, data: bytes, name: str, visit: int) -> None:
        self._cut(data, len(data) // 3, "")

    def loop(self, data: bytes, name: str, visit: int) -> None:
        self._plain(302, {"Location": self.path})

    def to_file(self, data: bytes, name: str, visit: int) -> None:
        self._plain(302, {"Location": "file:///etc/hostname"})

    def drip(self, data: bytes, name: str, visit: int) -> None:
        self.send_response(200)
        self._head("image/png", len(data), '"one"')
        for byte in data:
            self._write(bytes([byte]))
            if self.server.ending.wait(0.1):
                return

    def silent(self, data: bytes, name: str, visit: int) -> None:
        self.send_response(200)
        self._head("image/png", len(data), '"one"')
        self.server.ending.wait(30)
        self.close_connection = True

    def mute(self, data: bytes, name: str, visit: int) -> None:
        self.server.ending.wait(30)
        self.close_connection = True

    def huge(self, data: bytes, name: str, visit: int) -> None:
        self.send_response(200)
        self._head("image/png", 10**12, '"one"')
        self._write(bytes(1000))
        self.close_connection = True

    def endless(self, data: bytes, name: str, visit: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.send_header("Connection", "close")
        self.end_headers()
        while not self.server.ending.is_set():
            self._write(b"\x89PNG" + bytes(2**16))

    def bomb(self, data: bytes, name: str, visit: int) -> None:
        body = gzip.compress(bytes(2**25))
        self.send_response(200)
        self.send_header("Content-Encoding", "gzip")
        self._head("image/png", len(body), '"bomb"')
        self._write(body)

    def empty(self, data: bytes, name: str, visit: int) -> None:
        self.send_response(200)
        self._head("image/png", 0, '"one"')

    def reset(self, data: bytes, name: str, visit: int) -> None:
        self._reset()

    def garbage(self, data: bytes, name: str, visit: int) -> None:
        self._write(b"\x00\xff no protocol of this world\r\n\r\n")
        self.close_connection = True

    # ---- how

    def _start(self, data: bytes, mark: str) -> int:
        asked = self.headers.get("Range", "")
        return int(asked[6:].split("-")[0]) if asked.startswith("bytes=") and self.headers.get("If-Range", mark) == mark else 0

    def _head(self, kind: str, length: int, mark: str) -> None:
        if kind:
            self.send_header("Content-Type", kind)
        if mark:
            self.send_header("ETag", mark)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def _plain(self, code: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _cut(self, data: bytes, at: int, mark: str) -> None:
        self.send_response(200)
        self._head("image/png", len(data), mark)
        self._write(data[:at])
        self.close_connection = True

    def _reset(self) -> None:
        # Closed with time to linger 0, the connection is reset.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def _write(self, data: bytes) -> None:
        self.server.sent[self.path] += len(data)
        self.wfile.write(data)
