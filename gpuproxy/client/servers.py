"""Which servers an address names, and the gRPC target for them.

`host:9090` is one server. `10.0.0.1:9090,10.0.0.2:9090` are several, and so is `dns:///name:9090` if the name has
several addresses. Calls to several servers go to each in turn (round_robin). gRPC watches their health, and leaves out
a server that is down, starts or stops.
"""

import json
from ipaddress import IPv4Address, ip_address
from typing import Any

from gpuproxy.client.errors import WrongArgument

_BALANCING = {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}


def addresses_of(server: str) -> tuple[str, ...]:
    """Each address of a list; any other address is the only one."""
    if server.startswith(("dns:", "unix:", "unix-abstract:")):
        return (server,)
    listed = server.removeprefix("ipv4:").removeprefix("ipv6:")
    return tuple(each.strip() for each in listed.split(","))


def is_several(server: str) -> bool:
    """Whether calls are spread: a list, or a name that is looked up with `dns:`."""
    return len(addresses_of(server)) > 1 or server.startswith("dns:")


def target_of(server: str, *, tls: bool) -> str:
    """The gRPC target. Raises WrongArgument for a list that gRPC can't use."""
    addresses = addresses_of(server)
    if len(addresses) == 1:
        return server
    if tls:  # gRPC would compare the certificates with the whole list
        raise WrongArgument("server", "with TLS, several servers need one name: dns:///name:9090")
    kinds = {_kind(each) for each in addresses}
    if len(kinds) != 1 or None in kinds:
        raise WrongArgument(
            "server", "a list must have only IPv4 or only IPv6 addresses with ports; for names, use dns:///name:9090"
        )
    return f"{kinds.pop()}:{','.join(addresses)}"


def balanced(service_config: dict[str, Any]) -> str:
    """The service config in JSON, for several servers."""
    return json.dumps(service_config | _BALANCING)


def _kind(address: str) -> str | None:
    host, _, port = address.rpartition(":")
    if not port.isascii() or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        return None
    try:
        found = ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
    if isinstance(found, IPv4Address):
        return "ipv4" if host == str(found) else None
    return "ipv6" if host.startswith("[") else None
