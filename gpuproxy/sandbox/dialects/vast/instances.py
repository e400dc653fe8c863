"""vast.ai's instance rows and paged list (v1). Only this module knows how an instance appears to clients."""

import base64
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from gpuproxy.sandbox.dialects.vast import misreport
from gpuproxy.sandbox.dialects.vast.offers import price_block
from gpuproxy.sandbox.market.exchange import SimulatedMarket
from gpuproxy.sandbox.market.instances import HOLDS_GPU, Failure, Instance, Phase
from gpuproxy.sandbox.protocol.query import BadQuery, Getter, compiled, sort_key

_MAX_PAGE = 25
_HOST = "127.0.0.1"
_STORED: dict[str, "Getter[tuple[SimulatedMarket, Instance]]"] = {
    "id": lambda at: at[1].id,
    "label": lambda at: at[1].label,
    "actual_status": lambda at: actual_status(*at),
    "gpu_name": lambda at: misreport.name(at[1], at[0].now),
    "machine_id": lambda at: at[1].machine_id,
    "image_uuid": lambda at: at[1].launch.image,
    "start_date": lambda at: at[1].created_at,
    "verification": lambda at: at[0].machines[at[1].machine_id].columns["verification"],
    "geolocation": lambda at: at[0].machines[at[1].machine_id].columns["geolocation"],
}
"""The columns for filters and order. Computed columns are refused, as by the real service."""


class BadToken(Exception):
    """The after_token is invalid."""


def page(market: SimulatedMarket, mine: Sequence[Instance], query: Mapping[str, str]) -> dict[str, Any]:
    """The body of `GET /api/v1/instances/`. Raises BadQuery, BadToken."""
    filters = _parsed(query, "select_filters", {})
    tests = compiled(filters, _stored)
    found = [one for one in mine if all(test((market, one)) for test in tests)]
    column, descending = _order(_parsed(query, "order_by", []))
    get = _stored(column)

    def place(instance: Instance) -> tuple[Any, int]:
        return sort_key(get((market, instance))), instance.id

    found.sort(key=place, reverse=descending)
    rest = found
    if token := query.get("after_token"):
        after = _from_token(token)
        rest = [one for one in found if (place(one) < after if descending else place(one) > after)]
    limit = page_limit(query)
    shown, more = rest[:limit], len(rest) > limit
    labels = Counter(one.label or "" for one in found)
    return {
        "success": True,
        "instances_found": len(shown),
        "total_instances": len(found),
        "label_counts": dict(labels),
        "next_token": _to_token(place(shown[-1])) if more else None,
        "instances": [selected(row(market, one), query) for one in shown],
    }


def filters(market: SimulatedMarket, mine: Sequence[Instance]) -> dict[str, Any]:
    """The body of `GET /api/v0/instances/filters/`."""
    names = ("actual_status", "verification", "gpu_name")
    return {"success": True, "filters": [{name: _STORED[name]((market, one)) for name in names} for one in mine]}


def actual_status(market: SimulatedMarket, instance: Instance) -> str | None:
    """The container's status as the host reports it."""
    if not market.online(instance):
        return "offline"
    if instance.pretends:
        return "exited"
    if hidden := _hidden(market, instance):
        return None if hidden == "null" else hidden
    if failed := _failed(market, instance):
        return failed.status
    if instance.phase is Phase.LOADING:
        if instance.transient and market.now < instance.loading_at:
            return instance.transient
        if market.now >= instance.loading_at:
            return "loading"
        return None if instance.restarts == 1 else "exited"
    return "running" if instance.phase is Phase.RUNNING else "exited"


def _holds_gpu(instance: Instance) -> bool:
    """True if the row shows that the instance has its GPUs."""
    return instance.phase in HOLDS_GPU and not instance.pretends


def row(market: SimulatedMarket, instance: Instance, *, with_volumes: bool = True) -> dict[str, Any]:
    """All columns of an instance."""
    machine = market.machines[instance.machine_id]
    shown: dict[str, Any] = {**machine.columns, **market.chunk_of(instance).columns}
    del shown["gpu_ids"], shown["gpu_total_ram"]
    running = instance.phase is Phase.RUNNING and _holds_gpu(instance) and not _hidden(market, instance)
    shown |= _identity(instance, misreport.name(instance, market.now))
    shown |= _states(market, instance)
    shown |= _prices(instance)
    shown |= _access(instance, running=running)
    shown |= _usage(market, instance, running=running)
    shown["country_code"] = str(machine.columns["geolocation"] or "")[-2:]
    shown["end_date"] = instance.end_date
    shown["duration"] = instance.end_date - market.now
    if with_volumes:
        shown["volume_info"] = [_mounted(market, number) for number in instance.launch.volumes]
    misreport.was_read(instance)
    return shown


def _mounted(market: SimulatedMarket, number: int) -> dict[str, Any]:
    volume = market.volumes.all[number]
    return {
        "id": volume.id,
        "label": volume.name,
        "created_from": None,
        "avail_space": float(volume.size_gb),
        "total_space": float(volume.size_gb),
        "type": "machine",
    }


def _identity(instance: Instance, gpu_name: str) -> dict[str, Any]:
    launch = instance.launch
    return {
        "id": instance.id,
        "label": instance.label,
        "gpu_name": gpu_name,
        "gpu_ram": instance.gpu_ram,
        "gpu_totalram": instance.gpu_ram * instance.gpus,
        "image_uuid": launch.image,
        "image_args": [],
        "image_runtype": launch.runtype,
        "extra_env": [[key, value] for key, value in launch.env.items()],
        "onstart": launch.onstart,
        "jupyter_token": instance.api_key,
        "template_id": None,
        "template_hash_id": None,
        "template_name": None,
        "disk_space": launch.disk_gb,
        "start_date": instance.created_at,
        "is_bid": launch.bid is not None,
    }


def _states(market: SimulatedMarket, instance: Instance) -> dict[str, Any]:
    hidden = _hidden(market, instance)
    held = _holds_gpu(instance) and hidden in ("", "null")
    failed = _failed(market, instance)
    queued = instance.phase is Phase.QUEUED
    return {
        "actual_status": actual_status(market, instance),
        "intended_status": "running" if held or queued else "stopped",
        "cur_state": "running" if held else "stopped",
        "next_state": "running" if held or queued else "stopped",
        "status_msg": None if hidden else instance.status_msg or (failed.message if failed else "") or None,
        "rentable": held,
    }


def _hidden(market: SimulatedMarket, instance: Instance) -> str:
    """The wrong status that a row shows; "" for the true status, also while the host is offline."""
    return misreport.hidden(instance, market.now) if market.online(instance) else ""


def _failed(market: SimulatedMarket, instance: Instance) -> Failure | None:
    """The instance's failure if its row shows it: the image can't be loaded, or the instance was stopped at once."""
    failure = instance.failure
    if failure is None:
        return None
    loads = instance.phase is Phase.LOADING and market.now >= instance.loading_at
    stopped_at_birth = instance.phase is Phase.STOPPED and failure.stopped and not instance.restarts
    return failure if loads or stopped_at_birth else None


def _prices(instance: Instance) -> dict[str, Any]:
    gpu, disk = instance.gpu_price / 1e6, instance.disk_rate / 1e6 / 720
    return {
        "dph_base": gpu,
        "dph_total": gpu + disk,
        "min_bid": gpu * 5 / 6,
        "storage_cost": instance.storage / 1e6,
        "storage_total_cost": disk,
        "search": price_block(gpu, disk),
        "instance": price_block(gpu if _holds_gpu(instance) else 0, disk),
        "credit_balance": None,
        "credit_discount": None,
    }


def _access(instance: Instance, *, running: bool) -> dict[str, Any]:
    access: dict[str, Any] = {
        "ssh_host": _HOST,
        "ssh_idx": "1",
        "ssh_port": instance.ssh_port,
        "machine_dir_ssh_port": instance.ports.get("22/tcp", instance.ssh_port),
        "public_ipaddr": _HOST + "\n",
        "local_ipaddrs": "10.0.0.5 172.17.0.1 \n",
        "direct_port_start": -1,
        "direct_port_end": -1,
    }
    if running and instance.ports:
        access["ports"] = {
            name: [{"HostIp": "0.0.0.0", "HostPort": str(number)}]  # noqa: S104 - what the real service shows
            for name, number in instance.ports.items()
        }
    return access


def _usage(market: SimulatedMarket, instance: Instance, *, running: bool) -> dict[str, Any]:
    up = market.now - (instance.boot_at or market.now) if running else 0.0
    return {
        "uptime_mins": round(up / 60, 1) if running else None,
        "gpu_util": instance.gpu_util if running else None,
        "gpu_temp": 38.9 if running else None,
        "cpu_util": 0.01 if running else 0.0,
        "mem_limit": 58.9 if running else None,
        "mem_usage": 0.4 if running else None,
        "disk_usage": 1.5 if running else -1,
        "disk_util": 0.04 if running else -1,
        "client_run_time": 1.1,
        "host_run_time": 2_592_000.0,
    }


def _stored(column: str) -> "Getter[tuple[SimulatedMarket, Instance]]":
    if column not in _STORED:
        raise BadQuery(f"Error in query parameters: {column} is not a valid search key")
    return _STORED[column]


def _parsed(query: Mapping[str, str], name: str, otherwise: Any) -> Any:
    text = query.get(name)
    if not text:
        return otherwise
    try:
        value = json.loads(text)
    except ValueError:
        raise BadQuery(f"Error in query parameters: {name} is not valid JSON") from None
    if type(value) is not type(otherwise):
        raise BadQuery(f"Error in query parameters: {name} has the wrong type")
    return value


def _order(orders: list[Any]) -> tuple[str, bool]:
    if not orders:
        return "id", False
    first = orders[0]
    if not isinstance(first, dict):
        raise BadQuery("Error in query parameters: order_by")
    return str(first.get("col", "id")), first.get("dir") == "desc"


def page_limit(query: Mapping[str, str]) -> int:
    """The maximum number of rows of a page. Raises BadQuery."""
    try:
        wanted = int(query.get("limit") or _MAX_PAGE)
    except ValueError:
        raise BadQuery("Error in query parameters: limit is not a number") from None
    return min(wanted, _MAX_PAGE) if wanted > 0 else 5


def selected(shown: dict[str, Any], query: Mapping[str, str]) -> dict[str, Any]:
    """The requested columns of a row. Raises BadQuery."""
    columns: list[Any] = _parsed(query, "select_cols", ["*"])
    return shown if "*" in columns else {str(column): shown.get(str(column)) for column in columns}


def token_behind(number: int) -> str:
    """The token of the page after this id, in a list ordered by id."""
    return _to_token((sort_key(number), number))


def number_before(token: str | None) -> int:
    """The id before a token's page; 0 for the first page. Raises BadToken."""
    return _from_token(token)[1] if token else 0


def _to_token(place: tuple[Any, int]) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode()


def _from_token(token: str) -> tuple[Any, int]:
    try:
        (rank, number, text), last = json.loads(base64.urlsafe_b64decode(token))
        return (int(rank), float(number), str(text)), int(last)
    except (ValueError, TypeError) as error:
        raise BadToken from error
