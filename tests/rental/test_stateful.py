"""Random actions of callers, with faults and crashes. Hypothesis looks for the shortest sequence that fails."""

from collections.abc import Coroutine
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import Refusal
from gpuproxy.model.leases import KEEPABLE
from tests.virtual_time import VirtualClock, virtual_runner
from tests.world import CALM, World

pytestmark = pytest.mark.long

P1 = Caller(project="p1")
FAULTS = [
    ("create", "reset_after"),
    ("create", "reset_before"),
    ("create", "status_500_after"),
    ("create", "offer_gone"),
    ("create", "rate_limited"),
    ("create", "price_moved"),
    ("list", "empty_list"),
    ("list", "status_500_before"),
    ("destroy", "destroy_ignored"),
    ("destroy", "reset_after"),
    ("get", "malformed_json"),
]


class Books(RuleBasedStateMachine):
    """A deployment and its market as a state machine."""

    made = Bundle("made")

    @initialize(seed=st.integers(0, 20))
    def begin(self, seed: int) -> None:
        self.runner = virtual_runner()
        self.asked: dict[str, str] = {}
        self.world = self.do(self._begun(seed))

    async def _begun(self, seed: int) -> World:
        world = World(VirtualClock(), paced=False, accounts=1, seed=seed, settings=CALM, machines=20)
        await world.start()
        return world

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    @rule(target=made, count=st.integers(1, 4), request_id=st.sampled_from(["", "a", "b"]))
    def reserve(self, count: int, request_id: str) -> str:
        key = f"{request_id}{count}" if request_id else ""
        try:
            view = self.do(self.world.reserve(count, request_id=key, seconds=60))
        except Refusal:
            return ""
        if key:
            assert self.asked.setdefault(key, view.reservation.id) == view.reservation.id
        return str(view.reservation.id)

    @rule(reservation=consumes(made))
    def release(self, reservation: str) -> None:
        if reservation:
            self.do(self.world.engine.reservations.release(P1, reservation))

    @rule(reservation=made, hours=st.integers(1, 5))
    def extend(self, reservation: str, hours: int) -> None:
        async def later() -> None:
            try:
                await self.world.engine.reservations.extend(
                    P1, reservation, self.world.clock.now() + timedelta(hours=hours)
                )
            except Refusal:
                return

        if reservation:
            self.do(later())

    @rule(fault=st.sampled_from(FAULTS), times=st.integers(1, 3))
    def fault(self, fault: tuple[str, str], times: int) -> None:
        self.do(self._arm(fault, times))

    async def _arm(self, fault: tuple[str, str], times: int) -> None:
        self.world.arm(*fault, times=times)

    @rule(seconds=st.sampled_from([1, 10, 60, 400]))
    def wait(self, seconds: int) -> None:
        self.do(self.world.sleep(seconds))

    @rule()
    def crash(self) -> None:
        self.do(self.world.restart())

    @invariant()
    def nothing_is_twice(self) -> None:
        if hasattr(self, "world"):
            self.do(self._check())

    async def _check(self) -> None:
        labels = [i["label"] for i in self.world.market["instances"]]
        assert len(labels) == len(set(labels))
        gpus: dict[str, int] = {}
        for lease in await self.world.leases():
            if lease.state in KEEPABLE:
                gpus[lease.reservation_id] = gpus.get(lease.reservation_id, 0) + lease.offered.num_gpus
        for reservation, held in gpus.items():
            assert held <= (await self.world.view(reservation)).reservation.count

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return

        async def quiet() -> None:
            self.world.control("DELETE", "faults")
            await self.world.sleep(1500)
            await self.world.books_agree()
            await self.world.engine.stop()

        try:
            self.do(quiet())
        finally:
            self.runner.close()


Books.TestCase.settings = settings(
    max_examples=30,
    stateful_step_count=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
TestWhateverCallersDo = Books.TestCase
