"""What a new machine needs besides its boot: SSH keys registered with the marketplace, and its boot report read.

Keys that only the boot script installs vanish when the host renews the machine's keys, so the marketplace must have
them. Both are tried several times, because a new machine may not be known everywhere yet. A machine is never released
because of them. Tries are counted in memory; after a restart they start again.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from gpuproxy import boot
from gpuproxy.model.errors import ProviderError, RateLimited, Unavailable
from gpuproxy.model.leases import BOOT_NOT_REPORTED, BOOT_REQUESTED, RENTED, KeysState, Lease, LeaseId
from gpuproxy.ports import Clock, Database, Provider, Tx
from gpuproxy.store import leases

log = structlog.get_logger(__name__)

_KEY_TRIES = 6
_READS = 3
_LINES = 1_000
"""Log lines that are searched for the report. Images may print much before and after it."""
_FIRST_WAIT, _LONGEST_WAIT = 2.0, 30.0


@dataclass(slots=True)
class _Tried:
    """Failed tries of one thing for one lease."""

    times: int = 0
    next_at: datetime | None = None

    def failed(self, now: datetime, wait: float | None = None) -> None:
        wait = min(_FIRST_WAIT * 2**self.times, _LONGEST_WAIT) if wait is None else wait
        self.times += 1
        self.next_at = now + timedelta(seconds=wait)


class Boots:
    """Registers keys and reads boot reports for the machines of one account."""

    def __init__(self, provider: Provider, db: Database, clock: Clock) -> None:
        self._provider = provider
        self._db = db
        self._clock = clock
        self._tried: dict[tuple[str, LeaseId], _Tried] = {}

    def forget(self, live: Collection[LeaseId]) -> None:
        """Forget the tries of all leases that are not in `live`."""
        self._tried = {key: tried for key, tried in self._tried.items() if key[1] in live}

    async def register_keys(self, lease: Lease) -> None:
        """Register all keys of a machine; after several failures, record that the marketplace refused them."""
        tried = self._due("keys", lease)
        if tried is None or lease.instance_id is None:
            return
        try:
            for key in lease.ssh_keys:
                await self._provider.add_ssh_key(lease.instance_id, key)
        except RateLimited as error:  # counted, too: a machine does not wait for ever for its keys
            tried.failed(self._clock.now(), error.retry_after)
        except ProviderError as error:
            tried.failed(self._clock.now())
            log.info("ssh_key_failed", lease=lease.id, reason=error.reason, error=str(error))
        else:
            await self._note_keys(lease, "registered")
            return
        if tried.times >= _KEY_TRIES:
            log.warning(
                "ssh_keys_refused",
                lease=lease.id,
                contract=lease.instance_id,
                effect="The marketplace did not take the machine's SSH keys. Only the boot script installs them, and "
                "the host may remove them again.",
            )
            await self._note_keys(lease, "refused")

    async def read_report(self, lease: Lease) -> None:
        """Read what the boot script reported; after several reads without a report, record that there is none."""
        tried = self._due("report", lease)
        if tried is None or lease.instance_id is None:
            return
        reported = None
        if "logs" not in self._provider.capabilities.missing:
            try:
                reported = boot.reported(await self._provider.logs(lease.instance_id, _LINES))
            except ProviderError as error:
                log.debug("boot_report_unread", lease=lease.id, reason=error.reason)
            tried.failed(self._clock.now(), _LONGEST_WAIT)
            if reported is None and tried.times < _READS:
                return
        await self._write(lambda tx: _note_report(tx, lease.id, reported or {}))

    def _due(self, what: str, lease: Lease) -> _Tried | None:
        """The tries of a lease; None while it is too early for the next one."""
        tried = self._tried.setdefault((what, lease.id), _Tried())
        return tried if tried.next_at is None or tried.next_at <= self._clock.now() else None

    async def _note_keys(self, lease: Lease, state: KeysState) -> None:
        await self._write(lambda tx: _note_keys(tx, lease.id, state))

    async def _write(self, unit: Callable[[Tx], None]) -> None:
        try:
            await self._db.write(unit)
        except Unavailable as error:
            log.warning("database_unavailable", account=self._provider.account, error=str(error.__cause__))


def _note_report(tx: Tx, lease_id: LeaseId, reported: Mapping[str, str]) -> None:
    lease = leases.get(tx, lease_id)
    parts = tuple(
        (part, reported.get(part, BOOT_NOT_REPORTED) if state == BOOT_REQUESTED else state)
        for part, state in lease.boot
    )
    if lease.state in RENTED:
        leases.note(tx, lease, boot=parts)


def _note_keys(tx: Tx, lease_id: LeaseId, state: KeysState) -> None:
    lease = leases.get(tx, lease_id)
    if lease.state in RENTED:
        leases.note(tx, lease, keys_state=state)
