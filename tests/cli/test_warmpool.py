"""`gpuproxy warmpool`: what it sends, what it prints, what it asks, and its exit codes."""

# ruff: noqa: N802 - the methods are named by the contract

import json
import signal
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2

from gpuproxy.cli.pool_text import Steps, describe
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.cli.processes import Launch
from tests.cli.world import KEY, NOW, Run, World, error


class Pools(World):
    """A server with one warm pool; `asked` has each request about it."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = pool()
        self.asked: dict[str, Any] = {}
        self.pending: list[str] = []
        self.changes: list[pb.WarmPoolStatus] = []

    def _take(self, name: str, request: Any, context: grpc.ServicerContext) -> None:
        self._judge(context)
        self.asked[name] = request

    def GetWarmPoolStatus(
        self, request: pb.GetWarmPoolStatusRequest, context: grpc.ServicerContext
    ) -> pb.WarmPoolStatus:
        return self.pool

    def ListWarmPools(
        self, request: pb.ListWarmPoolsRequest, context: grpc.ServicerContext
    ) -> pb.ListWarmPoolsResponse:
        other = pb.WarmPoolStatus(machine_id=7, state="disabled", standby_state="none")
        if request.page_token:
            return pb.ListWarmPoolsResponse(pools=[self.pool], total_count=2)
        return pb.ListWarmPoolsResponse(pools=[other], total_count=2, next_page_token="more")

    def ListWarmPoolHosts(
        self, request: pb.ListWarmPoolHostsRequest, context: grpc.ServicerContext
    ) -> pb.ListWarmPoolHostsResponse:
        self._take("hosts", request, context)
        host = pb.WarmPoolHost(
            machine_id=88888,
            total_gpus=4,
            available_gpus=3,
            gpu_name="RTX_4090",
            avg_price_per_hour=0.45,
            reliability=0.98,
            verified=True,
            geolocation="US",
            can_create_warm_pool=True,
        )
        return pb.ListWarmPoolHostsResponse(hosts=[host] if request.min_gpus < 4 else [], count=1)

    def ProvisionWarmPool(
        self, request: pb.ProvisionWarmPoolRequest, context: grpc.ServicerContext
    ) -> pb.ProvisionWarmPoolResponse:
        self._take("provision", request, context)
        text = "Dry run, nothing was rented." if request.dry_run else "Warm pool provisioned successfully"
        return pb.ProvisionWarmPoolResponse(
            success=True,
            message=text,
            status=self.pool,
            max_price_per_hour=0.5,
            max_price_source="GPUPROXY_WARMPOOL_MAX_PRICE",
        )

    def EnableWarmPool(
        self, request: pb.EnableWarmPoolRequest, context: grpc.ServicerContext
    ) -> pb.EnableWarmPoolResponse:
        self._take("enable", request, context)
        return pb.EnableWarmPoolResponse(
            status="enabled",
            message="Warm pool enabled for machine 123",
            plan=pb.WarmPoolPlan(price_per_hour=0.462),
            max_price_per_hour=0.5,
            max_price_source="request",
        )

    def DisableWarmPool(
        self, request: pb.DisableWarmPoolRequest, context: grpc.ServicerContext
    ) -> pb.DisableWarmPoolResponse:
        self._take("disable", request, context)
        return pb.DisableWarmPoolResponse(
            message="Warm pool disabled for machine 123",
            fallback="cpu_standby",
            fallback_detail="nothing takes over by itself",
        )

    def TestWarmPoolFailover(
        self, request: pb.TestWarmPoolFailoverRequest, context: grpc.ServicerContext
    ) -> pb.TestWarmPoolFailoverResponse:
        self._take("test", request, context)
        return pb.TestWarmPoolFailoverResponse(
            success=True, message="Failover test completed", recovery_time_seconds=35.2, new_primary_gpu_id=456790
        )

    def FailoverWarmPool(
        self, request: pb.FailoverWarmPoolRequest, context: grpc.ServicerContext
    ) -> pb.FailoverWarmPoolResponse:
        self._take("failover", request, context)
        return pb.FailoverWarmPoolResponse(message="Failover completed", new_primary_gpu_id=456790)

    def CleanupWarmPool(
        self, request: pb.CleanupWarmPoolRequest, context: grpc.ServicerContext
    ) -> pb.CleanupWarmPoolResponse:
        self._take("cleanup", request, context)
        return pb.CleanupWarmPoolResponse(message="Warm pool for machine 123 cleaned up", pending_ids=self.pending)

    def DeleteRetainedVolume(
        self, request: pb.DeleteRetainedVolumeRequest, context: grpc.ServicerContext
    ) -> pb.DeleteRetainedVolumeResponse:
        self._take("delete", request, context)
        return pb.DeleteRetainedVolumeResponse(message="Volume 777 of machine 123 deleted", pending_ids=self.pending)

    def WatchWarmPool(
        self, request: pb.WatchWarmPoolRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WarmPoolStatus]:
        yield from self.changes
        context.abort(grpc.StatusCode.NOT_FOUND, "over")


def pool(**fields: Any) -> pb.WarmPoolStatus:
    """An active pool."""
    made = pb.WarmPoolStatus(
        machine_id=123,
        state="active",
        host_machine_id=88888,
        provider="vast.ai",
        primary_contract_id="456789",
        standby_contract_id="456790",
        standby_state="stopped",
        primary_ssh_host="ssh4.vast.ai",
        primary_ssh_port=12345,
        mode="shared",
        mode_reason="the marketplace allows it",
        data_state="same_volume",
        fence="api_and_lock",
        failover_count=2,
        outage_seconds=41.5,
        failover_p50_seconds=38.0,
        failover_p95_seconds=52.0,
        price_per_hour=0.462,
        max_price_per_hour=0.5,
        max_price_source="request",
        next_action="The primary is checked every 2 s.",
        costs=[
            pb.WarmPoolCost(
                part="primary", state="active", price_per_hour=0.45, price_per_month=324, contract_id="456789"
            ),
            pb.WarmPoolCost(part="volume", state="100 GB", price_per_hour=0.012, price_per_month=8.64),
        ],
        retained_volumes=[pb.RetainedVolume(volume_id="777", size_gb=40, host_machine_id=5, price_per_hour=0.002)],
    )
    made.standby_checked_at.FromDatetime(NOW - timedelta(seconds=12))
    made.last_failover_at.FromDatetime(NOW - timedelta(hours=3))
    drill = made.failovers.add(kind="drill", seconds=35.2)
    drill.at.FromDatetime(NOW - timedelta(hours=3))
    drill.phases.fence = 10.5
    made.MergeFrom(pb.WarmPoolStatus(**fields))
    return made


@pytest.fixture
def world() -> Pools:
    return Pools()


def test_status_shows_what_an_operator_asks(run: Run) -> None:
    shown = run("warmpool", "status", "123").stdout
    for text in (
        "machine 123 active",
        "shared: the marketplace allows it",
        "456790 stopped, GPUs seen free 12 s ago",
        "the same volume",
        "the lock is confirmed",
        "2, the last 3 h ago, outage 41.5 s · p50 38.0 s, p95 52.0 s",
        "last drill 3 h ago: 35.2 s (fence 10.5 s)",
        "next       The primary is checked every 2 s.",
        "$0.50 per GPU-hour (request)",
        "$324.00",
        "gpuproxy warmpool delete-volume 123 777",
    ):
        assert text in shown, text


def test_a_degraded_pool_says_why_and_what_to_do(run: Run, world: Pools) -> None:
    world.pool = pool(state="degraded", degraded_reason="no_free_gpu", error_message="taken", troubleshooting=["Wait."])
    shown = run("warmpool", "status", "123").stdout
    assert "machine 123 degraded (no_free_gpu)" in shown
    assert "error      taken" in shown
    assert "hint       Wait." in shown


def test_a_disabled_pool_says_nothing_about_a_standby_or_data_that_it_does_not_have() -> None:
    gone = pool(state="disabled", standby_state="none", standby_contract_id="")
    gone.ClearField("primary_contract_id")
    shown = describe(gone, NOW)
    assert "standby" not in shown
    assert "the same volume" not in shown
    assert "none; GPUs seen free 12 s ago" in describe(pool(mode="recreate", standby_state="none"), NOW)


def test_json_is_the_answer(run: Run) -> None:
    assert json.loads(run("warmpool", "status", "123", "--json").stdout)["primary_gpu_id"] is None


def test_list_shows_all_pages(run: Run) -> None:
    lines = run("warmpool", "list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["MACHINE", "7", "123"]


def test_hosts_send_the_filters_and_say_if_there_are_none(run: Run, world: Pools) -> None:
    shown = run("warmpool", "hosts", "--gpu", "RTX_4090", "--unverified", "--max-price", "0.5").stdout
    assert "88888" in shown
    request = world.asked["hosts"]
    assert (request.gpu_name, request.min_gpus, request.verified, request.max_price) == ("RTX_4090", 2, False, 0.5)
    assert run("warmpool", "hosts", "--min-gpus", "4").stdout.startswith("No host has 4 such GPUs free now.")


def test_provision_sends_only_what_is_given(run: Run, world: Pools) -> None:
    result = run("warmpool", "provision", "123", "--host", "88888", "--gpu", "RTX_4090")
    assert (result.exit_code, result.stdout) == (0, "Warm pool provisioned successfully\n")
    assert "Price limit: $0.50 per GPU-hour (GPUPROXY_WARMPOOL_MAX_PRICE)" in result.stderr
    assert world.asked["provision"] == pb.ProvisionWarmPoolRequest(
        machine_id=123, host_machine_id=88888, gpu_name="RTX_4090", wait=True
    )


def test_provision_sends_every_option(run: Run, world: Pools) -> None:
    words = (
        "--disk 60 --volume 200 --max-price 0.4 --env A=b --secret-env C --port 8000 --mount-path /mnt/x --mode shared "
        "--cross-host empty --health http://x:8000/ --hold-gpu --keep-failed 0 --drill-every 7d --drill-window "
        "02:00-05:00 --image a/b --onstart run.sh --provider vast.ai --no-wait"
    )
    run("warmpool", "provision", "123", "--host", "88888", *words.split(), C="hidden")
    request = world.asked["provision"]
    assert (request.disk_size, request.volume_size, request.max_price) == (60, 200, 0.4)
    assert (dict(request.env), dict(request.secret_env)) == ({"A": "b"}, {"C": "hidden"})
    assert (request.mount_path, request.mode, request.cross_host) == ("/mnt/x", "shared", "empty")
    assert (request.hold_gpu, request.drill_window, request.wait) == (True, "02:00-05:00", False)
    assert request.HasField("keep_failed_primary")
    assert request.keep_failed_primary.seconds == 0
    assert request.drill_every.ToTimedelta() == timedelta(days=7)


def test_a_pool_that_is_not_active_at_the_end_is_exit_code_1(run: Run, world: Pools) -> None:
    world.pool = pool(state="provisioning")
    assert run("warmpool", "provision", "123", "--host", "88888").exit_code == 1
    assert run("warmpool", "provision", "123", "--host", "88888", "--no-wait").exit_code == 0
    assert run("warmpool", "provision", "123", "--host", "88888", "--dry-run").exit_code == 0


def test_ctrl_c_during_provision_says_that_the_pool_is_still_made_and_how_to_destroy_it(
    launch: Launch, world: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, under_way = threading.Event(), threading.Event()

    def wait(name: str, request: Any, context: grpc.ServicerContext) -> None:
        assert context.add_callback(gone.set)
        under_way.set()
        assert gone.wait(300)

    monkeypatch.setattr(world, "_take", wait)
    process = launch("warmpool", "provision", "12345", "--host", "88888")
    assert under_way.wait(300)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=1200)[1]
    assert process.returncode == 130
    assert "To see it: gpuproxy warmpool status 12345. To destroy it: gpuproxy warmpool cleanup 12345\n" in said


def test_enable_sends_only_what_is_given_and_says_what_it_costs(run: Run, world: Pools) -> None:
    result = run("warmpool", "enable", "123", "--no-hold-gpu")
    assert "Warm pool enabled for machine 123\n$0.4620/h = " in result.stdout
    assert world.asked["enable"] == pb.EnableWarmPoolRequest(machine_id=123, hold_gpu=False)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("cleanup", "123"), "cleanup"),
        (("disable", "123"), "disable"),
        (("failover", "123"), "failover"),
        (("test-failover", "123", "--allow-destroy"), "test"),
        (("delete-volume", "123", "777"), "delete"),
    ],
)
def test_what_destroys_data_asks_first_and_no_means_nothing(
    run: Run, world: Pools, words: tuple[str, ...], name: str
) -> None:
    refused = run("warmpool", *words, answer="n\n")
    assert "failed primary" not in refused.stderr
    assert refused.exit_code == 1
    assert "Nothing was changed." in refused.stderr
    assert world.asked == {}
    assert run("warmpool", *words, answer="y\n").exit_code == 0
    assert name in world.asked
    world.asked.clear()
    assert run("warmpool", *words, "--yes").exit_code == 0
    assert name in world.asked


def test_what_is_destroyed_is_listed_with_its_price(run: Run) -> None:
    asked = run("warmpool", "cleanup", "123", answer="n\n").stderr
    assert "456789" in asked
    assert "100 GB" in asked
    assert "still cost $0.4620/h" in asked


def test_a_test_of_the_failover_without_a_standby_lost_asks_nothing(run: Run) -> None:
    result = run("warmpool", "test-failover", "123")
    assert result.stdout == "Failover test completed after 35.2 s; the primary is now 456790\n"


def test_what_is_not_proven_gone_is_exit_code_1(run: Run, world: Pools) -> None:
    world.pending = ["456789"]
    for words in (("cleanup", "123"), ("delete-volume", "123", "777")):
        result = run("warmpool", *words, "--yes")
        assert result.exit_code == 1
        assert "The server goes on" in result.stderr


def test_keep_volume_and_allow_unfenced_are_sent(run: Run, world: Pools) -> None:
    run("warmpool", "cleanup", "123", "--keep-volume", "--yes")
    run("warmpool", "failover", "123", "--allow-unfenced", "--yes")
    assert world.asked["cleanup"].keep_volume
    assert world.asked["failover"].allow_unfenced


def test_a_refusal_is_exit_code_1_with_its_reason(run: Run, world: Pools) -> None:
    world.refuse_with = error(code_pb2.FAILED_PRECONDITION, "The warm pool is in failover.", "POOL_STATE")
    result = run("warmpool", "disable", "123", "--yes")
    assert result.exit_code == 1
    assert "The warm pool is in failover." in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("status", "0"),
        ("status", "abc"),
        ("provision", "123"),
        ("provision", "123", "--host", "1", "--disk", "1"),
        ("provision", "123", "--host", "1", "--drill-every", "7"),
        ("provision", "123", "--host", "1", "--mode", "own_disk"),
    ],
)
def test_wrong_usage_is_exit_code_2(run: Run, words: tuple[str, ...]) -> None:
    assert run("warmpool", *words).exit_code == 2


def test_a_watch_shows_a_failover_step_by_step(run: Run, world: Pools) -> None:
    lost = pool(state="failover")
    lost.transitions.add(from_state="active", to_state="failover", event="primary_lost", reason="it is silent")
    lost.incident.kind, lost.incident.phase, lost.incident.seconds = "failure", "fence", 1.0
    lost.incident.phases.detect = 6.0
    world.changes = [pool(), lost]
    result = run("warmpool", "watch", "123")
    lines = [line[9:] for line in result.stdout.splitlines()]
    assert lines[0] == "machine 123 is active"
    assert lines[1].endswith("active -> failover (primary_lost): it is silent")
    assert [" ".join(line.split()) for line in lines[2:]] == ["detect 6.0 s", "fence ... 1.0 s since it began"]
    assert result.exit_code == 1, "the server has refused to go on"


def test_a_watch_in_json_prints_one_line_for_each_change(run: Run, world: Pools) -> None:
    world.changes = [pool(), pool()]
    lines = run("warmpool", "watch", "123", "--json").stdout.splitlines()
    assert [json.loads(line)["state"] for line in lines] == ["active", "active"]


def test_each_step_is_told_once_and_the_end_with_all_its_phases() -> None:
    steps = Steps()
    first, going = pool(), pool(state="failover")
    going.incident.phase = "fence"
    assert list(steps.lines(first)) == ["machine 123 is active"]
    assert len(list(steps.lines(going))) == 1
    assert list(steps.lines(going)) == []
    ended = pool()
    done = ended.failovers.add(kind="failure", seconds=41.5)
    done.phases.start = 20.0
    assert list(steps.lines(ended)) == ["failure ended after 41.5 s: start 20.0 s"]


def test_a_key_is_needed(run: Run) -> None:
    assert KEY
    result = run("warmpool", "hosts", GPUPROXY_API_KEY="other-key-of-somebody")
    assert result.exit_code == 1
