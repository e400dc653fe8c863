"""The control calls of the prepaid market: its deployments, hosts and prices."""

from typing import Any

from gpuproxy.sandbox.control.bodies import WrongCall, number_in
from gpuproxy.sandbox.market.instances import FOREVER
from gpuproxy.sandbox.market.prepaid.bookings import ENDED, Booking, Stage
from gpuproxy.sandbox.market.prepaid.exchange import WAYS_TO_BREAK, PrepaidMarket
from gpuproxy.sandbox.market.prepaid.hardware import Host
from gpuproxy.sandbox.protocol.wire import Incoming


class PrepaidControl:
    """The control calls of one prepaid market, whose marketplace has the name `provider`."""

    def __init__(self, market: PrepaidMarket, provider: str) -> None:
        self._market = market
        self._provider = provider

    def instances(self) -> list[dict[str, Any]]:
        """The rows of all deployments, oldest first, also of ended ones."""
        return [{"provider": self._provider, **self._row(booking)} for booking in self._market.bookings.values()]

    def broken(self) -> dict[str, str]:
        """How the broken hosts fail, by id."""
        return {host.id: host.broken for host in self._market.hosts.values() if host.broken}

    def done(self, what: str, named: str, request: Incoming) -> dict[str, Any]:
        """Do one call about a deployment, a host or a price.

        Raises WrongCall, BadBody, or KeyError for something that doesn't exist.
        """
        market, body = self._market, request.json()
        match what.split():
            case ["POST", "instances", act]:
                return self._done_to_booking(act, market.bookings[named], body)
            case ["POST", "machines", act]:
                return self._done_to_host(act, market.hosts[named], body)
            case ["POST", "offers"]:
                market.reprice(named, number_in(body, "price_per_hour"))
                return {"id": named, "price_per_hour": body["price_per_hour"]}
        raise WrongCall(f"there is no call {request.method} {request.path}; see docs/sandbox.md")

    def _done_to_booking(self, act: str, booking: Booking, body: dict[str, Any]) -> dict[str, Any]:
        market = self._market
        if booking.stage in ENDED:
            raise WrongCall(f"{booking.id} has ended")
        match act:
            case "kill":
                self._kill(booking, body)
                return {"id": booking.id, "status": self._status(booking)}
            case "mute":
                seconds = number_in(body, "seconds")
                market.mute(booking, market.now + seconds if seconds > 0 else FOREVER)
                return {"id": booking.id, "muted": True}
            case "unmute":
                market.mute(booking, 0.0)
                return {"id": booking.id, "muted": False}
            case "contract" if booking.stage is Stage.RUNNING:
                market.move_end(booking, number_in(body, "ends_in_seconds"))
                return {"id": booking.id, "ends_at": booking.ends_at}
        raise WrongCall(f"there is no call {act} of this instance now; see docs/sandbox.md")

    def _done_to_host(self, act: str, host: Host, body: dict[str, Any]) -> dict[str, Any]:
        match act:
            case "occupy":
                return {"gpus": self._market.occupy(host, int(number_in(body, "gpus")))}
            case "vacate":
                self._market.vacate(host)
                return {"gpus": host.rented}
            case "reconnect":
                self._market.change_host(host, online=True)
                return {}
            case "break":
                how = body.get("how")
                if how not in ("", *WAYS_TO_BREAK):
                    words = ", ".join(WAYS_TO_BREAK)
                    raise WrongCall(f"how must be {words}, or empty for a repair, not {how!r}")
                self._market.change_host(host, broken=how)
                return {"id": host.id, "how": how}
            case "repair":
                self._market.change_host(host, broken="", dead=False)
                return {"id": host.id, "how": ""}
        raise WrongCall(f"there is no call {act} of this machine; see docs/sandbox.md")

    def _kill(self, booking: Booking, body: dict[str, Any]) -> None:
        market = self._market
        hosts = [market.hosts[host] for host in dict.fromkeys(booking.hosts)]
        match body.get("how", "container"):
            case "container":
                market.crash(booking)
            case "gpu":
                for host in hosts:
                    market.change_host(host, dead=True)
            case "host":
                for host in hosts:
                    market.change_host(host, online=False)
            case how:
                raise WrongCall(f"how must be container, gpu or host, not {how!r}")

    def _status(self, booking: Booking) -> str:
        online = all(self._market.hosts[host].online for host in booking.hosts)
        return booking.stage.value if online or booking.stage in ENDED else "offline"

    def _row(self, booking: Booking) -> dict[str, Any]:
        order = booking.order
        running = booking.stage is Stage.RUNNING
        return {
            "account": booking.account,
            "id": booking.id,
            "label": order.name,
            "status": self._status(booking),
            "writer": False,
            "workload": running and order.product == "container",
            "lock": "",
            "gpu_model": booking.model,
            "num_gpus": booking.gpus,
            "machine_id": booking.hosts[0],
            "price_per_hour": booking.price,
            "volume_ids": [],
            "created_at": booking.requested_at,
            "destroyed_at": booking.ended_at,
            "billed_micro_usd": booking.billed,
            "fault": booking.flaws.kind,
            "ssh_addresses": [f"127.0.0.1:{port}" for port in self._market.ssh_addresses(booking)],
            "authorized_keys": list(order.ssh_keys.values()),
            "product": order.product,
            "paid_micro_usd": booking.paid,
            "refunded_micro_usd": booking.refunded,
            "booked_hours": booking.hours,
            "ends_at": booking.ends_at,
        }
