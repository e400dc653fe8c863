"""`make dist` refuses what a user would stumble over."""

from pathlib import Path

import pytest

from scripts.packages import __main__ as dist
from scripts.packages.environments import Environment
from tests.own_venv import NotInstalled

pytestmark = pytest.mark.long


def test_a_bare_install_has_the_clients_packages_only(bare: Environment, client: Environment) -> None:
    assert dist.bare(bare) == (
        "pip list of a bare install: googleapis-common-protos, gpuproxy, grpcio, protobuf, typing_extensions"
    )
    with pytest.raises(dist.Wrong, match=r"pip list of a bare install is .*click.*cryptography"):
        dist.bare(client)


def test_a_command_that_says_something_else_is_refused(bare: Environment, client: Environment, tmp_path: Path) -> None:
    (line,) = dist.without_server(bare, tmp_path, "The command line is not installed")
    assert "pip install 'gpuproxy[server]'" in line
    with pytest.raises(dist.Wrong, match="gpuproxy serve needs the server"):
        list(dist.without_server(client, tmp_path, "The command line is not installed"))


def test_a_program_is_typed_by_the_installed_client_only_with_py_typed(bare: Environment, tmp_path: Path) -> None:
    dist.typed(bare, tmp_path)
    (marker,) = bare.home.glob("lib/python*/site-packages/gpuproxy/py.typed")
    marker.unlink()
    try:
        with pytest.raises(dist.Wrong, match=r"py\.typed"):
            dist.typed(bare, tmp_path)
    finally:
        marker.touch()


@pytest.mark.parametrize(("index", "unreachable"), [("http://127.0.0.1:9/", True), ("file:///nonexistent", False)])
def test_an_index_that_does_not_answer_is_told_from_one_that_lacks_a_package(
    bare: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: str, unreachable: bool
) -> None:
    for name, value in (("INDEX_URL", index), ("RETRIES", "1"), ("NO_CACHE_DIR", "1"), ("FIND_LINKS", str(tmp_path))):
        monkeypatch.setenv(f"PIP_{name}", value)
    with pytest.raises(NotInstalled) as caught:
        bare._pip("install", "no-such-package")
    assert caught.value.unreachable is unreachable
