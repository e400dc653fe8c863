"""A search answer is decoded in slices. Its rows are those of a decoder that reads all of it."""

import json
from typing import Any

import msgspec
import pytest

from gpuproxy.providers.vast import wire
from gpuproxy.providers.vast.wire import read_search


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_SLICE_BYTES", 300)


def row(number: int, **more: Any) -> dict[str, Any]:
    return {
        "id": number,
        "machine_id": number % 7,
        "gpu_name": "RTX 4090",
        "num_gpus": 1,
        "gpu_ram": 24564,
        "dph_base": 0.25,
        "dph_total": 0.3,
        "storage_cost": 0.1,
        "disk_space": 100.0,
        **more,
    }


def ids(body: bytes) -> list[str]:
    return [offer.native_id() for offer in read_search(body, {}).offers]


def whole(rows: list[dict[str, Any]], **separators: Any) -> bytes:
    return json.dumps({"offers": rows}, **separators).encode()


COMPACT = {"separators": (",", ":")}
PLAIN = [row(number) for number in range(50)]


@pytest.mark.parametrize("separators", [COMPACT, {}, {"indent": 2}])
def test_all_rows_are_found_in_any_spelling(separators: dict[str, Any]) -> None:
    assert ids(whole(PLAIN, **separators)) == [str(number) for number in range(50)]


@pytest.mark.parametrize(
    "more",
    [
        {"search": {"a": [{"x": 1}, {"y": 2}]}},
        {"geolocation": 'odd },{ "text"'},
        {"list": [{"id": 1}, {"id": 2}]},
        {"geolocation": "]}"},
    ],
)
def test_a_cut_within_a_row_finds_the_same_rows(more: dict[str, Any]) -> None:
    body = whole([row(number, **more) for number in range(50)], **COMPACT)
    assert ids(body) == [str(number) for number in range(50)]


def test_a_wrong_row_loses_only_itself() -> None:
    rows = [row(number, **({"num_gpus": "many"} if number == 20 else {})) for number in range(50)]
    found = read_search(whole(rows, **COMPACT), {})
    assert (found.rows, found.undecodable, len(found.offers)) == (50, 1, 49)


def test_fields_beside_the_offers_change_nothing() -> None:
    body = json.dumps({"offers": PLAIN, "success": True, "more": [{"id": 1}, {"id": 2}]}, **COMPACT).encode()
    assert len(ids(body)) == 50
    assert ids(json.dumps({"more": [1], "offers": PLAIN}, **COMPACT).encode()) == ids(body)
    assert ids(json.dumps({"offers": []}).encode()) == []


@pytest.mark.parametrize("cut", [1, 2, 40])
def test_an_incomplete_answer_is_an_error(cut: int) -> None:
    with pytest.raises(msgspec.MsgspecError):
        read_search(whole(PLAIN, **COMPACT)[:-cut], {})


@pytest.mark.parametrize("odd", [b'},{"offers":[', b"}},{", b"},", b"{", b"\x00"])
def test_what_is_no_json_is_no_answer_in_slices_either(odd: bytes) -> None:
    body = whole(PLAIN, **COMPACT)
    middle = body.index(b"},{", len(body) // 2)
    with pytest.raises(msgspec.MsgspecError):
        read_search(body[:middle] + odd + body[middle:], {})
