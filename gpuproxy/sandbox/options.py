"""The options of a sandbox. The command line and the tests use the same ones."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

DEFAULT_PORT = 9400
DEFAULT_ACCOUNTS = ("sandbox-key", "sandbox-key-2")
GoneForm = Literal["null", "empty_list", "empty_object", "status_410", "plain_404", "no_such_instance", "html_404"]

DeployBody = Literal["empty", "id"]
RetryAfter = Literal["seconds", "date"]
BootScripts = Literal["ours", "all", "off"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxOptions:
    """The options of one sandbox. Times are in seconds of the market's clock."""

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    """0: any free port."""
    seed: int = 7
    market: Path | None = None
    """A recorded market (CSV) instead of the built-in one."""
    state: Path | None = None
    """The file in which the market is saved across restarts; None: it isn't saved."""
    machines: int = 800
    """The number of machines of the built-in market."""
    odd_hosts: float = 0.0
    """The share, 0 to 1, of machines with few ports, an old driver, an old GPU or an early end (--odd-hosts)."""
    accounts: tuple[str, ...] = DEFAULT_ACCOUNTS
    """The accepted API keys; each is an account."""
    credit: float = 100_000.0
    """The initial credit of each account, in USD."""
    time_scale: float = 1.0
    rate_limits: Literal["real", "off"] = "real"
    create_latency: float = 0.0
    """The delay of the answer to a create. The create is executed when it arrives."""
    boot_time: tuple[float, float] = (20.0, 60.0)
    search_page: int = 0
    """The maximum number of offers in one search answer; 0: no limit."""
    list_lag: float = 0.0
    """How long a new instance is missing from listings."""
    misreport_share: float = 0.0
    """The share, 0 to 1, of new instances whose rows are wrong at first (--shy-rows)."""
    misreport_seconds: float = 40.0
    """The maximum time for which those rows are wrong (--shy-seconds)."""
    one_address_share: float = 0.0
    """The share, 0 to 1, of new instances with two SSH addresses of which only one answers (--one-address)."""
    portless_share: float = 0.0
    """The share, 0 to 1, of machines without direct ports (--portless)."""
    keys_refreshed_after: float = 0.0
    """After so many seconds of running, the SSH keys vanish that onstart appended (--refresh-keys); 0: never."""
    gone_as: GoneForm = "null"
    """The form of the answer that an instance does not exist."""
    ionet_deploy_body: DeployBody = "empty"
    """What io.net answers when a virtual machine was booked: nothing, or its id (--ionet-deploy-body)."""
    ionet_lag: float = 0.0
    """For how long io.net does not know a new deployment, in reads and lists (--ionet-lag)."""
    ionet_retry_after: RetryAfter = "seconds"
    """The form of Retry-After when io.net's rate limit is exceeded: seconds, or a date (--ionet-retry-after)."""
    volume_sharing: Literal["allow", "refuse"] = "allow"
    """Whether several instances may mount one volume."""
    standby_binding: Literal["chunk", "any"] = "chunk"
    """On which GPUs a stopped instance can start: only those of its chunk, or of any chunk of that size."""
    boot_scripts: BootScripts = "off"
    """Which start scripts run for real, in a shell on this computer. Only the HTTP server runs any.

    ours: GPU Proxy's own part of those that it wrote; all: every script; off: none.
    """
    start_time: float | None = None
    """The market's time at the start, in epoch seconds; a later time in a saved state wins. None: the clock's time."""
    exit_with_parent: bool = False
    """True: stop when stdin closes."""
