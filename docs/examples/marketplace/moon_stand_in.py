"""A stand-in of moon.example, in memory: what the conformance suite and the tests run the adapter against."""

import json
from collections.abc import Mapping
from itertools import count
from urllib.parse import parse_qs, urlsplit

from moon_marketplace import DESCRIPTOR

from gpuproxy.conformance import KnownRefusal, QuickClock, Subject
from gpuproxy.model.errors import AuthFailed, InsufficientFunds, OfferGone, RateLimited
from gpuproxy.model.leases import InstanceId
from gpuproxy.ports import HttpRequest, HttpResponse

KEY = "key-on-the-moon"
_PAGE = 3
_NO_SUCH_MACHINE = {"error": "no_such_machine"}


class StandIn:
    """Eight machines with two GPUs each, the first the cheapest; the Http port over them."""

    def __init__(self) -> None:
        chunk = {"gpu": "RTX 4090", "gpus": 2, "vram_gb": 24}
        self.offers = [{**chunk, "id": f"o{n}", "machine": f"m{n}", "usd_per_hour": 0.5 + n / 100} for n in range(8)]
        self.rented: dict[str, dict[str, object]] = {}
        """By machine id."""
        self._ids = count(10_000)
        self.spoil_next_listing = False

    async def send(self, request: HttpRequest) -> HttpResponse:
        """Any status is a response."""
        status, body = self.answer(request.method, request.url, request.headers, request.body)
        return HttpResponse(status=status, headers={"content-type": "application/json"}, body=json.dumps(body).encode())

    def answer(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> tuple[int, Mapping[str, object]]:
        """The status and the JSON of an answer."""
        parts = urlsplit(url)
        after = parse_qs(parts.query).get("after", [""])[0]
        _, what, *rest = parts.path.split("/")
        if headers.get("Authorization") != f"Bearer {KEY}":
            return 401, {"error": "bad_key"}
        if what == "account":
            return 200, {"credit_usd": 1000}
        if what == "offers":
            held = [each["machine"] for each in self.rented.values()]
            free = [offer for offer in self.offers if offer["machine"] not in held]
            return 200, _page(free, "id", "offers", after)
        if method == "POST":
            return self._create(json.loads(body or b"{}"))
        if not rest:
            return 200, self._spoilt(_page(list(self.rented.values()), "machine_id", "machines", after))
        if method == "DELETE":
            return (200, {"destroyed": True}) if self.rented.pop(rest[0], None) else (404, _NO_SUCH_MACHINE)
        found = self.rented.get(rest[0])
        return (200, {"machine": found}) if found else (404, _NO_SUCH_MACHINE)

    def _create(self, asked: Mapping[str, object]) -> tuple[int, Mapping[str, object]]:
        offer = next((each for each in self.offers if each["id"] == asked["offer"]), None)
        if offer is None or any(each["machine"] == offer["machine"] for each in self.rented.values()):
            return 409, {"error": "taken"}
        machine_id = str(next(self._ids))
        self.rented[machine_id] = {**offer, "machine_id": machine_id, "label": asked["label"], "status": "running"}
        return 201, {"machine_id": machine_id}

    def _spoilt(self, page: Mapping[str, object]) -> Mapping[str, object]:
        if not self.spoil_next_listing:
            return page
        self.spoil_next_listing = False
        return {**page, "machines": [*page["machines"][:-1], {"label": "no id"}]}  # type: ignore[index]


def subject() -> Subject:
    """The adapter on a fresh stand-in, for the conformance suite."""
    stand_in = StandIn()

    def spoil_row() -> None:
        stand_in.spoil_next_listing = True

    return Subject(
        descriptor=DESCRIPTOR,
        key=KEY,
        http=stand_in,
        clock=QuickClock(),
        is_create=lambda request: request.method == "POST",
        machines=lambda: {InstanceId(name): str(each["label"]) for name, each in stand_in.rented.items()},
        machines_for_pages=_PAGE + 1,
        refusals=(
            KnownRefusal(answer=_says(409, "taken"), error=OfferGone),
            KnownRefusal(answer=_says(402, "no_funds"), error=InsufficientFunds),
            KnownRefusal(answer=_says(401, "bad_key"), error=AuthFailed),
            KnownRefusal(answer=_says(429, "slow_down"), error=RateLimited),
        ),
        error_with_id=lambda instance_id: _says(500, "no_network", machine_id=instance_id),
        spoil_row=spoil_row,
    )


def _page(rows: list[dict[str, object]], key: str, what: str, after: str) -> Mapping[str, object]:
    left = [row for row in rows if str(row[key]) > after]
    following = str(left[_PAGE - 1][key]) if len(left) > _PAGE else ""
    return {what: left[:_PAGE], "next": following}


def _says(status: int, error: str, **more: object) -> HttpResponse:
    return HttpResponse(status=status, headers={}, body=json.dumps({"error": error, **more}).encode())
