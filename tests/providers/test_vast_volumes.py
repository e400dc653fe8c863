"""Volumes at vast.ai: ordered at most once, never unknown by mistake, and never free while that is unclear."""

import json
from typing import Any

import pytest

from gpuproxy.model.errors import (
    Advice,
    AuthFailed,
    InsufficientFunds,
    InvalidRequest,
    OfferGone,
    OutcomeUnknown,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
    Refused,
    VolumeInUse,
)
from gpuproxy.model.leases import InstanceId
from gpuproxy.model.offers import OfferId
from gpuproxy.ports import HttpNotSent, HttpReplyLost, HttpRequest, HttpResponse, VolumeOffer
from tests.providers.wires import LABEL, VOLUME, VOLUME_OFFER, WRONG_ANSWERS, Script, error_of, on_script, says, vast
from tests.virtual_time import VirtualClock, run_virtual

NAME = LABEL.replace("-", "_")


def space(machine: int, **facts: object) -> dict[str, object]:
    """A row of a search for volumes. The value `...` removes a field."""
    values: dict[str, object] = {
        "id": 5_000_000 + machine,
        "machine_id": machine,
        "disk_space": 1302.0,
        "storage_cost": 0.0667,
        "end_date": 1812007461.3,
    }
    return {name: value for name, value in (values | facts).items() if value is not ...}


def searched(*answers: Any, machines: tuple[str, ...] = ("29575",)) -> tuple[list[VolumeOffer], Script]:
    return on_script(lambda adapter: adapter.volume_offers(machines, 50), *answers)


# -- search


class Market:
    """A server of volume offers, which sends at most `cap` rows."""

    def __init__(self, rows: list[dict[str, object]], *, cap: int = 64, heeds: bool = True) -> None:
        self.rows, self.cap, self.heeds = rows, cap, heeds

    def __call__(self, request: HttpRequest) -> HttpResponse:
        wanted = json.loads(request.body or b"{}")["machine_id"]["in"]
        return says({"offers": [row for row in self.rows if not self.heeds or row["machine_id"] in wanted][: self.cap]})


def test_a_search_for_volumes_names_the_machines_and_the_size() -> None:
    [offer], script = searched(says({"offers": [space(29575)]}))
    assert (offer.id, offer.machine_id, offer.max_gb) == ("vast-5029575", "29575", 1302)
    assert (offer.price_month, offer.price(50)) == (66_700, round(66_700 * 50 / 720))
    assert offer.ends_at is not None
    [request] = script.requests
    assert (request.method, request.url) == ("POST", "https://console.vast.ai/api/v0/volumes/search/")
    body = script.sent()
    assert (body["machine_id"], body["disk_space"]) == ({"in": [29575]}, {"gte": 50})
    assert body["verified"] == {"in": [True, False]}
    assert body["limit"] > 64


@pytest.mark.parametrize("count", [1, 62, 63, 64, 65, 130, 500])
def test_every_machine_is_found_however_many_are_asked_for(count: int) -> None:
    market = Market([space(number) for number in range(1, count + 1)])
    found, script = searched(market, machines=tuple(map(str, range(1, count + 1))))
    assert [int(offer.machine_id) for offer in found] == list(range(1, count + 1))
    assert len(script.requests) <= -(-count // 63)


def test_a_full_answer_is_never_taken_as_complete() -> None:
    twice = [space(number, id=number * 10 + at) for number in range(1, 61) for at in range(2)]
    found, script = searched(Market(twice), machines=tuple(map(str, range(1, 61))))
    assert len(found) == 120
    assert len(script.requests) == 3


def test_a_search_whose_machines_are_ignored_is_an_error_if_the_answer_is_full() -> None:
    with pytest.raises(ProviderUnavailable):
        searched(Market([space(number) for number in range(1, 200)], heeds=False), machines=("150", "151"))


def test_offers_of_other_machines_too_small_ones_and_rented_ones_are_left_out() -> None:
    rows = [space(1), space(2), space(3, disk_space=49.9), space(4, rentable=False), space(1)]
    found, _ = searched(says({"offers": rows}), machines=("1", "3", "4"))
    assert [offer.machine_id for offer in found] == ["1"]


def test_ids_that_are_no_numbers_find_nothing_and_ask_nothing() -> None:
    found, script = searched(says({"offers": [space(1)]}), machines=("m1", "", "-5", "1.5", "²"))
    assert not found
    assert not script.requests


@pytest.mark.parametrize("answer", WRONG_ANSWERS)
def test_a_search_for_volumes_of_another_schema_is_an_error(answer: Any) -> None:
    error, _ = error_of(lambda adapter: adapter.volume_offers(["1"], 50), answer)
    assert isinstance(error, Refused)


@pytest.mark.parametrize(
    "facts",
    [{"id": ...}, {"id": "x"}, {"machine_id": None}, {"disk_space": None}, {"storage_cost": ...}, {"storage_cost": -1}],
)
def test_an_unreadable_volume_offer_spoils_the_search(facts: dict[str, object]) -> None:
    with pytest.raises(ProviderUnavailable):
        searched(says({"offers": [space(1), space(29575, **facts)]}))


# -- create


def ordered(answer: Any, *, size: int = 50, label: str = LABEL, offer: VolumeOffer = VOLUME_OFFER) -> Any:
    return on_script(lambda adapter: adapter.create_volume(offer, size, label), answer)


def test_a_volume_is_one_put_with_a_name_made_of_the_label() -> None:
    receipt, script = ordered(says({"success": True, "volume_name": "V.20118481"}))
    assert receipt.instance_id == VOLUME
    [request] = script.requests
    assert (request.method, request.url) == ("PUT", "https://console.vast.ai/api/v0/volumes/")
    assert script.sent() == {"id": 39209552, "size": 50, "name": NAME}


CREATED = [
    says({"success": True, "volume_id": 20118481}),
    says({"success": True, "volume_id": "20118481"}),
    says({"success": True, "volume_id": 20118481, "volume_name": NAME}),
    says({"success": True, "volume_id": "V.20118481", "volume_name": "V.20118481"}),
    says({"volume_name": "V.20118481"}),
    says({"success": False, "error": "invalid_args", "msg": "failed", "volume_name": "V.20118481"}, 400),
    says({"success": False, "error": "insufficient_credit", "volume_id": 20118481}, 400),
    says({"volume_id": 20118481}, 500),
]


@pytest.mark.parametrize("answer", CREATED)
def test_an_answer_with_the_id_of_a_volume_is_a_created_volume(answer: HttpResponse) -> None:
    receipt, _ = ordered(answer)
    assert receipt.instance_id == VOLUME


DOUBTS = [
    HttpReplyLost("reset"),
    says(""),
    says("{"),
    says("null"),
    says({}),
    says({"success": True}),
    says({"success": True, "volume_name": NAME}),
    says({"success": True, "volume_name": "V."}),
    says({"success": True, "volume_id": 0}),
    says({"success": True, "volume_id": True}),
    says({"volume_id": 1, "volume_name": "V.2"}),
    says({"success": False, "error": "invalid_args", "msg": "x", "volume_id": "?"}, 400),
    says({"success": False, "error": "invalid_args", "msg": "x", "new_contract": 5}, 400),
    says({"success": False, "error": "internal_error"}, 500),
    says("<html>Bad Gateway</html>", 502),
    says("<html>no</html>", 400),
    says({"success": False}, 200),
]


@pytest.mark.parametrize("answer", DOUBTS)
def test_a_volume_in_doubt_has_an_unknown_outcome_and_is_never_repeated(answer: Any) -> None:
    error, script = error_of(lambda adapter: adapter.create_volume(VOLUME_OFFER, 50, LABEL), answer)
    assert type(error) is OutcomeUnknown
    assert error.advice is Advice.STOP
    assert len(script.requests) == 1


REFUSALS: list[tuple[Any, type[Refused]]] = [
    (HttpNotSent("refused"), ProviderUnavailable),
    (says({"error": "insufficient_credit", "msg": "Your account lacks credit; see the billing page."}, 400),
     InsufficientFunds),
    (says({"success": False, "error": "invalid_args", "msg": "error 400/3467: volume offer 5 is not available"}, 400),
     OfferGone),
    (says({"success": False, "error": "no_such_ask", "msg": "gone"}, 410), OfferGone),
    (says({"success": False, "error": "invalid_args", "msg": "error 400/3467: volume offer 5 has no 50 GB"}, 400),
     InvalidRequest),
    (says({"success": False, "error": "invalid_args", "msg": "name: 1 to 64 letters"}, 422), InvalidRequest),
    (says("API requests too frequent: endpoint threshold=5.5", 429), RateLimited),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "kind"), REFUSALS)
def test_a_known_refusal_of_a_volume_has_its_own_error(answer: Any, kind: type[Refused]) -> None:
    error, script = error_of(lambda adapter: adapter.create_volume(VOLUME_OFFER, 50, LABEL), answer)
    assert type(error) is kind
    assert len(script.requests) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 0},
        {"size": -1},
        {"label": ""},
        {"label": "a" * 65},
        {"label": "gpx_a"},
        {"label": "é"},
        {"offer": VolumeOffer(id=OfferId("moon-1"), machine_id="1", max_gb=50, price_month=VOLUME_OFFER.price_month)},
    ],
)
def test_a_volume_that_can_not_be_is_refused_without_a_request(wrong: Any) -> None:
    with pytest.raises(InvalidRequest):
        ordered(says({"success": True, "volume_name": "V.1"}), **wrong)


def test_creates_of_volumes_keep_the_interval_that_an_operator_set() -> None:
    async def use(clock: VirtualClock) -> float:
        adapter = vast(Script(says({"success": True, "volume_name": "V.1"})), clock, intervals={"volumes": 7.0})
        for _ in range(3):
            await adapter.create_volume(VOLUME_OFFER, 50, LABEL)
        return clock.monotonic()

    assert 14.0 <= run_virtual(use) < 15.0


def test_volume_calls_of_different_kinds_do_not_wait_for_each_other() -> None:
    async def use(clock: VirtualClock) -> float:
        answer = {"success": True, "volume_name": "V.1", "volumes": [], "offers": []}
        adapter = vast(Script(says(answer)), clock, intervals={})
        await adapter.volume_offers(["1"], 50)
        await adapter.create_volume(VOLUME_OFFER, 50, LABEL)
        await adapter.list_volumes()
        await adapter.delete_volume(VOLUME)
        return clock.monotonic()

    assert run_virtual(use) < 0.1


# -- delete


def deleted(answer: Any, volume_id: InstanceId = VOLUME) -> tuple[bool, Script]:
    return on_script(lambda adapter: adapter.delete_volume(volume_id), answer)


def test_a_deletion_names_the_volume_in_the_query() -> None:
    gone, script = deleted(says({"success": True}))
    assert gone is False
    [request] = script.requests
    assert (request.method, request.body) == ("DELETE", b"{}")
    assert request.url == "https://console.vast.ai/api/v0/volumes/?id=20118481"


GONE = [
    says({"success": False, "error": "no_such_volume", "msg": "Volume with that ID does not exist."}, 404),
    says({"success": False, "error": "no_such_volume"}, 200),
    says({"error": "not_found"}, 404),
    says({"msg": "Volume with that ID does not exist."}, 404),
    says({"msg": "volume 20118481 not found"}, 404),
]


@pytest.mark.parametrize("answer", GONE)
def test_a_volume_that_does_not_exist_is_gone(answer: HttpResponse) -> None:
    assert deleted(answer)[0] is True


TAKEN = [
    says({"success": False, "error": "invalid_args", "msg": "error 400/3467: volume 5 is in use by instances"}, 400),
    says({"success": False, "error": "volume_in_use", "msg": "destroy the instance first"}, 400),
    says({"success": False, "error": "invalid_args", "msg": "Volume is attached to an instance"}, 409),
    says({"success": False, "error": "invalid_request", "msg": "the volume is used by 2 instances"}, 200),
]


@pytest.mark.parametrize("answer", TAKEN)
def test_a_volume_with_an_instance_is_in_use(answer: HttpResponse) -> None:
    error, _ = error_of(lambda adapter: adapter.delete_volume(VOLUME), answer)
    assert type(error) is VolumeInUse


UNCLEAR: list[tuple[Any, type[ProviderError]]] = [
    (HttpReplyLost("reset"), OutcomeUnknown),
    (HttpNotSent("refused"), ProviderUnavailable),
    (says(""), OutcomeUnknown),
    (says({}), OutcomeUnknown),
    (says({"success": False}), OutcomeUnknown),
    (says("<html>404</html>", 404), OutcomeUnknown),
    (says("", 404), OutcomeUnknown),
    (says({"msg": "the path was not found"}, 404), InvalidRequest),
    (says({"msg": "volume 7 not found"}, 404), InvalidRequest),
    (says({"success": False, "error": "no_such_volume"}, 500), OutcomeUnknown),
    (says({"error": "auth_error", "msg": "Volume not found: invalid user key"}, 404), AuthFailed),
    (says({"success": False, "error": "volume_in_use"}, 503), OutcomeUnknown),
    (says({"success": False, "error": "rate_limit_exceeded", "msg": "threshold=5.5"}, 429), RateLimited),
]


@pytest.mark.parametrize(("answer", "kind"), UNCLEAR)
def test_a_deletion_without_a_clear_answer_is_an_error(answer: Any, kind: type[ProviderError]) -> None:
    error, _ = error_of(lambda adapter: adapter.delete_volume(VOLUME), answer)
    assert type(error) is kind


@pytest.mark.parametrize("volume_id", ["20118481", "V.", "V.x", "V.1&id=2", "C.1", "V.01", ""])
def test_an_id_that_is_no_volume_is_refused_without_a_request(volume_id: str) -> None:
    with pytest.raises(InvalidRequest):
        deleted(says({"success": True}), InstanceId(volume_id))
