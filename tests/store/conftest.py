"""Every test with the argument `store` or `db` runs over each store of the contract suite."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gpuproxy.ports import Database
from tests.store.stores import STORES, Store


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return STORES[request.param](tmp_path)


@pytest.fixture
async def db(store: Store) -> AsyncIterator[Database]:
    opened = store.open()
    yield opened
    await opened.close()
