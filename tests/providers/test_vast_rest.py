"""A machine of vast.ai is at rest only if every field of its row says so."""

import pytest

from gpuproxy.model.leases import InstanceId
from gpuproxy.ports import HttpResponse, ListedInstance
from gpuproxy.providers.vast.adapter import VastAi
from tests.providers.wires import on_script, page, says, wire

NUMBER = 27182818
STOPPED = {"actual_status": "exited", "intended_status": "stopped", "cur_state": "stopped", "next_state": "stopped"}
AT_REST: dict[str, dict[str, object]] = {
    "stopped by the user": {},
    "stopped by the user, other word": {"actual_status": "stopped"},
    "outbid": {"status_msg": "outbid"},
}
NOT_AT_REST: dict[str, dict[str, object]] = {
    "just created": {"actual_status": None, "intended_status": "running", "cur_state": "running",
                     "next_state": "running"},
    "pulling": {"actual_status": "loading", "intended_status": "running", "cur_state": "running",
                "next_state": "running"},
    "up": {"actual_status": "running", "intended_status": "running", "cur_state": "running", "next_state": "running"},
    "up, stop requested": {"actual_status": "running"},
    "restart accepted": {"intended_status": "running", "cur_state": "running", "next_state": "running"},
    "restart queued": {"intended_status": "running", "next_state": "running"},
    "restart queued, shown by the next state only": {"next_state": "running"},
    "restart queued, shown by the intended status only": {"intended_status": "running"},
    "hardware still held": {"cur_state": "running"},
    "created stopped, not started yet": {"actual_status": "created"},
    "raced with a stop": {"actual_status": "loading"},
    "provisioning, to be stopped": {"actual_status": None},
    "host gone": {"actual_status": "offline"},
    "no heartbeat": {"actual_status": "unknown"},
    "frozen": {"actual_status": "frozen", "intended_status": "frozen"},
    "released by a destroy": {"cur_state": "unloaded", "next_state": "unloaded"},
    "a new word": {"actual_status": "resting"},
    "another case": {"actual_status": "Exited"},
}  # fmt: skip
FIELDS = tuple(STOPPED)


def both(row: dict[str, object]) -> list[ListedInstance]:
    """The machine as a listing shows it, and as a single read does."""
    found, _ = on_script(VastAi.list, page(row))
    one, _ = on_script(lambda adapter: adapter.get(InstanceId(str(NUMBER))), says({"instances": row}))
    return [found.instances[0], one]


@pytest.mark.parametrize("case", AT_REST)
def test_a_machine_is_at_rest_if_all_fields_agree(case: str) -> None:
    assert all(each.at_rest for each in both(wire(NUMBER, **STOPPED | AT_REST[case])))


@pytest.mark.parametrize("case", NOT_AT_REST)
def test_a_machine_is_not_at_rest_if_any_field_disagrees(case: str) -> None:
    assert not any(each.at_rest for each in both(wire(NUMBER, **STOPPED | NOT_AT_REST[case])))


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", [..., None, "", 0, False, [], {}, "STOPPED", " stopped", "running", "\ud800"])
def test_a_field_that_is_missing_or_unclear_is_no_rest(field: str, value: object) -> None:
    assert not any(each.at_rest for each in both(wire(NUMBER, **STOPPED | {field: value})))


def test_a_repaired_row_is_at_rest_only_by_its_own_words() -> None:
    raw = str(page(wire(NUMBER, **STOPPED, status_msg="XX")).body, "ascii")
    for old, at_rest in (("XX", True), ('"next_state": "stopped"', False)):
        broken = raw.replace(old, old[:-2] + "\udcff" + old[-1:] if old != "XX" else "\udcff")
        body = broken.encode("utf-8", "surrogateescape")
        found, _ = on_script(VastAi.list, HttpResponse(status=200, headers={}, body=body))
        assert found.instances[0].at_rest is at_rest
