"""Listings that no well-behaved service would send: rows of strangers, rows that can't be read, pages without end.

Strangers' rows are invented here: the market knows nothing of such instances, and nobody is billed for them.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

from gpuproxy.ports import HttpResponse
from gpuproxy.sandbox.dialects.vast import instances
from gpuproxy.sandbox.market.contracts import contract
from gpuproxy.sandbox.market.exchange import FIRST_CONTRACT_ID, Market
from gpuproxy.sandbox.market.instances import Launch, Phase, Twist
from gpuproxy.sandbox.protocol.faults import Fault
from gpuproxy.sandbox.protocol.wire import raw_answer

_FIRST_STRANGER = 26_000_000
_STRANGER = _FIRST_STRANGER - 1
_AGE = 3600.0
_UNDECODABLE = "undecodable-bytes"
_BYTES = b"caf\xe9 \xff\xfe"
Row = dict[str, Any]


def listed(market: Market, page: Row, query: Mapping[str, str], fault: Fault | None) -> HttpResponse:
    """A page of the list, with the odd row of the fault odd_row."""
    if fault is None or fault.name != "odd_row":
        return _encoded(page)
    rows = page["instances"]
    if fault.args.get("whose") == "mine":
        place = _place_of_mine(rows, fault)
        page["instances"] = [odd(row, fault) if number == place else row for number, row in enumerate(rows)]
        return _encoded(page)
    page["total_instances"] += 1
    if fault.times is not None or not query.get("after_token"):  # a fault that lasts adds one row, not one a page
        stranger = _stranger(market, _STRANGER)
        page["label_counts"] = {**page["label_counts"], stranger["label"]: 1}
        page["instances_found"] += 1
        page["instances"] = [*rows, odd(instances.selected(stranger, query), fault)]
    return _encoded(page)


def shown(row: Row, fault: Fault | None) -> HttpResponse:
    """The answer to the read of one instance; the fault odd_row spoils it."""
    if fault is None or fault.name != "odd_row":
        return _encoded({"instances": row})
    spoilt = odd(row, fault)
    return _encoded({"instances": [None] if spoilt is None else spoilt})


def endless(market: Market, query: Mapping[str, str]) -> HttpResponse:
    """A page that is full of strangers' rows, never the same, and is followed by another. Raises BadQuery, BadToken."""
    after = instances.number_before(query.get("after_token"))
    first = after + 1 if _FIRST_STRANGER <= after < FIRST_CONTRACT_ID else _FIRST_STRANGER
    limit = instances.page_limit(query)
    rows = [_stranger(market, number) for number in range(first, first + limit)]
    body = {
        "success": True,
        "instances_found": limit,
        "total_instances": first - _FIRST_STRANGER + 2 * limit,
        "label_counts": {row["label"]: 1 for row in rows},
        "next_token": instances.token_behind(first + limit - 1),
        "instances": [instances.selected(row, query) for row in rows],
    }
    return _encoded(body)


def odd(row: Row, fault: Fault) -> Row | None:
    """The row as `args.kind` says."""
    match fault.args.get("kind", "undecodable"):
        case "null_row":
            return None
        case "no_id":
            return {name: value for name, value in row.items() if name != "id"}
        case "wrong_types":
            return {name: _other_type(value) for name, value in row.items()}
        case "null_fields":
            return {name: value if name == "id" else None for name, value in row.items()}
        case "nan":
            return {**row, "dph_total": math.nan, "gpu_totalram": math.nan, "duration": math.inf}
        case "surrogate":
            return {**row, "status_msg": "broken \ud800 text"}
    return {**row, "status_msg": _UNDECODABLE}


def _place_of_mine(rows: list[Row], fault: Fault) -> int | None:
    """Which of the account's rows is the odd one: the first, or the one of args.id; None: it is not on this page."""
    if "id" not in fault.args:
        return 0
    wanted = str(fault.args["id"])
    return next((place for place, row in enumerate(rows) if str(row.get("id")) == wanted), None)


def _other_type(value: Any) -> Any:
    match value:
        case bool() | int() | float():
            return str(value)
        case str():
            return len(value)
        case dict():
            return list(value.values())
        case list():
            return {str(place): one for place, one in enumerate(value)}
    return value


def _encoded(body: Row) -> HttpResponse:
    text = json.dumps(body, separators=(",", ":")).encode()
    return raw_answer(text.replace(_UNDECODABLE.encode(), _BYTES))


def _stranger(market: Market, number: int) -> Row:
    """The row of an instance that somebody else rented with the same key."""
    machines = list(market.machines.values())
    launch = Launch(image="stranger/image:latest", label=f"stranger-{number}")
    made = contract(
        number,
        "",
        machines[number % len(machines)].chunks[-1],
        launch,
        Twist(),
        api_key=f"{number:064x}",
        ports={"22/tcp": 20_000 + number % 20_000},
        now=market.now - _AGE,
    )
    made.phase, made.boot_at = Phase.RUNNING, made.created_at
    made.status_msg = f"success, running {launch.image}/ssh"
    return instances.row(market, made)
