"""Decoding of vast.ai's answers about an account: its credit and its charges.

The rule: an invalid charge removes only its own instance from the sums.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from gpuproxy.model.leases import InstanceId
from gpuproxy.model.money import Micro, micro
from gpuproxy.ports import Spend
from gpuproxy.providers.decode import ABSURD, BROKEN, Unreadable, converted, decoded, token_of, typed

_MOST_CREDIT = 1_000 * ABSURD
"""USD. An account with more, or with more debt, is a wrong number."""


class Charge(msgspec.Struct, frozen=True):
    """The charge for one resource in a period, in USD."""

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
    error: Any = None


class User(msgspec.Struct, frozen=True):
    """The account."""

    credit: float
    id: Any = None
    success: Any = None
    error: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Charged:
    """The content of one page of charges. `odd`: the sources of rows with an invalid charge."""

    rows: int
    charges: Sequence[Charge]
    odd: Collection[str]
    next_token: str | None
    total: int | None


def read_spend(body: bytes) -> Spend:
    """The credit of the account. Raises one of Unreadable if the body has no usable credit."""
    user, _ = typed(body, User, _USER)
    if user.error or user.success is False:
        raise msgspec.ValidationError("a refusal, not the account")
    if not abs(user.credit) < _MOST_CREDIT:  # also NaN
        raise msgspec.ValidationError("no usable credit")
    if user.id is None:
        return Spend(credit=micro(user.credit))
    return Spend(credit=micro(user.credit), owner=str(converted(user.id, int | str)))


def read_charges(body: bytes) -> Charged:
    """A page of charges, decoded row by row. Raises one of Unreadable if the body is not such a page."""
    page, _ = decoded(body, ChargesPage)
    token = token_of(page.next_token)
    if page.error or not page.success or BROKEN in (token or ""):
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
    """The total charge of each instance and volume in micro-dollars, without those that have an invalid charge.

    A volume is named as in the books: "V.777".
    """
    sums: dict[InstanceId, Micro] = {}
    for charge in charges:
        kind, _, number = charge.source.partition("-")
        if kind in _NAMES and number.isdecimal() and charge.source not in odd:
            contract = InstanceId(_NAMES[kind] + number)
            sums[contract] = Micro(sums.get(contract, 0) + micro(charge.amount or 0.0))
    return sums


def _charge_of(row: msgspec.Raw) -> tuple[str, Charge | None]:
    """The source of a row, and the row. None if its charge is invalid: no amount, or a negative or absurd one."""
    try:
        charge, _ = typed(row, Charge, _CHARGES)
    except Unreadable:
        return "", None
    believed = charge.amount is not None and 0 <= charge.amount < ABSURD
    return charge.source, charge if believed else None


_NAMES = {"instance": "", "volume": "V."}
"""What our ids begin with, by the kind of a source."""
_CHARGES = msgspec.json.Decoder(Charge, strict=False)
_USER = msgspec.json.Decoder(User, strict=False)
