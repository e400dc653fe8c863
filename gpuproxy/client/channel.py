"""The server's address, the options of a channel to it, and the automatic retries of the channel.

gRPC itself retries, as `service_config.json` says: only after UNAVAILABLE, and only calls that are safe to repeat.
Reservations are safe to repeat because this client, including its `stub`, always sends a request id (`rentals`).
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from ipaddress import ip_address

from gpuproxy.client.errors import WrongArgument
from gpuproxy.client.servers import addresses_of, balanced, is_several

DEFAULT_SERVER = "localhost:9090"
_MINUTE_MS = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A server's address and the API key for it; with an empty key, no key is sent."""

    server: str
    key: str

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The metadata of every call."""
        return (("x-api-key", self.key),) if self.key else ()


def endpoint(server: str, key: str | None) -> Endpoint:
    """The endpoint; defaults come from GPUPROXY_SERVER and GPUPROXY_API_KEY. The key "" means no key.

    Raises WrongArgument for a key that can't be sent as metadata.
    """
    found = os.environ.get("GPUPROXY_API_KEY", "") if key is None else key
    if wrong := key_error(found):
        raise WrongArgument("api_key", wrong)
    return Endpoint(server=server or os.environ.get("GPUPROXY_SERVER", "") or DEFAULT_SERVER, key=found)


def key_error(key: str) -> str:
    """Why a key can't be sent as metadata; "" if it can, or if the key is empty."""
    if all("!" <= letter <= "~" for letter in key):
        return ""
    return "the key must contain only ASCII letters, digits and _"


def channel_options(server: str, *, repeats: bool) -> Sequence[tuple[str, str | int]]:
    """Options of a channel to a server, or to several. With `repeats`, gRPC retries as the service config says."""
    options: list[tuple[str, str | int]] = [
        (
            "grpc.keepalive_time_ms",
            _MINUTE_MS,
        ),  # a watch detects a server that disappeared without closing the connection
        ("grpc.keepalive_timeout_ms", 20_000),
    ]
    if _is_local(server):
        options.append(("grpc.enable_http_proxy", 0))
    if is_several(server):
        options.append(("grpc.service_config", balanced(json.loads(service_config()) if repeats else {})))
    elif repeats:
        options.append(("grpc.service_config", service_config()))
    if not repeats:
        options.append(("grpc.enable_retries", 0))
    return options


def service_config() -> str:
    """The gRPC service config in JSON; any gRPC client can use it."""
    return (files("gpuproxy.client") / "service_config.json").read_text(encoding="utf-8")


def _is_local(server: str) -> bool:
    return all(_is_loopback(address.rpartition(":")[0].strip("[]")) for address in addresses_of(server))


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
