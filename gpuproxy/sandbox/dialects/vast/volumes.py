"""vast.ai's volumes: search volume offers, create, clone, list and delete volumes."""

from collections.abc import Mapping
from typing import Any

from gpuproxy.ports import HttpResponse
from gpuproxy.sandbox.dialects.vast import errors
from gpuproxy.sandbox.dialects.vast.launch import is_valid_volume_name
from gpuproxy.sandbox.dialects.vast.query import country, orders, quantity, translated
from gpuproxy.sandbox.market.exchange import SimulatedMarket
from gpuproxy.sandbox.market.machines import Column, Machine
from gpuproxy.sandbox.market.refusals import NoCredit, NoSuchAsk, NoSuchVolume, NotRentable, VolumeInUse
from gpuproxy.sandbox.market.volumes import Volume, free_gb
from gpuproxy.sandbox.protocol.faults import Fault
from gpuproxy.sandbox.protocol.query import BadQuery, Getter, compiled, sort_key
from gpuproxy.sandbox.protocol.wire import Call, answer

DEFAULT_SIZE_GB = 15
_LIMIT = 64
_STORAGE_GB = 1.0
_MONTH_HOURS = 720
_CONTROLS = frozenset({"order", "type", "limit", "allocated_storage", "disable_bundling", "rented"})
_OF_MACHINE = (
    "machine_id host_id disk_bw disk_name storage_cost inet_up inet_down inet_up_cost inet_down_cost cpu_name "
    "cpu_ghz cpu_arch cuda_max_good driver_version driver_vers reliability reliability2 reliability_mult "
    "verification vericode geolocation geolocode hosting_type static_ip public_ipaddr os_version pci_gen external "
    "cluster_id end_date start_date nw_disk_avg_bw nw_disk_max_bw nw_disk_min_bw"
)
_COLUMNS = tuple(_OF_MACHINE.split())


def search(market: SimulatedMarket, call: Call, _: Fault | None) -> HttpResponse:
    """`POST /api/v0/volumes/search/`. Raises BadBody, BadQuery."""
    query = call.request.json()
    storage = quantity(query, "allocated_storage", _STORAGE_GB)
    wanted: dict[str, Any] = {"verified": {"eq": True}}
    wanted |= dict(translated(column, value) for column, value in query.items() if column not in _CONTROLS)
    tests = compiled(wanted, _stored)
    rows = [_offer(market, one, storage) for one in market.machines.values() if one.online and free_gb(one) >= 1]
    found = [row for row in rows if all(test(row) for test in tests)]
    for column, descending in reversed(orders(query)):
        get = _stored(column)
        found.sort(key=lambda row, get=get: sort_key(get(row)), reverse=descending)  # type: ignore[misc]
    limit = int(quantity(query, "limit", _LIMIT))
    return answer({"offers": [_shown(row) for row in found[: limit if limit > 0 else _LIMIT]]})


def create(market: SimulatedMarket, call: Call, fault: Fault | None) -> HttpResponse:
    """`PUT /api/v0/volumes/`. Raises BadBody."""
    body = call.request.json()
    ask_id, size = _whole(body.get("id")), _whole(body.get("size", DEFAULT_SIZE_GB))
    if fault is not None and fault.name == "offer_gone":
        return errors.no_such_volume_ask(ask_id or 0)
    if ask_id is None or size is None or size < 1:
        return errors.bad_args("id and size must be whole numbers, size at least 1")
    if not is_valid_volume_name(body.get("name")):
        return errors.bad_volume_name()
    return _made(market, call, ask_id, size, body.get("name"))


def clone(market: SimulatedMarket, call: Call, _: Fault | None) -> HttpResponse:
    """`POST /api/v0/volumes/copy/`: a new volume with the data of an old one. Raises BadBody."""
    body = call.request.json()
    source_id, ask_id = _whole(body.get("src_id")), _whole(body.get("dst_id"))
    if source_id is None or ask_id is None:
        return errors.bad_args("src_id and dst_id must be whole numbers")
    try:
        source = market.volumes.named(call.request.key or "", source_id)
    except NoSuchVolume:
        return errors.no_such_volume()
    size = _whole(body.get("size", source.size_gb))
    if size is None or size < source.size_gb:
        return errors.bad_args("size must be a whole number of at least the source's")
    return _made(market, call, ask_id, size, source.name, source=source)


def listed(market: SimulatedMarket, call: Call, _: Fault | None) -> HttpResponse:
    """`GET /api/v0/volumes`. The market has no network volumes."""
    kind = call.request.query.get("type", "all_volume")
    mine = [] if kind == "network_volume" else market.volumes.of(call.request.key or "")
    return answer({"volumes": [_row(market, one) for one in mine if one.deleted_at is None]})


def delete(market: SimulatedMarket, call: Call, fault: Fault | None) -> HttpResponse:
    """`DELETE /api/v0/volumes/`, the id in the query or in the body. Raises BadBody."""
    number = _whole(call.request.query.get("id") or call.request.json().get("id"))
    if number is None:
        return errors.bad_args("id must be a whole number")
    try:
        volume = market.volumes.named(call.request.key or "", number)
        if fault is None or fault.name != "destroy_ignored":
            market.volumes.delete(volume)
    except NoSuchVolume:
        return errors.no_such_volume()
    except VolumeInUse:
        return errors.volume_in_use(number)
    return answer({"success": True})


def _made(
    market: SimulatedMarket, call: Call, ask_id: int, size: int, name: str | None, *, source: Volume | None = None
) -> HttpResponse:
    try:
        made = market.volumes.create(call.request.key or "", ask_id, size, name)
    except NoSuchAsk:
        return errors.no_such_volume_ask(ask_id)
    except NotRentable:
        return errors.bad_args(f"volume offer {ask_id} has no {size} GB")
    except NoCredit:
        return errors.insufficient_credit()
    if source is not None:
        made.nonce, made.has_data = source.nonce, source.has_data
    return answer({"success": True, "volume_name": f"V.{made.id}"})


def _offer(market: SimulatedMarket, machine: Machine, storage_gb: float) -> dict[str, Column]:
    columns = {name: machine.columns.get(name) for name in _COLUMNS}
    price, trust = machine.storage / 1e6, float(str(machine.columns["reliability_mult"]))
    return {
        **columns,
        "id": machine.columns["avail_vol_ask_id"],
        "ask_contract_id": machine.columns["avail_vol_ask_id"],
        "disk_space": free_gb(machine),
        "storage_total_cost": price * storage_gb / _MONTH_HOURS,
        "score": trust / price if price > 0 else 0.0,
        "duration": float(str(machine.columns["end_date"])) - market.now,
        "rentable": True,
        "verified": machine.columns["vericode"] == 1,
    }


def _shown(row: Mapping[str, Column]) -> dict[str, Column]:
    return {name: value for name, value in row.items() if name != "verified"}


def _stored(column: str) -> "Getter[Mapping[str, Column]]":
    if column == "external":
        return lambda _row: False
    if column == "geolocation":
        return lambda row: country(row["geolocation"])

    def value(row: Mapping[str, Column]) -> Column:
        if column not in row:
            raise BadQuery(f"{column} is not a valid search key")
        return row[column]

    return value


def _row(market: SimulatedMarket, volume: Volume) -> dict[str, Any]:
    machine = market.machines[volume.machine_id]
    users = market.volumes.users(volume.id)
    in_use = bool(users) or market.now < volume.busy_until
    return {
        **{name: machine.columns.get(name) for name in _COLUMNS},
        "id": volume.id,
        "label": volume.name,
        "disk_space": float(volume.size_gb),
        "status": "in-use" if in_use else "created",
        "instances": users,
        "type": "machine",
        "start_date": volume.created_at,
        "end_date": volume.end_date,
        "storage_cost": volume.storage / 1e6,
        "storage_total_cost": volume.storage / 1e6 * volume.size_gb / _MONTH_HOURS,
    }


def _whole(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return None
