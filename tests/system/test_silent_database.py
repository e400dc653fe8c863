"""A server whose way to PostgreSQL stays open and carries nothing: it says so, loses its work, and comes back."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import psycopg
import pytest

from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests import postgres
from tests.store.postgres.cutting import Wire
from tests.system.processes import KIND, UNPACED, Market, Server, reserved, until

_KEY = "gpx-" + "k" * 43
_MICROS = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"


@pytest.fixture
def url() -> str:
    return postgres.server().create()


@pytest.fixture
def wire(url: str) -> Iterator[Wire]:
    made = Wire(url)
    yield made
    made.close()


def readiness(server: Server) -> tuple[int, dict[str, str]]:
    """The status of /readyz, and its checks. It is asked as a program does that waits for ten seconds."""
    try:
        with urllib.request.urlopen(f"http://{server.http}/readyz", timeout=300) as answer:
            return int(answer.status), json.load(answer)["checks"]
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["checks"]


def owners(url: str) -> dict[str, str]:
    """The owner of each claim that is not over, by the database's time."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(f"SELECT name, owner FROM claims WHERE until > {_MICROS}").fetchall()  # noqa: S608
    return dict(rows)


def test_a_server_with_a_silent_database_is_not_ready_and_another_one_does_its_work(
    tmp_path: Path, url: str, wire: Wire
) -> None:
    settings = UNPACED | {"GPUPROXY_ALLOW_UNSAFE_POSTGRES": "true", "GPUPROXY_ADMIN_API_KEY": _KEY}
    with ExitStack() as stack:
        market = stack.enter_context(Market(tmp_path, *KIND))
        first = stack.enter_context(Server(tmp_path, market, **settings, GPUPROXY_DATABASE_URL=wire.url))
        until(lambda: any(claim.startswith("replica:") for claim in owners(url)))
        [name] = set(owners(url).values())
        second = stack.enter_context(Server(tmp_path, market, **settings, GPUPROXY_DATABASE_URL=url))
        here, there = stack.enter_context(first.client()), stack.enter_context(second.client())
        until(lambda: here.knows_offers() and there.knows_offers())
        until(lambda: readiness(first)[0] == readiness(second)[0] == 200)
        assert reserved(here, "before") is not None
        assert len(owners(url)) > 2
        assert name in owners(url).values()

        wire.silence()
        asked = pb.ReserveGPUsRequest(count=1, max_price=5, request_id="in the silence")
        waiting = here.future("ReserveGPUs", asked)
        status, checks = readiness(first)
        assert (status, checks["database"]) == (503, "does not answer")
        until(lambda: len(set(owners(url).values()) - {name}) == 1 and name not in owners(url).values())
        assert readiness(second)[0] == 200
        assert reserved(there, "elsewhere") is not None
        assert len(market.alive()) == 2

        wire.go_on()
        until(lambda: readiness(first)[0] == 200)
        assert waiting.exception() is None or waiting.code() is grpc.StatusCode.UNAVAILABLE
        until(lambda: reserved(there, "in the silence"))
        until(lambda: reserved(here, "elsewhere"))
        assert len(market.alive()) == 3
        until(lambda: {each.contract_id for each in here.instances()} == set(market.alive()))
        for each in here.call("ListReservations", pb.ListReservationsRequest()).reservations:
            here.call("ReleaseReservation", pb.ReleaseReservationRequest(reservation_id=each.reservation_id))
        until(lambda: market.alive() == {})
