"""The commands `reservations` and `extend`."""

from datetime import datetime, timedelta

import click
from google.protobuf.timestamp_pb2 import Timestamp

from gpuproxy.cli import tables
from gpuproxy.cli.arguments import TIME_FORMS, DurationType, MomentType, PairType, TextType
from gpuproxy.cli.connection import Connection, client_command
from gpuproxy.cli.machines import OVER, find_reservation, told_reason
from gpuproxy.v1 import gpuproxy_pb2 as pb

_PAGE = 200
"""The most reservations that a server puts on one page."""
_END_FORMS = f"Give the new end: either --until TIME ({TIME_FORMS}; UTC) or --for DURATION from now (90m, 2h or 7d)."


@click.command("reservations")
@click.option("--state", type=TextType(), help="Only those in this state: active, partial, released, ...")
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
@client_command
def extend(connection: Connection, name: str, until: datetime | None, span: float | None) -> None:
    """Change when a reservation ends. With --until, repeating the command changes nothing."""
    if (until is None) == (span is None):
        raise click.UsageError(_END_FORMS)
    end = until or connection.server_now() + timedelta(seconds=span or 0)
    reservation = find_reservation(connection, name)
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
