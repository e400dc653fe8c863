"""Ready means that a caller can get in: at any address that the machine's run mode has."""

from dataclasses import replace

import pytest

from gpuproxy.model.lease_events import Ready
from gpuproxy.model.leases import Lease, LeaseState, PortMapping, SshAddress
from gpuproxy.ports import Capabilities, InstanceStatus, ListedInstance
from gpuproxy.reconcile.steps import Advance, ProbeReady, RegisterKeys, Step
from gpuproxy.reconcile.ways_in import WayIn, ssh_address, ways_in
from tests.scenes import CAPABILITIES, Account, events, lease_of, reasons, row

PROXY, DIRECT = SshAddress("proxy.example", 12000), SshAddress("192.0.2.7", 40022)


def port(container: int, public: int, protocol: str = "tcp") -> PortMapping:
    return PortMapping(container_port=container, protocol=protocol, host="192.0.2.7", public_port=public)


RUNNING = row(
    InstanceStatus.RUNNING,
    ssh=(PROXY, DIRECT),
    ports=(port(22, 40022), port(8000, 40080), port(9000, 40090), port(9000, 40091, "udp")),
)
GREETS, GREETS_DIRECTLY = WayIn("ssh", "proxy.example", 12000), WayIn("ssh", "192.0.2.7", 40022)
WEB = WayIn("tcp", "192.0.2.7", 40080, 8000)


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        ({}, (GREETS, GREETS_DIRECTLY)),
        ({"run_mode": "jupyter"}, (GREETS, GREETS_DIRECTLY)),
        ({"asked_ports": (8000,)}, (GREETS, GREETS_DIRECTLY, WEB)),
        ({"run_mode": "entrypoint", "asked_ports": (8000,)}, (WEB,)),
        ({"run_mode": "entrypoint", "asked_ports": (8000, 9000)}, (WEB, WayIn("tcp", "192.0.2.7", 40090, 9000))),
        ({"run_mode": "entrypoint", "asked_ports": (7000,)}, ()),
        ({"run_mode": "entrypoint"}, ()),
    ],
)
def test_every_address_of_the_run_mode_is_probed(facts: dict[str, object], found: tuple[WayIn, ...]):
    assert ways_in(lease_of(**facts), RUNNING) == found


def test_with_a_check_key_ssh_must_let_it_in_and_no_port_counts_instead():
    found = ways_in(lease_of(asked_ports=(8000,), ssh_keys=("check",)), RUNNING, check_key="check")
    assert [(each.kind, each.evidence) for each in found] == [("ssh_login", "ssh lets in")] * 2


def test_a_check_key_that_the_machine_does_not_have_is_not_asked_for():
    found = ways_in(lease_of(ssh_keys=("another",)), RUNNING, check_key="check")
    assert [each.kind for each in found] == ["ssh", "ssh"]


def test_with_a_check_key_a_machine_without_ssh_is_probed_at_its_ports():
    assert ways_in(lease_of(run_mode="entrypoint", asked_ports=(8000,)), RUNNING, check_key="check") == (WEB,)


def test_a_lease_of_an_older_version_is_probed_at_every_address_that_is_listed():
    found = ways_in(lease_of(run_mode=""), RUNNING)
    assert [each.kind for each in found] == ["ssh", "ssh", "tcp", "tcp", "tcp"]


def test_a_lease_of_an_older_version_without_an_address_is_ready_when_it_runs():
    assert _ready(Account(lease_of(run_mode="")).sees(4, row(InstanceStatus.RUNNING))) == ["running"]


def test_before_the_ready_timeout_a_port_does_not_count_where_callers_log_in():
    account = Account(lease_of(asked_ports=(8000,)))
    kinds = {
        s: [way.kind for step in account.sees(s, RUNNING) if isinstance(step, ProbeReady) for way in step.ways_in]
        for s in (4, 900)
    }
    assert kinds == {4: ["ssh", "ssh"], 900: ["ssh", "ssh", "tcp"]}


def test_the_evidence_names_what_was_seen():
    assert (GREETS.evidence, WEB.evidence) == ("ssh greets", "port 8000 accepts")


def _ready(steps: list[Step]) -> list[object]:
    return [s.event.evidence for s in steps if isinstance(s, Advance) and isinstance(s.event, Ready)]


def test_a_running_entrypoint_without_ports_is_ready_without_a_probe():
    account = Account(lease_of(run_mode="entrypoint"))
    assert _ready(account.sees(2, row())) == []
    steps = account.sees(4, RUNNING)
    assert _ready(steps) == ["running"]
    assert not any(isinstance(step, ProbeReady) for step in steps)


def test_a_running_entrypoint_with_a_port_is_not_ready_before_the_port_accepts():
    steps = Account(lease_of(run_mode="entrypoint", asked_ports=(8000,))).sees(4, RUNNING)
    assert _ready(steps) == []
    assert [step.ways_in for step in steps if isinstance(step, ProbeReady)] == [(WEB,)]


def test_a_machine_of_a_marketplace_without_ssh_is_ready_when_it_runs():
    able = Capabilities(missing={"ssh": "none"}, listing_lag_seconds=60.0)
    steps = Account(lease_of()).sees(4, row(InstanceStatus.RUNNING), capabilities=able)
    assert _ready(steps) == ["running"]


def test_a_running_machine_without_an_address_is_not_ready_and_is_released_at_its_timeout():
    account = Account(lease_of())
    bare = row(InstanceStatus.RUNNING)
    told = {s: (events(steps), reasons(steps)) for s in (4, 900, 930, 960) for steps in [account.sees(s, bare)]}
    assert told[4] == ([], [])
    assert told[960][1] == ["NOT_READY"]


def test_a_running_entrypoint_whose_port_is_never_mapped_is_released_at_its_timeout():
    account = Account(lease_of(run_mode="entrypoint", asked_ports=(7000,)))
    told = [reasons(account.sees(s, RUNNING)) for s in (4, 900, 930, 960)]
    assert told[0] == []
    assert told[-1] == ["NOT_READY"]


@pytest.mark.parametrize("state", ["registered", "refused", ""])
def test_a_machine_is_probed_once_its_keys_are_settled(state: str):
    steps = Account(lease_of(ssh_keys=("ssh-ed25519 AAAA",), keys_state=state)).sees(4, RUNNING)
    assert any(isinstance(step, ProbeReady) for step in steps)
    assert not any(isinstance(step, RegisterKeys) for step in steps)


def test_a_machine_whose_keys_are_not_registered_is_not_probed_yet():
    steps = Account(lease_of(ssh_keys=("ssh-ed25519 AAAA",), keys_state="pending")).sees(4, RUNNING)
    assert not any(isinstance(step, ProbeReady) for step in steps)
    assert any(isinstance(step, RegisterKeys) for step in steps)


def test_at_its_ready_timeout_a_machine_is_probed_even_if_its_keys_are_still_not_registered():
    steps = Account(lease_of(ssh_keys=("ssh-ed25519 AAAA",), keys_state="pending")).sees(900, RUNNING)
    assert any(isinstance(step, ProbeReady) for step in steps)


def test_keys_are_registered_while_a_machine_boots():
    steps = Account(lease_of(ssh_keys=("ssh-ed25519 AAAA",), keys_state="pending")).sees(4, row())
    assert any(isinstance(step, RegisterKeys) for step in steps)


def _known(host: str, number: int, **facts: object) -> Lease:
    return lease_of(ssh_host=host, ssh_port=number, **facts)


def test_an_address_is_probed_with_its_own_user():
    address = SshAddress("192.0.2.9", 30022, "ubuntu")
    (way,) = ways_in(lease_of(), replace(RUNNING, ssh=(address,), ports=()))
    assert (way.host, way.port, way.user) == ("192.0.2.9", 30022, "ubuntu")


@pytest.mark.parametrize(
    ("lease", "instance", "shown"),
    [
        (_known("", 0), RUNNING, PROXY),
        (_known("192.0.2.7", 40022), RUNNING, DIRECT),
        (_known("192.0.2.7", 40021), RUNNING, PROXY),
        (_known("192.0.2.7", 40022), replace(RUNNING, ssh=()), DIRECT),
        (_known("", 0, run_mode="entrypoint"), RUNNING, SshAddress("", 0)),
    ],
)
def test_clients_are_shown_the_address_that_answered(lease: Lease, instance: ListedInstance, shown: SshAddress):
    assert ssh_address(lease, instance) == shown


def test_the_capabilities_of_these_tests_have_ssh():
    assert "ssh" not in CAPABILITIES.missing


def test_a_parked_machine_is_not_probed():
    steps = Account(lease_of(state=LeaseState.PARKED)).sees(4, row(InstanceStatus.STOPPED, ssh=(PROXY,)))
    assert not any(isinstance(step, ProbeReady) for step in steps)
