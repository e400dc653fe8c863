"""What an adapter tells about its marketplace before any account of it is connected.

The package of an adapter exports one Descriptor and names it in an entry point of the group `gpuproxy.providers`.
Settings, their documentation, default account names and the form of offer ids are derived from it.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gpuproxy.model.offers import ProviderName
from gpuproxy.ports.provider import Capabilities, Provider, ProviderSetup

GROUP = "gpuproxy.providers"
"""The entry points' group; each point has the marketplace's name."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_PREFIX = re.compile(r"[a-z][a-z0-9]{0,31}")
_ENV = re.compile(r"[A-Z][A-Z0-9]{1,31}")
_CALL = re.compile(r"[a-z][a-z0-9_]{0,31}")
_RESERVED = frozenset({"GPUPROXY", "GUARDRAILS"})


@dataclass(frozen=True, slots=True, kw_only=True)
class PacedCall:
    """An endpoint whose calls are paced by account: `GPUPROXY_<ENV>_<NAME>_INTERVAL` overrides its interval."""

    name: str
    """The key of `ProviderSetup.intervals`, in lower case: "search"."""
    seconds: float
    """Default interval between two calls of one account; 0: no limit."""
    what: str
    """The calls in words, for the documentation: "searches"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """One marketplace. The constructor raises ValueError for a value that no setting or id could be made of."""

    name: ProviderName
    """As clients write it, in lower case: "io.net"."""
    prefix: str
    """Offer ids are `<prefix>-<the marketplace's own id>`; accounts without a name are `<prefix>-1`, `<prefix>-2`."""
    env: str
    """Of the settings' names: `<ENV>_API_KEY` (also `_NAMES` and `_REGIONS`) and `GPUPROXY_<ENV>_URL`."""
    connect: Callable[[ProviderSetup], Provider]
    """The adapter of one account. Sends nothing yet."""
    capabilities: Capabilities
    """As of an account that is connected with no setting changed."""
    calls: Sequence[PacedCall] = ()
    """The endpoints whose interval an operator can set."""
    url: str = ""
    """The address of the real service, with which operators are shown the proxy in use; "": not shown by default."""
    regional: bool = False
    """True where a key sees and rents only the offers of its own region, `ProviderSetup.region`."""
    own_read: str = ""
    """A shell command that runs in a machine and reads the machine's own row with the key that the marketplace gave it.

    Exit code 0: it may. 1: the marketplace refuses it. Any other: nothing is known. It prints nothing. `gpuproxy probe`
    runs it; "": there is no such key.
    """

    def __post_init__(self) -> None:
        for field, value, form in (
            ("name", self.name, _NAME),
            ("prefix", self.prefix, _PREFIX),
            ("env", self.env, _ENV),
            *(("call", call.name, _CALL) for call in self.calls),
        ):
            if not form.fullmatch(value):
                raise ValueError(f"the descriptor of {self.name!r}: {field} {value!r} does not match {form.pattern}")
        if self.env in _RESERVED:
            raise ValueError(f"the descriptor of {self.name!r}: env {self.env!r} is reserved")
