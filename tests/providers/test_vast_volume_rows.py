"""The listing of vast.ai's volumes: complete or an error, and none is free while its machines are unclear."""

import json
from typing import Any

import pytest

from gpuproxy.model.errors import Refused
from gpuproxy.ports import ListedVolume
from gpuproxy.providers.vast.adapter import VastAi
from tests.providers.wires import LABEL, VOLUME, WRONG_ANSWERS, error_of, on_script, says

NAME = LABEL.replace("-", "_")


def volume(**facts: object) -> dict[str, object]:
    """A row of a listing of volumes. The value `...` removes a field."""
    values: dict[str, object] = {
        "id": 20118481,
        "label": NAME,
        "machine_id": 29575,
        "disk_space": 50.0,
        "status": "created",
        "instances": [],
        "type": "machine",
        "start_date": 1780448379.4,
        "end_date": 1812007461.3,
        "storage_total_cost": 0.0046,
    }
    return {name: value for name, value in (values | facts).items() if value is not ...}


def listed(*rows: object) -> tuple[tuple[ListedVolume, ...], tuple[str, ...]]:
    found, _ = on_script(VastAi.list_volumes, says({"volumes": rows}))
    return found.volumes, found.unreadable


def test_a_listing_has_each_volume_with_its_label_users_and_price() -> None:
    [found], unreadable = listed(volume(instances=[27182818, "27182819"], status="in-use"))
    assert not unreadable
    assert (found.id, found.label, found.machine_id, found.size_gb) == (VOLUME, LABEL, "29575", 50)
    assert (found.used_by, found.in_use, found.price) == (("27182818", "27182819"), True, 4_600)
    assert found.created_at is not None
    assert found.ends_at is not None


def test_a_listing_is_one_read_of_all_types_with_its_time() -> None:
    found, script = on_script(VastAi.list_volumes, says({"volumes": []}))
    assert script.requests[0].url == "https://console.vast.ai/api/v0/volumes?owner=me&type=all_volume"
    assert (found.volumes, found.unreadable) == ((), ())
    assert found.sent_at is not None


@pytest.mark.parametrize(
    "answer",
    [
        *WRONG_ANSWERS,
        *(says({"volumes": [], **more}) for more in ({"success": False}, {"error": "x"}, {"next_token": "t"})),
    ],
)
def test_a_listing_that_may_lack_volumes_is_an_error(answer: Any) -> None:
    error, _ = error_of(VastAi.list_volumes, answer)
    assert isinstance(error, Refused)


@pytest.mark.parametrize(
    ("facts", "label"),
    [
        ({"label": "gpx_abcdef_x"}, "gpx-abcdef-x"),
        ({"label": "warm_a1"}, None),
        ({"label": "my_gpx_a"}, None),
        ({"label": None}, None),
        ({"label": ""}, None),
    ],
)
def test_only_a_name_of_ours_is_a_label(facts: dict[str, object], label: str | None) -> None:
    [found], unreadable = listed(volume(**facts))
    assert (found.label, unreadable) == (label, ())


@pytest.mark.parametrize(
    ("facts", "in_use", "clear"),
    [
        ({}, False, True),
        ({"instances": None}, False, True),
        ({"status": "in-use"}, True, True),  # its last machine was just destroyed
        ({"status": None}, False, True),
        ({"status": "new-word"}, False, True),
        ({"status": "new-word", "instances": [5]}, True, True),
        ({"status": "new-word", "instances": None}, True, False),
        ({"instances": [5]}, True, True),
        ({"instances": None, "status": "in-use"}, True, False),
        ({"instances": ...}, True, False),
        ({"instances": "5"}, True, False),
        ({"instances": {}}, True, False),
        ({"instances": [5, None]}, True, False),
        ({"instances": [{"id": 5}]}, True, False),
    ],
)
def test_a_volume_is_free_only_if_its_machines_are_listed_and_none(
    facts: dict[str, object], in_use: bool, clear: bool
) -> None:
    [found], unreadable = listed(volume(**facts))
    assert (found.in_use, not unreadable) == (in_use, clear)


@pytest.mark.parametrize(
    ("facts", "price"),
    [
        ({"storage_total_cost": None, "storage_cost": 0.072}, 5_000),
        ({"storage_total_cost": ..., "storage_cost": 0.072}, 5_000),
        ({"storage_total_cost": -1, "storage_cost": None}, None),
        ({"storage_total_cost": ..., "storage_cost": 0.072, "disk_space": None}, None),
        ({"storage_total_cost": "0.005"}, 5_000),
    ],
)
def test_the_price_is_the_rows_own_or_that_of_its_size(facts: dict[str, object], price: int | None) -> None:
    assert listed(volume(**facts))[0][0].price == price


@pytest.mark.parametrize(
    "row", [None, "text", 5, [], {}, volume(id=...), volume(id=None), volume(id=0), volume(id="x")]
)
def test_a_row_without_an_id_is_named_and_hides_no_other(row: object) -> None:
    found, unreadable = listed(volume(id=1), row, volume(id=2))
    assert [each.id for each in found] == ["V.1", "V.2"]
    assert len(unreadable) == 1
    assert "row 2" in unreadable[0]


@pytest.mark.parametrize(
    "facts", [{"label": ...}, {"label": 5.5}, {"label": []}, {"machine_id": None}, {"machine_id": ...}]
)
def test_a_row_without_a_readable_label_or_machine_is_listed_and_named(facts: dict[str, object]) -> None:
    [found], unreadable = listed(volume(**facts))
    assert found.id == VOLUME
    assert len(unreadable) == 1


def test_a_volume_that_is_listed_twice_is_named() -> None:
    found, unreadable = listed(volume(), volume())
    assert (len(found), len(unreadable)) == (1, 1)


def test_bytes_that_are_no_text_spoil_only_their_field() -> None:
    raw = json.dumps({"volumes": [volume(label="XX"), volume(id=2)]}).encode().replace(b"XX", b"gpx_\xff")
    found, _ = on_script(VastAi.list_volumes, says(raw))
    assert [each.label for each in found.volumes] == [None, LABEL]
    assert len(found.unreadable) == 1


def test_the_text_of_a_row_is_never_quoted() -> None:
    _, unreadable = listed({"label": "secret-in-a-label"}, volume(label=["secret-in-a-label"]))
    assert len(unreadable) == 2
    assert not any("secret" in text for text in unreadable)
