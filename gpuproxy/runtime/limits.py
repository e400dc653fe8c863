"""The engine's intervals and limits, in seconds of its clock unless stated otherwise."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Every number that an operator may want to change; defaults suit a marketplace."""

    poll_seconds: float = 2.0
    """Between listings of an account on which something is changing."""
    reconcile_seconds: float = 30.0
    """Between listings of an account on which nothing is."""
    look_seconds: float = 3.0
    """The longest time for which an answer waits for the listing that checks prices."""
    own_network_seconds: float = 600.0
    """How much longer an unanswering machine is kept while no other probed machine answers either."""
    probe_timeout: float = 3.0
    """Real seconds."""
    destroy_again: float = 15.0
    """The wait before a destroy without visible effect is repeated. It doubles up to `destroy_again_max`."""
    destroy_again_max: float = 120.0
    gone_after: float = 10.0
    """How long a machine must be missing before it counts as lost."""
    unknown_fresh: float = 300.0
    """After this time, an unknown outcome no longer makes listings frequent."""
    overdue_call: float = 60.0
    """How long after its deadline a call without a recorded outcome counts as unknown."""
    answer_margin: float = 0.25
    """Real seconds reserved for sending the answer to the caller."""
    unattended_seconds: float = 1800.0
    """How long a call that no caller waits for may start creates."""
    max_unknown: int = 10
    """Unknown outcomes at a provider that open its circuit breaker."""
    max_creates_per_minute: int = 0
    """At one provider, over all accounts. 0: only the accounts' own rate limits apply."""
    billing_check_seconds: float = 1800.0
    """Between two billing checks, which compare the ledger with the fall of the account's credit."""
    true_up_seconds: float = 3600.0
    """Between two true-ups, which compare the ledger with the provider's charges for finished machines."""
    history_seconds: float = 21_600.0
    """Between two steps of history: the counters are recomputed up to now, and what is too old is deleted."""
    replacement_factor: float = 2.0
    """The GPUs ever rented for one reservation are limited to this factor times its count."""
    min_offer_seconds: float = 86_400.0
    """How long an offer must last that is rented without an end."""
    max_rounds: int = 20
    """The leases of one reservation are limited to this factor times its count."""
    hold_horizon: float = 3600.0
    """How far ahead money is held for a machine without an end. It is extended while the machine runs."""
    hold_check_seconds: float = 20.0
    """Between two looks for holds that must be extended."""
    prepaid_hours: int = 1
    """Whole hours that a create books, and the most that an extension buys, where machines are paid in advance."""
    ending_soon_seconds: float = 600.0
    """How long before its end a lease counts as ending soon; 0: never. At most 10 % of the lease."""
    idle_below: float = 5.0
    """Percent. A machine with this GPU utilisation or less is idle."""
    extend_margin: float = 600.0
    """How long before the end of its booking a machine is extended. Longer than a lost answer takes to be resolved."""

    @property
    def idle_gap(self) -> timedelta:
        """The longest time between two listings of one series. What a machine did in a longer time is not known."""
        return timedelta(seconds=max(300.0, 4 * self.reconcile_seconds))

    @property
    def hold_ahead(self) -> timedelta:
        """`hold_horizon` as a duration."""
        return timedelta(seconds=self.hold_horizon)

    @property
    def hold_margin(self) -> timedelta:
        """How long before its end a hold is extended: long enough to release a machine before the money is spent."""
        return min(timedelta(minutes=15), self.hold_ahead / 3)
