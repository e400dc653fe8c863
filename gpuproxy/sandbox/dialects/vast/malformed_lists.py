"""Faulty lists: rows of unknown instances, rows that can't be read, and lists without an end.

The rows of unknown instances ("strangers") are invented here. These instances don't exist in the market, and nobody is
billed for them.
"""

import math
from collections.abc import Mapping
from typing import Any

from gpuproxy.ports import HttpResponse
from gpuproxy.sandbox.dialects.vast import instances
from gpuproxy.sandbox.market.contracts import contract
from gpuproxy.sandbox.market.exchange import FIRST_CONTRACT_ID, SimulatedMarket
from gpuproxy.sandbox.market.instances import InstanceDefects, Launch, Phase
from gpuproxy.sandbox.protocol.faults import Fault
from gpuproxy.sandbox.protocol.malformed import encoded, malformed

_FIRST_STRANGER = 26_000_000
_STRANGER = _FIRST_STRANGER - 1
_AGE = 3600.0
_NUMBERS = {"dph_total": math.nan, "gpu_totalram": math.nan, "duration": math.inf}
_TEXT = "status_msg"
Row = dict[str, Any]


def listed(market: SimulatedMarket, page: Row, query: Mapping[str, str], fault: Fault | None) -> HttpResponse:
    """A page of the list, with a malformed row for the fault odd_row."""
    if fault is None or fault.name != "odd_row":
        return encoded(page)
    rows = page["instances"]
    if fault.args.get("whose") == "mine":
        place = _place_of_mine(rows, fault)
        page["instances"] = [
            malformed(row, fault, numbers=_NUMBERS, text=_TEXT) if number == place else row
            for number, row in enumerate(rows)
        ]
        return encoded(page)
    page["total_instances"] += 1
    if fault.times is not None or not query.get(
        "after_token"
    ):  # a lasting fault adds one row to the list, not one to each page
        stranger = _stranger(market, _STRANGER)
        page["label_counts"] = {**page["label_counts"], stranger["label"]: 1}
        page["instances_found"] += 1
        page["instances"] = [*rows, malformed(instances.selected(stranger, query), fault, numbers=_NUMBERS, text=_TEXT)]
    return encoded(page)


def shown(row: Row, fault: Fault | None) -> HttpResponse:
    """The answer to a read of one instance; the fault odd_row makes its row malformed."""
    if fault is None or fault.name != "odd_row":
        return encoded({"instances": row})
    spoilt = malformed(row, fault, numbers=_NUMBERS, text=_TEXT)
    return encoded({"instances": [None] if spoilt is None else spoilt})


def endless(market: SimulatedMarket, query: Mapping[str, str]) -> HttpResponse:
    """A full page of new invented rows, always followed by another page. Raises BadQuery or BadToken."""
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
    return encoded(body)


def _place_of_mine(rows: list[Row], fault: Fault) -> int | None:
    """The index of the row to malform: the first, or the one with args.id; None if it isn't on this page."""
    if "id" not in fault.args:
        return 0
    wanted = str(fault.args["id"])
    return next((place for place, row in enumerate(rows) if str(row.get("id")) == wanted), None)


def _stranger(market: SimulatedMarket, number: int) -> Row:
    """The row of an invented instance that somebody else has rented with the same key."""
    machines = list(market.machines.values())
    launch = Launch(image="stranger/image:latest", label=f"stranger-{number}", runtype="ssh_direc ssh_proxy")
    made = contract(
        number,
        "",
        machines[number % len(machines)].chunks[-1],
        launch,
        InstanceDefects(),
        api_key=f"{number:064x}",
        now=market.now - _AGE,
    )
    made.ssh_port = 20_000 + number % 20_000
    made.ports = {"22/tcp": 1 + made.ssh_port}
    made.phase, made.boot_at = Phase.RUNNING, made.created_at
    made.status_msg = f"success, running {launch.image}/ssh"
    return instances.row(market, made)
