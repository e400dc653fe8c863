"""The types of the values of settings: how each is read from text, and which values are valid."""

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import BeforeValidator, Field, SecretStr

from gpuproxy.adapters.proxies import is_loopback

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d|w)?")
_UNIT_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


@dataclass(frozen=True, slots=True)
class Address:
    """An address that a server listens on. Port 0: any free port."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """True if only this machine can reach it."""
        return is_loopback(self.host)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_address(text: str) -> Address:
    """`host:port`, `[v6]:port` or `:port` (every interface); raises ValueError."""
    host, colon, port = text.strip().rpartition(":")
    if not colon or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise ValueError("must be host:port, for example 127.0.0.1:9090")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError("must be host:port. Write an IPv6 address in brackets, for example [::1]:9090")
    return Address(host.strip("[]") or "0.0.0.0", int(port))  # noqa: S104 - Settings refuses it unless it is allowed


def parse_duration(text: str | float) -> float:
    """Seconds from `30`, `1.5s`, `15m`, `2h`, `7d`, `1w` or `1h30m`; raises ValueError."""
    if isinstance(text, int | float):
        return float(text)
    compact = text.strip().lower()
    parts = list(_DURATION.finditer(compact))
    if not parts or "".join(part.group(0) for part in parts) != compact:
        raise ValueError("must be a duration, for example 30s, 15m, 2h or 7d")
    if len(parts) > 1 and not all(part.group(2) for part in parts):
        raise ValueError("must be a duration with a unit after each number, for example 1h30m")
    return sum(float(part.group(1)) * _UNIT_SECONDS[part.group(2) or "s"] for part in parts)


def _address(value: object) -> object:
    return parse_address(value) if isinstance(value, str) else value


def _seconds(value: object) -> object:
    return parse_duration(value) if isinstance(value, str | int | float) else value


def _keys(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _names(value: object) -> object:
    """Like _keys, but empty parts are kept, because names and regions belong to the keys by position."""
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) and value.strip() else ()


ListenAddress = Annotated[Address, BeforeValidator(_address)]
Seconds = Annotated[float, BeforeValidator(_seconds), Field(ge=0, allow_inf_nan=False)]
PositiveSeconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0, allow_inf_nan=False)]
Keys = Annotated[tuple[SecretStr, ...], BeforeValidator(_keys)]
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
Usd = Annotated[float, Field(gt=0, allow_inf_nan=False)]
