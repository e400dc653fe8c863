"""Two keys over real sockets: calls go on with the second one while the first fails, and return when it recovers."""

import os
import signal
from itertools import count
from pathlib import Path

import pytest

from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests import forked
from tests.system.processes import UNPACED, WHOLE, Client, Market, Server, until

KEYS = ("sandbox-key", "sandbox-key-2")
SCALE = "60"
TWO_KEYS = {
    "VASTAI_API_KEY": ",".join(KEYS),
    "VASTAI_API_KEY_NAMES": "first,second",
    "GPUPROXY_TIME_SCALE": SCALE,
    "GPUPROXY_CREATE_TIMEOUT": "60s",  # a real second; with less, a busy machine makes the second account fail too
    "GPUPROXY_CALL_TIMEOUT": "60s",
    "GPUPROXY_CATALOG_STALE_AFTER": "7d",
}
_NUMBERS = count(1)


def arm(market: Market, call: str, fault: str, **args: object) -> None:
    body = {"provider": "vast.ai", "account": KEYS[0], "call": call, "fault": fault, "times": 0, "args": args}
    market.control("POST", "faults", body)


def states(client: Client) -> dict[str, str]:
    answer = client.call("ListProviders", pb.ListProvidersRequest(provider="vast.ai"))
    return {each.name: each.state for each in answer.providers[0].accounts}


def rent(client: Client) -> set[str]:
    """The accounts of two machines, which are released at once."""
    wanted = pb.ReserveGPUsRequest(
        count=2, max_price=5.0, packing="single", request_id=f"call-{next(_NUMBERS)}", verified_only=False
    )
    answer = client.call("ReserveGPUs", wanted)
    assert answer.reserved_count == 2, [(each.reason, each.state, each.status_message) for each in answer.outcomes]
    client.call("ReleaseReservation", pb.ReleaseReservationRequest(reservation_id=answer.reservation_id))
    return {each.account for each in answer.reserved_instances}


def returns(client: Client) -> None:
    """Wait until calls are served by the first key again.

    Each call rents offers that the catalog does not know again before its next search. So it is not called in vain.
    """
    until(lambda: states(client)["first"] in ("healthy", "failing"))
    until(lambda: circuit(client) in ("closed", "half_open"))
    until(lambda: "first" in rent(client))


def circuit(client: Client) -> str:
    """The circuit of the first key's creates."""
    answer = client.call("ListProviders", pb.ListProvidersRequest(provider="vast.ai"))
    return next(each.circuit for each in answer.providers[0].accounts if each.name == "first")


@pytest.mark.sampled(0)  # two minutes of waiting for circuits
@pytest.mark.parametrize("limits", ["off", "real"])
def test_calls_go_on_with_the_second_key_and_return_to_the_first(tmp_path: Path, limits: str) -> None:
    paces = UNPACED if limits == "off" else {}
    with (
        Market(tmp_path, "--rate-limits", limits, *WHOLE, "--machines", "100", "--time-scale", SCALE) as market,
        Server(tmp_path, market, **TWO_KEYS, **paces) as server,
        server.client() as client,
    ):
        until(client.knows_offers)
        assert "first" in rent(client)
        for call, fault, args in (
            ("create", "rate_limited", {"retry_after": 60}),
            ("create", "rate_limited", {}),
            ("create", "insufficient_credit", {}),
            ("any", "auth_error", {}),
        ):
            arm(market, call, fault, **args)
            for _ in range(2):
                assert rent(client) == {"second"}, fault
            market.control("DELETE", "faults")
            returns(client)
        for fault in ("refuse_connection", "hang_before"):
            arm(market, "any", fault)
            until(lambda: states(client)["first"] == "silent")  # until then a create may have an unknown outcome
            for _ in range(2):
                assert rent(client) == {"second"}, fault
            market.control("DELETE", "faults")
            returns(client)
        until(lambda: not market.alive())


def test_a_key_with_machines_is_missed_at_the_start_and_forced_away_into_doctor(tmp_path: Path) -> None:
    with Market(tmp_path, "--rate-limits", "off", *WHOLE, "--machines", "100") as market:
        with Server(tmp_path, market, **TWO_KEYS | {"GPUPROXY_TIME_SCALE": "1"}, **UNPACED) as server:
            with server.client() as client:
                until(client.knows_offers)
                arm(market, "create", "insufficient_credit")
                made = client.call("ReserveGPUs", pb.ReserveGPUsRequest(count=1, max_price=5.0, request_id="a"))
                assert {each.account for each in made.reserved_instances} == {"second"}
                [contract] = [each.contract_id for each in made.reserved_instances]
            server.signal(signal.SIGTERM)
            assert server.ended() == 0
        market.control("DELETE", "faults")
        one = {"VASTAI_API_KEY": KEYS[0], "VASTAI_API_KEY_NAMES": "first"}
        settings = {**server._settings, **one}
        code, text = run(tmp_path, settings, "serve")
        assert code == 2
        assert f"vast.ai account second has 1 machine ({contract})" in text
        assert "sandbox-key" not in text
        server._settings, server._options = settings, ["--force"]
        server.start()
        with server, server.client() as client:
            assert states(client)["second"] == "removed"
            code, text = run(tmp_path, settings, "doctor")
            assert code == 1
            assert "unconfigured: vast.ai second" in text
            assert contract in text
            command = ("providers", "--server", server.address, "--api-key", server.key)
            shown = forked.run(tmp_path, os.environ, *command).stdout
            assert "removed" in shown
            assert "sandbox-key" not in shown


def run(directory: Path, settings: dict[str, str], *command: str) -> tuple[int, str]:
    """The exit code and everything that a command printed."""
    ended = forked.run(directory, {"PATH": "", **settings}, *command)
    return ended.returncode, ended.stdout + ended.stderr
