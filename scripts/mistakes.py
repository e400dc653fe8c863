"""Mistakes that somebody could make one day, as small edits of the source; `bite` sees whether each is caught.

`old` occurs exactly once in its file, which a test checks: an edit that does not apply any more would prove nothing.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Mistake:
    """One edit: in `file` (below gpuproxy/), `old` becomes `new`."""

    name: str
    file: str
    old: str
    new: str

    def applied(self, text: str) -> str:
        """The source with the mistake; ValueError when the place is not there, or not once."""
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: {self.file} holds the place {text.count(self.old)} times")
        return text.replace(self.old, self.new)

    def plant(self, root: Path) -> None:
        """Make it in a copy of the project."""
        path = root / "gpuproxy" / self.file
        path.write_text(self.applied(path.read_text()))


MISTAKES = (
    Mistake(
        "a create is sent without committing that it is",
        "engine/attempt.py",
        "if not await self._write(lambda tx: record.call_started(",
        "if False and not await self._write(lambda tx: record.call_started(",
    ),
    Mistake(
        "a create whose answer was lost is sent again",
        "providers/vast.py",
        '            raise OutcomeUnknown(f"the answer to a create was lost: {error}") from error',
        "            reply = await self._sent(request, secrets)",
    ),
    Mistake(
        "an empty list is trusted without a second word",
        "engine/absence.py",
        " + quarantine and (canary or scene.second_word)",
        " + quarantine",
    ),
    Mistake(
        "only the first page of a list is read",
        "providers/vast.py",
        "            if token is None:\n                if (page.total_instances or 0) > len(instances):",
        "            if token is not None or not token:\n                if (page.total_instances or 0) < 0:",
    ),
    Mistake(
        "a lease that is over is forgotten",
        "engine/sweep.py",
        'return "reappeared" if lease.state in TERMINAL else None',
        "return None",
    ),
    Mistake(
        "absence is proven without a quarantine",
        "engine/absence.py",
        "timedelta(seconds=bound if canary else 2 * bound)",
        "timedelta(0)",
    ),
    Mistake(
        "a destroy is given up after two tries",
        "engine/reconcile.py",
        "    if due:\n        yield Destroy(lease)",
        "    if due and lease.destroy_tries < 2:\n        yield Destroy(lease)",
    ),
    Mistake(
        "labels are believed without their signature",
        "model/labels.py",
        "return hmac.compare_digest(mac, self._mac(stem))",
        "return bool(mac and stem)",
    ),
    Mistake(
        "an unknown outcome lets go of its GPUs",
        "model/leases.py",
        "HOLDS_OFFER = frozenset({_S.REQUESTED, _S.UNKNOWN, _S.STARTING, _S.ACTIVE})",
        "HOLDS_OFFER = frozenset({_S.REQUESTED, _S.STARTING, _S.ACTIVE})",
    ),
    Mistake(
        "a row is overwritten whatever has become of it",
        "store/leases.py",
        "    if rows == 0:\n        raise Conflict(",
        '    tx.execute(f"UPDATE leases SET {assignments} WHERE id = ?", [*changes.values(), old.id])\n'
        "    if rows < 0:\n        raise Conflict(",
    ),
    Mistake(
        "leases go by the host's date",
        "system.py",
        "return self._origin + timedelta(seconds=self._clock.monotonic() - self._started)",
        "return self._clock.now()",
    ),
    Mistake(
        "a caller that left keeps its machines",
        "engine/reserve.py",
        "        call.gone = True\n        call.stop.set()\n        self._spawn(self._close_after(call))",
        "        call.stop.set()",
    ),
    Mistake(
        "a machine is given back as not ready while the provider is silent",
        "engine/reconcile.py",
        "    if instance is None:\n        return False\n    if instance.status in (",
        "    if instance is None:\n        return lease.started_at is not None and lease.seen_at is None\n"
        "    if instance.status in (",
    ),
    Mistake(
        "a create in flight when the process died counts as never sent",
        "engine/reserve.py",
        "    if lease.call_started_at is None:\n        record.not_attempted(tx, lease.id, capabilities,",
        "    if True:\n        lease = leases.note(tx, lease, call_started_at=None)\n"
        "        record.not_attempted(tx, lease.id, capabilities,",
    ),
    Mistake(
        "a destroy that was accepted counts as done",
        "engine/effects.py",
        "        leases.note(tx, lease, destroy_tries=tries, destroy_at=tx.now() + timedelta(seconds=wait))",
        "        leases.advance(tx, lease, LeaseEvent.GONE)",
    ),
    Mistake(
        "a list that failed is read as an empty one",
        "engine/observe.py",
        "            return None\n        if self.silent_since is not None:",
        "            return Listing(began, ())\n        if self.silent_since is not None:",
    ),
    Mistake(
        "a create that fails in an unknown way counts as refused",
        "providers/vast_errors.py",
        "    if status >= 500 or answer.success is True:\n        return None",
        "    if status >= 500:\n        return _error(ProviderUnavailable, reply)\n"
        "    if answer.success is True:\n        return None",
    ),
)
