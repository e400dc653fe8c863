"""A receiver of GPU Proxy's webhooks: it checks the signature and takes each event once. It needs only Python.

GPUPROXY_WEBHOOK_SECRET=... python receiver.py 9000
"""

import hmac
import json
import os
import sys
import time
from collections import OrderedDict
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOLERANCE = 300
"""Seconds. An older signature is refused, so that nobody who has recorded a request can send it again."""
MOST_BYTES = 1_000_000
REMEMBERED = 10_000


def is_genuine(secret: str, header: str, body: bytes, now: float) -> bool:
    """Whether the header GPUProxy-Signature was made with the secret, for this body, within the tolerance.

    The header has one signature for each secret of the sender: `t=1765000000,v1=5257a8...,v1=6ffbb5...`.
    """
    parts = [part.partition("=")[::2] for part in header.split(",")]
    times = [value for name, value in parts if name == "t"]
    if len(times) != 1 or not times[0].isdecimal() or abs(now - int(times[0])) > TOLERANCE:
        return False
    expected = hmac.new(secret.encode(), times[0].encode() + b"." + body, sha256).hexdigest()
    given = [value for name, value in parts if name == "v1"]
    return any(hmac.compare_digest(expected.encode(), value.encode()) for value in given)


class Seen:
    """The ids of the last events. An event may come twice; keep the ids in your database if that must not matter."""

    def __init__(self) -> None:
        self._ids: OrderedDict[str, None] = OrderedDict()

    def __contains__(self, event_id: str) -> bool:
        return event_id in self._ids

    def add(self, event_id: str) -> None:
        """Remember an id, and forget the oldest of too many."""
        self._ids[event_id] = None
        if len(self._ids) > REMEMBERED:
            self._ids.popitem(last=False)


def handle(event: dict[str, Any]) -> None:
    """What you do with an event. What it raises makes the server send the event again."""
    print(event["created_at"], event["type"], event["project"] or "-", json.dumps(event["data"]), flush=True)


def receive(secret: str, header: str, body: bytes, seen: Seen, now: float) -> int:
    """The HTTP status for one request. Every status of 200 to 299 means that the event is not sent again."""
    if not is_genuine(secret, header, body, now):
        return 401
    event = json.loads(body)
    if event["id"] not in seen:
        handle(event)
        seen.add(event["id"])  # after it was handled: a crash in between is a repeat, and no loss
    return 204


class Handler(BaseHTTPRequestHandler):
    """One request."""

    secret = ""
    seen = Seen()

    def do_POST(self) -> None:
        """Answer quickly: after 10 seconds the server counts the event as not delivered."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MOST_BYTES:
            self.send_error(413)
            return
        body = self.rfile.read(int(length))
        header = self.headers.get("GPUProxy-Signature", "")
        self.send_response(receive(self.secret, header, body, self.seen, time.time()))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Only events are printed."""


def main() -> None:
    """Receive until interrupted."""
    Handler.secret = os.environ["GPUPROXY_WEBHOOK_SECRET"]
    with ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler) as server:
        print(f"listening on {server.server_address[1]}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
