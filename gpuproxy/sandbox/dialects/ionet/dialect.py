"""io.net's API: from a request to a response on the prepaid market.

`recognise` identifies the call of a request, `respond` answers it. VMaaS and CaaS have the same names of calls.
"""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from gpuproxy.ports import HttpResponse
from gpuproxy.sandbox.dialects.ionet import deploy, errors, logs, offers, rows
from gpuproxy.sandbox.dialects.ionet.faults import CATALOGUE
from gpuproxy.sandbox.dialects.ionet.rate_limit import RateLimit
from gpuproxy.sandbox.dialects.ionet.validation import Invalid, query_of
from gpuproxy.sandbox.market.prepaid.bookings import ENDED, Booking, Product
from gpuproxy.sandbox.market.prepaid.exchange import NameTaken, NoCapacity, NoSuchHardware, Over, PrepaidMarket
from gpuproxy.sandbox.market.refusals import NoCredit
from gpuproxy.sandbox.options import DeployBody
from gpuproxy.sandbox.protocol.faults import Fault
from gpuproxy.sandbox.protocol.malformed import encoded, malformed
from gpuproxy.sandbox.protocol.wire import Call, Incoming, answer, raw_answer

PROVIDER = "io.net"
_OPEN = frozenset({"search", "price"})
_LIST_PAGE, _WORKER_PAGE, _MOST_PAGE = 10, 20, 100
_NUMBERS = {"compute_minutes_remaining": math.nan, "completed_percent": math.inf}
_STRANGER = "5%07x-0000-4000-8000-000000000000"
Respond = Callable[[Call, Fault | None], HttpResponse]


class IoNet:
    """io.net's API for one market."""

    provider = PROVIDER
    catalogue = CATALOGUE
    kind = "prepaid"

    def __init__(
        self, market: PrepaidMarket, limit: RateLimit, *, deploy_body: DeployBody = "empty", lag: float = 0.0
    ) -> None:
        """`deploy_body`: the answer to a deploy of a virtual machine; `lag`: how long new deployments are unknown."""
        self._market = market
        self._limit = limit
        self._deploy_body = deploy_body
        self._lag = lag
        self._handlers: dict[str, Respond] = {
            "vm hardware": partial(offers.vm_hardware, market),
            "container hardware": partial(offers.container_hardware, market),
            "most gpus": partial(offers.most_gpus, market),
            "available": partial(offers.available, market),
            "price": partial(offers.price, market),
            "deploy": self._deploy,
            "list": self._list,
            "detail": self._detail,
            "workers": self._workers,
            "history": self._history,
            "log": self._log,
            "extend": self._extend,
            "destroy": self._destroy,
            "update": self._update,
            "pools": lambda _call, _fault: answer({"data": []}),
            "name": self._name_is_free,
        }

    def recognise(self, request: Incoming) -> Call | None:
        """The call of a request; None if the path isn't io.net's."""
        if not request.path.startswith(("/enterprise/v1/io-cloud/", "/v1/io-cloud/")):
            return None
        request = replace(request, key=request.headers.get("x-api-key"))
        for method, pattern, name, handler in _ROUTES:
            found = pattern.fullmatch(request.path)
            if found and method == request.method:
                values = {**found.groupdict(), "handler": handler}
                return Call(provider=PROVIDER, name=name, request=request, arguments=values)
        return Call(provider=PROVIDER, name="other", request=request)

    def respond(self, call: Call, fault: Fault | None = None, *, limited: bool = True) -> HttpResponse:
        """The answer to a call. `fault` is one that this dialect implements."""
        if fault is not None and (refusal := self._refusal_by(call, fault)):
            return refusal
        key = call.request.key
        if key not in self._market.accounts and (key is not None or call.name not in _OPEN):
            return errors.unauthorized()
        if limited and key is not None and (early := self._limit.refusal(key, self._market.now)):
            return early
        handler = self._handlers.get(call.arguments.get("handler", ""))
        if handler is None:
            return errors.no_such_call()
        try:
            return handler(call, fault)
        except Invalid as error:
            return error.response()

    def names_nothing(self, call: Call) -> bool:
        """True for a read or destroy of a deployment that the account doesn't have, or that has ended."""
        if call.name not in ("get", "destroy") or call.request.key not in self._market.accounts:
            return False
        found = self._named(call)
        return found is None or (call.name == "destroy" and found.stage in ENDED)

    def failure(self, status: int, fault: Fault) -> HttpResponse:
        """A business failure with the words of a fault."""
        return errors.failed(status, str(fault.args["msg"]))

    def _refusal_by(self, call: Call, fault: Fault) -> HttpResponse | None:
        match fault.name:
            case "rate_limited":
                return errors.limited_by(fault, self._market.now)
            case "refused_200":
                return errors.failed_with_200(call.name)
            case "auth_error" | "session_expired":
                return errors.unauthorized()
            case "insufficient_credit":
                return errors.no_credit()
            case "no_capacity":
                return errors.no_capacity(int(fault.number("status", 400)))
            case "offer_gone":
                return errors.no_such_hardware(int(fault.number("status", 409)))
            case "name_taken":
                return errors.failed(int(fault.number("status", 409)), "A deployment with this name already exists")
        return None

    def _deploy(self, call: Call, fault: Fault | None) -> HttpResponse:
        vm = _product(call) == "vm"
        order = deploy.vm_order(call.request) if vm else deploy.container_order(call.request)
        if not vm and all(
            row.cards != order.cards for row in offers.largest(self._market) if row.kind.id == order.kind
        ):
            problem = {"type": "value_error", "loc": ["body", "gpus_per_container"], "msg": "Value is not allowed"}
            raise Invalid([problem])
        try:
            made = self._market.book(call.request.key or "", order, deploy.flaws_of(fault))
        except NoSuchHardware:
            return errors.no_such_hardware()
        except NoCapacity:
            return errors.no_capacity()
        except NoCredit:
            return errors.no_credit()
        except NameTaken:
            return errors.failed(409, "This resource id is in use")
        named = answer({"status": "success", "deployment_id": made.id})
        return self._deployed(made, fault) if vm else named

    def _deployed(self, made: Booking, fault: Fault | None) -> HttpResponse:
        """The answer to a deploy of a virtual machine, in one of the forms that have been reported."""
        form = "empty" if self._deploy_body == "empty" else "deployment_id"
        if fault is not None and fault.name == "deploy_body":
            form = str(fault.args.get("form", "deployment_id"))
        match form:
            case "empty":
                return raw_answer(b"")
            case "data":
                return answer({"data": {"deployment_id": made.id}})
        return answer({"status": "success", form: made.id})

    def _list(self, call: Call, fault: Fault | None) -> HttpResponse:
        fields = query_of(call.request)
        page = fields.whole("page", least=1, default=1)
        size = fields.whole("page_size", least=1, most=_MOST_PAGE, default=_LIST_PAGE)
        wanted = fields.word("status", rows.STATUSES, "")
        fields.finish(strict=False)
        now, name = self._market.now, fault.name if fault is not None else ""
        if name == "endless_list":
            return self._endless(page, size)
        mine = [one for one in self._market.of(call.request.key or "") if self._is_known(one)]
        mine = [one for one in mine if one.order.product == _product(call)]
        mine = [one for one in mine if wanted in ("", rows.status(one, now))]
        mine = rows.shuffled(mine, f"page {page}" if name == "unstable_pages" else "")
        shown: list[Any] = [rows.listed(one, now, fault) for one in mine[(page - 1) * size : page * size]]
        if fault is not None and name == "odd_row" and shown:
            shown[0] = malformed(shown[0], fault, numbers=_NUMBERS, text="name")
        return encoded({"data": {"deployments": shown, "total": len(mine), "statuses": list(rows.STATUSES)}})

    def _endless(self, page: int, size: int) -> HttpResponse:
        shown = [
            {"id": _STRANGER % number, "status": "running", "name": f"stranger-{number}", "hardware_quantity": 1}
            for number in range((page - 1) * size, page * size)
        ]
        return answer({"data": {"deployments": shown, "total": (page + 1) * size, "statuses": list(rows.STATUSES)}})

    def _detail(self, call: Call, fault: Fault | None) -> HttpResponse:
        found = self._named(call)
        if found is None:
            return errors.gone(fault)
        row: Any = rows.detail(found, self._market.now, fault)
        if fault is not None and fault.name == "odd_row":
            row = malformed(row, fault, numbers=_NUMBERS, text="hardware_name")
        return encoded({"data": row})

    def _workers(self, call: Call, _: Fault | None) -> HttpResponse:
        fields = query_of(call.request)
        page = fields.whole("page", least=1, default=1)
        size = fields.whole("page_size", least=1, most=_MOST_PAGE, default=_WORKER_PAGE)
        fields.finish(strict=False)
        found = self._named(call)
        if found is None:
            return errors.no_such_deployment()
        workers = self._rows_of_workers(found)
        return answer({"data": {"total": len(workers), "workers": workers[(page - 1) * size : page * size]}})

    def _history(self, call: Call, _: Fault | None) -> HttpResponse:
        found = self._named(call)
        if found is None:
            return errors.no_such_deployment()
        workers = self._rows_of_workers(found)
        name = "vm_id" if found.order.product == "vm" else "container_id"
        jobs = [worker for worker in workers if worker[name] == call.arguments["worker"]]
        return answer({"data": {"total": len(jobs), "workers": jobs}})

    def _log(self, call: Call, fault: Fault | None) -> HttpResponse:
        fields = query_of(call.request)
        source = fields.word("stream", ("stdout", "stderr"), "stdout")
        fields.finish(strict=False)
        found, name = self._named(call), call.arguments["worker"]
        if found is None or name not in [rows.worker_id(found, number) for number in range(found.order.workers)]:
            return errors.no_such_deployment()
        return logs.stream(found, name, source, fault)

    def _extend(self, call: Call, _: Fault | None) -> HttpResponse:
        hours = deploy.hours_of(call.request)
        found = self._named(call)
        if found is None:
            return errors.no_such_deployment()
        try:
            self._market.extend(found, hours)
        except Over:
            return errors.failed(400, "Only an active deployment can be extended")
        except NoCredit:
            return errors.no_credit()
        return answer({"data": rows.detail(found, self._market.now)})

    def _destroy(self, call: Call, fault: Fault | None) -> HttpResponse:
        found = self._named(call)
        if found is None or found.stage in ENDED:
            return errors.gone(fault)
        if fault is None or fault.name != "destroy_ignored":
            self._market.terminate(found)
        return answer({"status": "success", "deployment_id": found.id})

    def _update(self, call: Call, _: Fault | None) -> HttpResponse:
        found = self._named(call)
        if found is None or found.order.container is None:
            return errors.no_such_deployment()
        container = deploy.changed_container(call.request, found.order.container)
        try:
            self._market.redeploy(found, container)
        except Over:
            return errors.failed(400, "Only an active deployment can be updated")
        return answer({"status": "success", "deployment_id": found.id})

    def _name_is_free(self, call: Call, _: Fault | None) -> HttpResponse:
        name = call.request.query.get("cluster_name", "")
        return answer(all(one.order.name != name for one in self._market.of(call.request.key or "")))

    def _rows_of_workers(self, booking: Booking) -> list[dict[str, Any]]:
        row = rows.vm if booking.order.product == "vm" else rows.container
        return [row(self._market, booking, number) for number in range(booking.order.workers)]

    def _named(self, call: Call) -> Booking | None:
        """The deployment of a path, if it is the account's, of this product, and known already."""
        found = self._market.bookings.get(call.arguments["id"])
        if found is None or found.account != call.request.key or found.order.product != _product(call):
            return None
        return found if self._is_known(found) else None

    def _is_known(self, booking: Booking) -> bool:
        return self._market.now - booking.requested_at >= self._lag


def _product(call: Call) -> Product:
    return "vm" if "/vmaas/" in call.request.path else "container"


_VM, _CAAS, _BOTH = (f"/enterprise/v1/io-cloud/{name}" for name in ("vmaas", "caas", "(?:vmaas|caas)"))
_ROUTES = tuple(
    (method, re.compile(pattern), name, handler)
    for method, pattern, name, handler in (
        ("GET", "(?:/enterprise)?/v1/io-cloud/vmaas/hardware", "search", "vm hardware"),
        ("GET", "(?:/enterprise)?/v1/io-cloud/caas/hardware", "search", "container hardware"),
        ("GET", f"{_CAAS}/hardware/max-gpus-per-container", "search", "most gpus"),
        ("GET", f"{_VM}/available-vms", "search", "available"),
        ("GET", f"{_CAAS}/available-replicas", "search", "available"),
        ("GET", f"{_BOTH}/price", "price", "price"),
        ("POST", f"{_BOTH}/deploy", "create", "deploy"),
        ("GET", f"{_BOTH}/deployments", "list", "list"),
        ("GET", rf"{_BOTH}/deployment/(?P<id>[\w-]+)", "get", "detail"),
        ("DELETE", rf"{_BOTH}/deployment/(?P<id>[\w-]+)", "destroy", "destroy"),
        ("PATCH", rf"{_CAAS}/deployment/(?P<id>[\w-]+)", "update", "update"),
        ("POST", rf"{_BOTH}/deployment/(?P<id>[\w-]+)/extend", "extend", "extend"),
        ("GET", rf"{_VM}/deployment/(?P<id>[\w-]+)/vms", "vms", "workers"),
        ("GET", rf"{_CAAS}/deployment/(?P<id>[\w-]+)/containers", "containers", "workers"),
        ("GET", rf"{_VM}/deployment/(?P<id>[\w-]+)/vms-jobs/(?P<worker>[\w-]+)", "vms", "history"),
        ("GET", rf"{_CAAS}/deployment/(?P<id>[\w-]+)/containers-jobs/(?P<worker>[\w-]+)", "containers", "history"),
        ("GET", rf"{_CAAS}/deployment/(?P<id>[\w-]+)/log/(?P<worker>[\w-]+)", "logs", "log"),
        ("GET", f"{_BOTH}/node-pools", "pools", "pools"),
        ("GET", f"{_CAAS}/clusters/check_cluster_name_availability", "name", "name"),
    )
)
