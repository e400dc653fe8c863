"""The commands `release` and `destroy`. Both list the machines and ask before they destroy data.

Their last line counts every machine once, by what became of it, so that the numbers add up.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress

import click

from gpuproxy.cli import tables
from gpuproxy.cli.arguments import TextType
from gpuproxy.cli.confirming import confirm, yes_option
from gpuproxy.cli.connection import Connection, ServerRefused, client_command
from gpuproxy.cli.machines import (
    NOT_THERE,
    RENTED,
    counted,
    find_machine,
    find_reservation,
    hourly,
    machine_table,
    told_reason,
    totals,
)
from gpuproxy.v1 import gpuproxy_pb2 as pb

_OFFER = re.compile(r"(?!res-|lease-|pool-)[a-z]+-[0-9]+")
_STATES: Mapping[str, str] = {
    "released": "released",
    "releasing": "releasing",
    "lost": "lost",
    "unknown": "with an unknown outcome",
    "pending": "with an unknown outcome",
    "reserved": "still rented",
}
"""What became of a machine, by the state of its outcome. Attempts in other states never had a machine."""
_REFUSED = "refused"


@click.command()
@click.argument("names", metavar="ID...", nargs=-1, required=True, type=TextType())
@yes_option
@client_command
def release(connection: Connection, names: tuple[str, ...], yes: bool) -> None:
    """Release all machines of one or more reservations. Data on the machines is lost.

    If one of the ids is unknown, nothing is released.
    """
    found = {one.reservation_id: one for one in (find_reservation(connection, name) for name in names)}
    open_ones = [one for one in found.values() if not _is_over(one)]
    machines = [machine for one in found.values() for machine in one.instances]
    if machines and not connection.as_json:
        click.echo(machine_table(machines, connection.server_now()), err=True)
        click.echo(totals(machines), err=True)
    unknown = sum(outcome.state in ("pending", "unknown") for one in found.values() for outcome in one.outcomes)
    what = counted(len(machines)) + (f" and {unknown} with an unknown outcome" if unknown else "")
    price = sum(one.price_per_hour for one in open_ones)
    _ask(f"Release {what} of {', '.join(found)}?", len(machines) + unknown, price, yes=yes or not open_ones)
    for reservation in found.values():
        _release_one(connection, reservation)


def _is_over(reservation: pb.Reservation) -> bool:
    return reservation.state in ("releasing", "released", "failed")


def _release_one(connection: Connection, reservation: pb.Reservation) -> None:
    over = _is_over(reservation)
    request = pb.ReleaseReservationRequest(reservation_id=reservation.reservation_id)
    released = connection.call(connection.stub.ReleaseReservation, request).reservation
    if connection.as_json:
        connection.print_json(released)
    else:
        why = told_reason(reservation)
        reason = f" ({why})" if why else ""
        state = f"already {reservation.state}{reason}, nothing was changed" if over else released.state
        click.echo(f"{released.reservation_id} {state} · {_what_became(released)}")


@click.command()
@click.argument("names", metavar="ID...", nargs=-1, required=True, type=TextType())
@click.option("--provider", type=TextType(), help="Provider of the machines, if `gpuproxy ps` does not list them.")
@yes_option
@client_command
def destroy(connection: Connection, names: tuple[str, ...], provider: str | None, yes: bool) -> None:
    """Destroy single machines, by contract id. Data on the machines is lost."""
    names = tuple(dict.fromkeys(names))
    if offers := [name for name in names if _OFFER.fullmatch(name)]:
        raise click.UsageError(f"{offers[0]} is an offer, not a rented machine. `gpuproxy ps` shows contract ids.")
    rented = connection.call(connection.stub.ListGPUInstances, RENTED).instances
    meant = {name: one for name in names for one in rented if one.contract_id == name}
    if meant and not connection.as_json:
        click.echo(machine_table(list(meant.values()), connection.server_now()), err=True)
        click.echo(totals(list(meant.values())), err=True)
    _ask(f"Destroy {counted(len(names))}?", len(names), sum(hourly(one) for one in meant.values()), yes=yes)
    became: Counter[str] = Counter()
    paid = 0.0
    for name in names:
        state = _destroy_one(connection, meant[name].provider if name in meant else provider or "", name)
        became[state] += 1
        if state != _REFUSED and not connection.as_json:
            paid += _paid(connection, name)
    if len(names) > 1 and not connection.as_json:
        click.echo(f"{_counts(became)} · {tables.price(paid)} paid so far")
    if became[_REFUSED]:
        raise SystemExit(1)


def _ask(question: str, count: int, price: float, *, yes: bool) -> None:
    """Ask, unless `yes`. `price`: what the `count` machines cost together, in USD per hour."""
    if yes:
        return
    one = count == 1
    still = f"The machine{'' if one else 's'} still cost{'s' if one else ''} {tables.hourly(price)}." if price else ""
    confirm(f"{question} Data on {'it' if one else 'them'} is lost.", kept=still)


def _is_reservation(connection: Connection, name: str) -> bool:
    try:
        find_reservation(connection, name)
    except ServerRefused:
        return False
    return True


def _destroy_one(connection: Connection, provider: str, name: str) -> str:
    """What became of the machine: "releasing", "released", or _REFUSED."""
    try:
        request = pb.DestroyGPUInstanceRequest(provider=provider, instance_id=name)
        answer = connection.call(connection.stub.DestroyGPUInstance, request)
    except ServerRefused as refused:
        if refused.exit_code != 1:
            raise
        click.echo(f"{name}: {refused.message}", err=True)
        if refused.error.code in NOT_THERE and _is_reservation(connection, name):
            click.echo(f"{name} is a reservation. gpuproxy release {name} releases all of its machines.", err=True)
        elif refused.error.code in NOT_THERE:
            click.echo("To list your machines: gpuproxy ps", err=True)
        return _REFUSED
    if connection.as_json:
        connection.print_json(answer)
    else:
        click.echo(f"{name} {answer.state} · {answer.message}")
    return answer.state


def _paid(connection: Connection, name: str) -> float:
    """What the machine has cost in USD; 0 if that can't be read now."""
    with suppress(ServerRefused):
        machine = find_machine(connection, name)
        return machine.cost_so_far if machine else 0.0
    return 0.0


def _what_became(reservation: pb.Reservation) -> str:
    """`3 machines: 1 released, 2 releasing · $0.12 paid so far`."""
    states = Counter(_STATES[one.state] for one in reservation.outcomes if one.state in _STATES)
    if not states:
        return "no machine was rented, nothing was paid" if not reservation.cost_so_far else _paid_text(reservation, ())
    return f"{_counts(states)} · {_paid_text(reservation, states)}"


def _paid_text(reservation: pb.Reservation, states: Iterable[str]) -> str:
    when = "in total" if set(states) <= {"released", "lost"} else "so far"
    return f"{tables.price(reservation.cost_so_far)} paid {when}"


def _counts(states: Counter[str]) -> str:
    """`3 machines: 1 released, 2 releasing`."""
    order = [*dict.fromkeys(_STATES.values()), *states]
    parts = [f"{states[state]} {state}" for state in dict.fromkeys(order) if states[state]]
    return f"{counted(states.total())}: {', '.join(parts)}"
