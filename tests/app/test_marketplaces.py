"""Installed marketplaces are found by their entry points. One that can't be used prevents startup."""

import sys
from pathlib import Path

import pytest

from gpuproxy.app import entry_points, marketplaces
from gpuproxy.config.environment import ConfigError
from gpuproxy.sandbox import dialects
from gpuproxy.sandbox.dialects.ionet.dialect import IoNet
from gpuproxy.sandbox.dialects.vast.dialect import Vast

MODULE = """
from gpuproxy.ports import Capabilities, Descriptor
DESCRIPTOR = Descriptor(name="{name}", prefix="{prefix}", env="{env}", connect=print, capabilities=Capabilities())
"""


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, *, point: str = "", text: str = "", **facts: str) -> None:
    """Install a package with a descriptor; `facts` replace fields of the descriptor."""
    values = {"name": "moon.example", "prefix": "moon", "env": "MOON", **facts}
    module = f"moon_{abs(hash((folder, text, *facts.items()))):x}"
    (folder / f"{module}.py").write_text(text or MODULE.format(**values))
    info = folder / f"{module}-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[gpuproxy.providers]\n{point or values['name']} = {module}:DESCRIPTOR\n")
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])


def test_an_installed_package_is_a_marketplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert entry_points.names() == ("io.net", "vast.ai")
    install(tmp_path, monkeypatch)
    assert entry_points.names() == ("io.net", "moon.example", "vast.ai")
    assert [each.prefix for each in marketplaces.installed()] == ["ionet", "moon", "vast"]


@pytest.mark.parametrize("facts", [{"prefix": "vast"}, {"env": "VASTAI"}, {"name": "vast.ai"}])
def test_two_marketplaces_with_the_same_name_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, facts: dict[str, str]
) -> None:
    install(tmp_path, monkeypatch, **facts)
    with pytest.raises(ConfigError, match=f"Two installed marketplaces use the same {next(iter(facts))}"):
        marketplaces.installed()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import no_such_module\n", "can't be loaded: No module named 'no_such_module'"),
        ("\n", "can't be loaded: "),
        (MODULE.format(name="Moon", prefix="moon", env="MOON"), "can't be loaded: the descriptor of 'Moon'"),
        ("DESCRIPTOR = print\n", "is not a gpuproxy.ports.Descriptor"),
        (MODULE.format(name="sun.example", prefix="sun", env="SUN"), "has the descriptor of sun.example"),
    ],
)
def test_an_unusable_adapter_prevents_startup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    install(tmp_path, monkeypatch, text=text)
    with pytest.raises(ConfigError, match=said):
        marketplaces.installed()


def test_the_sandbox_has_an_account_at_each_marketplace_whose_api_it_speaks() -> None:
    found = marketplaces.installed()
    accounts = marketplaces.sandbox_accounts(found, "http://127.0.0.1:9400")
    assert [(each.provider, each.name, each.base_url) for each in accounts] == [
        ("io.net", "sandbox-1", "http://127.0.0.1:9400"),
        ("vast.ai", "sandbox-1", "http://127.0.0.1:9400"),
    ]
    with pytest.raises(ConfigError, match="can't simulate any"):
        marketplaces.sandbox_accounts((), "http://127.0.0.1:9400")


def test_the_sandbox_names_the_marketplace_of_each_dialect() -> None:
    folders = [path for path in Path(dialects.__path__[0]).iterdir() if (path / "__init__.py").exists()]
    assert (Vast.provider, IoNet.provider) == dialects.MARKETPLACES
    assert len(folders) == len(dialects.MARKETPLACES)
