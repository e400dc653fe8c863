"""What was seen of a machine is shown: why it is ready, its boot script's parts, its warnings."""

import json
from datetime import timedelta

import pytest

from gpuproxy.cli.readiness import attention, boot
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.cli.world import NOW, Run, World

WARNING = "its contract ends at 2026-01-03 03:04:05Z, before its lease"


def seen(world: World, number: int = 1) -> pb.GPUInstance:
    """A machine with all facts."""
    machine = world.rent(number, status="active")
    machine.ready_evidence = "ssh greets"
    machine.ready_at.FromDatetime(NOW)
    machine.boot_parts.update({"keys": "added", "onstart": "started"})
    machine.contract_ends_at.FromDatetime(NOW + timedelta(days=1))
    machine.warnings.append(WARNING)
    del world.reservations[0].instances[:]
    world.reservations[0].instances.extend(world.machines)
    return machine


def test_show_prints_the_evidence_the_boot_parts_the_contract_end_and_the_warnings(run: Run, world: World) -> None:
    seen(world)
    lines = run("show", "7001").stdout.splitlines()
    assert "ready       2026-01-02 03:04:05Z (ssh greets)" in lines
    assert "boot script keys: added, onstart: started" in lines
    assert "contract    ends at 2026-01-03 03:04:05Z at the marketplace; the machine stops then" in lines
    assert lines[-1] == f"warning     {WARNING}"


def test_facts_that_are_not_known_are_left_out(run: Run, world: World) -> None:
    world.rent(1, status="starting")
    text = run("show", "7001").stdout
    for word in ("ready", "boot script", "contract ", "warning", "sandbox"):
        assert word not in text


def test_ps_has_a_line_for_each_warning_under_the_table(run: Run, world: World) -> None:
    world.rent(2, status="active")
    seen(world)
    lines = run("ps").stdout.splitlines()
    assert lines[-2] == f"warning: 7001: {WARNING}"
    assert sum("warning" in line for line in lines) == 1


def test_show_of_a_reservation_has_the_warnings_and_the_parts_that_did_not_run(run: Run, world: World) -> None:
    seen(world).boot_parts["keys"] = "unsupported in entrypoint mode"
    world.reservations[0].instances[0].boot_parts["keys"] = "unsupported in entrypoint mode"
    text = run("show", "res-1").stdout
    assert f"\n7001: keys: unsupported in entrypoint mode\nwarning: 7001: {WARNING}\n" in text
    assert "onstart" not in text


def test_reserve_ends_with_the_parts_that_did_not_run_and_the_warnings(run: Run, world: World) -> None:
    machine = seen(world)
    machine.boot_parts["keys"] = "unsupported in entrypoint mode"
    machine.status = "reserved"
    world.answer = pb.ReserveGPUsResponse(
        reserved_instances=[machine],
        reserved_count=1,
        reservation_id="res-1",
        state="active",
        outcomes=world.reservations[0].outcomes,
        price_per_hour=0.31,
    )
    lines = run("reserve", "1").stdout.splitlines()
    assert lines[0].endswith("reserved as 7001 for $0.31/h, ready (ssh greets)")
    assert lines[1:3] == ["7001: keys: unsupported in entrypoint mode", f"warning: 7001: {WARNING}"]
    assert lines[3].startswith("1 of 1 · ")


def test_json_has_the_facts(run: Run, world: World) -> None:
    seen(world)
    shown = json.loads(run("show", "7001", "--json").stdout)
    assert (shown["ready_evidence"], shown["warnings"]) == ("ssh greets", [WARNING])
    assert shown["boot_parts"] == {"keys": "added", "onstart": "started"}


FINE = (
    ("keys", "requested"), ("keys", "added"), ("keys", "present"),
    ("onstart", "requested"), ("onstart", "started"), ("onstart", "none"),
    ("marketplace_keys", "pending"), ("marketplace_keys", "registered"),
    ("ending", "requested"), ("ending", "watching"), ("ending", "stopped"), ("watchdog", "started"),
)  # fmt: skip
TROUBLES = (
    ("keys", "failed"), ("keys", "not reported"), ("keys", "none"), ("keys", "unsupported in entrypoint mode"),
    ("onstart", "failed"), ("onstart", "not reported"), ("onstart", "skipped"),
    ("marketplace_keys", "refused"), ("marketplace_keys", "unregistered"), ("marketplace_keys", "none"),
    ("ending", "no_key"),
)  # fmt: skip


@pytest.mark.parametrize(("part", "report"), FINE)
def test_a_report_that_is_fine_needs_no_attention(part: str, report: str) -> None:
    assert attention([pb.GPUInstance(contract_id="7001", boot_parts={part: report})]) == []


@pytest.mark.parametrize(("part", "report"), TROUBLES)
def test_a_report_of_trouble_is_shown(part: str, report: str) -> None:
    machine = pb.GPUInstance(contract_id="7001", boot_parts={part: report})
    assert attention([machine]) == [f"7001: {part}: {report}"]


def test_a_script_that_the_sandbox_skips_is_explained() -> None:
    machine = pb.GPUInstance(contract_id="7001", boot_parts={"onstart": "skipped"}, metadata={"sandbox": "true"})
    assert attention([machine]) == ["7001: onstart: skipped (the sandbox does not run it)"]
    assert boot(machine) == "onstart: skipped (the sandbox does not run it)"
    del machine.metadata["sandbox"]
    assert boot(machine) == "onstart: skipped"


def test_the_use_of_the_gpus_and_the_time_of_idleness_have_columns_where_they_are_known(run: Run, world: World) -> None:
    world.rent(2, status="active")
    assert "GPU USE" not in run("ps").stdout
    machine = world.machines[0]
    machine.gpu_util = 97.4
    text = run("ps").stdout
    assert "GPU USE" in text
    assert "97 %" in text
    assert "IDLE FOR" not in text
    machine.gpu_util = 0.0
    machine.idle_since.FromDatetime(NOW - timedelta(minutes=30))
    assert "IDLE FOR" in run("ps").stdout
    lines = run("show", machine.contract_id).stdout.splitlines()
    assert "gpu use     0 %" in lines
    assert "idle since  2026-01-02 02:34:05Z" in lines
    machine.idle_release_at.FromDatetime(NOW + timedelta(minutes=30))
    shown = run("show", machine.contract_id).stdout
    assert "idle since  2026-01-02 02:34:05Z; it is released at 2026-01-02 03:34:05Z" in shown
