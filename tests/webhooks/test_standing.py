"""How deliveries go is seen: in metrics, by `gpuproxy doctor`, and in a log that says what each event is about."""

import pytest

from gpuproxy.app import figures
from gpuproxy.model.webhooks import Delivery, EventType
from gpuproxy.store import outbox
from tests.app.test_metrics import values
from tests.webhooks.receiving import SECRET, Receiver, target, told
from tests.webhooks.test_sending import tell
from tests.world import World

TWO = (target(), target(name="oncall", url="https://oncall.example/hook/abcdefghij"))


async def measured(world: World) -> dict[str, float]:
    found = await figures.read(world.db, world.engine.watches, world.clock)
    text = world.engine.metrics.render(found, problems=await world.engine.health.counts())
    assert SECRET not in text.decode()
    assert "example" not in text.decode()
    return {name: value for name, value in values(text).items() if "webhook" in name and "_created" not in name}


def test_deliveries_are_counted_for_each_target_from_zero_on() -> None:
    async def story(world: World, receiver: Receiver) -> None:
        before = await measured(world)
        assert set(before.values()) == {0.0}
        assert 'gpuproxy_webhook_results_total{result="failed",target="oncall"}' in before
        receiver.faults = [500, 500]
        await tell(world, 1)
        await world.sleep(60)
        after = await measured(world)
        results = {name: number for name, number in after.items() if name.startswith("gpuproxy_webhook_results_total")}
        assert sum(number for name, number in results.items() if 'result="failed"' in name) == 2
        assert sum(number for name, number in results.items() if 'result="delivered"' in name) == 2
        assert after['gpuproxy_webhook_waiting{target="ops"}'] == 0

    told(story, targets=TWO)


def test_a_target_that_keeps_failing_is_a_finding_until_it_takes_its_events() -> None:
    async def story(world: World, receiver: Receiver) -> None:
        receiver.always = 500
        await tell(world, 1, 2)
        await world.sleep(9 * 60)
        assert [each for each in await world.engine.health.findings() if each.kind == "webhook"] == []
        await world.sleep(120)
        (found,) = [each for each in await world.engine.health.findings() if each.kind == "webhook"]
        assert found.subject == "ops"
        assert "2 events wait" in found.text
        assert "it answered 500" in found.text
        assert "gpuproxy webhooks test ops" in found.advice
        seen = await measured(world)
        assert seen['gpuproxy_webhook_waiting{target="ops"}'] == 2
        assert 660 <= seen['gpuproxy_webhook_oldest_seconds{target="ops"}'] < 720
        assert seen['gpuproxy_problems{kind="webhook"}'] == 1
        receiver.always = None
        await world.sleep(3600)
        seen = await measured(world)
        assert seen['gpuproxy_webhook_oldest_seconds{target="ops"}'] == 0
        assert seen['gpuproxy_problems{kind="webhook"}'] == 0

    told(story)


def test_what_was_given_up_is_counted() -> None:
    async def story(world: World, receiver: Receiver) -> None:
        receiver.always = "refuses"
        await tell(world, 1, 2)
        await world.sleep(25 * 3600)
        assert (await measured(world))['gpuproxy_webhook_results_total{result="gave_up",target="ops"}'] == 2
        ended = await world.db.read(outbox.ended)
        assert ended == {("ops", "gave_up"): 2}

    told(story)


def test_a_target_that_is_behind_but_takes_events_is_no_finding() -> None:
    async def story(world: World, receiver: Receiver) -> None:
        for _ in range(5):
            await tell(world, 1)
            await world.sleep(300)
        assert [each for each in await world.engine.health.findings() if each.kind == "webhook"] == []

    told(story)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"reservation_id": "res-1", "contract_id": "27"}, "machine 27"),
        ({"reservation_id": "res-1"}, "res-1"),
        ({"machine_id": 7, "account": "vast-1"}, "warm pool 7"),
        ({"window": "24h", "limit_usd": 5}, "limit per 24h"),
        ({"provider": "vast.ai", "account": "vast-1"}, "account vast-1"),
        ({}, ""),
    ],
)
def test_a_delivery_says_what_it_is_about(data: dict[str, str | int | float], words: str) -> None:
    now = outbox.moment(0)
    event = Delivery(target="ops", seq=1, event_id="evt", type=EventType.LOST, project="p1", at=now, data=data)
    assert event.about == words
