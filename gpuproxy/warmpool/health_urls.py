"""The http URL that a pool's primary may be checked with, and whether a machine was created with its port. Pure."""

from collections.abc import Collection
from urllib.parse import urlsplit

from gpuproxy.model.leases import Lease
from gpuproxy.model.pools import PoolSpec

_HTTP_PORT = 80


def health_port(health: str) -> int | None:
    """The port of a health URL; None for what isn't one."""
    try:
        parts = urlsplit(health)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme != "http" or not parts.hostname or parts.username is not None:
        return None
    return _HTTP_PORT if port is None else port or None


def foreign_port(health: str, ports: Collection[int]) -> str:
    """What is wrong with a health URL whose port is none of a pool's ports; "" if nothing is."""
    port = health_port(health)
    if port is None or port in ports:
        return ""
    return f"names port {port}, which must be one of `ports`"


def missing_port(spec: PoolSpec, machine: Lease) -> int | None:
    """The port of the health URL if the machine was created without it, so that nothing can answer there; else None.

    What machines of older versions were created with is unknown.
    """
    port, creation = health_port(spec.health), machine.creation
    return None if port in creation.asked_ports or not creation.run_mode else port
