"""`gpuproxy warmpool`: pools that do not exist, and questions about what is destroyed, too."""

import pytest

from gpuproxy.edge.messages.pools import unknown_status
from tests.cli.test_warmpool import Pools, pool
from tests.cli.world import Run


@pytest.fixture
def world() -> Pools:
    return Pools()


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_the_status_of_a_pool_that_does_not_exist_says_so(run: Run, world: Pools, options: tuple[str, ...]) -> None:
    world.pool = unknown_status(7)
    result = run("warmpool", "status", "7", *options)
    assert (result.exit_code, bool(result.stdout)) == (1, bool(options))
    assert result.stderr == "There is no pool 7. To list the pools: gpuproxy warmpool list\n"


def test_the_status_of_a_disabled_pool_is_shown(run: Run, world: Pools) -> None:
    world.pool = pool(state="disabled", standby_state="none")
    result = run("warmpool", "status", "123")
    assert (result.exit_code, result.stdout.splitlines()[0]) == (0, "machine 123 disabled")


@pytest.mark.parametrize(
    ("command", "asked"),
    [
        (
            "disable",
            "Destroy the standby and the failed primary 456700 that is kept? What is on their own disks is lost",
        ),
        ("failover", "may be lost. The failed primary 456700 that is kept is destroyed."),
    ],
)
def test_the_question_names_the_failed_primary_that_is_destroyed_too(
    run: Run, world: Pools, command: str, asked: str
) -> None:
    world.pool.costs.add(part="failed_primary", state="stopped", contract_id="456700")
    assert asked in run("warmpool", command, "123", answer="n\n").stderr
    assert "failed primary" in run("warmpool", command, "--help").stdout
