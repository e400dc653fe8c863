"""The commands `reservations` and `extend`."""

from datetime import datetime, timedelta

import click
from google.protobuf.timestamp_pb2 import Timestamp

from gpuproxy.cli import readiness, tables
from gpuproxy.cli.arguments import TIME_FORMS, DurationType, MomentType, PairType, TextType, WordType
from gpuproxy.cli.confirming import confirm, yes_option
from gpuproxy.cli.connection import Connection, client_command
from gpuproxy.cli.machines import GONE, OVER, counted, find_reservation, told_reason
from gpuproxy.model.reservations import ReservationState
from gpuproxy.v1 import gpuproxy_pb2 as pb

_PAGE = 200
"""The most reservations that a server puts on one page."""
_SOON = timedelta(minutes=10)
"""Before an end that is nearer than this, `extend` asks: the machines are released then, and their data is lost."""
_END_FORMS = f"Give the new end: either --until TIME ({TIME_FORMS}; UTC) or --for DURATION from now (90m, 2h or 7d)."


@click.command("reservations")
@click.option("--state", type=WordType(ReservationState), help="Only those in this state.")
@click.option(
    "--label",
    "labels",
    type=PairType(),
    multiple=True,
    metavar="K=V",
    help="Only those with this label (repeatable: with all of them).",
)
@click.option("--limit", type=click.IntRange(1, _PAGE), default=50, show_default=True, help="Maximum number to show.")
@click.option("--all", "every_page", is_flag=True, help="Show all, however many there are.")
@client_command
def reservations(
    connection: Connection, /, state: str | None, labels: tuple[tuple[str, str], ...], limit: int, every_page: bool
) -> None:
    """List your reservations, newest first, also those that have ended."""
    request = pb.ListReservationsRequest(
        page_size=_PAGE if every_page else limit, state=state or "", labels=dict(labels)
    )
    answer = connection.call(connection.stub.ListReservations, request)
    while every_page and answer.next_page_token:
        request.page_token = answer.next_page_token
        page = connection.call(connection.stub.ListReservations, request)
        answer.reservations.extend(page.reservations)
        answer.next_page_token = page.next_page_token
    if connection.as_json:
        connection.print_json(answer)
        return
    if answer.reservations:
        click.echo(_table(answer))
    click.echo(_count(answer, filtered=bool(state or labels)))


class _Extend(click.Command):
    """Names the valid forms of the new end in each error about options or extra words."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.BadParameter:
            raise
        except click.UsageError as error:
            raise click.UsageError(f"{error.format_message()}\n{_END_FORMS}", ctx) from None


@click.command(cls=_Extend)
@click.argument("name", metavar="ID", type=TextType())
@click.option("--until", "until", type=MomentType(), help=f"New end in UTC: {TIME_FORMS}.")
@click.option("--for", "span", type=DurationType(above_zero=True), help="Duration from now: 90m, 2h or 7d.")
@yes_option
@client_command
def extend(connection: Connection, name: str, until: datetime | None, span: float | None, yes: bool) -> None:
    """Change when a reservation ends. With --until, repeating the command changes nothing.

    It asks before it gives an end to a reservation without one, and before an end in less than 10 minutes. Machines
    that are paid in advance are booked longer near the end of their booking, not now.
    """
    if (until is None) == (span is None):
        raise click.UsageError(_END_FORMS)
    now = connection.server_now()
    end = until or now + timedelta(seconds=span or 0)
    if end <= now:
        raise click.UsageError(f"--until {end:%Y-%m-%dT%H:%M:%SZ} is in the past: now it is {now:%Y-%m-%dT%H:%M:%SZ}.")
    reservation = find_reservation(connection, name)
    if reservation.state not in OVER and not yes:
        _ask(reservation, end, now)
    expires_at = Timestamp()
    expires_at.FromDatetime(end)
    request = pb.ExtendReservationRequest(reservation_id=reservation.reservation_id, expires_at=expires_at)
    extended = connection.call(connection.stub.ExtendReservation, request).reservation
    if connection.as_json:
        connection.print_json(extended)
    else:
        had_end = reservation.HasField("expires_at")
        new = "" if had_end else ". It had no end before. Its machines are released at that time."
        click.echo(f"{extended.reservation_id} ends at {tables.moment(extended.expires_at)}{new}")
        for line in readiness.warnings(extended.instances):
            click.echo(line)


def _ask(reservation: pb.Reservation, end: datetime, now: datetime) -> None:
    """Ask before an end that the reservation had not, or that is near."""
    endless = not reservation.HasField("expires_at")
    if not endless and end - now >= _SOON:
        return
    had = "It has no end now. " if endless else ""
    count = sum(one.status not in GONE for one in reservation.instances)
    at = f"{end:%Y-%m-%d %H:%M:%SZ}, in {tables.span((end - now).total_seconds())}"
    confirm(f"{had}Release {counted(count)} of {reservation.reservation_id} at {at}?")


def _table(answer: pb.ListReservationsResponse) -> str:
    headers = ("RESERVATION", "STATE", "GPUS", "READY", "$/H", "SO FAR", "CREATED", "ENDS", "LABELS")
    rows = [
        (
            one.reservation_id,
            f"{one.state} ({why})" if (why := told_reason(one)) else one.state,
            f"{one.reserved_count} of {one.requested_count}",
            str(one.ready_count),
            tables.price(one.price_per_hour),
            tables.price(one.cost_so_far),
            tables.moment(one.created_at),
            "" if one.state in OVER else tables.moment(one.expires_at),
            ", ".join(f"{key}={value}" for key, value in sorted(one.labels.items())),
        )
        for one in answer.reservations
    ]
    return tables.table(headers, rows)


def _count(answer: pb.ListReservationsResponse, *, filtered: bool) -> str:
    shown, total = len(answer.reservations), answer.total_count
    if not total:
        return "No reservation matches." if filtered else "No reservation yet. To rent GPUs: gpuproxy reserve COUNT"
    if shown < total:
        return f"{shown} of {total} reservations. To show all: --all"
    return "1 reservation" if shown == 1 else f"{shown} reservations"
