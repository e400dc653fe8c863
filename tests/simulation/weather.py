"""What a seed decides before its story begins: the possible faults, the market, and how frequent faults are.

Swarm testing: each seed switches on a random subset of the faults, so that rare combinations get seeds of their own.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gpuproxy.model.demands import LaunchSpec, RunMode

_READ = (
    "refuse_connection",
    "reset_before",
    "hang_before",
    "status_500_before",
    "status_503_before",
    "rate_limited",
    "malformed_json",
    "html_502",
    "truncated",
    "empty_body",
    "refused_200",
    "auth_error",
    "session_expired",
)
_ODD_ROWS = tuple(
    f"odd_row:{kind}" for kind in ("undecodable", "surrogate", "nan", "null_row", "no_id", "wrong_types", "null_fields")
)
_GONE = tuple(
    f"gone_as:{form}"
    for form in ("empty_list", "empty_object", "status_410", "plain_404", "no_such_instance", "html_404")
)
"""A fault with a word of its own after a colon; `args_of` says which argument that is."""
FAULTS: dict[str, tuple[str, ...]] = {
    "create": (
        *_READ,
        "reset_after",
        "hang_after",
        "status_500_after",
        "status_504_after",
        "slow_trickle",
        "late_effect",
        "offer_gone",
        "no_capacity",
        "insufficient_credit",
        "price_moved",
        "wrong_gpu",
        "never_ready",
        "dies_after_ready",
        "shy_row",
        "other_name",
        "image_fault",
        "host_fault",
        "no_ssh",
        "proxy_down",
        "direct_down",
        "keys_refreshed",
    ),
    "list": (*_READ, "empty_list", "missing_page", "endless_list", "slow_pages", "slow_trickle", *_ODD_ROWS),
    "get": (*_READ, *_GONE, *_ODD_ROWS),
    "destroy": (*_READ, "reset_after", "status_500_after", "hang_after", "late_effect", "destroy_ignored", *_GONE),
    "search": (*_READ, "missing_page", "empty_list"),
    "user": _READ,
    "start": (*_READ, "reset_after", "status_500_after", "hang_after", "late_effect", "start_refused"),
    "ssh_key": (*_READ, "reset_after", "status_500_after", "hang_after", "late_effect", "key_refused"),
    "stop": (*_READ, "reset_after", "status_500_after", "hang_after", "late_effect", "stop_ignored"),
}
_PORTS = ((), (), (8000,), (8000, 9000))
_KEYS = ((), ("ssh-ed25519 AAAAC3NzaC1lZDI1 caller",))
LATE_BOUND = 300
"""Seconds, as the adapter declares them: later than that is `beyond`."""
LONGEST_STALL = 120.0
"""Requests on their way are late by as much, for the market stands still with us."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """Everything that is constant during a seed's story. Times in seconds."""

    seed: int
    beyond: bool
    """Creates may be executed later than the marketplace promises."""
    faults: tuple[tuple[str, str], ...]
    """(call, fault) that may be armed."""
    fault_rate: float
    """Faults armed for each step."""
    crash_rate: float
    jumps: bool
    """The wall clock is put forward or back by a day."""
    stalls: bool
    """The process gets no time to run for up to two minutes: paused, or its loop is stuck."""
    books_fail: bool
    """The database refuses writes now and then."""
    foreign: bool
    """Somebody else rents with the same key."""
    accounts: int
    paced: bool
    machines: int
    steps: int
    pause: float
    """The longest between two steps."""
    delay: float
    """The longest that one way of a request, or a commit, takes."""
    create_latency: float
    list_lag: float
    shyness: float
    """The share of fresh machines whose first rows are wrong."""
    one_address: float
    """The share of fresh machines with two SSH addresses of which only one answers."""
    portless: float
    """The share of hosts without direct ports."""
    run_modes: tuple[RunMode, ...]
    """What callers ask for."""
    keys_refreshed_after: float
    """Seconds of running after which the keys vanish that onstart appended; 0: never."""

    @property
    def latest(self) -> float:
        """How late a create may be executed, in seconds."""
        return 900.0 if self.beyond else LATE_BOUND - self.list_lag - (LONGEST_STALL if self.stalls else 0.0)


def weather_of(seed: int) -> Weather:
    """The weather of a seed, always the same. Every fourth seed has lateness beyond the bound."""
    dice = random.Random(f"weather {seed}")
    everything = [(call, fault) for call, faults in FAULTS.items() for fault in faults]
    chosen = [pair for pair in everything if dice.random() < dice.choice((0.1, 0.3, 0.6))]
    beyond = seed % 4 == 3
    if beyond:
        chosen += [("create", "late_effect")] * 3
    return Weather(
        seed=seed,
        beyond=beyond,
        faults=tuple(chosen) or (("create", "reset_after"),),
        fault_rate=dice.choice((0.0, 0.4, 0.8, 1.5)) if not beyond else dice.choice((0.5, 1.0)),
        crash_rate=dice.choice((0.0, 0.0, 0.1, 0.25)),
        jumps=dice.random() < 0.15,
        books_fail=dice.random() < 0.15,
        foreign=dice.random() < 0.1,
        accounts=2 if dice.random() < 0.25 else 1,
        paced=dice.random() < 0.2,
        machines=dice.choice((3, 5, 8)),
        steps=dice.randint(4, 12),
        pause=dice.choice((2.0, 20.0, 60.0)),
        delay=dice.choice((0.0, 0.0, 0.05, 1.5)),
        create_latency=dice.choice((0.0, 0.0, 3.0, 12.0)),
        list_lag=dice.choice((0.0, 0.0, 10.0, 40.0)),
        stalls=dice.random() < 0.2,
        shyness=dice.choice((0.0, 0.0, 0.25, 1.0)),
        one_address=dice.choice((0.0, 0.3, 1.0)),
        portless=dice.choice((0.0, 0.0, 0.5)),
        run_modes=dice.choice((("ssh",), ("ssh", "jupyter", "entrypoint"))),
        keys_refreshed_after=dice.choice((0.0, 0.0, 5.0, 60.0)),
    )


def spec_of(dice: random.Random, modes: Sequence[RunMode], image: str = "") -> LaunchSpec:
    """What a caller wants to run: the addresses at which its machine can be reached depend on it."""
    mode = dice.choice(modes)
    ports = dice.choice(_PORTS)
    keys = () if mode == "entrypoint" else dice.choice(_KEYS)
    spec = LaunchSpec(run_mode=mode, ports=ports, ssh_public_keys=keys)
    return replace(spec, image=image) if image else spec


def args_of(fault: str, seconds: float) -> tuple[str, dict[str, object]]:
    """The name that the market knows a fault by, and its arguments."""
    name, _, word = fault.partition(":")
    if name == "odd_row":
        return name, {"kind": word, "whose": "mine" if seconds > 30 else "stranger"}
    if name == "gone_as":
        return name, {"form": word}
    if name == "price_moved":
        return name, {"factor": 50}
    if name == "slow_trickle":
        return name, {"seconds": min(seconds, 5)}
    if name == "other_name":
        return name, {"seconds": seconds, "flip": seconds > 30}
    return name, {"seconds": seconds}
