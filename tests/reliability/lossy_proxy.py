"""Proxy that loses chosen answers of a server, once each, after the server has acted."""

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class Proxy(ThreadingHTTPServer):
    """Passes requests on to `target`; the answer to the first one whose path and body hold all words of an entry of
    `lose` is not sent back: the connection closes after the target has done its work."""

    daemon_threads = True

    def __init__(self, target: str, lose: list[tuple[str, ...]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target, self.lose, self.lost = urlsplit(target), list(lose), []  # type: ignore[var-annotated]
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def loses(self, request: str) -> bool:
        """Whether this answer is to be lost; says so once for each entry."""
        with self.lock:
            for words in self.lose:
                if all(word in request for word in words):
                    self.lose.remove(words)
                    self.lost.append(words)
                    return True
        return False


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        upstream = http.client.HTTPConnection(self.server.target.netloc, timeout=120)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
        upstream.request(self.command, self.path, body, headers)
        answer = upstream.getresponse()
        data = answer.read()
        if self.server.loses(f"{self.path} {body[:4096].decode(errors='replace')}"):
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length", "date", "server"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass_on  # noqa: N815  # http.server's names

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def losing(target: str, lose: list[tuple[str, ...]]) -> Iterator[Proxy]:
    """A running proxy."""
    proxy = Proxy(target, lose)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join(timeout=10)
