"""Reads and destroys of instances: a listing is complete or an error, and only an explicit answer means gone."""

from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest

from gpuproxy.model.errors import (
    Advice,
    AuthFailed,
    InvalidRequest,
    OutcomeUnknown,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
)
from gpuproxy.model.leases import InstanceId, PortMapping, SshAddress
from gpuproxy.ports import HttpNotSent, HttpReplyLost, HttpRequest, HttpResponse, InstanceStatus, ListedInstance
from tests.providers.wires import Script, on_script, page, says, vast, wire
from tests.virtual_time import VirtualClock, run_virtual

ID = InstanceId("27182818")
UNKNOWN_KEY = says({"success": False, "error": "auth_error", "msg": "Invalid user key"}, 404)
GONE = says({"success": False, "error": "no_such_instance", "msg": "Instance 27182818 not found."}, 404)


def listed(*answers: HttpResponse | Exception, **more: Any) -> tuple[list[ListedInstance], Script]:
    async def use(adapter: Any) -> list[ListedInstance]:
        return list((await adapter.list()).instances)

    return on_script(use, *answers, **more)


def got(answer: HttpResponse | Exception) -> ListedInstance | None:
    return on_script(lambda adapter: adapter.get(ID), answer)[0]  # type: ignore[no-any-return]


def destroy(answer: HttpResponse | Exception) -> Script:
    return on_script(lambda adapter: adapter.destroy(ID), answer)[1]


# -- one instance


def test_an_instance_is_normalised() -> None:
    instance = got(says({"instances": wire()}))
    assert instance == ListedInstance(
        id=ID,
        label="gp-primary-7f3a",
        status=InstanceStatus.RUNNING,
        raw_status="running",
        status_message="success, running pytorch/pytorch/ssh",
        price=752_545,  # type: ignore[arg-type]
        stopped_price=3_700,  # type: ignore[arg-type]
        gpu_model="A100 SXM4",
        num_gpus=1,
        machine_id="29575",
        created_at=datetime(2026, 6, 3, 0, 59, 39, 470000, tzinfo=UTC),
        ends_at=datetime(2026, 12, 2, 21, 19, 15, tzinfo=UTC),
        ssh=(SshAddress("ssh5.vast.ai", 12818),),
        ports=(PortMapping(container_port=8000, protocol="tcp", host="198.51.100.12", public_port=40080),),
    )


PROXY = SshAddress("ssh5.vast.ai", 12818)
DIRECT = SshAddress("198.51.100.12", 40022)
NEXT = SshAddress("ssh5.vast.ai", 12819)
MAPPED = {"22/tcp": [{"HostIp": "0.0.0.0", "HostPort": "40022"}]}  # noqa: S104


@pytest.mark.parametrize(
    ("facts", "addresses"),
    [
        ({}, [PROXY]),
        ({"ports": MAPPED}, [PROXY, DIRECT]),
        ({"ports": MAPPED, "image_runtype": "ssh_direc ssh_proxy"}, [PROXY, DIRECT]),
        ({"ports": MAPPED, "image_runtype": "jupyter_direc ssh_direc ssh_proxy"}, [NEXT, PROXY, DIRECT]),
        ({"image_runtype": "jupyter"}, [NEXT, PROXY]),
        ({"ports": MAPPED, "image_runtype": "args"}, []),
        ({"ports": {"22/udp": MAPPED["22/tcp"]}}, [PROXY]),
        ({"ssh_host": None, "ports": MAPPED}, [DIRECT]),
        ({"ssh_port": None, "image_runtype": "jupyter"}, []),
        ({"ssh_port": 65535, "image_runtype": "jupyter"}, [SshAddress("ssh5.vast.ai", 65535)]),
        ({"image_runtype": 7}, [PROXY]),
    ],
)
def test_every_address_of_ssh_is_found(facts: dict[str, object], addresses: list[SshAddress]) -> None:
    instance = got(says({"instances": wire(**facts)}))
    assert instance is not None
    assert list(instance.ssh) == addresses


@pytest.mark.parametrize(
    "odd",
    [
        {"ports": None, "label": None},
        {"ports": ...},
        {"ports": [22, 8000]},
        {"ports": {"8000/tcp": None}},
        {"id": "27182818", "machine_id": "29575", "dph_total": "0.7525446", "num_gpus": "1"},
        {"ssh_port": None, "ssh_host": 5, "gpu_name": None, "start_date": "soon", "end_date": 1e300},
        {"instance": "none", "status_msg": None, "image_args": {"deep": 1}},
    ],
)
def test_an_unexpected_type_does_not_lose_an_instance(odd: dict[str, object]) -> None:
    instance = got(says({"instances": wire(**odd)}))
    assert instance is not None
    assert (instance.id, instance.status, instance.price) == (ID, InstanceStatus.RUNNING, 752_545)


def test_a_missing_price_is_none() -> None:
    instance = got(says({"instances": wire(dph_total=None, storage_total_cost=..., instance=None)}))
    assert instance is not None
    assert (instance.price, instance.stopped_price) == (None, None)


def test_a_stopped_instance_has_its_present_price() -> None:
    stopped = wire(
        actual_status="exited", intended_status="stopped", cur_state="stopped", instance={"totalHour": 0.005}
    )
    instance = got(says({"instances": stopped}))
    assert instance is not None
    assert (instance.status, instance.price, instance.stopped_price) == (InstanceStatus.STOPPED, 752_545, 5_000)


OCI = "Error response from daemon: OCI runtime create failed: no such device"


@pytest.mark.parametrize(
    ("actual", "intended", "current", "message", "status"),
    [
        (None, "running", "running", None, InstanceStatus.PENDING),
        ("loading", "running", "running", None, InstanceStatus.PENDING),
        ("created", "running", "running", None, InstanceStatus.PENDING),
        ("rebooting", "running", "running", None, InstanceStatus.PENDING),
        ("recycling", "running", "running", None, InstanceStatus.PENDING),
        ("running", "running", "running", "success", InstanceStatus.RUNNING),
        ("exited", "stopped", "stopped", None, InstanceStatus.STOPPED),
        ("stopped", "stopped", "stopped", None, InstanceStatus.STOPPED),
        ("exited", "running", "stopped", None, InstanceStatus.STOPPED),  # a start that waits for a GPU
        ("loading", "stopped", "stopped", None, InstanceStatus.STOPPED),
        ("exited", "running", "running", "exit code 137", InstanceStatus.BROKEN),
        ("created", "stopped", "stopped", OCI, InstanceStatus.BROKEN),
        ("created", "stopped", "stopped", None, InstanceStatus.BROKEN),
        ("loading", "running", "running", OCI, InstanceStatus.BROKEN),
        ("offline", "running", "running", None, InstanceStatus.OFFLINE),
        ("unknown", "running", "running", None, InstanceStatus.OFFLINE),
        ("frozen", "frozen", "running", None, InstanceStatus.UNSURE),
        ("levitating", "running", "running", None, InstanceStatus.UNSURE),
    ],
)
def test_a_status_depends_on_the_intended_status(
    actual: str | None, intended: str, current: str, message: str | None, status: InstanceStatus
) -> None:
    words = {"actual_status": actual, "intended_status": intended, "cur_state": current, "status_msg": message}
    instance = got(says({"instances": wire(**words)}))
    assert instance is not None
    assert (instance.status, instance.raw_status) == (status, actual or "")


def test_null_and_no_such_instance_mean_gone() -> None:
    assert got(says({"instances": None})) is None
    assert got(GONE) is None


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (UNKNOWN_KEY, AuthFailed),
        (says("API requests too frequent", 429), RateLimited),
        (says({"error": "not_found", "msg": "/api/v0/instances is not available."}, 404), InvalidRequest),
        (says("<html>not found</html>", 404), ProviderUnavailable),
        (says({}), ProviderUnavailable),
        (says({"instances": wire(1)}), ProviderUnavailable),
        (says({"success": False, "error": "no_such_instance"}, 500), ProviderUnavailable),
        (says({"instances": None}, 500), ProviderUnavailable),
        (says(""), ProviderUnavailable),
        (HttpNotSent("refused"), ProviderUnavailable),
        (HttpReplyLost("reset"), ProviderUnavailable),
    ],
)
def test_nothing_else_means_gone(answer: HttpResponse | Exception, kind: type[ProviderError]) -> None:
    with pytest.raises(kind):
        got(answer)


# -- the list


def test_all_pages_are_followed() -> None:
    first = page(*(wire(n) for n in range(1, 26)), token="t1", total=60)
    second = page(*(wire(n) for n in range(26, 51)), token="t2", total=60)
    third = page(*(wire(n) for n in range(51, 61)), total=60)
    instances, script = listed(first, second, third)
    assert [instance.id for instance in instances] == [str(n) for n in range(1, 61)]
    assert [request.url.partition("after_token=")[2] for request in script.requests] == ["", "t1", "t2"]
    assert all("limit=25" in request.url and "order_by=" in request.url for request in script.requests)


def test_an_account_without_instances_is_an_empty_list() -> None:
    assert listed(page())[0] == []


def test_an_instance_on_two_pages_is_listed_once() -> None:
    instances, _ = listed(page(wire(1), wire(2), token="t", total=3), page(wire(2), wire(3), total=3))
    assert [instance.id for instance in instances] == ["1", "2", "3"]


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param([page(wire(1), total=2)], id="more claimed than sent"),
        pytest.param([page(wire(1), token="t", total=3), page(total=3)], id="a page without rows"),
        pytest.param([page(wire(1), token="t"), page(wire(2), token="t")], id="a token again"),
        pytest.param([page(wire(1), token="t"), page(wire(1), token="u")], id="a page again"),
        pytest.param([page(wire(1), token="t", total=2), says("oops", 502)], id="the second page fails"),
        pytest.param([page(wire(1), token="t", total=2), HttpReplyLost("reset")], id="the second page is lost"),
        pytest.param([says({"success": True, "instances": [], "total_instances": 0})], id="no next_token"),
        pytest.param([says({"success": True, "next_token": None})], id="no instances"),
        pytest.param([says({"instances": [], "next_token": None})], id="no success"),
        pytest.param([says({"success": False, "instances": [], "next_token": None})], id="not a success"),
        pytest.param([says({"success": True, "instances": None, "next_token": None})], id="null instances"),
        pytest.param([says({"success": True, "instances": {}, "next_token": None})], id="an object of instances"),
        pytest.param([says([])], id="a bare list"),
        pytest.param([says("")], id="an empty body"),
        pytest.param([says("<html></html>")], id="a page of HTML"),
        pytest.param([says({"success": True, "instances": [], "next_token": None}, 500)], id="a fine body with 500"),
        pytest.param([HttpNotSent("refused")], id="not reached"),
    ],
)
def test_an_incomplete_listing_is_an_error_and_never_a_shorter_list(answers: list[HttpResponse | Exception]) -> None:
    with pytest.raises(ProviderUnavailable):
        listed(*answers)


def test_a_retired_endpoint_and_a_bad_key_have_their_own_errors() -> None:
    retired = says({"success": False, "error": "deprecated_endpoint", "msg": "Use v1."}, 410)
    with pytest.raises(InvalidRequest):
        listed(retired)
    with pytest.raises(AuthFailed):
        listed(UNKNOWN_KEY)


# -- destroy and spend


@pytest.mark.parametrize(
    "answer",
    [
        says({"success": True, "msg": "Instance destroyed."}),
        GONE,
        says({"success": False, "error": "no_such_instance"}),
        says({"success": False, "error": "not_found", "msg": "no"}, 404),
    ],
)
def test_a_destroy_that_was_accepted_or_found_nothing_returns(answer: HttpResponse) -> None:
    [request] = destroy(answer).requests
    assert (request.method, request.body) == ("DELETE", b"{}")
    assert request.url.endswith("/api/v0/instances/27182818/")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (UNKNOWN_KEY, AuthFailed),
        (says({"success": False, "error": "rate_limit_exceeded", "msg": "threshold=3.0"}, 429), RateLimited),
        (says({"success": False, "error": "invalid_args"}, 400), InvalidRequest),
        (says({"success": False, "error": "internal_error"}), OutcomeUnknown),
        (says({"success": False, "error": "no_such_instance"}, 500), OutcomeUnknown),
        (says("<html>not found</html>", 404), OutcomeUnknown),
        (says(""), OutcomeUnknown),
        (says("null"), OutcomeUnknown),
        (HttpReplyLost("reset"), OutcomeUnknown),
        (HttpNotSent("refused"), ProviderUnavailable),
    ],
)
def test_any_other_destroy_is_an_error(answer: HttpResponse | Exception, kind: type[ProviderError]) -> None:
    with pytest.raises(kind) as raised:
        destroy(answer)
    if kind is OutcomeUnknown:
        assert raised.value.advice is Advice.RETRY_LATER


def test_the_credit_is_read_in_micro_dollars() -> None:
    assert on_script(lambda adapter: adapter.spend(), says({"id": 1, "credit": 25.5}))[0].credit == 25_500_000
    assert on_script(lambda adapter: adapter.spend(), says({"id": 1, "credit": "25.5"}))[0].credit == 25_500_000
    for without in ({"id": 1}, {"id": 1, "credit": "NaN"}, {"credit": 1e17}, {"credit": -1e300}, {"credit": 10**400}):
        with pytest.raises(ProviderUnavailable):
            on_script(lambda adapter: adapter.spend(), says(without))


# -- limits


def at_times(call: Callable[[Any], Any], calls: int, *answers: HttpResponse) -> list[float]:
    """The times at which the requests are sent, with the real intervals."""
    times: list[float] = []

    async def use(clock: VirtualClock) -> None:
        script = Script(*answers)
        send = script.send

        async def timed(request: HttpRequest) -> HttpResponse:
            times.append(clock.monotonic())
            return await send(request)

        script.send = timed  # type: ignore[method-assign]
        adapter = vast(script, clock, intervals={})
        for _ in range(calls):
            try:
                await call(adapter)
            except RateLimited:
                continue

    run_virtual(use)
    return times


@pytest.mark.parametrize(
    ("call", "interval", "answer"),
    [
        (lambda adapter: adapter.list(), 1.0, page()),
        (lambda adapter: adapter.get(ID), 2.0, says({"instances": None})),
        (lambda adapter: adapter.destroy(ID), 3.0, says({"success": True})),
    ],
)
def test_calls_keep_the_documented_interval(call: Callable[[Any], Any], interval: float, answer: HttpResponse) -> None:
    times = at_times(call, 4, answer)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert all(interval < gap <= interval * 1.05 for gap in gaps)


@pytest.mark.parametrize("price", ["NaN", "inf", -5, 1e308])
def test_an_impossible_price_is_none_and_loses_neither_row_nor_listing(price: object) -> None:
    [instance], _ = listed(page(wire(dph_total=price, storage_total_cost=price, instance={"totalHour": price})))
    assert (instance.price, instance.stopped_price) == (None, None)


def test_an_interval_named_by_a_refusal_never_blocks_a_release() -> None:
    early = says({"error": "rate_limit_exceeded", "msg": "threshold=86400"}, 429)
    [refused, accepted] = at_times(lambda adapter: adapter.destroy(ID), 2, early, says({"success": True}))
    assert accepted - refused <= 60 * 1.05


def test_an_interval_named_by_a_refusal_is_kept_afterwards() -> None:
    early = says({"detail": "API requests too frequent endpoint threshold=7.0"}, 429)
    times = at_times(lambda adapter: adapter.list(), 4, early, page())
    assert all(later - earlier >= 7.0 for earlier, later in pairwise(times))


def test_a_retry_after_delays_the_next_call() -> None:
    times = at_times(lambda adapter: adapter.get(ID), 2, says("", 429, retry_after="40"), says({"instances": None}))
    assert times == pytest.approx([0, 40])


def test_the_adapter_does_not_pace_creates_but_declares_their_interval() -> None:
    async def use(clock: VirtualClock) -> None:
        told = vast(Script(says({})), clock, intervals={}).capabilities
        assert (told.create_interval, told.search_page, told.billing) == (4.5, 64, "metered")
        assert vast(Script(says({})), clock, intervals={"create": 0.0}).capabilities.create_interval == 0

    run_virtual(use)


def test_a_missing_capability_is_declared_with_its_reason() -> None:
    async def use(clock: VirtualClock) -> None:
        missing = vast(Script(says({})), clock).capabilities.missing
        assert {"hold_gpu", "spot"} <= missing.keys()
        assert not {"volumes", "volume_sharing"} & missing.keys()
        assert all(len(reason) > 20 for reason in missing.values())
        assert not missing.keys() & {"ssh", "ports", "labels", "custom_image", "registry_auth"}

    run_virtual(use)


@pytest.mark.parametrize("call", ["list", "get", "destroy", "spend"])
def test_the_search_quota_delays_no_other_call(call: str) -> None:
    quota = {"success": False, "error": "search_quota_exceeded", "msg": "no more"}

    async def use(clock: VirtualClock) -> None:
        reset = str(int(clock.now().timestamp()) + 40_000)
        adapter = vast(Script(says(quota, 429, x_ratelimit_reset=reset)), clock)
        with pytest.raises(RateLimited) as raised:
            await getattr(adapter, call)(*([ID] if call in ("get", "destroy") else []))
        assert raised.value.retry_after == 300

    run_virtual(use)
