"""The rules about bookings. If one is broken, hours are paid twice, or a machine ends before anyone expects it.

An adapter whose marketplace bills by use keeps them by raising NotSupported.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from gpuproxy.conformance.bench import Bench
from gpuproxy.conformance.subject import Make, PrepaidFacts
from gpuproxy.conformance.verdict import Broken, NotJudged, ended, require
from gpuproxy.conformance.wire import BAD_ANSWER, FAILURES, NO_ANSWER, OTHER_SCHEMA
from gpuproxy.model.errors import NotSupported, OutcomeUnknown, PriceMoved, Refused
from gpuproxy.model.leases import InstanceId
from gpuproxy.model.money import Micro
from gpuproxy.ports import Booking, Receipt

_HOURS = 3
_MORE = 2
_ROUNDING = timedelta(minutes=2)
"""Marketplaces tell the end of a booking in whole minutes."""


async def a_booking_has_the_hours_that_are_set(make: Make) -> None:
    """A create books `prepaid_hours`. Its receipt, the listing and `get` tell the end, and `get` what was paid."""
    site = await _site(make)
    if site is None:
        return
    bench, facts = site
    offer = (await bench.offers())[0]
    begun = bench.clock.now()
    receipt = await bench.create(offer)
    if not isinstance(receipt, Receipt):
        raise Broken(f"a create without a fault ended as {_named(receipt)}")
    made = receipt.instance_id
    require(facts.hours(made) == _HOURS, f"{facts.hours(made)} hours were booked, not {_HOURS}")
    _near(receipt.booked_until, begun + timedelta(hours=_HOURS), bench.clock.now() - begun, "the receipt")
    highest = Micro((offer.gpu_price + 1) * _HOURS)
    require(receipt.paid is not None and 0 < receipt.paid <= highest, f"the receipt says {receipt.paid} were paid")
    await bench.clock.sleep(bench.provider.capabilities.listing_lag_seconds)
    listed = {each.id: each for each in (await bench.provider.list()).instances}
    require(made in listed and listed[made].booking is not None, "the listing tells no booking of the machine")
    booking = await _booking(bench, made)
    require(booking.paid is not None and 0 < booking.paid <= highest, f"get says that {booking.paid} were paid")


async def a_create_above_its_price_is_not_sent(make: Make) -> None:
    """If the marketplace asks for more than the offer's price, a create is PriceMoved, and nothing is booked."""
    site = await _site(make)
    if site is None:
        return
    bench, _ = site
    offer = (await bench.offers())[0]
    outcome = await bench.create(replace(offer, gpu_price=Micro(offer.gpu_price // 2)))
    sent = sum(map(bench.subject.is_create, bench.wire.requests))
    require(isinstance(outcome, PriceMoved), f"a create above its price ended as {_named(outcome)}")
    require(sent == 0, "a create above its price was sent")


async def an_extension_moves_the_end_by_its_hours(make: Make) -> None:
    """After `extend`, the end of the booking is exactly so many hours later, and more was paid."""
    site = await _site(make)
    if site is None:
        return
    bench, facts = site
    (made,) = await bench.rented()
    before, hours = await _booking(bench, made), facts.hours(made)
    outcome = await ended(bench.provider.extend(made, _MORE))
    require(outcome is None, f"an extension without a fault ended as {_named(outcome)}")
    bought = facts.hours(made) - hours
    require(bought == _MORE, f"{bought} hours were bought, not {_MORE}")
    after = await _booking(bench, made)
    _near(after.until, before.until + timedelta(hours=_MORE), timedelta(), "get after an extension")
    paid = (before.paid, after.paid)
    require(None not in paid and (after.paid or 0) > (before.paid or 0), f"get says that {paid} were paid")


async def an_extension_is_bought_at_most_once_and_in_doubt_unknown(make: Make) -> None:
    """An extension is one request. Without a usable answer it may have been bought: OutcomeUnknown, never Refused."""
    for spoil in (None, *FAILURES, *OTHER_SCHEMA):
        site = await _site(make)
        if site is None:
            return
        bench, facts = site
        (made,) = await bench.rented()
        if spoil is not None:
            bench.wire.spoil(spoil, which=facts.is_extend, times=1)
        outcome = await ended(bench.provider.extend(made, _MORE))
        when = "there is no fault" if spoil is None else spoil.value
        sent = sum(map(facts.is_extend, bench.wire.requests))
        require(sent == 1, f"{sent} extensions were sent when {when}")
        if spoil in NO_ANSWER:
            require(isinstance(outcome, OutcomeUnknown), f"when {when}, an extension ended as {_named(outcome)}")
        if spoil in BAD_ANSWER:
            require(not isinstance(outcome, Refused), f"when {when}, an extension ended as {_named(outcome)}")


async def a_machine_whose_booking_is_over_is_gone(make: Make) -> None:
    """When its booking has ended, a machine is in no listing, and `get` returns None."""
    site = await _site(make)
    if site is None:
        return
    bench, _ = site
    (made,) = await bench.rented()
    booking = await _booking(bench, made)
    lag = bench.provider.capabilities.listing_lag_seconds
    await bench.clock.sleep((booking.until - bench.clock.now()).total_seconds() + lag)
    require(made not in bench.subject.machines(), "the stand-in does not end a machine whose booking is over")
    listed = {each.id for each in (await bench.provider.list()).instances}
    require(made not in listed, "a machine whose booking is over is still listed")
    found = await ended(bench.provider.get(made))
    require(found is None, f"get of a machine whose booking is over returned {found!r}")


async def _site(make: Make) -> tuple[Bench, PrepaidFacts] | None:
    """A bench that books _HOURS. None: the marketplace bills by use, and the adapter says so."""
    bench = Bench(make, prepaid_hours=_HOURS)
    facts = bench.subject.prepaid
    if bench.provider.capabilities.billing == "metered":
        outcome = await ended(bench.provider.extend(InstanceId("1"), 1))
        require(isinstance(outcome, NotSupported), f"without bookings, an extension ended as {_named(outcome)}")
        require("extend" in bench.provider.capabilities.missing, "extend is not supported, but not declared as missing")
        require(not bench.wire.requests, "an extension was sent, although there are no bookings")
        return None
    if facts is None:
        raise NotJudged("the subject says nothing about bookings")
    return bench, facts


async def _booking(bench: Bench, instance_id: InstanceId) -> Booking:
    found = await ended(bench.provider.get(instance_id))
    booking = getattr(found, "booking", None)
    if not isinstance(booking, Booking):
        raise Broken(f"get of a booked machine tells no booking: {_named(found)}")
    return booking


def _near(told: datetime | None, right: datetime, later: timedelta, who: str) -> None:
    if told is None:
        raise Broken(f"{who} tells no end of the booking")
    require(right - _ROUNDING <= told <= right + later + _ROUNDING, f"{who} says {told}, not {right}")


def _named(outcome: object) -> str:
    return f"{type(outcome).__name__}: {outcome}"
