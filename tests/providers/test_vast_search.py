"""Searches at vast.ai: complete with any page size, and tolerant of single rows but not of invalid answers."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gpuproxy.model.errors import AuthFailed, InvalidRequest, ProviderError, ProviderUnavailable, RateLimited
from gpuproxy.model.gpus import nominal_vram
from gpuproxy.model.offers import Offer, OfferFilter, OfferId
from gpuproxy.ports import HttpNotSent, HttpReplyLost, HttpRequest, HttpResponse
from tests.providers.wires import KEY, Script, found, on_script, row, says, vast
from tests.virtual_time import VirtualClock, run_virtual

SAMPLE = Path(__file__).parents[3] / "shared/data/vast_bundles_sample.json"
EVERYTHING = OfferFilter(max_price=1000.0, verified_only=False)


def market(
    rows: list[dict[str, Any]], *, cap: int = 64, heeds_filters: bool = True
) -> Callable[[HttpRequest], HttpResponse]:
    """A server with these rows. It limits each answer and supports the ranges that the adapter uses."""

    def answer(request: HttpRequest) -> HttpResponse:
        query = json.loads(request.body or b"{}")
        ranges = {name: query[name] for name in ("dph_total", "machine_id") if heeds_filters and name in query}
        fitting = [
            one
            for one in rows
            if all(span.get("gte", 0) <= one[name] <= span.get("lte", 1e99) for name, span in ranges.items())
        ]
        [[column, _]] = query["order"]
        return says({"offers": sorted(fitting, key=lambda one: one[column])[:cap]})

    return answer


def offers_of(*answers: Any, wanted: OfferFilter = EVERYTHING, **more: Any) -> tuple[list[Offer], Script]:
    return on_script(lambda adapter: found(adapter, wanted), *answers, **more)


def one_offer(**facts: object) -> Offer:
    [offer], _ = offers_of(says({"offers": [row(1, **facts)]}))
    return offer


def test_a_market_larger_than_a_page_is_found_completely_and_without_repeats() -> None:
    rows = [row(n, dph_total=0.1 + n * 0.001) for n in range(1000)]
    offers, script = offers_of(market(rows))
    assert sorted(offer.id for offer in offers) == sorted(f"vast-{n}" for n in range(1000))
    assert len(script.requests) < 1000 / 64 * 1.2


@pytest.mark.parametrize("same", [63, 64, 65, 200, 640])
def test_more_rows_with_one_price_than_fit_on_a_page_are_found_by_machine(same: int) -> None:
    rows = [row(n, dph_total=0.1 + n * 0.01) for n in range(30)]
    rows += [row(n, dph_total=0.25) for n in range(100, 100 + same)]
    rows += [row(n, dph_total=0.9) for n in range(900, 930)]
    offers, _ = offers_of(market(rows))
    assert {offer.id for offer in offers} == {f"vast-{one['id']}" for one in rows}
    assert len(offers) == len(rows)


def test_a_machine_with_more_rows_than_fit_on_a_page_hides_no_other() -> None:
    rows = [row(n, dph_total=0.25, machine_id=5 if n < 100 else n) for n in range(300)]
    rows += [row(n, dph_total=0.5) for n in range(500, 600)]
    offers, _ = offers_of(market(rows))
    assert {offer.machine_id for offer in offers} == {str(one["machine_id"]) for one in rows}


def test_a_server_that_ignores_the_start_of_a_search_is_an_error() -> None:
    rows = [row(n, dph_total=0.1 + n * 0.001) for n in range(1000)]
    with pytest.raises(ProviderUnavailable, match="ignores"):
        offers_of(market(rows, heeds_filters=False))


def test_an_empty_market_is_not_an_error() -> None:
    assert offers_of(says({"offers": []}))[0] == []


def test_pages_before_an_error_are_returned() -> None:
    rows = [row(n, dph_total=0.1 + n * 0.001) for n in range(64)]

    async def use(clock: VirtualClock) -> None:
        pages = vast(Script(says({"offers": rows}), says("oops", 502)), clock).search(EVERYTHING)
        assert len(await anext(pages)) == 64
        with pytest.raises(ProviderUnavailable):
            await anext(pages)

    run_virtual(use)


def test_the_query_is_never_narrower_than_the_filter() -> None:
    wanted = OfferFilter(max_price=0.5, min_vram=24, num_gpus=2, disk_gb=80, gpu_model="RTX 4090", min_cuda=12.1)
    _, script = offers_of(says({"offers": []}), wanted=wanted)
    query = script.sent()
    assert query["verified"] == {"eq": True}
    assert query["gpu_ram"]["gte"] <= 0.92 * 1024 * 24
    assert query["dph_total"]["lte"] == pytest.approx(1.0, abs=1e-5)
    assert query["dph_total"]["lte"] > 1.0
    assert (query["allocated_storage"], query["num_gpus"], query["disable_bundling"]) == (80, {"eq": 2}, True)
    assert "gpu_name" not in query  # spellings are compared here


def test_without_a_gpu_count_no_price_limit_is_sent() -> None:
    _, script = offers_of(says({"offers": []}), wanted=OfferFilter(max_price=0.5, verified_only=False))
    assert "lte" not in script.sent()["dph_total"]
    assert script.sent()["verified"] == {"in": [True, False]}
    assert script.requests[0].headers["Authorization"] == f"Bearer {KEY}"
    assert KEY not in script.requests[0].url


def test_a_single_offer_is_queried_by_number_and_a_foreign_id_is_not_queried() -> None:
    _, script = offers_of(says({"offers": []}), wanted=OfferFilter(offer_id=OfferId("vast-77"), max_price=9))
    assert script.sent()["ask_contract_id"] == {"eq": 77}
    nothing, script = offers_of(says({"offers": []}), wanted=OfferFilter(offer_id=OfferId("ionet-77"), max_price=9))
    assert (nothing, script.requests) == ([], [])


def test_an_offer_is_normalised() -> None:
    offer = one_offer(gpu_name="RTX_4090", num_gpus=4, gpu_frac=0.5, gpu_ids=[11, 12, 13, 14], geolocation=", US")
    assert (offer.id, offer.host, offer.gpu_model) == ("vast-1", "vast.ai/1001", "RTX 4090")
    assert (offer.num_gpus, offer.host_gpus, offer.vram_gb, offer.location) == (4, 8, 24, "US")
    assert offer.conflict_keys == ("m1001g11", "m1001g12", "m1001g13", "m1001g14")
    assert (offer.gpu_price, offer.disk_price_month, offer.price(72)) == (400_000, 100_000, 410_000)
    assert (offer.reliability_ppm, offer.verified, offer.cuda_max) == (990_000, True, 12.8)


def test_what_an_offer_says_about_its_machine_is_read() -> None:
    offer = one_offer(
        compute_cap=890,
        cpu_cores_effective=7.5,
        cpu_ram=64485,
        disk_bw=2291.5,
        inet_down=535.2,
        inet_up=723.5,
        inet_down_cost=0.0013020833333333333,
        inet_up_cost=0.0078125,
        direct_port_count=99,
        end_date=1812007461.3,
    )
    assert (offer.compute_cap, offer.cpu_cores, offer.ram_gb, offer.disk_bandwidth) == (8.9, 7.5, 64.0, 2291.5)
    assert (offer.inet_down, offer.inet_up) == (535.2, 723.5)
    assert (offer.inet_down_price, offer.inet_up_price, offer.direct_ports) == (1_302, 7_812, 99)
    assert offer.expires_at == datetime.fromtimestamp(1812007461.3, UTC)


@pytest.mark.parametrize("odd", [..., None, -1, "much", float("nan"), [1]], ids=str)
def test_what_an_offer_does_not_say_about_its_machine_is_unknown(odd: object) -> None:
    columns = (
        "compute_cap cpu_cores_effective cpu_ram disk_bw inet_down inet_up inet_down_cost inet_up_cost "
        "direct_port_count end_date"
    )
    offer = one_offer(**dict.fromkeys(columns.split(), odd) | ({"end_date": None} if odd == -1 else {}))
    assert (offer.compute_cap, offer.cpu_cores, offer.ram_gb, offer.disk_bandwidth) == (0, 0, 0, 0)
    assert (offer.inet_down, offer.inet_up, offer.inet_down_price, offer.inet_up_price) == (0, 0, None, None)
    assert (offer.direct_ports, offer.expires_at) == (None, None)


def test_a_host_without_direct_ports_is_known_to_have_none() -> None:
    assert one_offer(direct_port_count=0).direct_ports == 0
    assert one_offer(direct_port_count=10**12).direct_ports == 65_535


def test_free_traffic_is_not_unknown() -> None:
    offer = one_offer(inet_down_cost=0, inet_up_cost=0.0)
    assert (offer.inet_down_price, offer.inet_up_price) == (0, 0)


def test_filters_that_hosts_may_leave_unanswered_are_not_sent() -> None:
    wanted = OfferFilter(
        max_price=9, min_cuda=12.8, cuda_assumed=True, min_compute_cap=7.5, ports=3, min_cpu_cores=8, min_ram_gb=64,
        min_disk_bandwidth=1, min_inet_down=1, min_inet_up=1, max_traffic_price=0.01,
    )  # fmt: skip
    _, script = offers_of(says({"offers": []}), wanted=wanted)
    _, plain = offers_of(says({"offers": []}), wanted=OfferFilter(max_price=9))
    assert script.sent() == plain.sent()
    _, explicit = offers_of(says({"offers": []}), wanted=OfferFilter(max_price=9, min_cuda=12.8))
    assert explicit.sent()["cuda_max_good"] == {"gte": 12.8}


@pytest.mark.parametrize("megabytes", [2600, 3600, 5700, 24564, 39936, 73415, 85651, 262128])
def test_the_memory_asked_for_never_excludes_a_size_that_is_rounded_up_to_it(megabytes: int) -> None:
    _, script = offers_of(says({"offers": []}), wanted=OfferFilter(max_price=9, min_vram=nominal_vram(megabytes)))
    assert script.sent()["gpu_ram"]["gte"] <= megabytes


def test_marks_are_in_the_extras_of_every_offer() -> None:
    [offer], _ = offers_of(says({"offers": [row(1)]}), marks={"sandbox": "true"})
    assert offer.extras["sandbox"] == "true"


@pytest.mark.parametrize(
    "odd",
    [
        {"id": "1", "machine_id": "1001", "num_gpus": "1", "dph_base": "0.4", "gpu_ram": "24564"},
        {"gpu_ram": 24564.0, "num_gpus": 1.0},
        {"geolocation": 17, "reliability2": None, "score": "high", "verification": ["verified"]},
        {"gpu_frac": "0.5", "cuda_max_good": "12.8", "rentable": "true", "is_bid": 0},
        {"a_field_of_next_year": {"deep": [1, 2]}},
        {"end_date": 1e300, "host_id": {}, "direct_port_count": None},
        {"end_date": None, "gpu_frac": 0, "hosting_type": "0"},
    ],
)
def test_unexpected_types_and_unknown_fields_lose_no_offer(odd: dict[str, object]) -> None:
    offer = one_offer(**odd)
    assert (offer.id, offer.host, offer.gpu_price) == ("vast-1", "vast.ai/1001", 400_000)


def test_without_gpu_ids_the_machine_is_the_conflict_key() -> None:
    assert one_offer(gpu_ids=None).conflict_keys == ("m1001",)
    assert one_offer(gpu_ids=[]).conflict_keys == ("m1001",)
    assert one_offer(num_gpus=2, gpu_ids=["7", 8]).conflict_keys == ("m1001g7", "m1001g8")


@pytest.mark.parametrize(
    "bad",
    [
        {"dph_base": None},
        {"dph_base": -1},
        {"dph_total": ...},
        {"storage_cost": "free"},
        {"num_gpus": 0},
        {"machine_id": None},
        {"gpu_name": ...},
    ],
)
def test_an_offer_without_a_required_field_is_skipped_and_the_others_stay(bad: dict[str, object]) -> None:
    counted = []

    async def use(clock: VirtualClock) -> list[Offer]:
        adapter = vast(Script(says({"offers": [row(1), row(2, **bad), row(3)]})), clock)
        offers = await found(adapter)
        counted.append(adapter.skipped_offers)
        return offers

    assert [offer.id for offer in run_virtual(use)] == ["vast-1", "vast-3"]
    assert counted == [1]


def test_a_mostly_unreadable_market_is_an_error() -> None:
    with pytest.raises(ProviderUnavailable, match="can't be read"):
        offers_of(says({"offers": [row(1), row(2, dph_base=...), row(3, dph_base=...)]}))


def test_rows_that_are_not_rentable_or_are_bids_are_not_offers() -> None:
    offers, _ = offers_of(says({"offers": [row(1, rentable=False), row(2, is_bid=True), row(3)]}))
    assert [offer.id for offer in offers] == ["vast-3"]


def test_of_two_rows_with_one_id_the_higher_score_stays() -> None:
    rows = [row(1, score=1.0, dph_base=0.1), row(1, score=5.0, dph_base=0.2), row(1, score=3.0, dph_base=0.3)]
    [offer], _ = offers_of(says({"offers": rows}))
    assert offer.gpu_price == 200_000


WRONG = [
    says({"success": True}),
    says({"offers": None}),
    says({"offers": {"0": {}}}),
    says({"offers": ["text", 3]}),
    says([]),
    says("null"),
    says(""),
    says("<html>bad gateway</html>"),
    says('{"offers":[{"id":1'),
    says(b'{"offers":"\xff\xfe"}'),
    says("[" * 100_000),
    says({"success": False, "error": "internal_error", "msg": "no"}),
    says("bad gateway", 502),
    says({"offers": []}, 500),
    says({"offers": []}, 302),
    HttpNotSent("refused"),
    HttpReplyLost("reset"),
]


@pytest.mark.parametrize("wrong", WRONG)
def test_an_invalid_answer_is_an_error_and_never_an_empty_market(wrong: HttpResponse | Exception) -> None:
    with pytest.raises(ProviderUnavailable):
        offers_of(wrong)


REFUSALS: list[tuple[HttpResponse, type[ProviderError]]] = [
    (says({"success": False, "error": "auth_error", "msg": "Invalid user key"}, 404), AuthFailed),
    (says({"success": False, "error": "auth_error", "msg": "This action requires login."}, 403), AuthFailed),
    (says("no", 401), AuthFailed),
    (says({"error": "invalid_request", "msg": "Invalid json body"}, 400), InvalidRequest),
    (says("API requests too frequent", 429), RateLimited),
]


@pytest.mark.parametrize(("answer", "kind"), REFUSALS)
def test_a_refused_search_has_its_own_error(answer: HttpResponse, kind: type[ProviderError]) -> None:
    with pytest.raises(kind):
        offers_of(answer)


def test_at_most_ten_searches_are_sent_in_a_minute() -> None:
    times: list[float] = []

    async def use(clock: VirtualClock) -> None:
        adapter = vast(Script(says({"offers": []})), clock, intervals={})
        for _ in range(25):
            await found(adapter)
            times.append(clock.monotonic())

    run_virtual(use)
    assert times[9] == 0
    assert all(later - earlier >= 60 for earlier, later in zip(times, times[10:], strict=False))
    assert times[-1] < 125


def test_an_exhausted_quota_is_an_error_until_it_is_renewed() -> None:
    quota = {"success": False, "error": "search_quota_exceeded", "msg": "no more"}

    async def use(clock: VirtualClock) -> None:
        reset = str(int(clock.now().timestamp()) + 5000)
        script = Script(says(quota, 429, x_ratelimit_reset=reset), says({"offers": []}))
        adapter = vast(script, clock)
        for _ in range(3):
            with pytest.raises(RateLimited) as raised:
                await found(adapter)
            assert raised.value.retry_after == pytest.approx(5000)
        assert len(script.requests) == 1
        await clock.sleep(5000)
        assert await found(adapter) == []

    run_virtual(use)


@pytest.mark.skipif(not SAMPLE.exists(), reason="the recorded market is not here")
def test_recorded_offers_are_all_read() -> None:
    recorded = json.loads(SAMPLE.read_bytes())["offers"]
    offers, _ = offers_of(says({"offers": [one | {"rentable": True} for one in recorded]}))
    assert [offer.id for offer in offers] == [f"vast-{one['id']}" for one in recorded]
    for offer, one in zip(offers, recorded, strict=True):
        assert offer.price(5) / 1e6 == pytest.approx(one["dph_base"] + one["storage_cost"] * 5 / 720, abs=2e-6)
        assert offer.host_gpus == round(one["num_gpus"] / one["gpu_frac"])
        assert offer.conflict_keys == tuple(f"m{one['machine_id']}g{gpu}" for gpu in one["gpu_ids"])


@pytest.mark.skipif(not SAMPLE.exists(), reason="the recorded market is not here")
def test_recorded_offers_tell_everything_about_their_machines() -> None:
    recorded = json.loads(SAMPLE.read_bytes())["offers"]
    offers, _ = offers_of(says({"offers": [one | {"rentable": True} for one in recorded]}))
    assert {offer.ram_gb for offer in offers} == {60.0, 64.0, 80.0, 128.0, 1152.0}
    assert {offer.compute_cap for offer in offers} == {8.0, 12.0}
    for offer in offers:
        assert min(offer.cpu_cores, offer.disk_bandwidth, offer.inet_down, offer.inet_up) > 0
        assert offer.direct_ports
        assert offer.expires_at
        assert offer.inet_down_price


# -- some machines only


def only(*machine_ids: str) -> OfferFilter:
    return OfferFilter(max_price=1000.0, verified_only=False, machine_ids=frozenset(machine_ids))


def test_a_search_for_some_machines_names_them() -> None:
    _, script = offers_of(says({"offers": []}), wanted=only("29575", "7", "m5"))
    assert script.sent()["machine_id"] == {"in": [7, 29575]}


def test_a_search_for_all_machines_names_none() -> None:
    _, script = offers_of(says({"offers": []}))
    assert "machine_id" not in script.sent()


def test_machines_that_vast_can_not_have_find_nothing_and_ask_nothing() -> None:
    offers, script = offers_of(says({"offers": [row(1)]}), wanted=only("m5", "", "-3"))
    assert not offers
    assert not script.requests


def test_the_machines_are_named_on_every_page_also_with_a_lowest_machine() -> None:
    rows = [row(n, dph_total=0.25, machine_id=5) for n in range(70)]
    rows += [row(n, dph_total=0.25, machine_id=6) for n in range(100, 105)]
    offers, script = offers_of(market(rows), wanted=only("5", "6"))
    assert len(offers) >= 64
    spans = [script.sent(at)["machine_id"] for at in range(len(script.requests))]
    assert all(span["in"] == [5, 6] for span in spans)
    assert any("gte" in span for span in spans)
    assert {offer.machine_id for offer in offers} == {"5", "6"}
