"""One sandbox and one installed command line for all tests here."""

from collections.abc import Iterator

import pytest

from tests.vastai_cli import stage
from tests.vastai_cli.program import Program, installed


@pytest.fixture(scope="session")
def market() -> Iterator[stage.Market]:
    with stage.market() as running:
        yield running


@pytest.fixture(scope="session")
def program(market: stage.Market, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    made = Program(path=installed(), home=tmp_path_factory.mktemp("vastai"), url=market.url)
    made.run(["show", "user"], stage.KEYS[0])  # the first command asks more than it needs, and remembers it
    yield made
    made.close()
