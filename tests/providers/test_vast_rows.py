"""An unreadable row hides no other row, and the listing reports it."""

import json
from typing import Any

import pytest

from gpuproxy.model.errors import ProviderUnavailable
from gpuproxy.model.leases import PortMapping
from gpuproxy.ports import HttpResponse, InstanceStatus, Inventory, ListedInstance
from tests.providers.wires import KEY, LABEL, OFFER, SPEC, on_script, page, row, says, wire
from tests.providers.wires import found as found_by

NAN = float("nan")


def inventory(*answers: HttpResponse) -> Inventory:
    return on_script(lambda adapter: adapter.list(), *answers)[0]  # type: ignore[no-any-return]


def ids(listing: Inventory) -> list[str]:
    return [instance.id for instance in listing.instances]


def raw_page(*rows: bytes) -> HttpResponse:
    return says(b'{"success":true,"next_token":null,"instances":[' + b",".join(rows) + b"]}")


def raw(number: int, old: bytes = b"", new: bytes = b"", **facts: object) -> bytes:
    return json.dumps(wire(number, **facts)).encode().replace(old, new)


def one(answer: HttpResponse) -> ListedInstance:
    [instance] = inventory(answer).instances
    return instance


ODD_ROWS: list[Any] = [
    pytest.param(raw(5, b"pytorch/pytorch", b"\xff\xfe"), id="bytes that are no UTF-8"),
    pytest.param(raw(5, b"pytorch/pytorch", b"\\ud800"), id="half of a surrogate pair"),
    pytest.param(raw(5, b"pytorch/pytorch", b"\xed\xa0\x80"), id="a surrogate in bytes"),
    pytest.param(raw(5, b"pytorch/pytorch", b"a\nb\x01"), id="control characters"),
    pytest.param(raw(5, dph_total=NAN), id="NaN"),
    pytest.param(raw(5, end_date=float("inf")), id="Infinity"),
    pytest.param(raw(5, b"12818", b"1e999"), id="a number without bounds"),
    pytest.param(raw(5, b"12818", b"9" * 5000), id="a number without end"),
    pytest.param(raw(5, b"29575", b'"\xff"'), id="a machine that can't be read"),
    pytest.param(raw(5, id="5", num_gpus="1", ssh_port="12818"), id="numbers as texts"),
    pytest.param(raw(5, id=5.0, num_gpus=1.0), id="numbers as floats"),
    pytest.param(raw(5, ssh_host=7, gpu_name=4090, status_msg=1), id="texts as numbers"),
    pytest.param(raw(5, ports=[1], instance=3, status_msg={}, num_gpus=[], machine_id=True), id="wrong types"),
    pytest.param(raw(5, ports=None, num_gpus=None, machine_id=None, ssh_host=None, dph_total=None), id="nulls"),
]


@pytest.mark.parametrize("odd", ODD_ROWS)
def test_an_unexpected_field_hides_no_row(odd: bytes) -> None:
    listing = inventory(raw_page(raw(4), odd, raw(6)))
    assert ids(listing) == ["4", "5", "6"]
    assert listing.unreadable == ()
    assert [(each.label, each.status) for each in listing.instances] == [
        ("gp-primary-7f3a", InstanceStatus.RUNNING)
    ] * 3


@pytest.mark.parametrize("odd", ODD_ROWS)
def test_an_unexpected_field_hides_no_single_instance(odd: bytes) -> None:
    read = says(b'{"instances":' + odd + b"}")
    instance, _ = on_script(lambda adapter: adapter.get("5"), read)
    assert (instance.id, instance.label) == ("5", "gp-primary-7f3a")


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (b"null", "null"),
        (b"5", "no object"),
        (b'"text"', "no object"),
        (b"[]", "no object"),
        (b"{}", "no id"),
        (b"NaN", "no object"),
        (raw(5, id=None, label=None), "no id"),
        (raw(5, id=NAN, label=None), "no id"),
        (raw(5, id=True, label=None), "no id"),
        (raw(5, id=1.5, label=None), "no id"),
        (raw(5, id=-5, label=None), "no id"),
        (raw(5, id="five", label=None), "no id"),
        (raw(5, b'"id": 5', b'"id": "\xff"', label=None), "no id"),
        (raw(5, b'"id": 5', b'"id": ' + b"9" * 5000, label=None), "no id"),
        (raw(5, id=..., label="gpx-a"), "no id, label gpx-a"),
    ],
)
def test_a_row_without_an_id_is_reported_and_counted(odd: bytes, words: str) -> None:
    body = b'{"success":true,"next_token":null,"total_instances":2,"instances":[' + raw(4) + b"," + odd + b"]}"
    listing = inventory(says(body))
    assert ids(listing) == ["4"]
    assert listing.unreadable == (f"row 2 of page 1: {words}",)


def test_a_valid_listing_reports_no_unreadable_row() -> None:
    assert inventory(page(wire(1), wire(2, label=None))).unreadable == ()


@pytest.mark.parametrize(
    "odd",
    [
        raw(5, b"gp-primary-7f3a", b"gp-\xff"),
        raw(5, b"gp-primary-7f3a", b"gp-\\ud800"),
        raw(5, label=NAN),
        raw(5, label=["gp"]),
        raw(5, label={}),
        raw(5, label=True),
        raw(5, label=...),
    ],
)
def test_an_unreadable_label_is_reported_and_its_instance_is_listed(odd: bytes) -> None:
    listing = inventory(raw_page(odd))
    assert [(each.id, each.label) for each in listing.instances] == [("5", None)]
    assert listing.unreadable == ("row 1 of page 1: the label of instance 5 can't be read",)


@pytest.mark.parametrize(
    ("label", "read"), [(None, None), ("", ""), ("caf\u00e9 \ufffd", "caf\u00e9 \ufffd"), (7, "7")]
)
def test_a_readable_label_is_not_reported(label: object, read: str | None) -> None:
    listing = inventory(page(wire(5, label=label)))
    assert ([each.label for each in listing.instances], listing.unreadable) == ([read], ())


def test_an_instance_with_only_a_readable_id_is_unsure_and_reported() -> None:
    listing = inventory(raw_page(b'{"id":5}', b'{"id":6,"label":"x","actual_status":{}}'))
    assert [(each.id, each.label, each.status) for each in listing.instances] == [
        ("5", None, InstanceStatus.UNSURE),
        ("6", "x", InstanceStatus.UNSURE),
    ]
    assert len(listing.unreadable) == 1


def test_a_null_status_is_pending_and_not_unsure() -> None:
    assert one(page(wire(5, actual_status=None))).status is InstanceStatus.PENDING


def test_reported_rows_are_few_and_short_and_contain_no_secret() -> None:
    rows = [{"label": f"{KEY} {'x' * 5000}\n"} for _ in range(30)]
    listing = inventory(page(*rows))
    assert len(listing.unreadable) == 21
    assert listing.unreadable[-1] == "10 more rows that can't be read"
    assert all(len(words) <= 120 and words.isprintable() and KEY not in words for words in listing.unreadable)


def test_unreadable_rows_are_reported_with_their_page() -> None:
    listing = inventory(page(wire(1), None, token="t", total=4), page(None, wire(2), total=4))
    assert listing.unreadable == ("row 2 of page 1: null", "row 1 of page 2: null")


def test_an_unreadable_row_does_not_count_for_a_missing_row() -> None:
    with pytest.raises(ProviderUnavailable, match="claims 4 instances, lists 3"):
        inventory(page(wire(1), None, wire(2), total=4))


@pytest.mark.parametrize(
    "body",
    [
        b'{"success":true,"next_token":null,"instances":[{"id":1}',
        b'{"success":true,"next_token":"\xff","instances":[]}',
        b'{"success":true,"next_token":NaN,"instances":[]}',
        b'{"success":true,"next_token":null,"instances":NaN}',
        b'{"success":NaN,"next_token":null,"instances":[]}',
        b'{"success":true,"next_token":null,"total_instances":NaN,"instances":[]}',
        b"\xff\xfe",
        b"NaN",
    ],
)
def test_an_unreadable_page_is_an_error(body: bytes) -> None:
    with pytest.raises(ProviderUnavailable):
        inventory(says(body))


def test_an_invalid_port_loses_no_other_port() -> None:
    ports = {"8000/tcp": [{"HostPort": "40080"}], "x": 5, "9/udp": [{"HostPort": 70_000}], "7/tcp": [{"HostPort": "z"}]}
    assert one(page(wire(1, ports=ports))).ports == (
        PortMapping(container_port=8000, protocol="tcp", host="198.51.100.12", public_port=40080),
    )


def test_a_status_message_without_a_label_contains_no_secret_of_any_launch() -> None:
    spec = SPEC.__class__(image="a/b", disk_gb=10.0, secret_env=(("HF", "hf-s3cret"),))

    async def use(adapter: Any) -> Any:
        await adapter.create(OFFER, spec, LABEL)
        return await adapter.list()

    created = says({"success": True, "new_contract": 5})
    listing, _ = on_script(use, created, page(wire(5, label=5.5, status_msg="env HF=hf-s3cret")))
    assert [each.status_message for each in listing.instances] == ["env HF=***"]


def test_a_long_status_message_is_cut() -> None:
    assert len(one(page(wire(1, status_msg="x" * 100_000))).status_message) == 2_000


# -- the same in searches


@pytest.mark.parametrize("odd", [b"\xff", b"\\ud800", b"\n"])
def test_an_unreadable_text_hides_no_offer(odd: bytes) -> None:
    body = json.dumps({"offers": [row(1), row(2, geolocation="HERE"), row(3, webpage="HERE")]}).encode()
    offers, _ = on_script(found_by, says(body.replace(b"HERE", odd)))
    assert [offer.id for offer in offers] == ["vast-1", "vast-2", "vast-3"]


@pytest.mark.parametrize("price", [NAN, float("inf"), 1e12, -1.0, "inf", "NaN"])
def test_an_offer_with_an_impossible_price_is_skipped_and_the_search_continues(price: object) -> None:
    first = [row(number, dph_total=0.1 + number / 1000) for number in range(1, 64)]
    offers, script = on_script(
        found_by, says({"offers": [*first, row(64, dph_total=price)]}), says({"offers": [row(65, dph_total=0.2)]})
    )
    assert [offer.id for offer in offers] == [f"vast-{number}" for number in [*range(1, 64), 65]]
    assert script.sent()["dph_total"]["gte"] == pytest.approx(0.163, abs=0.001)


@pytest.mark.parametrize(("gpus", "told"), [(2, [7, 7]), (2, [7, "7"]), (2, [7]), (1, [7, 8])])
def test_an_offer_whose_gpu_ids_repeat_or_do_not_match_its_count_is_skipped(gpus: int, told: list[object]) -> None:
    offers, _ = on_script(found_by, says({"offers": [row(1), row(2, num_gpus=gpus, gpu_ids=told), row(3)]}))
    assert [offer.id for offer in offers] == ["vast-1", "vast-3"]


@pytest.mark.parametrize("column", ["reliability2", "cuda_max_good", "gpu_frac", "score"])
@pytest.mark.parametrize("value", [NAN, float("inf"), "NaN", -1.0])
def test_an_invalid_number_other_than_a_price_loses_no_offer(column: str, value: object) -> None:
    offers, _ = on_script(found_by, says({"offers": [row(1), row(2, **{column: value}), row(3)]}))
    assert len(offers) == 3


@pytest.mark.parametrize(
    ("told", "percent"),
    [(0.0, 0.0), (97.3, 97.3), ("12", 12.0), (250, 100.0), (None, None), (-1, None), ("busy", None), (True, None)],
)
def test_the_gpu_utilisation_is_a_percentage_or_not_known(told: object, percent: float | None) -> None:
    assert one(page(wire(5, gpu_util=told))).gpu_util == percent


def test_a_row_without_a_gpu_utilisation_is_of_a_machine_whose_utilisation_is_not_known() -> None:
    assert "gpu_util" not in wire(5)
    assert one(page(wire(5))).gpu_util is None
