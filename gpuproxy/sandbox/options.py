"""Everything that a sandbox can be told; the command line and tests fill in the same values."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

DEFAULT_PORT = 9400
DEFAULT_ACCOUNTS = ("sandbox-key", "sandbox-key-2")
GoneForm = Literal["null", "empty_list", "empty_object", "status_410", "plain_404", "no_such_instance", "html_404"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxOptions:
    """Times are seconds of the market's clock."""

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    """0: any free one."""
    seed: int = 7
    market: Path | None = None
    """A recorded market (CSV) instead of the built-in one."""
    state: Path | None = None
    """Where the market is kept across restarts."""
    machines: int = 800
    """How many machines the built-in market has."""
    accounts: tuple[str, ...] = DEFAULT_ACCOUNTS
    """The keys that are accepted; each is an account."""
    credit: float = 100_000.0
    """USD that each account starts with."""
    time_scale: float = 1.0
    rate_limits: Literal["real", "off"] = "real"
    create_latency: float = 0.0
    """How long a create takes to answer; it is executed when it arrives."""
    boot_time: tuple[float, float] = (20.0, 60.0)
    search_page: int = 0
    """The most offers that one search answers; 0: all."""
    list_lag: float = 0.0
    """How long a fresh instance is missing from listings."""
    shyness: float = 0.0
    """The share, 0 to 1, of fresh instances whose first rows say something else than the truth."""
    shy_seconds: float = 40.0
    """How long they do so at most."""
    gone_as: GoneForm = "null"
    """How the market says that an instance does not exist."""
    volume_sharing: Literal["allow", "refuse"] = "allow"
    standby_binding: Literal["chunk", "any"] = "chunk"
    start_time: float | None = None
    """The market's time at start, as epoch seconds; a later time of a kept state wins. None: the clock's time."""
    exit_with_parent: bool = False
    """Stop when stdin closes."""
