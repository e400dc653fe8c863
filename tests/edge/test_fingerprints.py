"""The fingerprint of a demand: what counts as the same call, and which fields differ."""

import hashlib
import hmac
from dataclasses import replace
from typing import Any

from google.protobuf.duration_pb2 import Duration

from gpuproxy.edge.messages.demands import create_demand, reserve_demand
from gpuproxy.model.demands import KEYED, Demand
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.edge.test_fields import DEFAULTS, SECRET


def test_a_fingerprint_depends_on_the_demand_and_not_on_its_id_or_the_order_of_maps() -> None:
    def fingerprint(**fields: Any) -> str:
        return reserve_demand(pb.ReserveGPUsRequest(**{"count": 2} | fields), DEFAULTS).fingerprint

    first = fingerprint(env={"A": "1", "B": "2"}, request_id="one")
    assert first == fingerprint(env={"B": "2", "A": "1"}, request_id="two", wait=False, dry_run=True)
    assert first != fingerprint(env={"A": "1", "B": "3"}, request_id="one")
    assert first != fingerprint(env={"A": "1", "B": "2"}, request_id="one", count=3)
    idle = fingerprint(env={"A": "1", "B": "2"}, release_idle_after=Duration(seconds=600))
    assert first != idle != fingerprint(env={"A": "1", "B": "2"}, release_idle_after=Duration(seconds=660))


def test_a_fingerprint_without_its_key_does_not_allow_guessing_secrets() -> None:
    request = pb.ReserveGPUsRequest(count=1, secret_env={"PIN": "1234"})
    one, two = (replace(DEFAULTS, fingerprint_key=key) for key in (b"one", b"two"))
    assert reserve_demand(request, one).fingerprint != reserve_demand(request, two).fingerprint
    assert reserve_demand(request, one).fingerprint == reserve_demand(request, one).fingerprint
    plain = hashlib.sha256(b"ReserveGPUsRequest\0" + request.SerializeToString(deterministic=True)).hexdigest()
    assert plain not in {reserve_demand(request, each).fingerprint for each in (DEFAULTS, one, two)}
    assert "fingerprint_key" not in repr(one)
    assert plain not in repr(reserve_demand(request, one))


def test_the_fields_that_differ_are_named_without_their_values() -> None:
    def made(**fields: Any) -> Demand:
        return reserve_demand(pb.ReserveGPUsRequest(**{"count": 2} | fields), DEFAULTS)

    one = made(env={"A": "1"}, secret_env={"B": SECRET}, max_price=1.5, request_id="r")
    same = made(env={"A": "1"}, secret_env={"B": SECRET}, max_price=1.5, request_id="other", wait=False)
    assert same.different_fields(one.stored_fingerprint) == ()
    assert same.matches_fingerprint(one.stored_fingerprint)
    other = made(env={"A": "1"}, secret_env={"B": "x"}, image="ubuntu:24.04")
    assert set(other.different_fields(one.stored_fingerprint)) == {"secret_env", "max_price", "image"}
    assert not other.matches_fingerprint(one.stored_fingerprint)
    assert SECRET not in one.stored_fingerprint
    create = create_demand(pb.CreateGPUInstanceRequest(provider="vast.ai", instance_id="vast-1"), DEFAULTS)
    assert "call" in create.different_fields(one.stored_fingerprint)


def test_what_was_stored_without_marks_names_no_field() -> None:
    one = reserve_demand(pb.ReserveGPUsRequest(count=1), DEFAULTS)
    two = reserve_demand(pb.ReserveGPUsRequest(count=2), DEFAULTS)
    assert two.different_fields(one.fingerprint) == ()


def test_a_demand_matches_its_own_old_fingerprint_and_no_other() -> None:
    request = pb.ReserveGPUsRequest(count=1, request_id="a")
    plain = hashlib.sha256(b"ReserveGPUsRequest\0" + pb.ReserveGPUsRequest(count=1).SerializeToString()).hexdigest()
    demand = reserve_demand(request, DEFAULTS)
    assert demand.matches_fingerprint(plain)
    assert demand.matches_fingerprint(demand.fingerprint)
    assert demand.fingerprint.startswith("k1:")
    other = reserve_demand(pb.ReserveGPUsRequest(count=2, request_id="a"), DEFAULTS)
    assert not any(
        demand.matches_fingerprint(stored) for stored in (other.fingerprint, other.old_fingerprint, f"k1:{plain}", "")
    )


def test_the_fingerprint_of_a_call_without_newer_fields_is_that_of_its_bytes() -> None:
    """So a field that is added later changes no stored fingerprint; same_country is field 56."""
    known = b"ReserveGPUsRequest\0\x08\x02\xc0\x03\x01"
    demand = reserve_demand(pb.ReserveGPUsRequest(count=2, same_country=True), DEFAULTS)
    assert demand.old_fingerprint == hashlib.sha256(known).hexdigest()
    assert demand.fingerprint == KEYED + hmac.digest(DEFAULTS.fingerprint_key, known, "sha256").hex()
    other = reserve_demand(pb.ReserveGPUsRequest(count=2, same_country=True, same_model=True), DEFAULTS)
    assert other.fingerprint != demand.fingerprint
    assert other.old_fingerprint != demand.old_fingerprint
