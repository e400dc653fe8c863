"""What works without the packages of the server, and what a command says that needs them."""

import sys
from importlib import metadata
from pathlib import Path

import grimp
import pytest

from gpuproxy.cli import COMMANDS, extras
from scripts.packages.contents import ROOT
from scripts.packages.environments import Environment
from tests.packages.installed import error_of_importing

pytestmark = pytest.mark.long

ALLOWED = frozenset({"gpuproxy", "grpc", "google", "typing_extensions"})
OF_SERVER = ("serve", "sandbox", "doctor", "reconcile", "backup", "migrate-books", "keys", "users", "webhooks")


def foreign(graph: grimp.ImportGraph, *roots: str) -> frozenset[str]:
    """The packages outside this one that these modules import, directly or through others."""
    found: set[str] = set()
    for root in roots:
        for module in {root} | graph.find_descendants(root):
            found |= graph.find_upstream_modules(module)
    tops = {name.partition(".")[0] for name in found}
    return frozenset(tops - sys.stdlib_module_names - ALLOWED)


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("gpuproxy", include_external_packages=True, cache_dir=None)


def test_the_client_and_the_stubs_import_nothing_but_grpc_and_protobuf(graph: grimp.ImportGraph) -> None:
    assert not foreign(graph, "gpuproxy.client", "gpuproxy.v1")


def test_a_heavy_import_in_the_client_is_caught_however_indirect(graph: grimp.ImportGraph) -> None:
    graph.add_import(importer="gpuproxy.client.channel", imported="gpuproxy.adapters.logs")
    try:
        assert "structlog" in foreign(graph, "gpuproxy.client", "gpuproxy.v1")
    finally:
        graph.remove_import(importer="gpuproxy.client.channel", imported="gpuproxy.adapters.logs")


def test_a_bare_install_has_the_client(bare: Environment, tmp_path: Path) -> None:
    assert not error_of_importing(bare, tmp_path, "gpuproxy.client", "gpuproxy.v1.gpuproxy_pb2_grpc")
    assert "No module named 'structlog'" in error_of_importing(bare, tmp_path, "gpuproxy.adapters.logs")


def test_any_command_of_a_bare_install_says_in_one_line_what_to_install(bare: Environment, tmp_path: Path) -> None:
    for words in (("serve",), ("list", "--json"), ()):
        done = bare.run("gpuproxy", *words, folder=tmp_path)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert "pip install 'gpuproxy[server]'" in done.stderr
        assert "pip install 'gpuproxy[cli]'" in done.stderr


def test_every_client_command_works_with_the_extra_cli(client: Environment, tmp_path: Path) -> None:
    modules = sorted({place.partition(":")[0] for name, (place, _) in COMMANDS.items() if name not in OF_SERVER})
    assert not error_of_importing(client, tmp_path, *modules)
    assert "No module named 'pydantic'" in error_of_importing(client, tmp_path, "gpuproxy.cli.server")
    done = client.run("gpuproxy", "reserve", "--help", folder=tmp_path)
    assert (done.returncode, '"vast.ai"' in done.stdout) == (0, True)


def test_every_command_of_the_server_says_in_one_line_what_to_install(client: Environment, tmp_path: Path) -> None:
    for name in OF_SERVER:
        done = client.run("gpuproxy", name, folder=tmp_path)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert done.stderr.startswith(f"gpuproxy {name} needs the server, which is not installed.")
        assert "pip install 'gpuproxy[server]'" in done.stderr


def test_the_commands_that_need_the_server_are_those_that_no_import_contract_names() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    contract = text.partition('name = "the client commands import no package of the server"')[2].partition("\n\n")[0]
    clients = {place.partition(":")[0] for name, (place, _) in COMMANDS.items() if name not in OF_SERVER}
    assert clients == {name for name in contract.split('"') if name.startswith("gpuproxy.cli.")} - {
        "gpuproxy.cli.connection"
    }


def test_a_module_that_is_missing_although_the_server_is_installed_is_an_error_of_its_own() -> None:
    assert extras.not_installed(ModuleNotFoundError(name="nonsense"), "serve") is None
    assert extras.not_installed(ModuleNotFoundError(name="gpuproxy.nonsense"), "serve") is None


def test_only_packages_that_the_server_needs_on_every_platform_are_named() -> None:
    lines = [
        "no-such-a>=1; extra == 'server'",
        'no-such-b[x]<3,>=2 ; extra == "server"',
        "no-such-c; extra == 'otel'",
        "no-such-d; sys_platform == 'win32' and extra == 'server'",
        "no-such-e>=1",
        "click>=8; extra == 'server'",
    ]
    assert extras.missing_packages(lines) == ["no-such-a", "no-such-b"]
    assert not extras.missing_packages(metadata.requires("gpuproxy") or [])
