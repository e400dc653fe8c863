"""The engine's intervals and limits, in seconds of its clock unless they say otherwise."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Every number that an operator may want to change; defaults suit a marketplace."""

    poll_seconds: float = 2.0
    """Between listings of an account on which something is about to change."""
    reconcile_seconds: float = 30.0
    """Between listings of an account on which nothing is."""
    look_seconds: float = 3.0
    """The longest that an answer waits for the listing that checks prices."""
    own_network_seconds: float = 600.0
    """For so much longer machines that do not answer are kept while nothing else that we probe answers either."""
    probe_timeout: float = 3.0
    """Real seconds."""
    destroy_again: float = 15.0
    """Before a destroy is repeated that did not show; doubles up to `destroy_again_max`."""
    destroy_again_max: float = 120.0
    gone_after: float = 10.0
    """How long a machine must be missing before it counts as lost."""
    unknown_fresh: float = 300.0
    """After this, an unresolved outcome is looked for at the slow pace."""
    overdue_call: float = 60.0
    """Past its deadline, a call that nobody recorded counts as unknown."""
    answer_margin: float = 0.25
    """Real seconds kept back to get the answer to the caller in time."""
    unattended_seconds: float = 1800.0
    """How long creates of a call that nobody waits for go on being started."""
    max_unknown: int = 10
    """Unknown outcomes at a provider with which it is not created with any more."""
    max_creates_per_minute: int = 0
    """At one provider, over all accounts; 0: the accounts' own pace is the limit."""
    billing_check_seconds: float = 1800.0
    """Between two comparisons of the books with what the provider says was spent."""
    true_up_seconds: float = 3600.0
    """Between two comparisons of machines that are over with what was charged for them."""
    replacement_factor: float = 2.0
    """Times its count, so many GPUs at most are ever rented in the name of a reservation."""
    max_rounds: int = 20
    """Rounds of replacement offers in one call."""
