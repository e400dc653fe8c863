"""Which event loop the server runs on."""

import asyncio
import sys

import pytest

from gpuproxy.app.loops import loop_factory, running_loop
from gpuproxy.config.environment import ConfigError

uvloop = pytest.importorskip("uvloop")


async def _running() -> str:
    return running_loop()


@pytest.mark.parametrize(("wanted", "runs"), [("auto", "uvloop"), ("uvloop", "uvloop"), ("asyncio", "asyncio")])
def test_uvloop_runs_if_it_is_installed_unless_asyncio_is_wanted(wanted: str, runs: str) -> None:
    policy = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(asyncio.DefaultEventLoopPolicy())
    try:
        with asyncio.Runner(loop_factory=loop_factory(wanted)) as runner:  # type: ignore[arg-type]
            assert runner.run(_running()) == runs
    finally:
        asyncio.set_event_loop_policy(policy)


def test_without_uvloop_asyncio_runs_and_a_wish_for_uvloop_is_a_configuration_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert loop_factory("auto") is None
    with pytest.raises(ConfigError, match=r"Install gpuproxy\[uvloop\]"):
        loop_factory("uvloop")
