"""A marketplace that says back what it was told: a proxy before the market, whose refusals and lists quote requests."""

import html
import json
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

ACCEPTED_KEY = "sandbox-key"


class Echo:
    """`failing`: what happens to the next creates: "refuse" and "break" answer with the request itself."""

    def __init__(self, market_url: str) -> None:
        self.failing: list[str] = []
        self.told = ""
        """The last create, as it was sent, with its headers."""
        self._market_url = market_url
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        """Of the market, unless it is to fail; every machine's status quotes the last create."""
        if method == "PUT":
            self.told = f"{headers.get('Authorization', '')} {body.decode()}"
            how = self.failing.pop(0) if self.failing else ""
            if how == "refuse":
                return 400, json.dumps({"success": False, "error": "invalid_args", "msg": self.told}).encode()
            if how == "break":
                return 502, f"<html>{html.escape(self.told)}</html>".encode()
        status, said = self._forward(method, path, headers, body)
        if path.startswith("/api/v1/instances/") and status == 200:
            page = json.loads(said)
            for row in page["instances"]:
                row["status_msg"] = f"Error: docker run failed: {self.told}"
            said = json.dumps(page).encode()
        return status, said

    def _forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        sent = {"Authorization": f"Bearer {ACCEPTED_KEY}", "Content-Type": headers.get("Content-Type", "")}
        request = urllib.request.Request(self._market_url + path, body or None, sent, method=method)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=1200) as reply:  # noqa: S310 - loopback
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _handler(echo: Echo) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, said = echo.answer(self.command, self.path, dict(self.headers), body)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        do_GET = do_POST = do_PUT = do_DELETE = do  # noqa: N815 - named by the library

        def log_message(self, *_: object) -> None:
            """Not to stderr."""

    return Handler
