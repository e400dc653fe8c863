"""Events and facts of leases: what each changes, and what it leaves as it was."""

from datetime import timedelta

import pytest

from gpuproxy.model.errors import IllegalTransition
from gpuproxy.model.lease_events import (
    Absent,
    Created,
    Found,
    Gone,
    NotAttempted,
    Ready,
    Reappeared,
    Refused,
    RefusedLate,
    Release,
    apply,
)
from gpuproxy.model.lease_facts import DestroySent
from gpuproxy.model.leases import InstanceId, LeaseState, SshAddress
from gpuproxy.model.reasons import Reason
from tests.flat_leases import changed
from tests.scenes import NOON, lease_of

LATER = NOON + timedelta(minutes=5)


def test_an_event_that_the_state_does_not_allow_is_refused() -> None:
    with pytest.raises(IllegalTransition):
        apply(lease_of(state=LeaseState.STARTING), NotAttempted(), NOON)


def test_a_lease_has_an_end_exactly_while_it_is_over() -> None:
    over = apply(lease_of(state=LeaseState.RELEASING), Gone(), LATER)
    assert (over.state, over.ended_at) == (LeaseState.RELEASED, LATER)
    assert apply(over, Reappeared(LATER), LATER).ended_at is None


def test_a_refusal_does_not_replace_the_reason_of_a_release() -> None:
    released = lease_of(state=LeaseState.RELEASING, reason=Reason.EXPIRED)
    assert apply(released, Refused(Reason.OFFER_GONE, "gone"), NOON).reason is Reason.EXPIRED
    asked = lease_of(state=LeaseState.REQUESTED)
    assert apply(asked, Refused(Reason.OFFER_GONE, "gone"), NOON).reason is Reason.OFFER_GONE


def test_a_late_refusal_ends_an_unknown_create_without_counting_as_a_listing() -> None:
    unknown = lease_of(state=LeaseState.UNKNOWN, instance_id=None)
    refused = apply(unknown, RefusedLate(Reason.RATE_LIMITED, "later"), NOON)
    assert (refused.state, refused.pending.absent_checks) == (LeaseState.FAILED, 0)
    absent = apply(unknown, Absent(NOON, Reason.NEVER_CREATED), NOON)
    assert (absent.state, absent.pending.absent_checks) == (LeaseState.FAILED, 1)


def test_a_machine_that_a_listing_shows_was_seen_and_one_that_an_answer_names_was_not() -> None:
    unknown = lease_of(state=LeaseState.UNKNOWN, instance_id=None)
    assert apply(unknown, Found(InstanceId("7"), LATER), LATER).observed.seen_at == LATER
    assert apply(unknown, Created(InstanceId("7"), LATER), LATER).observed.seen_at is None


def test_ready_keeps_the_first_time_and_the_known_address_unless_another_one_answered() -> None:
    lease = lease_of(ready_at=NOON, ssh_host="a", ssh_port=1)
    by_port = apply(lease, Ready(LATER, "port 8000 accepts"), LATER).observed
    assert (by_port.ready_at, by_port.ssh_host, by_port.ssh_port) == (NOON, "a", 1)
    by_ssh = apply(lease, Ready(LATER, "ssh greets", SshAddress("b", 2)), LATER).observed
    assert (by_ssh.ssh_host, by_ssh.ssh_port, by_ssh.ssh_user) == ("b", 2, "root")
    by_user = apply(lease, Ready(LATER, "ssh greets", SshAddress("b", 2, "ubuntu")), LATER).observed
    assert by_user.ssh_user == "ubuntu"


def test_a_release_keeps_the_providers_words_unless_it_has_its_own() -> None:
    lease = lease_of(status_message="loading")
    assert apply(lease, Release(Reason.DESTROYED, NOON), NOON).observed.status_message == "loading"
    assert apply(lease, Release(Reason.NOT_READY, NOON, "late"), NOON).observed.status_message == "late"


def test_a_machine_that_reappears_is_destroyed_and_proven_gone_anew() -> None:
    facts = {"destroy_tries": 3, "destroy_taken_at": NOON, "gone_said_at": NOON, "absent_checks": 2}
    again = apply(lease_of(state=LeaseState.RELEASED, **facts), Reappeared(LATER, listed=True), LATER)
    assert again == changed(
        lease_of(state=LeaseState.RELEASING, destroy_at=LATER, seen_at=LATER), version=again.version
    )


@pytest.mark.parametrize(
    ("answer", "taken", "gone", "billed"),
    [("error", None, None, "all"), ("accepted", LATER, None, "all"), ("none there", LATER, LATER, "nothing")],
)
def test_only_an_accepted_destroy_begins_a_proof_and_only_no_such_instance_ends_the_bill(
    answer: str, taken: object, gone: object, billed: str
) -> None:
    lease = lease_of(state=LeaseState.RELEASING, billed="all", absent_checks=2)
    sent = DestroySent(LATER, answer, 1, LATER).change(lease)  # type: ignore[arg-type]
    assert (sent.pending.destroy_taken_at, sent.pending.gone_said_at, sent.observed.billed) == (taken, gone, billed)
    assert sent.pending.absent_checks == (2 if answer == "error" else 0)
