"""The adapter on the sandbox: the complete market, the life of a machine, and every fault."""

from itertools import pairwise
from typing import Any

import pytest

from gpuproxy.adapters.system import ScaledClock
from gpuproxy.adapters.transport import AioHttp
from gpuproxy.model.errors import (
    AuthFailed,
    InsufficientFunds,
    OfferGone,
    OutcomeUnknown,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
)
from gpuproxy.model.leases import InstanceId
from gpuproxy.model.offers import Offer, OfferFilter
from gpuproxy.ports import InstanceStatus
from gpuproxy.providers.vast.adapter import VastAi
from gpuproxy.sandbox.options import SandboxOptions
from gpuproxy.sandbox.server.http_shell import serve
from gpuproxy.sandbox.server.in_process import InProcessHttp
from gpuproxy.sandbox.world import Sandbox, build
from tests.providers.wires import LABEL, SPEC, found, vast
from tests.virtual_time import VirtualClock, run_virtual

SANDBOX_KEY = "sandbox-key"
EVERYTHING = OfferFilter(max_price=1000.0, verified_only=False)


class World:
    """A sandbox and an adapter connected to it."""

    def __init__(self, clock: VirtualClock, **options: Any) -> None:
        options.setdefault("rate_limits", "off")
        options.setdefault("machines", 40)
        self.sandbox: Sandbox = build(SandboxOptions(**options), clock)
        self.http = InProcessHttp(self.sandbox)
        self.clock = clock
        more = {"intervals": {}} if options["rate_limits"] == "real" else {}
        self.vast: VastAi = vast(self.http, clock, key=SANDBOX_KEY, **more)

    def arm(self, call: str, fault: str, **more: object) -> None:
        self.sandbox.faults.arm({"provider": "vast.ai", "call": call, "fault": fault, "times": 1, **more})

    def rentable(self, *, verified: bool | None = None) -> set[str]:
        chunks = [chunk for machine in self.sandbox.market.machines.values() for chunk in machine.chunks]
        return {
            f"vast-{chunk.offer_id}"
            for chunk in chunks
            if chunk.rentable
            and (verified is None or (chunk.machine.columns["verification"] == "verified") is verified)
        }

    def made(self) -> list[str]:
        return [instance.label or "" for instance in self.sandbox.market.instances.values()]


async def cheapest(adapter: VastAi) -> Offer:
    return (await found(adapter))[0]


def test_the_log_of_a_running_machine_is_fetched() -> None:
    async def use(clock: VirtualClock) -> None:
        world = World(clock)
        made = await world.vast.create(await cheapest(world.vast), SPEC, LABEL)
        await clock.sleep(100)
        assert (await world.vast.logs(made.instance_id, 1))[0].endswith("sshd listens on port 22")
        with pytest.raises(ProviderError):
            await world.vast.logs(InstanceId("5"), 1)

    run_virtual(use)


@pytest.mark.parametrize("cap", [0, 64])
def test_the_whole_market_is_found_with_any_page_size(cap: int) -> None:
    async def use(clock: VirtualClock) -> None:
        world = World(clock, machines=300, search_page=cap)
        wanted = OfferFilter(max_price=1000.0, verified_only=False, disk_gb=8)
        offers = await found(world.vast, wanted)
        assert len(offers) == len({offer.id for offer in offers})
        assert {offer.id for offer in offers} == world.rentable()
        assert len(offers) > 300
        prices = [offer.price(8) for offer in offers]
        assert all(later >= earlier - 2 for earlier, later in pairwise(prices))

    run_virtual(use)


def test_a_market_with_a_single_price_is_found_completely_with_pages_of_64() -> None:
    async def use(clock: VirtualClock) -> None:
        world = World(clock, machines=150, search_page=64)
        for machine in world.sandbox.market.machines.values():
            for chunk in machine.chunks:
                world.sandbox.market.reprice(chunk, 500_000)
        wanted = OfferFilter(max_price=1000.0, verified_only=False, disk_gb=8)
        assert {offer.id for offer in await found(world.vast, wanted)} == world.rentable()

    run_virtual(use)


def test_a_search_returns_every_offer_that_passes_its_filter() -> None:
    async def use(clock: VirtualClock) -> None:
        world = World(clock, machines=200)
        everything = await found(world.vast)
        for wanted in (
            OfferFilter(max_price=0.5, min_vram=24),
            OfferFilter(max_price=0.6, num_gpus=2, disk_gb=100, verified_only=False),
            OfferFilter(max_price=2.0, min_reliability=0.99, min_cuda=12.4),
            OfferFilter(max_price=2.0, gpu_model="RTX 4090", location="US"),
        ):
            expected = {offer.id for offer in everything if not wanted.rejects(offer)}
            passed = {offer.id for offer in await found(world.vast, wanted) if not wanted.rejects(offer)}
            assert passed == expected

    run_virtual(use)


def test_a_search_for_verified_offers_requests_only_those() -> None:
    async def use(clock: VirtualClock) -> None:
        world = World(clock, machines=100)
        wanted = OfferFilter(max_price=1000.0, disk_gb=8)
        assert {offer.id for offer in await found(world.vast, wanted)} == world.rentable(verified=True)

    run_virtual(use)


def test_a_machine_is_rented_listed_and_destroyed() -> None:
    async def use(clock: VirtualClock) -> None:
        world = World(clock)
        credit = (await world.vast.spend()).credit
        offer = await cheapest(world.vast)
        receipt = await world.vast.create(offer, SPEC, LABEL)
        [young] = (await world.vast.list()).instances
        assert (young.id, young.label, young.status) == (receipt.instance_id, LABEL, InstanceStatus.PENDING)
        assert young.price == pytest.approx(offer.price(SPEC.disk_gb), abs=2)
        assert (young.gpu_model, young.num_gpus, young.machine_id) == (
            offer.gpu_model,
            offer.num_gpus,
            offer.machine_id,
        )
        await clock.sleep(120)
        grown = await world.vast.get(receipt.instance_id)
        assert grown is not None
        assert (grown.status, bool(grown.ssh)) == (InstanceStatus.RUNNING, True)
        await clock.sleep(3600)
        assert (await world.vast.spend()).credit < credit
        await world.vast.destroy(receipt.instance_id)
        await world.vast.destroy(receipt.instance_id)
        assert await world.vast.get(receipt.instance_id) is None
        assert (await world.vast.list()).instances == ()

    run_virtual(use)


def test_a_second_create_on_an_offer_is_offer_gone() -> None:
    async def use(clock: VirtualClock) -> None:
        world = World(clock)
        offer = await cheapest(world.vast)
        await world.vast.create(offer, SPEC, LABEL)
        with pytest.raises(OfferGone):
            await world.vast.create(offer, SPEC, LABEL)

    run_virtual(use)


def test_offers_that_exclude_each_other_share_a_conflict_key() -> None:
    async def use(clock: VirtualClock) -> None:
        world = World(clock)
        before = {offer.id: offer for offer in await found(world.vast)}
        rented = max(before.values(), key=lambda offer: offer.num_gpus)
        await world.vast.create(rented, SPEC, LABEL)
        after = {offer.id for offer in await found(world.vast)}
        gone = {id_ for id_ in before if id_ not in after}
        assert gone == {id_ for id_, offer in before.items() if set(offer.conflict_keys) & set(rented.conflict_keys)}

    run_virtual(use)


def test_a_listing_of_many_pages_is_complete_and_a_missing_page_is_an_error() -> None:
    async def use(clock: VirtualClock) -> None:
        world = World(clock, machines=200)
        offers = [offer for offer in await found(world.vast) if offer.num_gpus == 1]
        ids = set()
        for number, offer in enumerate(offers):
            try:
                ids.add((await world.vast.create(offer, SPEC, f"{LABEL}{number}")).instance_id)
            except OfferGone:
                continue
            if len(ids) == 60:
                break
        assert {instance.id for instance in (await world.vast.list()).instances} == ids
        world.arm("list", "missing_page")
        with pytest.raises(ProviderUnavailable):
            await world.vast.list()

    run_virtual(use)


NOT_EXECUTED: list[tuple[str, dict[str, object], type[ProviderError]]] = [
    ("refuse_connection", {}, ProviderUnavailable),
    ("rate_limited", {}, RateLimited),
    ("rate_limited", {"args": {"form": "json", "retry_after": 3}}, RateLimited),
    ("offer_gone", {}, OfferGone),
    ("no_capacity", {}, OfferGone),
    ("insufficient_credit", {}, InsufficientFunds),
    ("auth_error", {}, AuthFailed),
    ("hang_before", {}, OutcomeUnknown),
    ("reset_before", {}, OutcomeUnknown),
    ("status_500_before", {}, OutcomeUnknown),
    ("status_504_before", {}, OutcomeUnknown),
    ("refused_200", {}, OutcomeUnknown),
    ("html_502", {}, OutcomeUnknown),
]
EXECUTED = [
    "hang_after",
    "reset_after",
    "status_500_after",
    "status_503_after",
    "malformed_json",
    "truncated",
    "empty_body",
    "slow_trickle",
]


@pytest.mark.parametrize(("fault", "more", "kind"), NOT_EXECUTED)
def test_a_create_that_was_not_executed_is_refused_or_unknown(
    fault: str, more: dict[str, object], kind: type[ProviderError]
) -> None:
    async def use(clock: VirtualClock) -> None:
        world = World(clock)
        offer = await cheapest(world.vast)
        world.arm("create", fault, **more)
        with pytest.raises(ProviderError) as raised:
            await world.vast.create(offer, SPEC, LABEL)
        assert type(raised.value) is kind
        assert world.made() == []
        assert world.sandbox.calls["vast.ai"]["create"] == 1

    run_virtual(use)


@pytest.mark.parametrize("fault", EXECUTED)
def test_an_executed_create_without_a_complete_answer_is_unknown_and_labelled(fault: str) -> None:
    async def use(clock: VirtualClock) -> None:
        world = World(clock)
        offer = await cheapest(world.vast)
        world.arm("create", fault)
        with pytest.raises(OutcomeUnknown):
            await world.vast.create(offer, SPEC, LABEL)
        assert [instance.label for instance in (await world.vast.list()).instances] == [LABEL]
        assert world.sandbox.calls["vast.ai"]["create"] == 1

    run_virtual(use)


@pytest.mark.parametrize("fault", ["hang_before", "reset_after", "status_500_before", "html_502", *EXECUTED])
@pytest.mark.parametrize("call", ["search", "list", "get", "user"])
def test_a_failed_read_is_an_error_and_never_an_empty_answer(call: str, fault: str) -> None:
    async def use(clock: VirtualClock) -> None:
        world = World(clock)
        receipt = await world.vast.create(await cheapest(world.vast), SPEC, LABEL)
        reads: dict[str, Any] = {
            "search": lambda: found(world.vast),
            "list": world.vast.list,
            "get": lambda: world.vast.get(receipt.instance_id),
            "user": world.vast.spend,
        }
        world.arm(call, fault)
        with pytest.raises(ProviderUnavailable):
            await reads[call]()

    run_virtual(use)


@pytest.mark.parametrize("fault", ["reset_before", "status_500_before", "refused_200", "html_502", *EXECUTED])
def test_a_destroy_without_a_complete_answer_is_unknown_and_can_be_repeated(fault: str) -> None:
    async def use(clock: VirtualClock) -> None:
        world = World(clock)
        receipt = await world.vast.create(await cheapest(world.vast), SPEC, LABEL)
        world.arm("destroy", fault)
        with pytest.raises(OutcomeUnknown):
            await world.vast.destroy(receipt.instance_id)
        await world.vast.destroy(receipt.instance_id)
        assert world.made() == []

    run_virtual(use)


def test_a_wrong_key_is_not_a_missing_instance() -> None:
    async def use(clock: VirtualClock) -> None:
        adapter = vast(World(clock).http, clock, key="nobody")
        with pytest.raises(AuthFailed):
            await adapter.get(InstanceId("1"))
        with pytest.raises(AuthFailed):
            await adapter.destroy(InstanceId("1"))
        with pytest.raises(AuthFailed):
            await adapter.list()

    run_virtual(use)


def test_the_real_rate_limits_are_never_exceeded() -> None:
    async def use(clock: VirtualClock) -> None:
        world = World(clock, rate_limits="real", machines=800, search_page=64)
        assert len(await found(world.vast, EVERYTHING)) > 64 * 11
        for _ in range(5):
            await world.vast.list()
            await world.vast.get(InstanceId("1"))
            await world.vast.destroy(InstanceId("1"))

    run_virtual(use)


@pytest.mark.parametrize("fault", ["reset_before", "reset_after"])
async def test_a_create_reset_on_a_real_socket_reaches_the_market_once(fault: str) -> None:
    running = await serve(SandboxOptions(port=0, machines=20, rate_limits="off"))
    http = AioHttp()
    try:
        adapter = vast(http, ScaledClock(), key=SANDBOX_KEY, base_url=running.url)
        offer = await cheapest(adapter)
        running.sandbox.faults.arm({"provider": "vast.ai", "call": "create", "fault": fault, "times": 1})
        with pytest.raises(OutcomeUnknown):
            await adapter.create(offer, SPEC, LABEL)
        assert running.sandbox.calls["vast.ai"]["create"] == 1
        labels = [instance.label for instance in (await adapter.list()).instances]
        assert labels == ([LABEL] if fault == "reset_after" else [])
    finally:
        await http.close()
        await running.stop()
