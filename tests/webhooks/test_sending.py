"""Events are sent in order, until they are taken or a day old; no fault of a target touches anything else."""

import json

import pytest

from gpuproxy.model.webhooks import EventType
from gpuproxy.ports import Tx
from gpuproxy.store import outbox
from gpuproxy.webhooks.posting import TIMEOUT
from tests.webhooks.receiving import SECRET, Bench, Fault, Receiver, alone, deliveries, example, target, told
from tests.world import World

DAY = 86_400.0


async def tell(world: World | Bench, *numbers: int, project: str = "p1", kind: EventType = EventType.LOST) -> None:
    """Write an event for each number, each in a transaction of its own."""
    for number in numbers:
        await world.db.write(lambda tx, n=number: outbox.tell(tx, kind, project, {"number": n}))  # type: ignore[misc]


def numbers(receiver: Receiver) -> list[int]:
    return [event["data"]["number"] for event in receiver.handled]


def test_events_arrive_signed_and_in_the_order_of_their_commits():
    async def story(world: Bench, receiver: Receiver) -> None:
        await tell(world, 1, 2, 3)
        await world.sleep(5)
        assert numbers(receiver) == [1, 2, 3]
        first = receiver.handled[0]
        assert first["type"] == "reservation.lost"
        assert first["project"] == "p1"
        assert first["id"].startswith("evt_")
        assert len({event["id"] for event in receiver.handled}) == 3
        assert [each.state for each in await deliveries(world)] == ["delivered"] * 3

    alone(story)


def test_without_a_target_nothing_is_written():
    async def story(world: World, receiver: Receiver) -> None:
        world.webhooks, world.webhook_http = (), None
        await world.restart()
        await tell(world, 1)
        assert await deliveries(world) == []
        assert receiver.posted == []

    told(story)


@pytest.mark.parametrize("fault", [500, 429, 400, "hangs", "refuses"])
def test_a_failed_event_is_sent_again_with_the_same_id_and_those_behind_it_wait(fault: Fault):
    async def story(world: Bench, receiver: Receiver) -> None:
        receiver.faults = [fault, fault]
        await tell(world, 1, 2)
        await world.sleep(60)
        assert numbers(receiver) == [1, 2]
        tries = [each.event["id"] for each in receiver.posted]
        assert tries[0] == tries[1] == tries[2] != tries[3]
        first, second = await deliveries(world)
        assert (first.state, first.tries, second.tries) == ("delivered", 3, 1)

    alone(story)


def test_the_wait_doubles_with_jitter_and_a_day_of_failures_gives_up():
    async def story(world: Bench, receiver: Receiver) -> None:
        receiver.always = 503
        await tell(world, 1)
        await world.sleep(DAY + 7200)
        waits = [b.at - a.at for a, b in zip(receiver.posted, receiver.posted[1:], strict=False)]
        assert all(2.5 <= wait <= 3700 for wait in waits)
        assert waits[0] < 6
        assert waits[7] > 300
        assert 25 <= len(receiver.posted) <= 60
        (only,) = await deliveries(world)
        assert (only.state, only.status, only.error) == ("gave_up", 503, "it answered 503")
        assert receiver.posted[-1].at <= DAY + 10
        receiver.always = None
        await tell(world, 2)
        await world.sleep(5)
        assert numbers(receiver) == [2]

    alone(story)


def test_a_target_that_stays_down_does_not_fill_the_database():
    async def story(world: Bench, receiver: Receiver) -> None:
        receiver.always = "refuses"
        for number in range(6 * 10):
            await tell(world, number)
            await world.sleep(4 * 3600)
        rows = await deliveries(world)
        assert len([each for each in rows if each.state == "pending"]) <= 7
        assert len(rows) <= 6 * 8 + 1

    alone(story)


def test_a_target_that_hangs_delays_no_other_target_and_no_rental():
    async def story(world: World, receiver: Receiver) -> None:
        receiver.faults = ["hangs"]
        await tell(world, 1)
        await world.sleep(1)
        assert len(receiver.posted) == 2
        assert numbers(receiver) == [1]  # from the other target; the example drops what it has seen
        began = world.clock.monotonic()
        view = await world.reserve(1)
        assert view.kept
        assert world.clock.monotonic() - began < TIMEOUT

    told(story, targets=(target(name="a"), target(name="b", url="https://b.example/hook")))


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed_and_counts_as_a_failure(status: int):
    async def story(world: Bench, receiver: Receiver) -> None:
        receiver.faults = [status]
        await tell(world, 1)
        await world.sleep(1)
        assert [each.url for each in receiver.posted] == [target().url]
        (only,) = await deliveries(world)
        assert only.state == "pending"
        assert only.status == status
        assert "redirect" in only.error
        await world.sleep(20)
        assert numbers(receiver) == [1]

    alone(story)


def test_the_receiver_notices_a_wrong_secret():
    async def story(world: Bench, receiver: Receiver) -> None:
        await tell(world, 1)
        await world.sleep(1)
        assert receiver.handled == []
        assert [each.status for each in receiver.posted] == [401]

    alone(story, target(secrets=("another secret, just as long",)))


def test_while_a_secret_is_changed_both_sign():
    async def story(world: Bench, receiver: Receiver) -> None:
        await tell(world, 1)
        await world.sleep(1)
        assert numbers(receiver) == [1]

    alone(story, target(secrets=("another secret, just as long", SECRET)))


@pytest.mark.parametrize("change", ["body", "time", "old", "no signature", "two times"])
def test_a_changed_or_old_request_is_not_genuine(change: str):
    genuine = example().is_genuine
    from gpuproxy.model.webhooks import signature
    from tests.virtual_time import DAY_ONE

    body, now = b'{"id": "evt_1"}', DAY_ONE.timestamp()
    header = signature((SECRET,), DAY_ONE, body)
    assert genuine(SECRET, header, body, now + 299)
    if change == "body":
        body += b" "
    elif change == "time":
        header = header.replace(f"t={int(now)}", f"t={int(now) + 1}")
    elif change == "old":
        now += 301
    elif change == "no signature":
        header = header.partition(",")[0]
    else:
        header = f"t={int(now)},{header}"
    assert not genuine(SECRET, header, body, now)


def test_a_crash_between_commit_and_send_loses_nothing():
    async def story(world: World, receiver: Receiver) -> None:
        def lose(tx: Tx) -> None:
            outbox.tell(tx, EventType.LOST, "p1", {"number": 1})

        await world.db.write(lose)
        await world.kill()  # before the sender has read it
        assert receiver.posted == []
        await world.start()
        await world.sleep(5)
        assert numbers(receiver) == [1]

    told(story)


def test_a_crash_after_the_send_and_before_its_record_sends_it_again_with_the_same_id():
    async def story(world: World, receiver: Receiver) -> None:
        receiver.faults = ["takes and hangs"]
        await tell(world, 1)
        await world.sleep(1)
        assert numbers(receiver) == [1]
        await world.restart()
        await world.sleep(30)
        assert numbers(receiver) == [1]  # dropped by its id
        assert len(receiver.posted) == 2
        assert len({each.event["id"] for each in receiver.posted}) == 1
        assert [each.state for each in await deliveries(world)] == ["delivered"]

    told(story)


def test_an_event_of_a_transaction_that_fails_does_not_exist():
    async def story(world: Bench, receiver: Receiver) -> None:
        def fail(tx: Tx) -> None:
            outbox.tell(tx, EventType.LOST, "p1", {"number": 1})
            raise LookupError

        with pytest.raises(LookupError):
            await world.db.write(fail)
        await tell(world, 2)
        await world.sleep(5)
        assert numbers(receiver) == [2]

    alone(story)


def test_a_target_gets_only_the_events_and_the_project_that_it_chose():
    async def story(world: Bench, receiver: Receiver) -> None:
        await tell(world, 1)
        await tell(world, 2, project="p2")
        await tell(world, 3, kind=EventType.DIED)
        await tell(world, 4, project="")
        await world.sleep(5)
        assert [each.data["number"] for each in await deliveries(world, "all")] == [1, 2, 3, 4]
        assert [each.data["number"] for each in await deliveries(world, "mine")] == [1]

    chosen = target(name="mine", events=frozenset({EventType.LOST}), project="p1")
    alone(story, target(name="all"), chosen)


def test_what_waits_for_a_removed_target_is_given_up():
    async def story(world: World, receiver: Receiver) -> None:
        receiver.always = 500
        await tell(world, 1)
        await world.sleep(1)
        world.webhooks = (target(name="other"),)
        await world.restart()
        assert [(each.target, each.state, each.error) for each in await deliveries(world)] == [
            ("ops", "gave_up", "the target was removed")
        ]

    told(story)


def test_two_processes_on_one_database_send_each_event_once():
    async def story(world: World, receiver: Receiver) -> None:
        await tell(world, 1)
        await world.sleep(5)
        first = world.engine
        await world.start()  # a second process; the first one goes on
        await tell(world, 2, 3)
        await world.sleep(60)
        assert [each.event["data"]["number"] for each in receiver.posted] == [1, 2, 3]
        await first.stop()
        await tell(world, 4)
        await world.sleep(60)
        assert [each.event["data"]["number"] for each in receiver.posted] == [1, 2, 3, 4]

    told(story, shared=True)


def test_no_error_that_is_stored_has_the_url():
    async def story(world: Bench, receiver: Receiver) -> None:
        receiver.faults = ["refuses"]
        await tell(world, 1)
        await world.sleep(1)
        (only,) = await deliveries(world)
        assert only.error == "no connection (connection refused)"

    alone(story)


def test_the_form_for_slack_is_text_without_links_or_mentions():
    from gpuproxy.model.webhooks import Delivery, body
    from tests.virtual_time import DAY_ONE

    event = Delivery(
        target="slack", seq=1, event_id="evt_1", type=EventType.DIED, project="p1", at=DAY_ONE,
        data={"why": "<!channel> & <https://evil.example|here>\nx", "num_gpus": 2},
    )  # fmt: skip
    said = json.loads(body(event, "slack"))
    assert set(said) == {"text"}
    assert said["text"].startswith("*reservation.died* in project p1: A machine that was ready")
    assert "<" not in said["text"]
    assert "num_gpus: 2" in said["text"]
