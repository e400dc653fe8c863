"""Authorization: every RPC of the contract, by every kind of caller, on its own project and on another one.

The rules in words:
- Login and HealthCheck answer everybody.
- Without good credentials everything else is UNAUTHENTICATED: one text for every cause.
- A viewer only reads, a user does everything but the few calls that are for admins, an admin does everything.
- What another project has does not exist, but for admins: NOT_FOUND.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc import StatusCode, aio

from gpuproxy.edge.rpc.rpcs import ADMIN_ONLY, CONTRACT, OPEN, READS, WRITES, built_of, least_role, rpcs_of
from gpuproxy.model.demands import Caller
from gpuproxy.model.users import ROLES, Role
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.deployed import Deployed, deployed
from tests.edge.engine import StubEngine, other_calls, service_over
from tests.edge.face import facing
from tests.edge.pools import StubPools
from tests.edge.test_fields import ssh_key
from tests.world import demand

pytestmark = pytest.mark.long

METHODS = tuple(method.name for method in CONTRACT.methods)
BUILT = built_of(service_over(StubEngine(), StubPools(), others=other_calls(StubEngine())))
SECRET = "s" * 40
PASSWORD = "correct horse"
_PARTS = 4  # as many as there are ways to present a role
MINE, THEIRS = "p1", "p2"
OTHERWISE = {
    "CreateGPUInstance": StatusCode.FAILED_PRECONDITION,  # there is no such offer
    "Login": StatusCode.UNAUTHENTICATED,  # nobody has that password
    "GetProviderProbe": StatusCode.NOT_FOUND,  # there was none
    "ProbeProvider": StatusCode.INVALID_ARGUMENT,  # without a budget
}
"""What a call that is allowed answers here where it is not OK."""
DEPENDS = {StatusCode.OK, StatusCode.FAILED_PRECONDITION, StatusCode.INVALID_ARGUMENT}
"""What it may answer where that depends on more than who asks."""
PLAIN = {
    *("CreateAPIKey", "ListAPIKeys", "RevokeAPIKey", "AddSSHKey", "ListSSHKeys", "DeleteSSHKey", "HealthCheck"),
    *("ListGPUInstances", "GetGPUInstance", "DestroyGPUInstance", "ReserveGPUs", "GetReservation", "ListReservations"),
    *("ReleaseReservation", "ExtendReservation", "WatchReservation", "SetLoadBalancerStrategy", "GetTransactions"),
    *("GetLoadBalancerStrategy", "GetLoadInfo", "ListProviders", "GetCostReport", "ListAuditEvents"),
    *("GetSpendingInfo", "CheckSpendingLimit", "SetSpendingLimit", "ListSpendingLimits"),
}
"""It depends on nothing else."""
LAST = ("ReleaseReservation", "DestroyGPUInstance", "RevokeAPIKey", "DeleteSSHKey")
"""They end what the others look at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Things:
    """The resources of a project."""

    reservation_id: str
    instance_id: str
    key_id: str
    ssh_key_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Metadata, and the role that it gives; None: none."""

    name: str
    metadata: Mapping[str, str]
    role: Role | None


def request_for(name: str, things: Things) -> Message:
    """A valid request about these resources."""
    request: Any = GetMessageClass(CONTRACT.methods_by_name[name].input_type)()
    fields = request.DESCRIPTOR.fields_by_name
    ids = {"RevokeAPIKey": things.key_id, "DeleteSSHKey": things.ssh_key_id}
    general = {
        "provider": "vast.ai",
        "reservation_id": things.reservation_id,
        "instance_id": things.instance_id,
        "id": ids.get(name, ""),
    }
    own: dict[str, dict[str, Any]] = {
        "Login": {"email": "nobody@example.org", "password": "wrong"},
        "CreateAPIKey": {"name": "one more"},
        "AddSSHKey": {"public_key": ssh_key()},
        "CreateGPUInstance": {"instance_id": "vast-1"},
        "ReserveGPUs": {"count": 1, "dry_run": True, "max_price": 9.0},
        "SetLoadBalancerStrategy": {"strategy": "lowest_price"},
        "CheckSpendingLimit": {"amount": 1.0},
        "SetSpendingLimit": {"window": "90d", "limit": 1e9},
    }
    for field, value in (general | own.get(name, {})).items():
        if field in fields and (field != "instance_id" or name != "GetLoadInfo"):
            setattr(request, field, value)
    if name == "ExtendReservation":
        request.expires_at.FromDatetime(datetime.now(UTC) + timedelta(hours=3))
    return request


def names_a_thing(name: str) -> bool:
    """True if the call is about one resource of one project."""
    fields = {*CONTRACT.methods_by_name[name].input_type.fields_by_name}
    return name not in ("CreateGPUInstance", "GetLoadInfo") and bool({"reservation_id", "instance_id", "id"} & fields)


def right(name: str, role: Role | None, project: str, code: StatusCode) -> bool:
    """True if the answer follows the rules."""
    needed = least_role(name)
    if needed is not None and role is None:
        return code is StatusCode.UNAUTHENTICATED
    if needed is not None and role is not None and ROLES.index(role) > ROLES.index(needed):
        return code is StatusCode.PERMISSION_DENIED
    if name not in BUILT:
        return code is StatusCode.UNIMPLEMENTED
    if names_a_thing(name) and project == THEIRS and role != "admin":
        return code is StatusCode.NOT_FOUND
    if name in OTHERWISE:
        return code is OTHERWISE[name]
    if "machine_id" in CONTRACT.methods_by_name[name].input_type.fields_by_name:
        return code in DEPENDS | {StatusCode.NOT_FOUND}  # of warm pools there are none here
    return code is StatusCode.OK or (name not in PLAIN and code in DEPENDS)


async def code_of(world: Deployed, name: str, things: Things, credentials: Credentials) -> tuple[StatusCode, str]:
    call = world.grpc.call(name, request_for(name, things), metadata=credentials.metadata)
    try:
        if CONTRACT.methods_by_name[name].server_streaming:
            await call.read()
            call.cancel()
        else:
            await call
    except aio.AioRpcError as error:
        return error.code(), error.details() or ""
    return StatusCode.OK, ""


async def things_of(world: Deployed, project: str) -> Things:
    deadline = world.engine.clock.monotonic() + 60
    view = await world.engine.reserver.reserve(Caller(project=project, deadline=deadline), demand(1))
    key = await world.access.keys.create(project, "throwaway", "user")
    ssh = await world.access.ssh_keys.add(project, "laptop", ssh_key(), "SHA256:x")
    return Things(
        reservation_id=view.reservation.id,
        instance_id=str(view.leases[0].instance_id),
        key_id=key.row.id,
        ssh_key_id=ssh.id,
    )


async def everybody(world: Deployed) -> list[Credentials]:
    """Every kind of caller, all of the project p1."""
    users, tokens, keys = world.access.users, world.access.tokens, world.access.keys
    found: list[Credentials] = []

    def add(name: str, text: str, role: Role | None = None, header: str = "authorization") -> None:
        value = f"Bearer {text}" if header == "authorization" else text
        found.append(Credentials(name=name, metadata={header: value}, role=role))

    found.append(Credentials(name="nothing", metadata={}, role=None))
    for role in ROLES:
        user = await users.create(f"{role}@example.org", PASSWORD, project=MINE, role=role)
        add(f"key of role {role}", (await keys.create(MINE, role, role)).text, role, "x-api-key")
        add(f"key as bearer, {role}", (await keys.create(MINE, role, role, user.id)).text, role)
        add(f"token of {role}", tokens.make(user).text, role)
        add(f"token as key, {role}", tokens.make(user).text, role, "x-api-key")
    good = tokens.make(user).text
    claims = jwt.decode(good, options={"verify_signature": False})
    gone = await users.create("gone@example.org", PASSWORD, project=MINE, role="admin")
    add("token of a disabled user", tokens.make(gone).text)
    add("key of a disabled user", (await keys.create(MINE, "gone", "admin", gone.id)).text)
    await users.disable("gone@example.org")
    revoked = await keys.create(MINE, "revoked", "admin")
    await keys.revoke(None, revoked.row.id)
    add("revoked key", revoked.text)
    add("wrong key", "gpx_wrong")
    add("wrong key in the other header", "gpx_wrong", header="x-api-key")
    add("id of a key", revoked.row.id)
    add("token that ended", jwt.encode(claims | {"exp": claims["iat"] - 1}, SECRET, algorithm="HS256"))
    add("token that ends in words", jwt.encode(claims | {"exp": "tomorrow"}, SECRET, algorithm="HS256"))
    add("token without end", jwt.encode({"sub": claims["sub"]}, SECRET, algorithm="HS256"))
    add("token of nobody", jwt.encode(claims | {"sub": "user-x"}, SECRET, algorithm="HS256"))
    add("token of another secret", jwt.encode(claims, "t" * 40, algorithm="HS256"))
    add("token of another algorithm", jwt.encode(claims, SECRET * 2, algorithm="HS512"))
    add("token of no algorithm", jwt.encode(claims, None, algorithm="none"))
    add("token with other claims", ".".join([good.split(".")[0], good.split(".")[1][:-2] + "AA", good.split(".")[2]]))
    add("token without signature", good.rpartition(".")[0] + ".")
    return found


@pytest.mark.seeds(1, _PARTS)
async def test_every_call_by_every_caller_on_every_project_follows_the_rules(tmp_path: Path, seed: int) -> None:
    """`seed` selects a part of the callers. Each part has some of every role and some of none."""
    wrong, cells, texts = [], 0, set()
    async with deployed(tmp_path, jwt_secret=SECRET) as world:
        callers = (await everybody(world))[seed::_PARTS]
        assert {caller.role for caller in callers} == {None, *ROLES}
        projects = {MINE: await things_of(world, MINE), THEIRS: await things_of(world, THEIRS)}
        for name in (*(each for each in METHODS if each not in LAST), *LAST):
            for project, things in projects.items():
                for caller in callers:
                    code, text = await code_of(world, name, things, caller)
                    cells += 1
                    if not right(name, caller.role, project, code):
                        wrong.append((name, project, caller.name, code.name, text))
                    if code is StatusCode.UNAUTHENTICATED and name != "Login":
                        texts.add(text)
    assert wrong == []
    assert cells == len(METHODS) * len(projects) * len(callers)
    assert len(texts) == 1


@pytest.mark.parametrize("name", METHODS)
def test_every_call_is_in_exactly_one_role_table(name: str) -> None:
    assert sum(name in table for table in (OPEN, READS, WRITES, ADMIN_ONLY)) == 1


def test_a_call_without_a_role_prevents_startup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpuproxy.edge.rpc.rpcs.READS", READS - {"GetReservation"})
    with pytest.raises(LookupError, match="GetReservation must be in exactly one of"):
        rpcs_of(object())


def test_calls_for_viewers_are_named_as_reads_and_only_the_audit_trail_is_for_admins() -> None:
    reading = ("Get", "List", "Watch", "Check")
    assert {name for name in METHODS if name.startswith(reading)} == READS | {"ListAuditEvents"}


async def test_the_rules_detect_a_viewer_who_could_change_something() -> None:

    class Everything:
        async def ReleaseReservation(self, request: Any, caller: Caller) -> Message:  # noqa: N802
            return pb.ReleaseReservationResponse()

    async with facing(Everything()) as face:
        refused = await face.refused("ReleaseReservation", key="gp_viewer")
        await face.call("ReleaseReservation", key="gp_user")
    assert refused.code is StatusCode.PERMISSION_DENIED
    assert not right("ReleaseReservation", "viewer", MINE, StatusCode.OK)
    assert not right("GetReservation", "user", THEIRS, StatusCode.OK)
    assert not right("GetReservation", None, MINE, StatusCode.NOT_FOUND)


async def test_only_an_admin_sets_the_global_strategy(tmp_path: Path) -> None:
    request = pb.SetLoadBalancerStrategyRequest(strategy="lowest_price", scope="global")
    async with deployed(tmp_path) as world:
        mere = (await world.access.keys.create(MINE, "mere", "user")).text
        mighty = (await world.access.keys.create(MINE, "mighty", "admin")).text
        refused = await world.grpc.refused("SetLoadBalancerStrategy", request, key=mere)
        assert (await world.grpc.call("SetLoadBalancerStrategy", request, key=mighty)).success
    assert refused.code is StatusCode.PERMISSION_DENIED
