"""Which HTTP proxy a request goes through, by the variables HTTPS_PROXY, HTTP_PROXY and NO_PROXY. Pure.

The rule: a request to this machine (loopback, or `0.0.0.0`) never goes through a proxy, whatever the variables say.
Credentials of a proxy are in no text and no repr; `Proxies.secrets` names them for the log's redaction.
"""

import base64
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import SplitResult, unquote, urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}
_SEPARATORS = re.compile(r"[\s,]+")
_HOST = re.compile(r"[\w.-]+|[0-9A-Fa-f:.]+", re.ASCII)
_BASIC = "Basic "
_FORM = "must be http:// or https://, a host and a port, for example http://proxy.example.com:3128"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """One HTTP proxy."""

    url: str
    """Scheme, host and port. Never credentials."""
    authorization: str = field(default="", repr=False)
    """The value of the header Proxy-Authorization; "" without credentials."""
    password: str = field(default="", repr=False)

    @property
    def place(self) -> str:
        """The host and port, as they are shown to people."""
        return self.url.partition("://")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Direct:
    """One entry of NO_PROXY: a host and everything below it, or a network; port None: any port."""

    host: str
    network: IPv4Network | IPv6Network | None = None
    port: int | None = None

    def covers(self, host: str, port: int | None) -> bool:
        """True if requests to this host, in lower case, don't use a proxy."""
        if self.port is not None and self.port != port:
            return False
        if self.network is not None:
            address = _address(host)
            return address is not None and address in self.network
        return self.host in ("*", host) or host.endswith(f".{self.host}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxies:
    """The proxies of a deployment."""

    https: Proxy | None = None
    """For https:// addresses."""
    http: Proxy | None = None
    """For http:// addresses."""
    exceptions: tuple[Direct, ...] = ()

    def for_url(self, url: str) -> Proxy | None:
        """The proxy for a request to `url`. None: a direct connection, also for a URL that can't be read."""
        return {"https": self.https, "http": self.http}.get(self.scheme_for(url))

    def scheme_for(self, url: str) -> str:
        """`https` or `http`: which proxy a request to `url` uses, if it is set. "": always a direct connection."""
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").rstrip("."), parts.port or _DEFAULT_PORTS.get(parts.scheme)
        except ValueError:
            return ""
        if parts.scheme not in _DEFAULT_PORTS or not host or is_loopback(host) or _is_unspecified(host):
            return ""
        return "" if any(each.covers(host, port) for each in self.exceptions) else parts.scheme

    @property
    def secrets(self) -> frozenset[str]:
        """Passwords, and the encoded credentials of the Proxy-Authorization header."""
        return frozenset(secret for proxy in (self.https, self.http) if proxy for secret in _secrets(proxy))


DIRECT = Proxies()
"""No proxy for anything."""


def proxy_at(text: str) -> Proxy | None:
    """The proxy of a variable's value; None if it is blank. Raises ValueError, whose text doesn't quote the value."""
    if not text.strip():
        return None
    whole = text.strip() if "://" in text else f"http://{text.strip()}"
    try:
        parts = urlsplit(whole)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError(_FORM) from None
    if parts.scheme not in _DEFAULT_PORTS:
        raise ValueError(f"{_FORM}. Proxies of other kinds, such as SOCKS, are not supported")
    if not _HOST.fullmatch(host) or port == 0 or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(f"{_FORM}. Write special characters of a user or password as %XX, for example %40 for @")
    shown = f"[{host}]" if ":" in host else host
    user, password = _login(parts)
    return Proxy(
        url=f"{parts.scheme}://{shown}:{port or _DEFAULT_PORTS[parts.scheme]}",
        authorization=_BASIC + base64.b64encode(f"{user}:{password}".encode()).decode() if user or password else "",
        password=password,
    )


def exceptions_in(text: str) -> tuple[Direct, ...]:
    """The entries of NO_PROXY, without those that can't be read."""
    return tuple(each for each in map(_direct, _entries(text)) if each is not None)


def unreadable_in(text: str) -> tuple[int, ...]:
    """The positions, from 1, of the entries of NO_PROXY that can't be read and so have no effect."""
    return tuple(place for place, entry in enumerate(_entries(text), 1) if _direct(entry) is None)


def is_loopback(host: str) -> bool:
    """True for an address (or `localhost`) that never leaves this machine, in every spelling that the system reads."""
    address = _address(host)
    if address is None:
        name = host.lower().rstrip(".")
        return name == "localhost" or name.endswith(".localhost")
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def _is_unspecified(host: str) -> bool:
    """True for `0.0.0.0` and `::`, which Linux connects to this machine. As a listen address they are not loopback."""
    address = _address(host)
    return address is not None and (getattr(address, "ipv4_mapped", None) or address).is_unspecified


def _login(parts: SplitResult) -> tuple[str, str]:
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if ":" in user or any(not letter.isprintable() for letter in user + password):
        raise ValueError("the user can't contain a colon, and user and password no control characters")
    return user, password


def _secrets(proxy: Proxy) -> Iterator[str]:
    if proxy.password:
        yield proxy.password
    if proxy.authorization:
        yield proxy.authorization.removeprefix(_BASIC)


def _entries(text: str) -> list[str]:
    return [entry for entry in _SEPARATORS.split(text.strip()) if entry]


def _direct(entry: str) -> Direct | None:
    """None if the entry could not have an effect."""
    try:
        return Direct(host="", network=ip_network(entry.strip("[]"), strict=False))
    except ValueError:
        if "/" in entry:
            return None
    try:
        parts = urlsplit(f"//{entry}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return None
    if parts.username is not None or parts.query or parts.fragment:
        return None
    host = host.rstrip(".")
    if host != "*":
        host = host.removeprefix("*").removeprefix(".")
    if not host:
        return None
    address = _address(host)
    return Direct(host=host, network=None if address is None else ip_network(address), port=port)


def _address(host: str) -> IPv4Address | IPv6Address | None:
    """The address that a host is written as; None for a name. `127.1` and `2130706433` are addresses, too."""
    bare = host.strip("[]").partition("%")[0]
    try:
        return ip_address(bare)
    except ValueError:
        pass
    if not bare or not bare[0].isdigit():
        return None
    try:
        return IPv4Address(socket.inet_aton(bare))
    except (OSError, UnicodeError):
        return None
