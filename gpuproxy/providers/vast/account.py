"""What vast.ai says of an account: its credit and its charges.

The rule: a charge that can't be believed leaves its instance out of the sums, never the others.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import msgspec

from gpuproxy.model.leases import InstanceId
from gpuproxy.model.money import Micro, micro
from gpuproxy.ports import Spend
from gpuproxy.providers.vast.decode import ABSURD, BROKEN, Unreadable, converted, decoded, typed


class Charge(msgspec.Struct, frozen=True):
    """What one thing cost in a time; USD."""

    source: str
    amount: float | None = None
    start: float | str | None = None
    end: float | str | None = None


class ChargesPage(msgspec.Struct, frozen=True):
    """One page of the charges."""

    success: bool
    results: list[msgspec.Raw]
    next_token: str | int | None
    total: int | None = None


class User(msgspec.Struct, frozen=True):
    """The account."""

    credit: float
    id: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Charged:
    """What one page of charges shows; `odd` are the sources of rows that can't be believed."""

    rows: int
    charges: Sequence[Charge]
    odd: Collection[str]
    next_token: str | None
    total: int | None


def read_spend(body: bytes) -> Spend:
    """The credit. Raises one of Unreadable when there is none in it."""
    user, _ = typed(body, User, _USER)
    if not isfinite(user.credit):
        raise msgspec.ValidationError("no usable credit")
    if user.id is None:
        return Spend(credit=micro(user.credit))
    return Spend(credit=micro(user.credit), owner=str(converted(user.id, int | str)))


def read_charges(body: bytes) -> Charged:
    """A page of charges, row by row. Raises one of Unreadable when it is not such a page at all."""
    page, _ = decoded(body, ChargesPage)
    token = None if page.next_token is None else str(page.next_token)
    if not page.success or BROKEN in (token or ""):
        raise msgspec.ValidationError("not a page of charges")
    charges: list[Charge] = []
    odd: set[str] = set()
    for row in page.results:
        source, charge = _charge_of(row)
        if charge is None:
            odd.add(source)
        else:
            charges.append(charge)
    return Charged(rows=len(page.results), charges=charges, odd=odd, next_token=token, total=page.total)


def by_instance(charges: Iterable[Charge], odd: Collection[str]) -> dict[InstanceId, Micro]:
    """What each instance was charged in all; those of which a row can't be believed are left out."""
    sums: dict[InstanceId, Micro] = {}
    for charge in charges:
        kind, _, number = charge.source.partition("-")
        if kind == "instance" and number.isdecimal() and charge.source not in odd:
            sums[InstanceId(number)] = Micro(sums.get(InstanceId(number), 0) + micro(charge.amount or 0.0))
    return sums


def _charge_of(row: msgspec.Raw) -> tuple[str, Charge | None]:
    """What a row is about, and the row; None where it can't be believed: no amount, a negative or absurd one."""
    try:
        charge, _ = typed(row, Charge, _CHARGES)
    except Unreadable:
        return "", None
    believed = charge.amount is not None and 0 <= charge.amount < ABSURD
    return charge.source, charge if believed else None


_CHARGES = msgspec.json.Decoder(Charge, strict=False)
_USER = msgspec.json.Decoder(User, strict=False)
