"""The loopback ports of deployments: SSH and the services of virtual machines, and the web servers of containers."""

from collections.abc import Sequence

from gpuproxy.sandbox.market.port_table import AnswerKind, PortTable
from gpuproxy.sandbox.market.prepaid.bookings import Booking, Stage
from gpuproxy.sandbox.market.prepaid.hardware import Host

MAIN = ""
"""The name of the port for SSH, or of a container's web server."""


class WaysIn:
    """The ports of all deployments of a market, in one port table."""

    def __init__(self, table: PortTable) -> None:
        self._table = table

    def give(self, booking: Booking) -> None:
        """Reserve the ports of a new deployment. None answers yet."""
        names = [MAIN, *booking.order.services]
        booking.ports = [{name: self._table.reserve() for name in names} for _ in range(booking.order.workers)]

    def give_again(self, booking: Booking) -> None:
        """Reserve the ports of a saved deployment, if possible the same ones."""
        booking.ports = [
            {name: self._table.reserve(port or None) for name, port in ports.items()} for ports in booking.ports
        ]

    def take_back(self, booking: Booking) -> None:
        """Release all ports of an ended deployment. Its rows go on showing their numbers."""
        for ports in booking.ports:
            for number in ports.values():
                self._table.release(number)

    def update(self, booking: Booking, hosts: Sequence[Host], now: float) -> None:
        """Let the right ports answer. `hosts` has the host of each worker."""
        heard = booking.stage is Stage.RUNNING and booking.settled and now >= booking.muted_until
        for ports, host in zip(booking.ports, hosts, strict=True):
            answers = heard and host.online
            for name, number in ports.items():
                self._table.set_open(number, _kind(booking, name, host) if answers else None)

    def ssh_ports(self, booking: Booking) -> list[int]:
        """The ports at which SSH answers now."""
        mains = [ports[MAIN] for ports in booking.ports]
        return [number for number in mains if self._table.open.get(number) == "ssh"]


def _kind(booking: Booking, name: str, host: Host) -> AnswerKind | None:
    """What answers at a port of a worker that is reachable; None: nothing does."""
    own: AnswerKind = "ill" if host.dead else "tcp"
    if booking.order.product == "container":
        ingress = booking.order.container is not None and booking.order.container.ingress
        return ("ill" if host.dead else "http") if ingress else None
    if booking.flaws.kind == "no_ssh":
        return None
    if name == MAIN:
        return "ssh"
    return own if booking.order.services[name].protocol == "tcp" else None
