"""A container's own key: what it may do, and a machine of the running sandbox that ends itself with it."""

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from gpuproxy import boot
from gpuproxy.model.labels import Signer
from tests.sandbox.shop import Shop
from tests.sandbox.test_boot_scripts import printed, running
from tests.sandbox.test_http_shell import ask, instances

SIGNER = Signer("abc234", b"k" * 32)


def _key(shop: Shop) -> tuple[int, str]:
    status, made = shop.create(shop.search()[0]["id"], image="x", disk=10)
    assert status == 200
    return made["new_contract"], made["instance_api_key"]


def test_a_container_may_read_stop_and_destroy_itself() -> None:
    shop = Shop()
    contract, key = _key(shop)
    assert shop.get(contract, key)["id"] == contract
    assert shop.manage(contract, key, state="stopped")[0] == 200
    assert shop.destroy(contract, key)[0] == 200
    assert shop.get(contract) is None


def test_a_container_may_do_nothing_else() -> None:
    shop = Shop()
    (contract, key), (other, _) = _key(shop), _key(shop)
    for status, _ in (
        shop.manage(contract, key, label="mine"),
        shop.manage(contract, key, state="running"),
        shop.destroy(other, key),
        shop.ask("GET", f"/api/v0/instances/{other}/", key=key),
        shop.ask("GET", "/api/v1/instances/", key=key),
        shop.ask("DELETE", "/api/v0/instances/", {"instance_ids": [contract, other]}, key=key),
    ):
        assert status == 403
    assert shop.get(contract) is not None
    assert shop.get(other) is not None


def test_the_key_of_a_container_that_is_gone_is_unknown() -> None:
    shop = Shop()
    contract, key = _key(shop)
    shop.destroy(contract)
    assert shop.ask("GET", f"/api/v0/instances/{contract}/", key=key)[0] == 404


def test_answers_have_a_date_by_the_markets_clock() -> None:
    shop = Shop()
    for seconds in (0, 86_400):
        shop.control("POST", "clock", {"advance_seconds": seconds})
        response = shop.plan("GET", "/api/v1/instances/").response
        assert response is not None
        date = parsedate_to_datetime(response.headers["Date"])
        assert abs(date.timestamp() - shop.state()["now"]) <= 1


@pytest.mark.long
@pytest.mark.parametrize("mode", ["ours", "all"])
async def test_a_machine_of_the_running_sandbox_ends_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    async with running(tmp_path, monkeypatch, boot_scripts=mode, time_scale=120.0) as server:
        now = datetime.fromtimestamp((await ask(server, "GET", "/sandbox/v1/state"))["now"], UTC)
        label = SIGNER.with_end("gpx-abc234-slotslot-01-abc234", now + timedelta(seconds=60), "d")
        offers = await ask(server, "POST", "/api/v0/bundles/", {"num_gpus": {"eq": "1"}, "limit": 1})
        body = {"image": "x", "disk": 10, "runtype": "ssh", "label": label}
        body["onstart"] = boot.script((), "exit 0", more=(boot.ENDING,))
        made = await ask(server, "PUT", f"/api/v0/asks/{offers['offers'][0]['id']}/", body)
        await printed(server, made["new_contract"], "ending=watching")
        async with asyncio.timeout(600):
            while (await instances(server))[0]["destroyed_at"] is None:  # noqa: ASYNC110 - processes send no events
                await asyncio.sleep(0.2)
        assert (await instances(server))[0]["destroyed_at"] > now.timestamp() + 60 + 600
