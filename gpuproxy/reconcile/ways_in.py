"""The ways into a machine: the addresses of which one must answer before the machine counts as ready.

Marketplaces give several addresses, and often only some of them work. So every address is probed, and a machine is
never given up while one of them answers. Pure.

- Run modes ssh and jupyter: every address of the machine's SSH. At the ready timeout, a requested port counts too.
  After a restart it counts only if the machine was ready by a port before.
- Run mode entrypoint: every requested port.
- Without an address to probe (no port was requested, or the marketplace has no SSH), a running machine is ready.
- Leases of older versions have no run mode: every address that is listed is probed, if there is one.
"""

from dataclasses import dataclass

from gpuproxy.model.leases import Lease, SshAddress
from gpuproxy.ports import Capabilities, InstanceStatus, ListedInstance
from gpuproxy.ports.probe import ProbeKind

RUNNING = "running"
"""The evidence for a machine without an address to probe."""
_SEEN: dict[ProbeKind, str] = {"ssh": "ssh greets", "ssh_login": "ssh lets in"}


@dataclass(frozen=True, slots=True)
class WayIn:
    """One address to probe."""

    kind: ProbeKind
    host: str
    port: int
    container_port: int = 0
    """Set for a requested port."""
    user: str = "root"
    """Who logs in, if it is SSH."""

    @property
    def evidence(self) -> str:
        """What was seen if it answers, as clients read it."""
        return _SEEN.get(self.kind, f"port {self.container_port} accepts")


def runs_unprobed(lease: Lease, instance: ListedInstance, capabilities: Capabilities) -> bool:
    """True if there is nothing to probe: the machine is ready once it runs."""
    if not lease.creation.run_mode:
        return not instance.ssh and not instance.ports
    return not _has_ssh(lease, capabilities) and not lease.creation.asked_ports


def ways_in(lease: Lease, instance: ListedInstance, *, check_key: str = "") -> tuple[WayIn, ...]:
    """The addresses that the listing gives, SSH first.

    If the machine was rented with this check key, SSH counts only if it lets the key in, and ports do not count.
    """
    login = bool(check_key) and check_key in lease.creation.ssh_keys
    kind: ProbeKind = "ssh_login" if login else "ssh"
    ssh = () if lease.creation.run_mode == "entrypoint" else instance.ssh
    return (
        *(WayIn(kind, address.host, address.port, user=address.user) for address in ssh),
        *(
            WayIn("tcp", port.host, port.public_port, port.container_port)
            for port in instance.ports
            if not login and port.protocol == "tcp" and _counts(lease, port.container_port)
        ),
    )


def can_be_probed(lease: Lease, instance: ListedInstance, capabilities: Capabilities) -> bool:
    """True if the machine runs, and the marketplace gives an address or none is needed."""
    if instance.status is not InstanceStatus.RUNNING:
        return False
    return bool(ways_in(lease, instance)) or runs_unprobed(lease, instance, capabilities)


def expects_ssh(lease: Lease, capabilities: Capabilities) -> bool:
    """True if callers log in to the machine. Then a port that accepts is a weak sign: nothing may listen behind it."""
    return bool(lease.creation.run_mode) and _has_ssh(lease, capabilities)


def _has_ssh(lease: Lease, capabilities: Capabilities) -> bool:
    return lease.creation.run_mode != "entrypoint" and "ssh" not in capabilities.missing


def _counts(lease: Lease, container_port: int) -> bool:
    return container_port in lease.creation.asked_ports or not lease.creation.run_mode


def ssh_address(lease: Lease, instance: ListedInstance) -> SshAddress:
    """The address that clients are shown: the one that answered, as long as the listing still gives it."""
    seen = lease.observed
    known = SshAddress(seen.ssh_host, seen.ssh_port, seen.ssh_user)
    if lease.creation.run_mode == "entrypoint" or not instance.ssh or known in instance.ssh:
        return known
    return instance.ssh[0]
