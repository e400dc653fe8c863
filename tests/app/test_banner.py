"""The text at startup: a command that can be pasted, and whether machines cost money."""

import shutil
import sys
from pathlib import Path

import pytest

from gpuproxy.app.banner import banner
from gpuproxy.config.loading import load_settings
from gpuproxy.providers.vast import DESCRIPTOR
from tests.config.test_marketplaces import MOON


@pytest.mark.parametrize(
    ("script", "below", "program"),
    [
        (True, True, ".venv/bin/gpuproxy"),
        (False, True, ".venv/bin/python -m gpuproxy"),
        (True, False, "{}/.venv/bin/gpuproxy"),
        (False, False, "{}/.venv/bin/python -m gpuproxy"),
    ],
)
def test_the_command_can_be_pasted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: bool, below: bool, program: str
) -> None:
    folder = tmp_path / "here" / ".venv" / "bin"
    folder.mkdir(parents=True)
    (tmp_path / "there").mkdir()
    if script:
        (folder / "gpuproxy").touch()
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.chdir(tmp_path / ("here" if below else "there"))
    text = banner(load_settings({}, None), "127.0.0.1:1", "127.0.0.1:2", "")
    assert text.splitlines()[-1].startswith(f"  {program.format(tmp_path / 'here')} reserve 4 ")


COSTS = "COST MONEY"


def lines(sandbox: str = "", **env: str) -> list[str]:
    settings = load_settings(env, None, marketplaces=[DESCRIPTOR, MOON])
    return banner(settings, "127.0.0.1:1", "127.0.0.1:2", sandbox).splitlines()


def test_on_a_real_marketplace_the_banner_names_who_pays_and_warns() -> None:
    text = lines(VASTAI_API_KEY="key-one,key-two", VASTAI_API_KEY_NAMES="research,", MOON_API_KEY="key-three")
    assert "market     vast.ai, paid by accounts research, vast-2" in text
    assert "market     moon.example, paid by account moon-1" in text
    assert [COSTS in line for line in text].count(True) == 1
    assert any("at most $10 per GPU-hour (GPUPROXY_MAX_PRICE)" in line for line in text)
    assert text[-2] == "Rent four GPUs, which costs money:"
    assert "key-" not in "".join(text).replace("admin-key", "")


def test_many_accounts_are_counted() -> None:
    keys = ",".join(f"key-{number}" for number in range(20))
    assert any(line.endswith("vast-8 and 12 more") for line in lines(VASTAI_API_KEY=keys))


def test_a_sandbox_costs_nothing_even_if_keys_are_set() -> None:
    text = lines("http://127.0.0.1:3", VASTAI_API_KEY="key-one")
    assert not any(COSTS in line for line in text)
    assert any("nothing costs money" in line for line in text)
    assert text[-2] == "Rent four GPUs:"


def test_a_marketplace_on_this_machine_is_no_real_one() -> None:
    assert not any(COSTS in line for line in lines(VASTAI_API_KEY="key-one", GPUPROXY_VASTAI_URL="http://127.0.0.1:3"))
