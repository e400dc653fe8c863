"""Validation of the calls about warm pools: each error names its field, and an invalid request reaches no engine."""

from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from gpuproxy.edge.messages.demands import Defaults
from gpuproxy.edge.messages.pool_demands import (
    PoolDefaults,
    enable_demand,
    host_query,
    machine_id_of,
    provision_demand,
    volume_id_of,
)
from gpuproxy.model.errors import FailedPrecondition, InvalidArgument
from gpuproxy.model.pools import PoolSpec
from gpuproxy.model.reasons import Reason
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.edge.engine import StubEngine, service_over
from tests.edge.http_face import both_faces
from tests.edge.pools import StubPools
from tests.edge.test_fields import SECRET, auth, ssh_key

GIVEN = PoolDefaults(defaults=Defaults(max_price=10.0, marketplaces={"vast": "vast.ai"}))
NAN = float("nan")


def provision(**fields: Any) -> pb.ProvisionWarmPoolRequest:
    return pb.ProvisionWarmPoolRequest(**({"machine_id": 1, "host_machine_id": 2} | fields))


HOME, ROOT = "/home", "/root"
WRONG: list[tuple[str, dict[str, Any]]] = [
    ("machine_id", {"machine_id": 0}),
    ("machine_id", {"machine_id": -1}),
    ("host_machine_id", {"host_machine_id": 0}),
    ("host_machine_id", {"host_machine_id": -5}),
    ("provider", {"provider": "aws"}),
    ("provider", {"provider": "all"}),
    ("gpu_name", {"gpu_name": "x" * 200}),
    ("image", {"image": "Not An Image"}),
    ("disk_size", {"disk_size": 7}),
    ("disk_size", {"disk_size": -50}),
    ("volume_size", {"volume_size": -1}),
    ("volume_size", {"volume_size": 100_000}),
    ("max_price", {"max_price": -0.1}),
    ("max_price", {"max_price": NAN}),
    ("env", {"env": {"1A": "x"}}),
    ("secret_env", {"env": {"A": "x"}, "secret_env": {"A": "y"}}),
    ("env", {"secret_env": {"A": "x" * 40_000}}),
    ("ports[0]", {"ports": [0]}),
    ("ssh_public_keys[0]", {"ssh_public_keys": ["nonsense"]}),
    ("onstart", {"onstart": "a\0b"}),
    ("registry_auth.secret", {"registry_auth": auth(secret="")}),
    ("mount_path", {"mount_path": "data"}),
    ("mount_path", {"mount_path": "/"}),
    ("mount_path", {"mount_path": "//"}),
    ("mount_path", {"mount_path": "/a/../b"}),
    ("mount_path", {"mount_path": "/a/./b"}),
    ("mount_path", {"mount_path": "/a b"}),
    ("mount_path", {"mount_path": "/a\nb"}),
    ("mount_path", {"mount_path": "/a:b"}),
    ("mount_path", {"mount_path": "/" + "a" * 300}),
    ("mount_path", {"mount_path": "/etc/x"}),
    ("mount_path", {"mount_path": "/home/"}),
    ("mount_path", {"mount_path": "/lib64"}),
    ("mount_path", {"mount_path": "/lib32/x"}),
    ("mount_path", {"mount_path": "/libx32"}),
    ("mount_path", {"mount_path": "/var/lib/"}),
    ("mount_path", {"mount_path": "/var/lib/dpkg"}),
    ("mount_path", {"mount_path": "/var/run"}),
    ("mount_path", {"mount_path": "/var/run/sshd"}),
    ("mount_path", {"mount_path": "/var/lock"}),
    ("mount_path", {"mount_path": f"{ROOT}/.ssh"}),
    ("mount_path", {"mount_path": f"{ROOT}/.ssh/x"}),
    ("mount_path", {"mount_path": f"{HOME}/me/.ssh"}),
    ("mount_path", {"mount_path": f"{HOME}/me/.ssh/keys"}),
    ("mode", {"mode": "fast"}),
    ("cross_host", {"cross_host": "full"}),
    ("health", {"health": "udp"}),
    ("health", {"health": "ftp://localhost:21/"}),
    ("health", {"health": "https://localhost:8443/", "ports": [8443]}),
    ("health", {"health": "http://localhost:8000/health"}),
    ("health", {"health": "http://localhost:8000/", "ports": [8080]}),
    ("health", {"health": "http://localhost:99999/", "ports": [8080]}),
    ("health", {"health": "http://me:secret@localhost:8080/", "ports": [8080]}),
    ("keep_failed_primary", {"keep_failed_primary": Duration(seconds=-1)}),
    ("keep_failed_primary", {"keep_failed_primary": Duration(seconds=90 * 86400)}),
    ("drill_every", {"drill_every": Duration(seconds=3599)}),
    ("drill_every", {"drill_every": Duration(seconds=-3600)}),
    ("drill_every", {"drill_every": Duration(nanos=1)}),
    ("drill_every", {"drill_every": Duration(seconds=3600, nanos=10**9)}),
    ("keep_failed_primary", {"keep_failed_primary": Duration(nanos=10**9)}),
    ("keep_failed_primary", {"keep_failed_primary": Duration(seconds=1, nanos=-1)}),
    ("drill_every", {"drill_every": Duration(seconds=86400), "mode": "recreate"}),
    ("hold_gpu", {"hold_gpu": True, "mode": "recreate"}),
    ("drill_window", {"drill_window": "2-5"}),
    ("drill_window", {"drill_window": "02:30-05:00"}),
    ("drill_window", {"drill_window": "02:00-02:00"}),
    ("drill_window", {"drill_window": "24:00-05:00"}),
    ("drill_window", {"drill_window": "02:00-25:00"}),
    ("allow_empty", {"allow_empty": True}),
]
RIGHT: list[tuple[dict[str, Any], str, Any]] = [
    ({}, "mount_path", "/data"),
    ({"mount_path": "/mnt/my-data/"}, "mount_path", "/mnt/my-data"),
    *(
        ({"mount_path": path}, "mount_path", path)
        for path in (
            "/var/data",
            f"{ROOT}/data",
            f"{HOME}/me",
            f"{HOME}/me/data",
            "/library",
            "/data/lib",
            "/data/.ssh",
        )
    ),
    ({}, "disk_gb", 50),
    ({"disk_size": 8}, "disk_gb", 8),
    ({}, "volume_gb", 100),
    ({"volume_size": 1}, "volume_gb", 1),
    ({"mode": "Shared"}, "mode", "shared"),
    ({"cross_host": "empty"}, "cross_host", "empty"),
    ({"health": "TCP"}, "health", "tcp"),
    ({"health": "http://x/health", "ports": [80]}, "health", "http://x/health"),
    ({}, "keep_failed", timedelta(hours=24)),
    ({"keep_failed_primary": Duration()}, "keep_failed", timedelta(0)),
    ({}, "drill_every", None),
    ({"drill_every": Duration()}, "drill_every", None),
    ({"drill_every": Duration(seconds=3600)}, "drill_every", timedelta(hours=1)),
    ({}, "drill_window", (0, 24)),
    ({"drill_window": "02:00-05:00"}, "drill_window", (2, 5)),
    ({"drill_window": "22:00-04:00"}, "drill_window", (22, 4)),
    ({"hold_gpu": True}, "hold_gpu", True),
    ({"ports": [80, 80]}, "ports", (80,)),
    ({"ssh_public_keys": [ssh_key()]}, "ssh_public_keys", (ssh_key(),)),
]


@pytest.mark.parametrize(("field", "fields"), WRONG)
def test_a_wrong_field_is_named(field: str, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument) as refused:
        provision_demand(provision(**fields), GIVEN)
    assert field in {each.field for each in refused.value.violations}


@pytest.mark.parametrize(("fields", "name", "value"), RIGHT)
def test_a_right_field_reaches_the_specification(fields: dict[str, Any], name: str, value: Any) -> None:
    assert getattr(provision_demand(provision(**fields), GIVEN).spec, name) == value


@pytest.mark.parametrize(
    ("field", "fields"),
    [(field, fields) for field, fields in WRONG if not {"provider", "allow_empty"} & fields.keys()],
)
def test_enable_has_the_same_rules(field: str, fields: dict[str, Any]) -> None:
    request = pb.EnableWarmPoolRequest(**({"machine_id": 1} | fields))
    if "health" in fields and "ports" not in fields and fields["health"].startswith("http"):
        enable_demand(request)  # the ports may be stored
        return
    with pytest.raises(InvalidArgument) as refused:
        enable_demand(request)
    assert field in {each.field for each in refused.value.violations}


def test_all_wrong_fields_are_reported_together() -> None:
    with pytest.raises(InvalidArgument) as refused:
        provision_demand(pb.ProvisionWarmPoolRequest(mount_path="x", disk_size=1), GIVEN)
    assert {each.field for each in refused.value.violations} == {
        "machine_id",
        "host_machine_id",
        "mount_path",
        "disk_size",
    }


@pytest.mark.parametrize("fields", [{"mode": "own_disk"}, {"mode": "own-disk"}, {"cross_host": "restore"}])
def test_what_is_not_supported_says_so(fields: dict[str, Any]) -> None:
    for translate in (
        lambda: provision_demand(provision(**fields), GIVEN),
        lambda: enable_demand(pb.EnableWarmPoolRequest(machine_id=1, **fields)),
    ):
        with pytest.raises(FailedPrecondition) as refused:
            translate()
        assert refused.value.reason is Reason.NOT_SUPPORTED
        assert "Nothing was rented" in refused.value.message


def test_an_error_never_quotes_a_secret() -> None:
    request = provision(secret_env={"A": SECRET + "\0"}, registry_auth=auth(server="not a host"), mode="x")
    with pytest.raises(InvalidArgument) as refused:
        provision_demand(request, GIVEN)
    assert SECRET not in str([(each.field, each.description) for each in refused.value.violations])


def test_secrets_are_apart_from_the_specification() -> None:
    demand = provision_demand(provision(secret_env={"TOKEN": SECRET}, registry_auth=auth()), GIVEN)
    assert demand.secrets.secret_env == (("TOKEN", SECRET),)
    assert demand.secrets.registry_auth is not None
    assert SECRET not in repr(demand)


def test_a_demand_without_fields_is_the_default_specification() -> None:
    demand = provision_demand(provision(), GIVEN)
    assert demand.spec == PoolSpec(max_price=10.0, price_from="GPUPROXY_MAX_PRICE")
    assert (demand.provider, demand.wait, demand.dry_run, bool(demand.secrets)) == ("vast.ai", True, False, False)


def test_the_marketplace_by_default_is_one_that_is_installed() -> None:
    moon = PoolDefaults(defaults=Defaults(max_price=10.0, marketplaces={"moon": "moon.example"}))
    assert provision_demand(provision(), moon).provider == "moon.example"


@pytest.mark.parametrize("number", [-1, 65])
def test_a_number_of_gpus_that_no_host_has_is_named(number: int) -> None:
    with pytest.raises(InvalidArgument) as refused:
        host_query(pb.ListWarmPoolHostsRequest(min_gpus=number), GIVEN)
    assert [each.field for each in refused.value.violations] == ["min_gpus"]


@pytest.mark.parametrize("number", [0, -3])
def test_a_machine_id_is_positive(number: int) -> None:
    with pytest.raises(InvalidArgument, match="machine_id"):
        machine_id_of(pb.DisableWarmPoolRequest(machine_id=number))


@pytest.mark.parametrize("volume_id", ["", "a b", "gpx_secret_1234567890123456"])
def test_a_volume_id_is_the_one_of_a_retained_volume(volume_id: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        volume_id_of(pb.DeleteRetainedVolumeRequest(machine_id=1, volume_id=volume_id))
    assert [each.field for each in refused.value.violations] == ["volume_id"]


async def test_an_invalid_request_reaches_no_engine_over_http() -> None:
    pools = StubPools()
    async with both_faces(service_over(StubEngine(), pools)) as both:
        answer = await both.send("POST", "/api/v1/warmpool/provision", {"machine_id": 0, "mount_path": "/"})
        word = await both.send("GET", "/api/v1/warmpool/status/abc")
        unknown = await both.send("POST", "/api/v1/warmpool/provision", {"machine": 1})
    assert set(answer.violations()) == {"machine_id", "host_machine_id", "mount_path"}
    assert (word.status, list(word.violations())) == (400, ["machine_id"])
    assert list(unknown.violations()) == ["machine"]
    assert pools.asked == []
