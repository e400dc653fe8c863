"""The types of the values of settings: how each is read from text, and which values are valid."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import BeforeValidator, Field, SecretStr

from gpuproxy.adapters.proxies import is_loopback
from gpuproxy.config.durations import parse_duration
from gpuproxy.model.offers import HIGHEST_PRICE

_LONGEST = 36_500 * 86_400.0
"""Seconds. Times that are later or earlier by so much can still be computed."""


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
Seconds = Annotated[float, BeforeValidator(_seconds), Field(ge=0, le=_LONGEST, allow_inf_nan=False)]
PositiveSeconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0, le=_LONGEST, allow_inf_nan=False)]
Keys = Annotated[tuple[SecretStr, ...], BeforeValidator(_keys)]
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
Usd = Annotated[float, Field(gt=0, le=HIGHEST_PRICE, allow_inf_nan=False)]
