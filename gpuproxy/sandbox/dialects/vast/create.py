"""vast.ai's three create calls: one instance, several instances, and search and create in one call."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gpuproxy.ports import HttpResponse
from gpuproxy.sandbox.dialects.vast import errors
from gpuproxy.sandbox.dialects.vast.launch import Mounts, create_error, defects_of, launch_of, mounts_of
from gpuproxy.sandbox.dialects.vast.offers import Offers
from gpuproxy.sandbox.market.exchange import SimulatedMarket
from gpuproxy.sandbox.market.machines import Chunk
from gpuproxy.sandbox.market.refusals import (
    ElsewhereVolume,
    NoCredit,
    NoSuchAsk,
    NoSuchVolume,
    NotRentable,
    VolumeInUse,
)
from gpuproxy.sandbox.protocol.faults import Fault
from gpuproxy.sandbox.protocol.wire import Call, answer

_STRANGER_STAYS = 3600.0
_MAX_AT_ONCE = 64


class Creates:
    """The three create calls of one market."""

    def __init__(self, market: SimulatedMarket, offers: Offers, *, sharing: bool) -> None:
        """With `sharing`, several instances may mount the same volume."""
        self._market = market
        self._offers = offers
        self._sharing = sharing

    def one(self, call: Call, fault: Fault | None) -> HttpResponse:
        """`PUT /api/v0/asks/{id}/`. Raises BadBody."""
        return self._create(call.request.key or "", int(call.arguments["id"]), call.request.json(), fault)

    def many(self, call: Call, fault: Fault | None) -> HttpResponse:
        """`POST /api/v0/asks/bulk/`: one answer for all; it is a success if any was created. Raises BadBody."""
        body = call.request.json()
        wanted = body.get("ids")
        if not isinstance(wanted, list) or not 0 < len(wanted) <= _MAX_AT_ONCE or not all(map(_is_number, wanted)):
            return errors.bad_args(f"ids must be a list of 1 to {_MAX_AT_ONCE} numbers")
        answers = [self._create(call.request.key or "", offer_id, body, fault) for offer_id in wanted]
        made = [value["new_contract"] for value in map(_read, answers) if value.get("success")]
        failed = [value for value in map(_read, answers) if not value.get("success")]
        return answer({"success": bool(made), "new_contracts": made, "failed": failed})

    def launch(self, call: Call, fault: Fault | None) -> HttpResponse:
        """`PUT /api/v0/launch_instance/`: the first offer that its `q` finds. Raises BadBody, BadQuery."""
        body = call.request.json()
        query = body.get("q")
        found = self._offers.rows({**query, "limit": 1} if isinstance(query, dict) else {"limit": 1})
        if not found:
            return errors.no_offer_found()
        return self._create(call.request.key or "", int(found[0]["id"]), body, fault)

    def _create(self, account: str, offer_id: int, body: Mapping[str, Any], fault: Fault | None) -> HttpResponse:
        if fault is not None and fault.name in ("offer_gone", "no_capacity"):
            return self._taken_by_stranger(offer_id, gone=fault.name == "offer_gone")
        chunk = self._market.chunks.get(offer_id)
        wrong = create_error(body, None if chunk is None else chunk.columns["disk_space"])
        mounts = mounts_of(body)
        if wrong or isinstance(mounts, str):
            return errors.bad_args(wrong or str(mounts))
        try:
            return self._rented(account, offer_id, body, mounts, fault)
        except NoSuchAsk:
            return errors.no_such_ask(offer_id)
        except NotRentable:
            unavailable = errors.ask_unavailable if body.get("cancel_unavail") is True else errors.no_such_ask
            return unavailable(offer_id)
        except NoCredit:
            return errors.insufficient_credit()
        except NoSuchVolume:
            return errors.no_such_volume()
        except ElsewhereVolume:
            return errors.bad_args("the volume is not on the machine of this offer")
        except VolumeInUse:
            return errors.volume_not_shared()

    def _rented(
        self, account: str, offer_id: int, body: Mapping[str, Any], mounts: Mounts, fault: Fault | None
    ) -> HttpResponse:
        chunk = self._market.chunks.get(offer_id)
        if chunk is None:
            raise NoSuchAsk
        if not chunk.rentable:
            raise NotRentable
        sharing = self._sharing and (fault is None or fault.name != "volume_share_refused")
        self._market.volumes.check(account, chunk.machine.id, mounts.existing, sharing=sharing)
        volumes = {**mounts.existing, **self._new_volume(account, chunk, mounts)}
        launch = replace(launch_of(body, min_bid=chunk.min_bid), volumes=volumes)
        defects = defects_of(fault, launch, str(chunk.machine.columns["gpu_name"]))
        made = self._market.rent(account, offer_id, launch, defects)
        if launch.bid is not None and launch.stopped:  # as recorded: an error, although a stopped instance was created
            return errors.bad_args("bid is too low", new_contract=made.id)
        return answer({"success": True, "new_contract": made.id, "instance_api_key": made.api_key})

    def _new_volume(self, account: str, chunk: Chunk, mounts: Mounts) -> dict[int, str]:
        if mounts.new is None:
            return {}
        if self._market.volumes.ask(mounts.new.ask_id) is not chunk.machine:
            raise ElsewhereVolume
        made = self._market.volumes.create(account, mounts.new.ask_id, mounts.new.size_gb, mounts.new.name)
        return {made.id: mounts.new.path}

    def _taken_by_stranger(self, offer_id: int, *, gone: bool) -> HttpResponse:
        chunk = self._market.chunks.get(offer_id)
        if chunk is not None and chunk.rentable:
            self._market.hold(chunk.machine, chunk.mask, leave_after=_STRANGER_STAYS)
        return errors.no_such_ask(offer_id) if gone else errors.ask_unavailable(offer_id)


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _read(response: HttpResponse) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(response.body)
    return value
