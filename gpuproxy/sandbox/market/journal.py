"""The saved market: a file of JSON lines, one for each changed object. The last line of an object counts.

Each change is appended before its answer is sent. The cost of saving doesn't depend on the market's age, and a half
written last line is a change that was never answered. At each start, the file is rewritten without old lines.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from gpuproxy.sandbox.market.exchange import SimulatedMarket
from gpuproxy.sandbox.market.instances import Ended, Instance
from gpuproxy.sandbox.market.machines import Machine
from gpuproxy.sandbox.market.prepaid.bookings import Booking
from gpuproxy.sandbox.market.prepaid.exchange import PrepaidMarket
from gpuproxy.sandbox.market.prepaid.hardware import Host
from gpuproxy.sandbox.market.volumes import Volume

_MAX_STALE_LINES = 20_000


class WrongMarket(Exception):
    """The file has the state of another market, or isn't a state file."""


class Record(msgspec.Struct, omit_defaults=True):
    """One line. `market` identifies the market, so that a state is never loaded into another one."""

    market: str = ""
    built_at: float = 0.0
    now: float = 0.0
    next_contract_id: int = 0
    next_offer_id: int = 0
    calls: dict[str, dict[str, int]] | None = None
    machine: dict[str, Any] | None = None
    instance: Instance | None = None
    ended: Ended | None = None
    volume: Volume | None = None
    images: dict[str, str] | None = None
    booking: Booking | None = None
    host: Host | None = None
    row: tuple[str, float] | None = None
    """The id of a row of the prepaid market, and its price."""


@dataclass(slots=True)
class SavedState:
    """The content of a state file; empty if there is no file."""

    head: Record
    machines: dict[int, dict[str, Any]] = field(default_factory=dict)
    instances: dict[int, Instance] = field(default_factory=dict)
    ended: list[Ended] = field(default_factory=list)
    volumes: dict[int, Volume] = field(default_factory=dict)
    bookings: dict[str, Booking] = field(default_factory=dict)
    hosts: dict[str, Host] = field(default_factory=dict)
    rows: dict[str, float] = field(default_factory=dict)


def read(path: Path | None, name: str, now: float) -> SavedState:
    """The saved state of the market `name`. Without a file, the market is built at `now`.

    Raises WrongMarket or OSError.
    """
    past = SavedState(Record(built_at=now))
    for line in () if path is None else _lines(path):
        if line.market and line.market != name:
            raise WrongMarket(f"{path} has the state of the market {line.market}, not of {name}; use another file")
        if line.machine is not None:
            past.machines[line.machine["id"]] = line.machine
        elif line.booking is not None:
            past.bookings[line.booking.id] = line.booking
        elif line.host is not None:
            past.hosts[line.host.id] = line.host
        elif line.row is not None:
            past.rows.update([line.row])
        elif line.instance is not None:
            past.instances[line.instance.id] = line.instance
        elif line.ended is not None:
            past.instances.pop(line.ended.id, None)
            past.ended.append(line.ended)
        elif line.volume is not None:
            past.volumes[line.volume.id] = line.volume
        else:
            past.head = line
    return past


class Journal:
    """Saves both markets in one file; without a path, it saves nothing."""

    def __init__(
        self, path: Path | None, market: SimulatedMarket, prepaid: PrepaidMarket, name: str, past: "SavedState"
    ) -> None:
        """`name` identifies the market. The saved state `past` is loaded into it."""
        self._path = path
        self._market = market
        self._prepaid = prepaid
        self._name = name
        self._built_at = past.head.built_at
        self._lines = 0
        self._encode = msgspec.json.Encoder().encode
        self._touched: set[int] = set()  # machines that have changed since they were built
        self._touched_hosts: set[str] = set(past.hosts)
        self._repriced: set[str] = set(past.rows)
        self._fd = -1
        self._restore(past)

    def keep(self, calls: dict[str, dict[str, int]]) -> None:
        """Append the unsaved changes, if there are any."""
        changes, prepaid = self._market.changes, self._prepaid.changes
        if not changes and not prepaid:
            return
        self._touched |= changes.machines
        self._touched_hosts |= prepaid.hosts
        self._repriced |= prepaid.rows
        if self._path is not None:
            if self._fd < 0:
                self._rewrite(calls)
            else:
                self._append([*self._changed(), self._head(calls)])
        changes.clear()
        prepaid.clear()

    def tick(self, calls: dict[str, dict[str, int]]) -> None:
        """Append the time, so that a killed market continues from about the same time."""
        if self._path is not None and self._fd >= 0:
            self._append([self._head(calls)])
            if self._lines > _MAX_STALE_LINES + 2 * len(self._market.ended) + 2 * len(self._prepaid.bookings):
                self._rewrite(calls)

    def close(self, calls: dict[str, dict[str, int]]) -> None:
        """Rewrite the file without old lines, and close it."""
        if self._path is not None:
            self._rewrite(calls)
            os.close(self._fd)
            self._fd = -1

    def _restore(self, past: SavedState) -> None:
        market, head = self._market, past.head
        for machine in past.machines.values():
            self._restore_machine(machine)
        market.defects.images = dict(head.images or {})
        market.next_contract_id = max(market.next_contract_id, head.next_contract_id)
        market.next_offer_id = max(market.next_offer_id, head.next_offer_id)
        if head.now:
            market.now = head.now  # events that are due since then run at their own time
            self._prepaid.now = head.now
        market.restore(past.instances.values(), past.ended, past.volumes.values())
        self._prepaid.restore(past.bookings.values(), past.hosts.values(), past.rows)

    def _rewrite(self, calls: dict[str, dict[str, int]]) -> None:
        assert self._path is not None  # noqa: S101 - callers have checked
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._fd >= 0:
            os.close(self._fd)
        fresh = self._path.with_name(self._path.name + ".new")
        self._fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        self._lines = 0
        self._append([self._head(calls), *self._everything()])
        fresh.replace(self._path)

    def _append(self, lines: Iterable[Record]) -> None:
        encoded = [self._encode(line) for line in lines]
        self._lines += len(encoded)
        left = memoryview(b"\n".join(encoded) + b"\n")
        while left:
            left = left[os.write(self._fd, left) :]

    def _head(self, calls: dict[str, dict[str, int]]) -> Record:
        market = self._market
        return Record(
            market=self._name,
            built_at=self._built_at,
            now=market.now,
            next_contract_id=market.next_contract_id,
            next_offer_id=market.next_offer_id,
            calls=calls,
            images=market.defects.images or None,
        )

    def _changed(self) -> Iterator[Record]:
        changes, market = self._market.changes, self._market
        yield from (Record(machine=_machine_record(market.machines[number])) for number in sorted(changes.machines))
        found = (market.instances.get(number) for number in sorted(changes.instances))
        yield from (Record(instance=instance) for instance in found if instance is not None)
        yield from (Record(ended=gone) for gone in changes.ended)
        yield from (Record(volume=market.volumes.all[number]) for number in sorted(changes.volumes))
        prepaid = self._prepaid.changes
        yield from (Record(booking=self._prepaid.bookings[number]) for number in sorted(prepaid.bookings))
        yield from self._hosts_and_prices(prepaid.hosts, prepaid.rows)

    def _everything(self) -> Iterator[Record]:
        market = self._market
        yield from (Record(machine=_machine_record(market.machines[number])) for number in sorted(self._touched))
        yield from (Record(instance=instance) for instance in market.instances.values())
        yield from (Record(ended=gone) for gone in market.ended)
        yield from (Record(volume=volume) for volume in market.volumes.all.values())
        yield from (Record(booking=booking) for booking in self._prepaid.bookings.values())
        yield from self._hosts_and_prices(self._touched_hosts, self._repriced)

    def _hosts_and_prices(self, hosts: Iterable[str], rows: Iterable[str]) -> Iterator[Record]:
        yield from (Record(host=self._prepaid.hosts[number]) for number in sorted(hosts))
        prices = {row.id: row.price for row in self._prepaid.rows}
        yield from (Record(row=(number, prices[number])) for number in sorted(rows))

    def _restore_machine(self, kept: dict[str, Any]) -> None:
        machine = self._market.machines.get(kept["id"])
        if machine is None:
            return
        self._touched.add(machine.id)
        machine.strangers, machine.online = kept["strangers"], kept["online"]
        machine.broken, machine.broken_message = kept.get("broken", ""), kept.get("broken_message", "")
        machine.dead = kept.get("dead", 0)
        machine.columns.update(verification=kept["verification"], vericode=kept["vericode"], end_date=kept["end_date"])
        machine.columns["direct_port_count"] = kept.get("direct_ports", machine.direct_ports)
        for chunk, (offer_id, price) in zip(machine.chunks, kept["asks"], strict=True):
            chunk.price = price
            self._market.relisted(chunk, offer_id)


def _lines(path: Path) -> Iterator[Record]:
    decode = msgspec.json.Decoder(Record).decode
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):  # half written: the change was never answered
                return
            try:
                yield decode(line)
            except msgspec.MsgspecError as error:
                raise WrongMarket(f"{path} is not the state file of a market: {error}") from error


def _machine_record(machine: Machine) -> dict[str, Any]:
    return {
        "id": machine.id,
        "strangers": machine.strangers,
        "online": machine.online,
        "broken": machine.broken,
        "broken_message": machine.broken_message,
        "dead": machine.dead,
        "verification": machine.columns["verification"],
        "vericode": machine.columns["vericode"],
        "end_date": machine.columns["end_date"],
        "direct_ports": machine.direct_ports,
        "asks": [(chunk.offer_id, chunk.price) for chunk in machine.chunks],
    }
