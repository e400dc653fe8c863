"""No secret is ever where it does not belong: canaries in every secret input of a real server, then a search for them.

The marketplace of this story quotes requests in its refusals, its broken pages and its machines' status. The story has
failing calls of every kind; afterwards the log, every answer and event, the metrics, the database's bytes and the
labels at the market are searched. Values are spelt with quotes and blanks, so that escaping hides nothing: what is
searched for is the core of each, which survives every spelling.
"""

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest

from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.edge.test_fields import ssh_key
from tests.system.echo import Echo
from tests.system.processes import KIND, UNPACED, Market, Server, until

_NAMES = (
    "env env_short pull bad_env bad_pull provider_key admin_password jwt_secret wrong_password wrong_key private_key "
    "stray proxy"
)
CORES = {name: f"cnry{name.replace('_', '')}q7" for name in _NAMES.split()}
EMAIL = "me@example.org"


def value(name: str) -> str:
    """As it is sent: hard to recognise once it is escaped."""
    return f"""it's "{CORES[name]}" & <é>"""


class Story:
    """One server and everything that it ever said."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.client = server.client()
        self.heard: list[str] = []
        self.codes: list[str] = []
        self.secrets = {"admin key": server.key}

    def call(self, name: str, request: Any, **metadata: str) -> Any:
        """The answer, or None; whatever came back is remembered."""
        sent = tuple(metadata.items()) or self.client.metadata
        try:
            answer, call = getattr(self.client.stub, name).with_call(request, metadata=sent, timeout=1200)
        except grpc.RpcError as error:
            self.codes.append(f"{name} {error.code().name}")
            self.heard += [error.details() or "", repr(error.trailing_metadata()), repr(error)]
            return None
        self.codes.append(f"{name} OK")
        self.heard += [repr(call.trailing_metadata())]
        if name not in ("Login", "CreateAPIKey"):  # these two show a secret once, to whom it belongs
            self.heard.append(repr(answer))
        return answer

    def http(self, method: str, path: str, body: bytes | None = None, **headers: str) -> None:
        url, sent = f"http://{self.server.http}{path}", {name.replace("_", "-"): text for name, text in headers.items()}
        request = urllib.request.Request(url, body, sent, method=method)
        try:
            with urllib.request.urlopen(request, timeout=1200) as reply:  # noqa: S310 - loopback
                self.heard += [reply.read().decode(), str(reply.headers)]
        except urllib.error.HTTPError as error:
            self.codes.append(f"{path.partition('?')[0]} {error.code}")
            self.heard += [error.read().decode(), str(error.headers)]


def value_plain(name: str) -> str:
    """For what travels in headers and settings."""
    return f"{CORES[name]}-0123456789-0123456789-0123456789"


def reserve(request_id: str, **fields: Any) -> pb.ReserveGPUsRequest:
    request = pb.ReserveGPUsRequest(
        count=1,
        max_price=5.0,
        request_id=request_id,
        secret_env={"TOKEN": value("env"), "PIN": CORES["env_short"]},
        registry_auth=pb.RegistryAuth(server="ghcr.io", username="me", secret=value("pull")),
    )
    request.MergeFrom(pb.ReserveGPUsRequest(**fields))
    return request


def rents(story: Story, echo: Echo) -> None:
    """One that works, one refused and then replaced, one of unknown outcome, one that can't be."""
    kept = story.call("ReserveGPUs", reserve("kept"))
    assert kept.reserved_count == 1
    assert CORES["env"] in echo.told, "the marketplace is told what it has to know"
    echo.failing = ["refuse"] * 60
    story.call("ReserveGPUs", reserve("refused", min_count=1))
    echo.failing = ["break"]
    story.call("ReserveGPUs", reserve("broken"))
    echo.failing = []
    story.call("ReserveGPUs", reserve("kept", secret_env={"TOKEN": value("bad_env")}))
    story.call("ReserveGPUs", reserve("bad", secret_env={"1 BAD": value("bad_env"), "NUL": value("bad_env") + "\0"}))
    bad_login = pb.RegistryAuth(server="not a host", username="me", secret=value("bad_pull") + "\n")
    story.call("ReserveGPUs", reserve("bad", registry_auth=bad_login))
    story.call("CreateGPUInstance", pb.CreateGPUInstanceRequest(instance_id="vast-1", secret_env={"A": value("env")}))
    until(lambda: "docker run failed" in repr(story.client.instances()))


def enters(story: Story) -> None:
    """Logins, keys and tokens, right and wrong."""
    story.call("Login", pb.LoginRequest(email=EMAIL, password=value("wrong_password")), x_none="1")
    login = pb.LoginRequest(email=EMAIL, password=value("admin_password"))
    story.secrets["token"] = story.call("Login", login, x_none="1").token
    story.call("ListAPIKeys", pb.ListAPIKeysRequest(), authorization=f"Bearer {story.secrets['token']}")
    story.call("ListAPIKeys", pb.ListAPIKeysRequest(), authorization=f"Bearer {story.secrets['token'][:-6]}AAAAAA")
    story.call("ListAPIKeys", pb.ListAPIKeysRequest(), **{"x-api-key": value_plain("wrong_key")})
    made = story.call("CreateAPIKey", pb.CreateAPIKeyRequest(name="ci", token=story.secrets["token"]), x_none="1")
    story.secrets["api key"] = made.api_key
    story.call("CreateAPIKey", pb.CreateAPIKeyRequest(name="ci", token=value_plain("wrong_key")), x_none="1")
    private = f"-----BEGIN OPENSSH PRIVATE KEY-----\n{CORES['private_key']}\n-----END OPENSSH PRIVATE KEY-----"
    story.call("AddSSHKey", pb.AddSSHKeyRequest(public_key=private))
    story.call("AddSSHKey", pb.AddSSHKeyRequest(public_key=f"ssh-ed25519 {CORES['private_key']}"))
    story.call("AddSSHKey", pb.AddSSHKeyRequest(public_key=ssh_key()))
    key = {"X_API_Key": story.server.key}
    stray = json.dumps({"email": EMAIL, "password": 7, "pasword": CORES["stray"]}).encode()
    story.http("POST", "/api/v1/auth/login", stray)
    story.http("POST", "/api/v1/auth/login", f'{{"password": "{CORES["stray"]}'.encode())
    story.http("POST", "/api/v1/auth/login", json.dumps({"email": EMAIL, "password": [CORES["stray"]]}).encode())
    story.http("GET", "/api/v1/keys", X_API_Key=value_plain("wrong_key"))
    bad_env = {"count": 1, "config": {"secret_env": {"A": [value("bad_env")], "B B": value("bad_env")}}}
    story.http("POST", "/api/v1/gpu/instances/reserve", json.dumps(bad_env).encode(), **key)


def looks(story: Story) -> None:
    """Everything that can be looked at."""
    for name, request in (
        ("ListReservations", pb.ListReservationsRequest()),
        ("ListGPUInstances", pb.ListGPUInstancesRequest(state="rented")),
        ("GetTransactions", pb.GetTransactionsRequest()),
        ("GetLoadInfo", pb.GetLoadInfoRequest()),
        ("ListAPIKeys", pb.ListAPIKeysRequest()),
        ("ListSSHKeys", pb.ListSSHKeysRequest()),
        ("HealthCheck", pb.HealthCheckRequest()),
    ):
        story.call(name, request)
    for reservation in story.client.call("ListReservations", pb.ListReservationsRequest()).reservations:
        watch = pb.WatchReservationRequest(reservation_id=reservation.reservation_id)
        events = story.client.stub.WatchReservation(watch, metadata=story.client.metadata, timeout=1200)
        story.heard.append(repr(next(events)))
        events.cancel()
    for path in ("/metrics", "/readyz", "/openapi.json"):
        story.http("GET", path)


@pytest.mark.parametrize("style", ["json", "console"])
def test_no_secret_is_in_a_log_an_answer_an_event_a_metric_a_label_or_the_database(tmp_path: Path, style: str) -> None:
    settings = {
        "VASTAI_API_KEY": value_plain("provider_key"),
        "HTTP_PROXY": f"http://agent:{value_plain('proxy')}@proxy.invalid:3128",
        "GPUPROXY_ADMIN_EMAIL": EMAIL,
        "GPUPROXY_ADMIN_PASSWORD": value("admin_password"),
        "GPUPROXY_JWT_SECRET": value_plain("jwt_secret"),
        "GPUPROXY_LOG_LEVEL": "debug",
        "GPUPROXY_LOG_FORMAT": style,
    }
    with Market(tmp_path, *KIND) as market, Echo(market.url) as echo:
        with Server(tmp_path, market, **settings, **UNPACED, GPUPROXY_VASTAI_URL=echo.url) as server:
            story = Story(server)
            with story.client:
                rents(story, echo)
                enters(story)
                looks(story)
        labels = json.dumps([row["label"] for row in market.state()["instances"]])
    places = {"answers": "\n".join(story.heard), "log": server.log(), "labels": labels}
    places |= {path.name: path.read_bytes().decode("latin-1") for path in tmp_path.glob("books.db*")}
    places.pop("books.db.admin-key")  # where it is for its owner
    secrets = CORES | story.secrets
    found = [(name, place) for place, text in places.items() for name, secret in secrets.items() if secret in text]
    assert found == []
    assert len(labels) > 10
    assert {"books.db", "books.db.demand-key"} <= set(places)
    assert "ReserveGPUs" in places["log"]
    assert "docker run failed: Bearer *** {" in places["answers"], "the echo is told, without its secrets"
    assert {"ReserveGPUs INVALID_ARGUMENT", "ReserveGPUs ALREADY_EXISTS", "Login UNAUTHENTICATED"} <= set(story.codes)
    assert {"AddSSHKey INVALID_ARGUMENT", "ListAPIKeys UNAUTHENTICATED", "/api/v1/auth/login 400"} <= set(story.codes)


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    """The negative twin: a label that a caller gives is no secret, and it is in the books and in the answers."""
    with Market(tmp_path, *KIND) as market, Server(tmp_path, market, **UNPACED) as server, server.client() as client:
        request = pb.ReserveGPUsRequest(count=1, max_price=5.0, request_id="seen", labels={"team": CORES["stray"]})
        answer = client.call("ReserveGPUs", request)
        found = client.call("GetReservation", pb.GetReservationRequest(reservation_id=answer.reservation_id))
    assert CORES["stray"] in repr(found)
    assert any(CORES["stray"].encode() in path.read_bytes() for path in tmp_path.glob("books.db*"))
