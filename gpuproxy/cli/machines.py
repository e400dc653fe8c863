"""The commands `ps` and `show`. A reservation can be named by its id or by its request id."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta

import click
from google.protobuf.duration_pb2 import Duration

from gpuproxy.cli import readiness, tables
from gpuproxy.cli.arguments import TextType
from gpuproxy.cli.connection import Connection, ServerRefused, client_command
from gpuproxy.cli.simulated import SANDBOX, is_simulated
from gpuproxy.client.errors import InvalidArgument
from gpuproxy.client.watching import require_found
from gpuproxy.model import ids
from gpuproxy.v1 import gpuproxy_pb2 as pb

NOT_THERE = frozenset({"NOT_FOUND", "INVALID_ARGUMENT"})
"""The server's error codes for an id that does not exist, or that is not valid."""
GONE = frozenset({"releasing", "released", "lost"})
"""States of a machine or an outcome that is no longer usable."""
OVER = frozenset({"released", "failed"})
"""States of a reservation that costs nothing any more."""
_FIRST = {"unknown": 0, "releasing": 1}
_PAGE = 200


@click.command()
@client_command
def ps(connection: Connection) -> None:
    """List the rented machines and what they cost. Machines with an unknown outcome come first."""
    answer = connection.call(connection.stub.ListGPUInstances, RENTED)
    if connection.as_json:
        connection.print_json(answer)
        return
    machines = sorted(answer.instances, key=lambda one: (_FIRST.get(one.status, 2), one.created_at.ToNanoseconds()))
    if not machines:
        click.echo("No machine is rented, so nothing is billed.")
        return
    click.echo(machine_table(machines, connection.server_now()))
    for line in readiness.warnings(machines):
        click.echo(line)
    click.echo(totals(machines))


@click.command()
@click.argument("name", metavar="ID", type=TextType())
@client_command
def show(connection: Connection, name: str) -> None:
    """Show a reservation (by its id or request id) or a machine (by its contract id), also after its release."""
    rented = connection.call(connection.stub.ListGPUInstances, RENTED).instances
    machine = next((one for one in rented if _is(one, name)), None) or find_machine(connection, name)
    if machine is not None:
        if connection.as_json:
            connection.print_json(machine)
        else:
            click.echo(_machine(machine))
        return
    reservation = find_reservation(connection, name)
    if connection.as_json:
        connection.print_json(reservation)
    else:
        click.echo(describe(reservation, connection.server_now()))


def find_reservation(connection: Connection, name: str) -> pb.Reservation:
    """The reservation with this id, else the one of the key's own project that was created with this request id.

    If there is neither, raises ServerRefused. If `name` is a machine, the message names the machine's reservation.
    """
    try:
        return _reservation(connection, name)
    except ServerRefused as refused:
        if refused.error.code not in NOT_THERE:
            raise
        if named := _meant(refused):
            return _reservation(connection, named)
        raise _not_a_reservation(connection, name, refused) from None


def find_machine(connection: Connection, contract: str) -> pb.GPUInstance | None:
    """The machine with this contract id, also after its release. None if there is none."""
    try:
        request = pb.GetGPUInstanceRequest(instance_id=contract)
        return connection.call(connection.stub.GetGPUInstance, request).instance
    except ServerRefused as refused:
        if refused.error.code not in NOT_THERE:
            raise
        return None


@contextmanager
def on_machine(connection: Connection, name: str) -> Iterator[None]:
    """If the server has no machine `name`, the error says where to find machines, or that it is a reservation."""
    try:
        yield
    except ServerRefused as refused:
        if refused.error.code not in NOT_THERE:
            raise
        raise refused.with_hint(_not_a_machine(connection, name)) from None


def by_request_id(connection: Connection, request_id: str) -> pb.Reservation | None:
    """The reservation of the key's own project that was created with this request id; None if there is none.

    Raises ServerRefused, also if it can't be found because the request id is the id of a reservation.
    """
    try:
        found = _reservation(connection, request_id)
    except ServerRefused as refused:
        if refused.error.code not in NOT_THERE:
            raise
        return _reservation(connection, named) if (named := _meant(refused)) else None
    try:
        require_found(found, request_id)
    except InvalidArgument as wrong:
        raise ServerRefused(wrong.refusal, as_json=connection.as_json) from None
    return found


def is_listed(connection: Connection, request_id: str) -> bool:
    """Whether one of the newest reservations has this request id; for an admin's key, also of another project.

    The server logs this read at debug, so it can be repeated during a wait.
    """
    answer = connection.call(connection.stub.ListReservations, pb.ListReservationsRequest(page_size=_PAGE), poll=True)
    return any(each.request_id == request_id.strip() for each in answer.reservations)


def _reservation(connection: Connection, reservation_id: str) -> pb.Reservation:
    request = pb.GetReservationRequest(reservation_id=reservation_id)
    return connection.call(connection.stub.GetReservation, request).reservation


def _meant(refused: ServerRefused) -> str:
    """The id of the reservation of the key's project whose request id was given; "" if there is none."""
    return dict(refused.error.metadata).get("request_id_of", "")


def machine_table(machines: Sequence[pb.GPUInstance], now: datetime) -> str:
    """A table with one row for each machine: what it is, what it costs and how to reach it.

    If any machine is paid in advance, there are columns for the end of its booking and for what was paid.
    """
    prepaid = any(one.HasField("paid") for one in machines)
    booked = ("BOOKED UNTIL", "PAID") if prepaid else ()
    ending = any(one.HasField("expires_at") and one.self_ending for one in machines)
    itself = ("ENDS ITSELF",) if ending else ()
    used = ("GPU USE",) if any(one.HasField("gpu_util") for one in machines) else ()
    idle = ("IDLE FOR",) if any(one.HasField("idle_since") for one in machines) else ()
    headers = (
        "CONTRACT", "STATUS", "PROVIDER", "GPUS", "MODEL", "$/H", "SO FAR", "AGE", "ENDS", *itself, *used, *idle,
        *booked, "RESERVATION", "SSH",
    )  # fmt: skip
    rows = [
        (
            one.contract_id,
            one.status,
            one.provider,
            "" if is_volume(one) else str(one.num_gpus),
            f"volume {one.metadata['size_gb']} GB" if is_volume(one) else one.gpu_model,
            tables.price(hourly(one)),
            tables.price(one.cost_so_far),
            tables.age(one.created_at, now),
            tables.moment(one.expires_at),
            *((_ends_itself(one),) if ending else ()),
            *((_use(one),) if used else ()),
            *((tables.age(one.idle_since, now) if one.HasField("idle_since") else "",) if idle else ()),
            *((tables.moment(one.booked_until), _paid(one)) if prepaid else ()),
            one.reservation_id,
            f"{one.ssh.host}:{one.ssh.port}" if one.ssh.host else "",
        )
        for one in machines
    ]
    return tables.table(headers, rows)


def _end(reservation: pb.Reservation) -> str:
    """When a reservation ends, and when its machines are destroyed if that is later."""
    if reservation.state in OVER:
        return ""
    soon = " (soon)" if reservation.ending_soon else ""
    destroyed = tables.moment(reservation.destroyed_at)
    then = f"; its machines are stopped then and destroyed at {destroyed}" if destroyed else ""
    return f"{tables.moment(reservation.expires_at)}{soon}{then}" if reservation.HasField("expires_at") else "no end"


def _released_if_idle(reservation: pb.Reservation) -> str:
    after = reservation.release_idle_after.ToTimedelta().total_seconds()
    return f"a machine is released after {tables.span(after)}" if after and reservation.state not in OVER else ""


def describe(reservation: pb.Reservation, now: datetime) -> str:
    """A reservation in full: its state, costs, end, machines and outcomes."""
    head = f"{reservation.reservation_id} {reservation.state}"
    gpus = f"{reservation.reserved_count} of {reservation.requested_count} GPUs, {reservation.ready_count} ready"
    if stopped := sum(one.num_gpus for one in reservation.instances if one.status == "stopped"):
        gpus += f", {stopped} stopped"
    lines = [f"{head} · {gpus} · {tables.costs(reservation.price_per_hour)}"]
    lines[0] += f" · {tables.price(reservation.cost_so_far)} so far{_to_end(reservation)}"
    if reservation.state in OVER:
        lines = [f"{head} · {tables.price(reservation.cost_so_far)} in total"]
    facts = {
        "reason": told_reason(reservation),
        "message": reservation.message,
        "created": tables.moment(reservation.created_at),
        "ends": _end(reservation),
        "idle": _released_if_idle(reservation),
        "strategy": reservation.strategy,
        "request id": reservation.request_id,
        "labels": ", ".join(f"{key}={value}" for key, value in sorted(reservation.labels.items())),
    }
    lines += [f"{name:<10} {text}" for name, text in facts.items() if text]
    if reservation.instances:
        lines += ["", machine_table(reservation.instances, now), *readiness.attention(reservation.instances)]
    if reservation.outcomes:
        lines += ["", outcome_table(reservation.outcomes)]
    return "\n".join(lines)


def told_reason(reservation: pb.Reservation) -> str:
    """Why the reservation is in its state; "" if the state says it."""
    return "" if reservation.reason == reservation.state.upper() else reservation.reason


def outcome_table(outcomes: Sequence[pb.Outcome]) -> str:
    """A table with one row for each attempt to rent."""
    headers = ("#", "OFFER", "HOST", "GPUS", "STATE", "REASON", "CONTRACT", "PROVIDER SAYS")
    rows = [
        (
            str(one.attempt),
            one.offer_id,
            one.host_id,
            str(one.num_gpus),
            one.state,
            one.reason,
            one.instance_id,
            one.status_message,
        )
        for one in outcomes
    ]
    return tables.table(headers, rows)


def seconds(span: float) -> Duration:
    """The seconds as a protobuf Duration."""
    duration = Duration()
    duration.FromTimedelta(timedelta(seconds=span))
    return duration


RENTED = pb.ListGPUInstancesRequest(state="rented", verified_only=False)


def _not_a_reservation(connection: Connection, name: str, refused: ServerRefused) -> ServerRefused:
    machine = find_machine(connection, name)
    if machine is None:
        lists = "To list the reservations: gpuproxy reservations. To list the machines: gpuproxy ps"
        if refused.error.code != "NOT_FOUND" or ids.hint(name):
            return refused.with_hint(lists)
        return refused.with_message(f"There is no machine and no reservation {name}.\n{lists}")
    alone = "" if machine.status in GONE else f" To destroy only this machine: gpuproxy destroy {name}"
    return refused.with_hint(f"{name} is a machine. Its reservation is {machine.reservation_id}.{alone}")


def _not_a_machine(connection: Connection, name: str) -> str:
    try:
        reservation = find_reservation(connection, name)
    except ServerRefused:
        return "To list your machines: gpuproxy ps"
    ids = ", ".join(one.contract_id for one in reservation.instances)
    return f"{name} is a reservation. " + (f"Its machines: {ids}" if ids else "It has no machine now.")


def _is(machine: pb.GPUInstance, name: str) -> bool:
    return name in (machine.contract_id, machine.lease_id)


def is_volume(one: pb.GPUInstance) -> bool:
    """True for a volume of a warm pool, which is listed and billed like a machine."""
    return one.metadata.get("kind") == "volume"


def counted(count: int) -> str:
    """`1 machine`, `2 machines`."""
    return "1 machine" if count == 1 else f"{count} machines"


def totals(machines: Sequence[pb.GPUInstance]) -> str:
    """The number of machines and GPUs, and what they cost together."""
    unknown = sum(one.status == "unknown" for one in machines)
    gpus = sum(one.num_gpus for one in machines)
    volumes = sum(is_volume(one) for one in machines)
    text = f"{counted(len(machines) - volumes)}, {gpus} GPU{'' if gpus == 1 else 's'}"
    text += f", {volumes} volume{'' if volumes == 1 else 's'} · " if volumes else " · "
    text += tables.costs(sum(hourly(one) for one in machines))
    text += f" · {tables.price(sum(one.cost_so_far for one in machines))} so far"
    return text + (
        f" · {unknown} with an unknown outcome; the server looks for {'it' if unknown == 1 else 'them'}"
        if unknown
        else ""
    )


def hourly(one: pb.GPUInstance) -> float:
    """USD per hour: what is billed now for a stopped or dead machine, otherwise the full price."""
    if (one.status == "stopped" or "not_running_since" in one.metadata) and "billed_per_hour" in one.metadata:
        return float(one.metadata["billed_per_hour"])
    return one.price_per_hour


def _price(one: pb.GPUInstance) -> str:
    if one.status in ("released", "lost"):
        return f"{tables.price(one.cost_so_far)} in total"
    return f"{tables.costs(hourly(one))}, {tables.price(one.cost_so_far)} so far{_to_end(one)}"


def _to_end(one: pb.GPUInstance | pb.Reservation) -> str:
    """What it will still cost at the present price; "" without an end."""
    return f", {tables.price(one.cost_to_end)} more until its end" if one.HasField("cost_to_end") else ""


def _machine(one: pb.GPUInstance) -> str:
    where = ", ".join(
        part for part in (one.location, one.host_id, f"account {one.account}" if one.account else "") if part
    )
    ports = ", ".join(f"{p.container_port} at {p.host}:{p.public_port}" for p in one.port_mappings)
    over = one.status in ("released", "lost")
    facts = {
        "gpus": "" if is_volume(one) else f"{one.num_gpus} x {one.gpu_model}, {one.vram_gb} GB",
        "volume": f"{one.metadata['size_gb']} GB" if is_volume(one) else "",
        "where": where,
        "price": _price(one),
        "running": f"{tables.hourly(one.price_per_hour)} after a start" if one.status == "stopped" else "",
        "created": tables.moment(one.created_at),
        "ready": _ready(one),
        "boot script": readiness.boot(one),
        "ends": "" if over else tables.moment(one.expires_at) or "no end",
        "ends itself": "" if over else one.self_ending,
        "gpu use": "" if over else _use(one),
        "idle since": "" if over else _idle(one),
        "booked": "" if over else _booked(one),
        "paid": _paid(one),
        "contract": "" if over else _contract_end(one),
        "ssh": "" if over else one.ssh.command,
        "ports": "" if over else ports,
        "provider": one.status_message,
        "sandbox": SANDBOX if is_simulated(one) else "",
        "reservation": one.reservation_id,
        "lease": one.lease_id,
    }
    head = f"{one.contract_id or one.lease_id} {one.status} on {one.provider}"
    lines = [head, *(f"{name:<11} {text}" for name, text in facts.items() if text)]
    return "\n".join([*lines, *(f"{'warning':<11} {text}" for text in one.warnings)])


def _ready(one: pb.GPUInstance) -> str:
    moment = tables.moment(one.ready_at)
    return f"{moment}{readiness.evidence(one)}" if moment else one.ready_evidence


def _ends_itself(one: pb.GPUInstance) -> str:
    return "no" if one.self_ending.startswith("unsupported") else one.self_ending


def _use(one: pb.GPUInstance) -> str:
    return f"{one.gpu_util:.0f} %" if one.HasField("gpu_util") else ""


def _idle(one: pb.GPUInstance) -> str:
    released = f"; it is released at {tables.moment(one.idle_release_at)}" if one.HasField("idle_release_at") else ""
    return f"{tables.moment(one.idle_since)}{released}" if one.HasField("idle_since") else ""


def _paid(one: pb.GPUInstance) -> str:
    return tables.price(one.paid) if one.HasField("paid") else ""


def _booked(one: pb.GPUInstance) -> str:
    """Until when a prepaid machine is booked, and what a destroy gives back."""
    if not one.HasField("paid"):
        return ""
    until = tables.moment(one.booked_until)
    return f"until {until}. {one.refund_rule}" if until else one.refund_rule


def _contract_end(one: pb.GPUInstance) -> str:
    moment = tables.moment(one.contract_ends_at)
    return f"ends at {moment} at the marketplace; the machine stops then" if moment else ""
