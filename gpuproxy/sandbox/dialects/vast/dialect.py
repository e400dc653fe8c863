"""vast.ai's API: from a request to a response on the market.

`recognise` identifies the call of a request, `respond` answers it. Paths are accepted with and without a final slash.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from email.utils import formatdate
from functools import partial

from gpuproxy.ports import HttpResponse
from gpuproxy.sandbox.dialects.vast import (
    errors,
    instances,
    logs,
    malformed_lists,
    volumes,
)
from gpuproxy.sandbox.dialects.vast.charges import charges
from gpuproxy.sandbox.dialects.vast.create import Creates
from gpuproxy.sandbox.dialects.vast.faults import CATALOGUE
from gpuproxy.sandbox.dialects.vast.gone import gone
from gpuproxy.sandbox.dialects.vast.offers import Offers
from gpuproxy.sandbox.dialects.vast.rate_limits import RateLimits
from gpuproxy.sandbox.market.addresses import is_public_key
from gpuproxy.sandbox.market.exchange import SimulatedMarket
from gpuproxy.sandbox.market.instances import Instance
from gpuproxy.sandbox.options import GoneForm
from gpuproxy.sandbox.protocol.faults import Fault
from gpuproxy.sandbox.protocol.query import BadQuery
from gpuproxy.sandbox.protocol.wire import BadBody, Call, Incoming, answer, json_object, raw_answer

PROVIDER = "vast.ai"
_PUBLIC = frozenset({"search", "gpu_names", "log_file"})
_OF_CONTAINERS = frozenset({"get", "stop", "destroy"})
_QUEUED_FOR = 600.0
_KEY_EXISTS = "SSH key is already associated with this instance."
_MIN_BID, _MAX_BID = 0.001, 32
Respond = Callable[[Call, Fault | None], HttpResponse]


class Vast:
    """vast.ai's API for one market."""

    provider = PROVIDER
    catalogue = CATALOGUE
    kind = "on_demand"

    def __init__(
        self,
        market: SimulatedMarket,
        limits: RateLimits,
        *,
        search_page: int = 0,
        list_lag: float = 0.0,
        sharing: bool = True,
        gone_as: GoneForm = "null",
    ) -> None:
        """`search_page` limits the offers of a search (0: no limit). `list_lag` is how long lists miss a new instance.

        With `sharing`, several instances may mount the same volume. `gone_as` is the form of "no such instance".
        """
        self._market = market
        self._limits = limits
        self._list_lag = list_lag
        self._gone_as = gone_as
        self._offers = Offers(market, page=search_page)
        creates = Creates(market, self._offers, sharing=sharing)
        self._handlers: dict[str, Respond] = {
            "search": self._search,
            "gpu_names": lambda _call, _fault: answer({"gpu_names": self._offers.gpu_names()}),
            "user": self._user,
            "create": creates.one,
            "create_many": creates.many,
            "launch": creates.launch,
            "list": self._list,
            "filters": lambda call, _: answer(instances.filters(self._market, self._mine(call))),
            "old_list": lambda _call, _fault: errors.deprecated_list(),
            "get": self._get,
            "destroy": self._destroy,
            "start": self._start,
            "stop": self._stop,
            "label": self._label,
            "ssh_key": self._ssh_key,
            "ssh_keys": lambda _call, _fault: answer([]),
            "reboot": self._restart,
            "recycle": self._restart,
            "price": self._bid,
            "logs": self._logs,
            "log_file": self._log_file,
            "charges": partial(charges, market),
            "volume_search": partial(volumes.search, market),
            "volume_create": partial(volumes.create, market),
            "volume_clone": partial(volumes.clone, market),
            "volume_list": partial(volumes.listed, market),
            "volume_delete": partial(volumes.delete, market),
        }

    def recognise(self, request: Incoming) -> Call | None:
        """The call of a request; None if the path isn't vast.ai's."""
        if not request.path.startswith(("/api/", "/instance_logs/")):
            return None
        request = replace(request, key=_key(request))
        for method, pattern, name in _ROUTES:
            found = pattern.fullmatch(request.path)
            if found and method == request.method:
                return Call(
                    provider=PROVIDER, name=_managed(request) if name == "manage" else name, request=request,
                    arguments=found.groupdict(),
                )  # fmt: skip
        return Call(provider=PROVIDER, name="other", request=request)

    def respond(self, call: Call, fault: Fault | None = None, *, limited: bool = True) -> HttpResponse:
        """The answer to a call, with a Date by the market's clock. `fault` is one that this dialect implements."""
        response = self._answer(call, fault, limited=limited)
        return replace(response, headers={**response.headers, "Date": formatdate(self._market.now, usegmt=True)})

    def _answer(self, call: Call, fault: Fault | None, *, limited: bool) -> HttpResponse:
        if fault is not None and (refusal := self._refusal_by(call, fault)):
            return refusal
        identity = call.request.key or ""
        call, refusal = self._admitted(call)
        if refusal is not None:
            return refusal
        if limited and (early := self._limits.refusal(identity, call.name, self._market.now)):
            return early
        handler = self._handlers.get(call.name)
        if handler is None:
            return errors.not_found(call.request.path)
        try:
            return handler(call, fault)
        except BadBody:
            return errors.bad_json()
        except BadQuery as error:
            return errors.bad_request(str(error))

    def _admitted(self, call: Call) -> tuple[Call, HttpResponse | None]:
        """The call, and a refusal of its key. A container's key may read, stop and destroy its own instance.

        Such a call goes on with the key of the instance's account.
        """
        key = call.request.key
        if key is None:
            return call, None if call.name in _PUBLIC else errors.no_key()
        if key in self._market.accounts:
            return call, None
        owner = next((each for each in self._market.instances.values() if each.api_key == key), None)
        if owner is None:
            return call, errors.unknown_key()
        if call.name not in _OF_CONTAINERS or call.arguments.get("id") != str(owner.id):
            return call, errors.not_permitted()
        return replace(call, request=replace(call.request, key=owner.account)), None

    def names_nothing(self, call: Call) -> bool:
        """True for a read or destroy of an instance that the account doesn't have."""
        of_one = call.name in ("get", "destroy") and "id" in call.arguments
        return of_one and call.request.key in self._market.accounts and self._named(call) is None

    def failure(self, status: int, fault: Fault) -> HttpResponse:
        """An error of the service itself, with the words of a fault."""
        return errors.refused(status, str(fault.args.get("error", "internal_error")), str(fault.args["msg"]))

    def _refusal_by(self, call: Call, fault: Fault) -> HttpResponse | None:
        match fault.name:
            case "rate_limited":
                return errors.limited_by(fault, self._market.now)
            case "refused_200":
                return errors.refused_with_200(call.name)
            case "auth_error":
                return errors.unknown_key()
            case "session_expired":
                return errors.session_expired()
            case "insufficient_credit":
                return errors.insufficient_credit()
        return None

    # -- offers

    def _search(self, call: Call, _: Fault | None) -> HttpResponse:
        if call.request.method == "GET":
            return raw_answer(self._offers.search(json_object(call.request.query.get("q", ""))))
        body = call.request.json()
        if call.request.method == "POST":
            return raw_answer(self._offers.search(body))
        query = body.get("q") or {}
        columns = body.get("select_cols") or ["*"]
        if "*" in columns:
            return raw_answer(self._offers.search(query))
        return answer({"offers": [{name: row.get(name) for name in columns} for row in self._offers.rows(query)]})

    # -- instances

    def _list(self, call: Call, fault: Fault | None) -> HttpResponse:
        query = call.request.query
        listed = [one for one in self._mine(call) if self._market.now - one.created_at >= self._list_lag]
        try:
            if fault is not None and fault.name == "endless_list":
                return malformed_lists.endless(self._market, query)
            return malformed_lists.listed(self._market, instances.page(self._market, listed, query), query, fault)
        except instances.BadToken:
            return errors.refused(400, "invalid_token", "Invalid after_token")

    def _get(self, call: Call, fault: Fault | None) -> HttpResponse:
        found = self._named(call)
        if found is None:
            return gone(int(call.arguments["id"]), self._gone_as, fault, reads=True)
        return malformed_lists.shown(instances.row(self._market, found, with_volumes=False), fault)

    def _destroy(self, call: Call, fault: Fault | None) -> HttpResponse:
        if "id" not in call.arguments:
            named = {str(one) for one in call.request.json().get("instance_ids") or []}
            found = [one for one in self._mine(call) if str(one.id) in named]
        else:
            found = [one for one in [self._named(call)] if one is not None]
            if not found:
                return gone(int(call.arguments["id"]), self._gone_as, fault, reads=False)
        if fault is None or fault.name != "destroy_ignored":
            for instance in found:
                self._market.destroy(instance)
        return answer({"success": True, "msg": "Instance destroyed."})

    def _start(self, call: Call, fault: Fault | None) -> HttpResponse:
        refuse_for = fault.number("seconds", _QUEUED_FOR) if fault and fault.name == "start_refused" else 0.0
        return self._changed(call, lambda one: self._market.start(one, refuse_for=refuse_for))

    def _stop(self, call: Call, fault: Fault | None) -> HttpResponse:
        def stop(instance: Instance) -> bool:
            if fault is not None and fault.name == "stop_lies":
                silent = fault.args.get("silent") is not False
                self._market.troubles.pretend_stop(instance, seconds=fault.number("seconds", 0.0), silent=silent)
            elif fault is None or fault.name != "stop_ignored":
                self._market.stop(instance)
            return True

        return self._changed(call, stop)

    def _label(self, call: Call, _: Fault | None) -> HttpResponse:
        label = call.request.json().get("label")
        if label is not None and len(str(label)) > 1024:
            return errors.refused(400, "label_too_long", "Label is longer than 1024 characters.")

        def change(instance: Instance) -> bool:
            self._market.label(instance, None if label is None else str(label))
            return True

        return self._changed(call, change)

    def _ssh_key(self, call: Call, fault: Fault | None) -> HttpResponse:
        found, key = self._named(call), str(call.request.json().get("ssh_key") or "")
        if found is None:
            return errors.no_such_instance(int(call.arguments["id"]))
        if fault is not None and fault.name == "key_refused":
            return errors.no_key_added(str(fault.args.get("msg", _KEY_EXISTS)))
        if not is_public_key(key):
            return errors.no_key_added("Invalid SSH key.")
        self._market.add_key(found, key)
        return answer({"success": True})

    def _restart(self, call: Call, _: Fault | None) -> HttpResponse:
        found = self._named(call)
        word, error = ("rebooting", "invalid_args") if call.name == "reboot" else ("recycling", "invalid_id")
        if found is None or not self._market.restart(found, word):
            return errors.no_restart(int(call.arguments["id"]), error)
        return answer({"success": True})

    def _bid(self, call: Call, _: Fault | None) -> HttpResponse:
        found, price = self._named(call), call.request.json().get("price")
        if found is None:
            return errors.no_such_instance(int(call.arguments["id"]))
        if found.launch.bid is None:
            return errors.no_bid("the instance is not interruptible")
        if price is not None and not (type(price) in (int, float) and _MIN_BID <= price <= _MAX_BID):
            return errors.no_bid(f"price must be a number from {_MIN_BID} to {_MAX_BID}")
        self._market.bid(found, None if price is None else round(price * 1_000_000))
        return answer({"success": True})

    def _logs(self, call: Call, _: Fault | None) -> HttpResponse:
        found = self._named(call)
        if found is None:
            return errors.no_such_instance(int(call.arguments["id"]))
        return logs.requested(self._market, found, call.request)

    def _log_file(self, call: Call, _: Fault | None) -> HttpResponse:
        return logs.text(self._market, int(call.arguments["id"]), call.arguments["secret"], call.request)

    def _changed(self, call: Call, change: Callable[[Instance], bool]) -> HttpResponse:
        if "id" in call.arguments:
            found = self._named(call)
            if found is None:
                return errors.no_such_instance(int(call.arguments["id"]))
            return answer({"success": True}) if change(found) else errors.resources_unavailable()
        named = {str(one) for one in call.request.json().get("ids") or []}
        done = [change(one) for one in self._mine(call) if str(one.id) in named]
        return answer({"success": True}) if all(done) else errors.resources_unavailable()

    # -- the account

    def _user(self, call: Call, _: Fault | None) -> HttpResponse:
        key = call.request.key or ""
        number = 100_000 + self._market.accounts.index(key)
        return answer(
            {
                "id": number,
                "email": f"user{number}@sandbox.invalid",
                "username": f"user{number}",
                "credit": self._market.credit(key) / 1e6,
                "balance": 0,
                "ssh_key": "",
                "balance_threshold": 0,
                "can_pay": True,
                "host_agreement_accepted": False,
                "api_key": key,
            }
        )

    def _mine(self, call: Call) -> list[Instance]:
        return self._market.of(call.request.key or "")

    def _named(self, call: Call) -> Instance | None:
        found = self._market.instances.get(int(call.arguments["id"]))
        return found if found is not None and found.account == call.request.key else None


_ROUTES = tuple(
    (method, re.compile(pattern), name)
    for method, pattern, name in (
        ("POST", "/api/v0/bundles", "search"),
        ("GET", "/api/v0/bundles", "search"),
        ("PUT", "/api/v0/search/asks", "search"),
        ("GET", "/api/v0/gpu_names/unique", "gpu_names"),
        ("PUT", r"/api/v0/asks/(?P<id>\d+)", "create"),
        ("POST", "/api/v0/asks/bulk", "create_many"),
        ("PUT", "/api/v0/launch_instance", "launch"),
        ("GET", "/api/v1/instances", "list"),
        ("GET", "/api/v0/instances", "old_list"),
        ("GET", "/api/v0/instances/filters", "filters"),
        ("GET", r"/api/v0/instances/(?P<id>\d+)", "get"),
        ("DELETE", r"/api/v0/instances/(?P<id>\d+)", "destroy"),
        ("DELETE", "/api/v0/instances", "destroy"),
        ("PUT", r"/api/v0/instances/(?P<id>\d+)", "manage"),
        ("PUT", "/api/v0/instances", "manage"),
        ("POST", r"/api/v0/instances/(?P<id>\d+)/ssh", "ssh_key"),
        ("GET", "/api/v0/ssh", "ssh_keys"),
        ("PUT", r"/api/v0/instances/reboot/(?P<id>\d+)", "reboot"),
        ("PUT", r"/api/v0/instances/recycle/(?P<id>\d+)", "recycle"),
        ("PUT", r"/api/v0/instances/bid_price/(?P<id>\d+)", "price"),
        ("PUT", r"/api/v0/instances/request_logs/(?P<id>\d+)", "logs"),
        ("GET", r"/instance_logs/(?P<id>\d+)-(?P<secret>\w+)\.log", "log_file"),
        ("GET", "/api/v0/users/current", "user"),
        ("GET", "/api/v0/charges", "charges"),
        ("POST", "/api/v0/volumes/search", "volume_search"),
        ("PUT", "/api/v0/volumes", "volume_create"),
        ("POST", "/api/v0/volumes/copy", "volume_clone"),
        ("GET", "/api/v0/volumes", "volume_list"),
        ("DELETE", "/api/v0/volumes", "volume_delete"),
    )
)


def _key(request: Incoming) -> str | None:
    """The bearer token, or the old query parameter `api_key`."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else request.query.get("api_key")


def _managed(request: Incoming) -> str:
    try:
        body = request.json()
    except BadBody:
        return "other"
    if "state" in body:
        return {"running": "start", "stopped": "stop"}.get(str(body["state"]), "other")
    return "label" if "label" in body else "other"
