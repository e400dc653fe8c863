"""Where the server is, how a channel to it is made, and which calls the channel repeats by itself.

Repeats are gRPC's own, by `service_config.json`: only after UNAVAILABLE, only calls that may be repeated; a reservation
is one of them because no request of this client's, its `stub` included, rents without a request id (`rentals`).
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from ipaddress import ip_address

from gpuproxy.client.errors import WrongArgument

DEFAULT_SERVER = "localhost:9090"
_MINUTE_MS = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A server and the key that it is asked with; an empty key sends none."""

    server: str
    key: str

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call carries."""
        return (("x-api-key", self.key),) if self.key else ()


def place(server: str, key: str | None) -> Place:
    """What is not given comes from GPUPROXY_SERVER and GPUPROXY_API_KEY; "" is a key that is given: none.

    Raises WrongArgument for a key that no call can carry.
    """
    found = os.environ.get("GPUPROXY_API_KEY", "") if key is None else key
    if wrong := why_no_key(found):
        raise WrongArgument("api_key", wrong)
    return Place(server=server or os.environ.get("GPUPROXY_SERVER", "") or DEFAULT_SERVER, key=found)


def why_no_key(key: str) -> str:
    """What is wrong with a key that no call can carry; "" when nothing is, as with none at all."""
    if all("!" <= letter <= "~" for letter in key):
        return ""
    return "a key has only ASCII letters, digits and _"


def channel_options(server: str, *, repeats: bool) -> Sequence[tuple[str, str | int]]:
    """Options of a channel to `host:port`; with `repeats`, those of the service config are made."""
    options: list[tuple[str, str | int]] = [
        ("grpc.keepalive_time_ms", _MINUTE_MS),  # a watch notices a server that is gone without a word
        ("grpc.keepalive_timeout_ms", 20_000),
    ]
    if _is_local(server):
        options.append(("grpc.enable_http_proxy", 0))
    if repeats:
        options.append(("grpc.service_config", service_config()))
    else:
        options.append(("grpc.enable_retries", 0))
    return options


def service_config() -> str:
    """The JSON that any gRPC client can be given."""
    return (files("gpuproxy.client") / "service_config.json").read_text(encoding="utf-8")


def _is_local(server: str) -> bool:
    host = server.rpartition(":")[0].strip("[]")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
