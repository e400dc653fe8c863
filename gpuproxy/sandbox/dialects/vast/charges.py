"""vast.ai's charges: a row for each instance and volume with the costs of its parts, exact to the micro-dollar.

A row covers the whole life of a contract. The days of a query select rows by their end; they don't split rows.
"""

import json
from collections.abc import Iterator
from typing import Any

from gpuproxy.ports import HttpResponse
from gpuproxy.sandbox.dialects.vast import errors
from gpuproxy.sandbox.market.exchange import SimulatedMarket
from gpuproxy.sandbox.market.instances import HOUR_US, Ended, Instance
from gpuproxy.sandbox.market.volumes import Volume
from gpuproxy.sandbox.protocol.faults import Fault
from gpuproxy.sandbox.protocol.query import BadQuery
from gpuproxy.sandbox.protocol.wire import Call, answer

_DAY = 86400
_LIMIT, _MAX_LIMIT = 100, 500
_KINDS = {"i": "instance", "v": "volume", "s": "serverless"}
Row = dict[str, Any]


def charges(market: SimulatedMarket, call: Call, _: Fault | None) -> HttpResponse:
    """`GET /api/v0/charges/`. Raises BadQuery."""
    query = call.request.query
    filters = _object(query.get("select_filters", ""))
    if "day" not in filters:
        return errors.bad_request("Error in query parameters: day is required")
    rows = [row for row in _rows(market, call.request.key or "") if _chosen(row, filters)]
    rows.sort(key=_number, reverse=query.get("latest_first") in ("true", "True", "1"))
    start = _after(rows, query.get("after_token"))
    shown = rows[start : start + _limit(query.get("limit"))]
    more = start + len(shown) < len(rows)
    token = str(_number(shown[-1])) if more else None
    body = {"success": True, "count": len(shown), "total": len(rows), "next_token": token, "results": shown}
    return answer(body)


def _rows(market: SimulatedMarket, account: str) -> Iterator[Row]:
    for gone in market.ended:
        if gone.account == account:
            yield _instance(gone, gone.destroyed_at, gone.billed, gone.gpu_times)
    for one in market.of(account):
        online = market.online(one)
        yield _instance(one, market.now, market.billed(one), one.gpu_times(market.now, online=online))
    for volume in market.volumes.of(account):
        yield _volume(market, volume)


def _instance(one: Instance | Ended, end: float, billed: int, gpu_times: Any) -> Row:
    gpu_parts = [(price, gpu_us, price * gpu_us // HOUR_US) for price, gpu_us in gpu_times]
    items = [
        _item(one.created_at, end, "gpu", f"{gpu_us / HOUR_US:.3f} hours at ${price / 1e6:.6f}/hour", amount)
        for price, gpu_us, amount in gpu_parts
        if gpu_us
    ]
    disk = billed - sum(amount for *_, amount in gpu_parts)
    items.append(_item(one.created_at, end, "disk", "storage", disk))
    row = _item(one.created_at, end, "instance", one.gpu_model, billed)
    return row | {"source": f"instance-{one.id}", "metadata": {"label": one.label}, "items": items}


def _volume(market: SimulatedMarket, volume: Volume) -> Row:
    end = market.now if volume.deleted_at is None else volume.deleted_at
    billed = market.volumes.billed(volume)
    text = f"{market.volumes.hours(volume):.3f} hours of {volume.size_gb} GB at ${volume.storage / 1e6:.6f}/GB/month"
    row = _item(volume.created_at, end, "volume", f"V.{volume.id}", billed)
    items = [_item(volume.created_at, end, "disk", text, billed)]
    return row | {"source": f"volume-{volume.id}", "metadata": {"label": volume.name}, "items": items}


def _item(start: float, end: float, kind: str, description: str, amount: int) -> Row:
    return {
        "start": start,
        "end": end,
        "type": kind,
        "source": None,
        "description": description,
        "amount": float(f"{amount / 1e6:.6f}"),
        "metadata": {},
        "items": [],
    }


def _chosen(row: Row, filters: dict[str, Any]) -> bool:
    """True for a row of the wanted kind that doesn't end before the first day.

    The last day isn't checked, so that a client whose clock is behind the market's sees all rows.
    """
    days = filters["day"] if isinstance(filters["day"], dict) else {"gte": filters["day"]}
    if row["end"] < _seconds(days.get("gte", 0)) // _DAY * _DAY:
        return False
    kinds = filters.get("type")
    wanted = kinds.get("in", [kinds.get("eq")]) if isinstance(kinds, dict) else [row["type"]]
    return any(_KINDS.get(str(kind), kind) == row["type"] for kind in wanted)


def _seconds(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise BadQuery("Error in query parameters: day needs numbers") from None


def _number(row: Row) -> int:
    return int(str(row["source"]).rpartition("-")[2])


def _after(rows: list[Row], token: str | None) -> int:
    """The index after the row that a token names."""
    if not token:
        return 0
    places = [place for place, row in enumerate(rows) if str(_number(row)) == token]
    if not places:
        raise BadQuery("Error in query parameters: invalid after_token")
    return places[0] + 1


def _limit(text: str | None) -> int:
    try:
        return min(max(1, int(text or _LIMIT)), _MAX_LIMIT)
    except ValueError:
        raise BadQuery("Error in query parameters: limit is not a number") from None


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        raise BadQuery("Error in query parameters: select_filters is not valid JSON") from None
    return value if isinstance(value, dict) else {}
