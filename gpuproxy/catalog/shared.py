"""One process reads a marketplace, and the others use what it has read.

The reader has the claim on the marketplace. It stores the offers of each search with their encoded forms, compressed,
in rows of about a hundred offers. An offer is always in the same row, so a search writes only the rows whose offers
have changed. One more row, the head, has the times of the search and a hash of each row. The others read the head if
its version has changed, and the rows whose hash is new to them. A head of another version of the program is not read:
then the process reads the marketplace itself until it is readable.
"""

import base64
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

import msgspec

from gpuproxy.catalog.snapshot import Entry
from gpuproxy.catalog.source import Batch
from gpuproxy.model.errors import ClaimLost
from gpuproxy.model.offers import Offer, OfferId, ProviderName
from gpuproxy.ports import Clock, Database, Tx, Workers
from gpuproxy.runtime.claims import HeldClaim
from gpuproxy.store import shared
from gpuproxy.store.rows import micros, moment

_FORMAT = "2:" + ",".join(each.name for each in fields(Offer))
_FAST = 1
"""The level of compression: a large market is compressed again every half minute."""
_PROGRESS_APART = 15.0
"""Seconds between two stored stages of one search."""
_PART, _MOST_PARTS = 100, 256
"""Offers in a row, and rows of a marketplace, about."""
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[tuple[Offer, dict[str, bytes]]])


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What the reader of a marketplace has told."""

    version: int
    batch: Batch | None
    """None: it is the one that is known already, or there was none."""
    failures: int
    """Consecutive searches without a result."""
    refused: bool
    ended: bool
    """The batch is the final result of a search."""


@dataclass(frozen=True, slots=True)
class _Parts:
    """The rows of a marketplace's offers: the hash of each, and what it has."""

    hashes: tuple[str, ...] = ()
    entries: tuple[Mapping[OfferId, Entry], ...] = ()


@dataclass(frozen=True, slots=True)
class _Found:
    """What a unit of work has read of a marketplace."""

    version: int
    head: Mapping[str, Any]
    now: datetime
    bodies: Mapping[str, str]
    """Of the rows that were asked for, by name."""


class SharedCatalog:
    """What processes tell each other of the offers of marketplaces."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        *,
        claims: Mapping[ProviderName, HeldClaim],
        workers: Workers,
        kinds: frozenset[str],
    ) -> None:
        """`kinds`: of the encoded forms of an offer."""
        self._db = db
        self._clock = clock
        self._claims = claims
        self._workers = workers
        self._format = f"{_FORMAT}:{','.join(sorted(kinds))}"
        self._unreadable: set[ProviderName] = set()
        self._progress_at: dict[ProviderName, float] = {}
        self._read: dict[ProviderName, object] = {}
        """What identifies the batch that was read last."""
        self._parts: dict[ProviderName, _Parts] = {}
        """The rows that were read last."""

    def reads(self, name: ProviderName) -> bool:
        """Whether this process is to read a marketplace."""
        return self._claims[name].is_held() or name in self._unreadable

    async def tell(self, name: ProviderName, batch: Batch | None, *, failures: int, refused: bool, ended: bool) -> None:
        """Store what a search of this process has found; None: nothing. Raises ClaimLost and Unavailable."""
        if not self._claims[name].is_held() or not self._is_due(name, ended=ended):
            return
        known = _hashes(await self._db.read(lambda tx: self._head(tx, name)))
        hashes, bodies = known, dict[str, str]()
        if batch is not None:
            hashes, bodies = await self._workers.run(_packed, name, list(batch.entries.values()), known)

        def write(tx: Tx) -> None:
            self._claims[name].require(tx)
            head: dict[str, Any] = {"format": self._format, "failures": failures, "refused": refused, "ended": ended}
            before = self._head(tx, name)
            if _hashes(before) != known:
                raise ClaimLost(f"another process has stored the offers of {name} in between")
            if batch is not None:
                now = self._clock.monotonic()
                began, until = (micros(tx.now() - timedelta(seconds=now - at)) for at in (batch.began, batch.until))
                head["batch"] = {"number": batch.search, "began": began, "until": until, "whole": batch.whole}
                head["batch"]["parts"] = hashes
                shared.put(tx, bodies)
                for number in range(len(hashes), len(known)):
                    shared.forget(tx, _part(name, number))
            elif before is not None:
                head["batch"] = before.get("batch")
            shared.tell(tx, _name(name), json.dumps(head), "" if before is None else None)

        await self._db.write(write)

    async def shown(self, name: ProviderName, version: int) -> Shown | None:
        """What the reader has told since a version; None if nothing. Raises Unavailable."""
        found = await self._db.read(lambda tx: self._found(tx, name, version))
        if found is None:
            return None
        head = found.head
        if head["format"] != self._format:
            self._unreadable.add(name)
            return None
        self._unreadable.discard(name)
        batch, told = None, head.get("batch")
        if told is not None and self._read.get(name) != told:
            here = self._clock.monotonic()
            starts, ends = (here - (found.now - moment(told[key])).total_seconds() for key in ("began", "until"))
            hashes, before = tuple(told["parts"]), self._parts.get(name, _Parts())
            parts = await self._workers.run(_unpacked, name, hashes, before, found.bodies)
            self._parts[name], self._read[name] = parts, told
            entries = {offer: entry for part in parts.entries for offer, entry in part.items()}
            batch = Batch(-int(told["number"]), min(starts, here), min(ends, here), entries, told["whole"])
        return Shown(
            version=found.version, batch=batch, failures=head["failures"], refused=head["refused"], ended=head["ended"]
        )

    def _found(self, tx: Tx, name: ProviderName, version: int) -> _Found | None:
        """What the reader has told since a version, with the rows that are new to this process."""
        told = shared.told(tx, _name(name))
        if told is None or told.version == version:
            return None
        head = json.loads(told.head)
        hashes = _hashes(head if head["format"] == self._format else None)
        known = self._parts.get(name, _Parts()).hashes
        names = [_part(name, at) for at, each in enumerate(hashes) if known[at : at + 1] != (each,)]
        return _Found(told.version, head, tx.now(), shared.bodies(tx, names))

    def _head(self, tx: Tx, name: ProviderName) -> dict[str, Any] | None:
        """What is stored of a marketplace; None if there is nothing, or of another version of the program."""
        told = shared.told(tx, _name(name))
        head: dict[str, Any] | None = None if told is None else json.loads(told.head)
        return head if head is not None and head["format"] == self._format else None

    async def changed(self, name: ProviderName, seconds: float) -> None:
        """Return when the reader may have told something, or after so many seconds."""
        async with self._db.watch(shared.topic(_name(name))) as wakeups:
            try:
                async with self._clock.timeout(seconds):
                    await wakeups.wait()
            except TimeoutError:
                return

    def _is_due(self, name: ProviderName, *, ended: bool) -> bool:
        """Parts of a search are stored now and then."""
        now = self._clock.monotonic()
        if not ended and now - self._progress_at.get(name, -_PROGRESS_APART) < _PROGRESS_APART:
            return False
        self._progress_at[name] = now
        return True


def _name(provider: ProviderName) -> str:
    return f"catalog:{provider}"


def _part(provider: ProviderName, number: int) -> str:
    return f"{_name(provider)}/{number}"


def _hashes(head: Mapping[str, Any] | None) -> tuple[str, ...]:
    batch = None if head is None else head.get("batch")
    return () if batch is None else tuple(batch["parts"])


def _packed(
    name: ProviderName, entries: Sequence[Entry], known: Sequence[str]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The hash of each row, and the rows by name whose hash differs from the `known` one."""
    number = min(_MOST_PARTS, max(1, len(entries) // _PART))
    if number / 2 <= len(known) <= number * 2:
        number = len(known)  # with another number, all rows would change
    parts: list[list[Entry]] = [[] for _ in range(number)]
    for entry in entries:
        parts[zlib.crc32(entry[0].id.encode()) % number].append(entry)
    hashes, bodies = [], {}
    for at, part in enumerate(parts):
        data = _encoder.encode(sorted(part, key=lambda entry: entry[0].id))
        hashes.append(base64.b85encode(hashlib.blake2b(data, digest_size=8).digest()).decode())
        if tuple(known[at : at + 1]) != (hashes[at],) or number != len(known):
            bodies[_part(name, at)] = base64.b85encode(zlib.compress(data, _FAST)).decode()
    return tuple(hashes), bodies


def _unpacked(name: ProviderName, hashes: tuple[str, ...], before: _Parts, bodies: Mapping[str, str]) -> _Parts:
    """The rows with these hashes: from `bodies`, and otherwise those that were there before."""
    entries: list[Mapping[OfferId, Entry]] = []
    for at in range(len(hashes)):
        text = bodies.get(_part(name, at))
        if text is None:
            entries.append(before.entries[at])
            continue
        decoded = _decoder.decode(zlib.decompress(base64.b85decode(text)))
        entries.append({offer.id: (offer, forms) for offer, forms in decoded})
    return _Parts(hashes, tuple(entries))
