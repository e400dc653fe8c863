"""The watchdog's HTTPS clients, for real: what each sends, that no key is in an argument, and that TLS is verified."""

import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme

from gpuproxy import boot
from gpuproxy.model.labels import Signer
from tests.boot.machine import SHELLS, Machine, machine, moved, needed
from tests.virtual_time import DAY_ONE

pytestmark = pytest.mark.long
CLIENTS = ("curl", "python3", "wget")
KEY = "s3cret-key_1"
LABEL = Signer("abc234", b"k" * 32).with_end("gpx-abc234-slotslot-01-abc234", DAY_ONE, "d")
LATER = Signer("abc234", b"k" * 32).with_end("gpx-abc234-slotslot-01-abc234", DAY_ONE + timedelta(days=3650), "d")
_YEAR = DAY_ONE.year + 1
_SECONDS = 600


class Api:
    """A marketplace that answers each read one minute later, by its Date. It remembers what it was asked."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.now = DAY_ONE.timestamp() + 601
        self.asked: list[tuple[str, str, str, str]] = []
        self.arguments = b""
        self.date = "%a, %d %b %Y %H:%M:%S GMT"
        self.more = ""
        """More fields of the instance, as JSON."""
        self.acted = threading.Event()
        self.connected = threading.Semaphore(0)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        length = int(request.headers.get("content-length") or 0)
        said = request.command, request.path, request.headers["authorization"], request.rfile.read(length).decode()
        self.asked.append(said)
        self.arguments += b"".join(_read(path) for path in Path("/proc").glob("[0-9]*/cmdline"))
        request.close_connection = True
        fields = f'"id": 7, "volume_info": [{{"label": "v"}}], "label": "{self.label}", "x": "ü"{self.more}'
        body = f'{{"instances": {{{fields}}}}}'
        content = body.encode()
        request.send_response_only(200)
        request.send_header("Date", time.strftime(self.date, time.gmtime(self.now)))
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)
        self.now += 60
        if request.command != "GET":
            self.acted.set()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@contextmanager
def serving(api: Api, ca: trustme.CA | None = None) -> Iterator[str]:
    """The address of the API; with a CA, over TLS with a certificate of it."""

    class Handler(BaseHTTPRequestHandler):
        def handle_one_request(self) -> None:
            """Read a request and answer it, whatever its method is."""
            self.raw_requestline = self.rfile.readline()
            self.close_connection = True
            if self.raw_requestline and self.parse_request():
                api.answer(self)

    class Server(ThreadingHTTPServer):
        def finish_request(self, request: Any, client_address: Any) -> None:
            """Count the connection, and answer it unless its TLS handshake fails."""
            api.connected.release()
            if ca is None:
                super().finish_request(request, client_address)
                return
            with suppress(OSError), context.wrap_socket(request, server_side=True) as secured:
                super().finish_request(secured, client_address)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if ca is not None:
        ca.issue_cert("localhost").configure_cert(context)
    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = False  # the end waits for all of them
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http{'s' if ca else ''}://localhost:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _place(tmp_path: Path, shell: str, client: str) -> Machine:
    place = machine(tmp_path, shell)
    for tool in ("head", "sed"):
        (place.bin / tool).symlink_to(needed(tool))
    (place.bin / "python3").unlink()
    if client:
        (place.bin / client).symlink_to(needed(client))
    return place


def _begin(place: Machine, url: str, **env: str) -> "subprocess.Popen[bytes]":
    known = {"GPUPROXY_BOOT_API": url, "GPUPROXY_BOOT_MINUTE": "0.02", "CONTAINER_ID": "7", "CONTAINER_API_KEY": KEY}
    return place.begin(moved(boot.script((), "#!/bin/sh\nexec sleep 300\n", more=(boot.ENDING,))), {**known, **env})


def _ends(place: Machine) -> None:
    """Return when nothing of the container runs any more."""
    latest = time.monotonic() + _SECONDS
    while place.processes():
        assert time.monotonic() < latest
        time.sleep(0.02)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("verb", ["d", "s"])
def test_each_client_reads_twice_and_ends_its_own_machine(tmp_path: Path, shell: str, client: str, verb: str) -> None:
    place = _place(tmp_path, shell, client)
    api = Api(Signer("abc234", b"k" * 32).with_end(LABEL.partition(".")[0], DAY_ONE, "d" if verb == "d" else "s"))
    with serving(api) as url:
        process = _begin(place, url)
        try:
            assert api.acted.wait(_SECONDS)
        finally:
            place.stop()
            process.wait()
    at, bearer = "/api/v0/instances/7/", f"Bearer {KEY}"
    act = ("DELETE", at, bearer, "{}") if verb == "d" else ("PUT", at, bearer, '{"state":"stopped"}')
    assert api.asked[:3] == [("GET", at, bearer, ""), ("GET", at, bearer, ""), act]
    assert KEY.encode() not in api.arguments
    assert "ending=watching" in place.printed


@pytest.mark.parametrize("client", CLIENTS)
def test_a_certificate_that_nobody_trusts_is_not_believed(tmp_path: Path, client: str) -> None:
    place, api = _place(tmp_path, "dash", client), Api(LABEL)
    with serving(api, trustme.CA()) as url:
        process = _begin(place, url)
        try:
            for _ in range(5):  # it asks again and again
                assert api.connected.acquire(timeout=_SECONDS)
        finally:
            place.stop()
            process.wait()
    assert api.asked == []


@pytest.mark.parametrize("client", ["curl", "python3"])
def test_a_certificate_that_is_trusted_is_believed(tmp_path: Path, client: str) -> None:
    place, api, ca = _place(tmp_path, "dash", client), Api(LABEL), trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with serving(api, ca) as url:
        process = _begin(place, url, SSL_CERT_FILE=str(tmp_path / "ca.pem"))
        try:
            assert api.acted.wait(_SECONDS)
        finally:
            place.stop()
            process.wait()


@pytest.mark.parametrize("shell", SHELLS)
def test_a_client_that_gets_no_answer_is_followed_by_the_next_one(tmp_path: Path, shell: str) -> None:
    """As in an image whose curl has no CA certificates, with a Python that brings its own."""
    place, api = _place(tmp_path, shell, "python3"), Api(LABEL)
    (place.bin / "curl").write_text('#!/bin/sh\n[ "$1" = --version ] && echo curl 8 || exit 60\n')
    (place.bin / "curl").chmod(0o700)
    with serving(api) as url:
        process = _begin(place, url)
        try:
            assert api.acted.wait(_SECONDS)
        finally:
            place.stop()
            process.wait()
    assert [method for method, *_ in api.asked[:3]] == ["GET", "GET", "DELETE"]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("label", "month", "nested", "acts"),
    [
        (LABEL, "Xyz", "", False),
        (LABEL, "Feb", "", True),
        (LATER, "Feb", LABEL, False),
        (LABEL, "Feb", LATER, False),
        (LABEL, "Feb", LABEL.partition(".")[0], True),
    ],
)
def test_an_unknown_month_and_a_second_end_end_nothing(
    tmp_path: Path, shell: str, label: str, month: str, nested: str, *, acts: bool
) -> None:
    place, api = _place(tmp_path, shell, "curl"), Api(label)
    api.date = f"Sun, %d {month} {_YEAR} %H:%M:%S GMT"
    api.more = f', "of": {{"label": "{nested}"}}'
    with serving(api) as url:
        process = _begin(place, url)
        try:
            while len(api.asked) < 6 and not api.acted.is_set():
                assert api.connected.acquire(timeout=_SECONDS)
        finally:
            place.stop()
            process.wait()
    assert api.acted.is_set() == acts


def test_without_an_https_client_the_report_says_so_and_the_users_script_runs(tmp_path: Path) -> None:
    place = _place(tmp_path, "dash", "")
    (place.bin / "wget").symlink_to(needed("busybox"))
    ran = place.start(
        moved(boot.script((), "echo mine", more=(boot.ENDING,))), env={"CONTAINER_ID": "7", "CONTAINER_API_KEY": KEY}
    )
    assert boot.reported(ran.stdout.splitlines()) == {"ending": "no_https_client", "onstart": "started"}
    assert ran.stdout.endswith("mine\n")
    _ends(place)


@pytest.mark.parametrize("env", [{}, {"CONTAINER_ID": "7"}, {"CONTAINER_ID": "7; rm", "CONTAINER_API_KEY": "k"},
                                 {"CONTAINER_ID": "7", "CONTAINER_API_KEY": 'k" -o x'}])  # fmt: skip
def test_without_a_plain_key_and_id_of_its_own_the_machine_does_not_watch(tmp_path: Path, env: dict[str, str]) -> None:
    place = _place(tmp_path, "dash", "curl")
    ran = place.start(moved(boot.script((), "exit 3", more=(boot.ENDING,))), env=env)
    assert (boot.reported(ran.stdout.splitlines()) or {})["ending"] == "no_key"
    assert ran.returncode == 3
    _ends(place)
