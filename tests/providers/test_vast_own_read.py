"""The command by which a probe learns whether a container's key may read its own instance, run for real."""

import json
import os
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gpuproxy import boot
from gpuproxy.providers.vast.adapter import OWN_READ
from tests.boot.machine import needed

OWN: dict[str, object] = {"id": 7, "label": "gpx-abc234-slotslot-01-abc234"}
REFUSED = (404, json.dumps({"success": False, "error": "auth_error", "msg": "Invalid user key"}))
YES, NO, UNKNOWN = 0, 1, 3
Answer = tuple[int, str]


def _row(row: object) -> Answer:
    return 200, json.dumps({"instances": row})


@contextmanager
def _serving(answers: Sequence[Answer], asked: list[tuple[str, str]]) -> Iterator[str]:
    """The address of a server that gives these answers in turn, and the last one for ever."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, text = answers[min(len(asked), len(answers) - 1)]
            asked.append((self.path, self.headers["authorization"]))
            self.send_response_only(status)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _code(url: str, **env: str | None) -> int:
    known: dict[str, str | None] = {
        "PATH": str(Path(needed("python3")).parent) + ":" + os.defpath, "GPUPROXY_BOOT_API": url,
        "GPUPROXY_BOOT_MINUTE": "0.06", "CONTAINER_ID": "7", "CONTAINER_API_KEY": "secret",
    }  # fmt: skip
    settings = {name: value for name, value in (known | env).items() if value is not None}
    ran = subprocess.run([needed("sh"), "-c", OWN_READ], env=settings, capture_output=True, timeout=600, check=False)
    assert (ran.stdout, ran.stderr) == (b"", b"")
    return ran.returncode


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        ([_row(OWN)], YES),
        ([REFUSED], NO),
        ([(401, REFUSED[1])], NO),
        ([(403, REFUSED[1])], NO),
        ([REFUSED, _row(OWN)], YES),
        ([REFUSED, (502, "")], UNKNOWN),
        ([(401, "")], UNKNOWN),
        ([(403, "<html>blocked</html>")], UNKNOWN),
        ([(404, "[]")], UNKNOWN),
        ([(404, json.dumps({"error": "no_such_instance"}))], UNKNOWN),
        ([(500, "{}")], UNKNOWN),
        ([(200, "[]")], UNKNOWN),
        ([(200, "<html>")], UNKNOWN),
        ([_row(None)], UNKNOWN),
        ([_row([])], UNKNOWN),
        ([_row(OWN | {"id": 8})], UNKNOWN),
        ([_row({"id": 7})], UNKNOWN),
        ([_row(OWN | {"label": None})], UNKNOWN),
    ],
)
def test_only_the_own_row_is_a_yes_and_only_two_refusals_of_the_key_are_a_no(
    answers: Sequence[Answer], code: int
) -> None:
    asked: list[tuple[str, str]] = []
    with _serving(answers, asked) as url:
        assert _code(url) == code
    assert set(asked) == {("/api/v0/instances/7/", "Bearer secret")}  # what the watchdog asks


@pytest.mark.parametrize(
    ("env", "code"),
    [({"CONTAINER_ID": None}, UNKNOWN), ({"CONTAINER_API_KEY": None}, 2), ({"PYTHONHOME": "/nowhere"}, UNKNOWN)],
)
def test_what_says_nothing_about_the_key_is_no_verdict(env: dict[str, str | None], code: int) -> None:
    asked: list[tuple[str, str]] = []
    with _serving([REFUSED], asked) as url:
        assert _code(url, **env) == code
    assert asked == []


def test_a_marketplace_that_is_not_reached_is_no_verdict() -> None:
    with _serving([REFUSED], []) as url:
        pass
    assert _code(url) == UNKNOWN


def test_a_machine_of_a_probe_still_has_room_for_its_watchdog() -> None:
    script = boot.script((), f"( {OWN_READ}\n)\necho gpuproxy-probe: own_read=$?\n", more=(boot.ENDING,))
    assert len(boot.fitted(script, 4_048)) <= 4_048
