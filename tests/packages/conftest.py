"""The wheel and the sdist of this checkout, built once."""

from pathlib import Path

import pytest

from scripts.packages import contents
from scripts.packages.environments import Environment
from tests.packages.installed import assembled


@pytest.fixture(scope="session")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return contents.build("sdist", contents.ROOT, tmp_path_factory.mktemp("sdist"), epoch=contents.epoch())


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return contents.build("wheel", contents.ROOT, tmp_path_factory.mktemp("wheel"), epoch=contents.epoch())


@pytest.fixture(scope="session")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """What `pip install gpuproxy` makes."""
    return assembled(tmp_path_factory.mktemp("bare"), wheel, *contents.CLIENT_NEEDS)


@pytest.fixture(scope="session")
def client(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """What `pip install gpuproxy[cli]` makes."""
    packages = (*contents.CLIENT_NEEDS, "click", "cryptography", "python-dotenv")
    return assembled(tmp_path_factory.mktemp("cli"), wheel, *packages)
