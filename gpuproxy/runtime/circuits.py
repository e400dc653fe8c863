"""The circuit of one endpoint of one account. It fails when the marketplace does not answer, or not usably.

An answer of the marketplace, even a refusal, closes the circuit. Each failure in a row makes the circuit rest for
longer (back-off with jitter). While it rests, other accounts are preferred. After that it is half-open: one call probes
it, and other accounts are preferred for the rest. After `OPEN_AFTER` failures in a row the circuit is open: except for
probes, nothing is sent, even if there is no other account.
"""

import math
from typing import Literal

from gpuproxy.ports import Clock
from gpuproxy.runtime.backoff import Backoff

OPEN_AFTER = 10
"""This many failures in a row open a circuit."""
_FIRST_REST, _LONGEST_REST = 10.0, 300.0
_COSTLY = 6.0

CircuitState = Literal["closed", "resting", "half_open", "open"]
"""closed: no failure since the last answer. resting: it failed. half_open: a probe may be sent. open: only later."""


class Circuit:
    """One endpoint of one account. Times are in the clock's seconds."""

    def __init__(self, clock: Clock, seed: str) -> None:
        self._clock = clock
        self._backoff = Backoff(seed, first=_FIRST_REST, most=_LONGEST_REST)
        self._rests_until = -math.inf
        self.failures = 0
        """Failures in a row."""
        self.changes = 0
        """How often this process has changed the state."""
        self.in_flight = 0
        """Calls that are waiting for their turn or have been sent."""

    @property
    def state(self) -> CircuitState:
        """The present state."""
        if not self.failures:
            return "closed"
        if self.rest <= 0:
            return "half_open"
        return "open" if self.failures >= OPEN_AFTER else "resting"

    @property
    def rest(self) -> float:
        """The seconds until a probe may be sent; 0 if one may be sent now."""
        return max(0.0, self._rests_until - self._clock.monotonic())

    def rank(self, more: int = 0) -> int | None:
        """How well the circuit suits another call, behind `more` calls that are planned already.

        0: well. 1: only if no other account suits better. None: it must not be used.
        """
        if not self.failures or (self.rest <= 0 and self.in_flight + more == 0):
            return 0
        return None if self.failures >= OPEN_AFTER else 1

    def succeeded(self) -> None:
        """The marketplace has answered."""
        self.changes += self.failures > 0
        self.failures = 0
        self._backoff.reset()
        self._rests_until = -math.inf

    def failed(self, *, costly: bool = False) -> None:
        """The marketplace did not answer, or its answer says that it does not work.

        `costly`: a failed probe would have consequences, as an unknown outcome has, so the next one comes later.
        """
        self.changes += 1
        self.failures += 1
        rest = self._backoff.failed() * (_COSTLY if costly else 1.0)
        self._rests_until = self._clock.monotonic() + min(rest, _LONGEST_REST)

    def learn(self, failures: int, rest: float) -> None:
        """Take over what another process has seen: so many failures in a row, and a rest of so many seconds."""
        self.failures = failures
        if not failures:
            self._backoff.reset()
        self._rests_until = self._clock.monotonic() + rest if failures else -math.inf
