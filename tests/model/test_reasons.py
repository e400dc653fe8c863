"""Reasons: one list of them, each with a status or a meaning for an outcome."""

import inspect
import re
from pathlib import Path

import grpc
import pytest

from gpuproxy.model import errors
from gpuproxy.model.reasons import Reason

PACKAGE = Path(errors.__file__).resolve().parent.parent
REASONS = [reason for reason in Reason if reason]
REFUSALS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.Refusal)]
SPELLED = {"edge/http/answers.py", "edge/rpc/listing.py", "app/tracing.py", "store/sqlite/database.py"}
"""Modules with such words that are no reasons: gRPC codes and names of other programs."""


@pytest.mark.parametrize("reason", REASONS)
def test_the_name_of_a_reason_is_its_value(reason: Reason) -> None:
    assert reason.name == reason.value


@pytest.mark.parametrize("reason", REASONS)
def test_a_reason_has_a_meaning_for_a_call_a_machine_or_the_operator(reason: Reason) -> None:
    meaning = reason.meaning
    operator = reason in (Reason.UNREADABLE_ROWS, Reason.ORPHANS_FOUND)
    assert meaning.refusal or meaning.outcome or meaning.stop or operator


@pytest.mark.parametrize("reason", [reason for reason in REASONS if reason.meaning.status])
def test_the_status_of_a_reason_is_a_grpc_status(reason: Reason) -> None:
    assert grpc.StatusCode[reason.meaning.status] is not grpc.StatusCode.OK


@pytest.mark.parametrize("reason", [reason for reason in REASONS if reason.meaning.refusal])
def test_a_reason_that_a_call_is_refused_with_has_a_status(reason: Reason) -> None:
    assert reason.meaning.status


@pytest.mark.parametrize("kind", REFUSALS)
def test_the_reason_of_every_kind_of_refusal_has_a_status(kind: type[errors.Refusal]) -> None:
    assert kind.reason.meaning.status


def test_no_module_spells_a_reason_as_text() -> None:
    known = "|".join(reason for reason in REASONS if "_" in reason)
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if re.search(rf'"({known})"', path.read_text(encoding="utf-8"))
    }
    rooms = {name for name in found if name.split("/")[0] not in ("v1", "sandbox", "cli", "client", "conformance")}
    assert rooms - SPELLED == {"model/reasons.py"}
