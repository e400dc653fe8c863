"""The ways into a machine: the addresses of which one must answer before the machine counts as ready.

Marketplaces give several addresses, and often only some of them work. So every address is probed, and a machine is
never given up while one of them answers. Pure.

- Run modes ssh and jupyter: every address of the machine's SSH. A requested port counts only if SSH never answers.
- Run mode entrypoint: every requested port.
- Without an address to probe (no port was requested, or the marketplace has no SSH), a running machine is ready.
"""

from dataclasses import dataclass

from gpuproxy.model.leases import Lease, SshAddress
from gpuproxy.ports import Capabilities, ListedInstance
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

    @property
    def evidence(self) -> str:
        """What was seen if it answers, as clients read it."""
        return _SEEN.get(self.kind, f"port {self.container_port} accepts")


def runs_unprobed(lease: Lease, capabilities: Capabilities) -> bool:
    """True if there is nothing to probe: the machine is ready once it runs."""
    has_ssh = lease.run_mode != "entrypoint" and "ssh" not in capabilities.missing
    return not has_ssh and not lease.asked_ports


def ways_in(lease: Lease, instance: ListedInstance, *, login: bool = False) -> tuple[WayIn, ...]:
    """The addresses that the listing gives, SSH first. With `login`, SSH counts only if it lets the check key in."""
    ssh = () if lease.run_mode == "entrypoint" else instance.ssh
    kind: ProbeKind = "ssh_login" if login else "ssh"
    ports = () if login and ssh else instance.ports
    return (
        *(WayIn(kind, address.host, address.port) for address in ssh),
        *(
            WayIn("tcp", port.host, port.public_port, port.container_port)
            for port in ports
            if port.container_port in lease.asked_ports and port.protocol == "tcp"
        ),
    )


def ssh_address(lease: Lease, instance: ListedInstance) -> SshAddress:
    """The address that clients are shown: the one that answered, as long as the listing still gives it."""
    known = SshAddress(lease.ssh_host, lease.ssh_port)
    if lease.run_mode == "entrypoint" or not instance.ssh or known in instance.ssh:
        return known
    return instance.ssh[0]
