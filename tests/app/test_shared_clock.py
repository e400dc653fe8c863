"""Servers that share a database count their time from one origin, however late or often each of them starts."""

import pytest

from gpuproxy.app import deployment
from gpuproxy.config.environment import ConfigError
from gpuproxy.ports import Database
from tests import databases
from tests.mortal import Life, MortalDatabase
from tests.virtual_time import VirtualClock, run_virtual

SCALE = 10.0


def shared(clock: VirtualClock) -> Database:
    """A database that several servers use."""
    return MortalDatabase(databases.opened(clock.now), Life(), lambda: 0.0, lambda: None, exclusive=False)


@pytest.mark.parametrize("later", [0.0, 0.3, 100.0])
def test_a_server_that_starts_later_has_the_time_of_the_first(later: float) -> None:
    async def story(clock: VirtualClock) -> None:
        db = shared(clock)
        await deployment.start_clock(db, SCALE)
        now = clock.now()
        before = await db.read(deployment.stored_clock)
        clock.jump(later)
        await deployment.start_clock(db, SCALE)
        after = await db.read(deployment.stored_clock)
        assert before(clock.now()) == after(clock.now())
        assert (after(clock.now()) - now).total_seconds() == pytest.approx(SCALE * later)

    run_virtual(story)


def test_the_date_of_a_servers_own_machine_does_not_count() -> None:
    """The virtual date is that of the database; that of this machine is another one."""

    async def story(clock: VirtualClock) -> None:
        db = shared(clock)
        began = clock.now()
        await deployment.start_clock(db, SCALE)
        assert (await db.read(deployment.stored_clock))(began) == began

    run_virtual(story)


@pytest.mark.parametrize(("theirs", "mine"), [(SCALE, 1.0), (SCALE, 20.0), (1.0, SCALE)])
def test_a_server_with_another_scale_does_not_start_and_names_both(theirs: float, mine: float) -> None:
    async def story(clock: VirtualClock) -> None:
        db = shared(clock)
        await deployment.start_clock(db, theirs)
        await deployment.claim_market(db, "sandbox")
        with pytest.raises(ConfigError) as refused:
            await deployment.start_clock(db, mine)
        assert "GPUPROXY_TIME_SCALE" in str(refused.value)
        assert f"{theirs:g}" in str(refused.value)
        assert f"{mine:g}" in str(refused.value)
        await deployment.start_clock(db, theirs)

    run_virtual(story)
