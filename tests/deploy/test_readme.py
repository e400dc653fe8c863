"""The page about the deployment names each file, each alert and only commands that exist; each file has a test."""

import re
from pathlib import Path

import pytest
import yaml

from gpuproxy.cli import COMMANDS
from tests.deploy.programs import FILES, ROOT

PAGE = (FILES / "README.md").read_text()
_TESTS = "".join(path.read_text() for path in Path(__file__).parent.glob("*.py") if path != Path(__file__))


def complaints(page: str) -> list[str]:
    """What is missing on the page, or does not exist."""
    files = {path.name for path in FILES.iterdir() if path.is_file()} - {"README.md"}
    found = [f"{name} is not linked" for name in files if f"]({name})" not in page]
    rules = yaml.safe_load((FILES / "alerts.yml").read_text())["groups"][0]["rules"]
    alerts = {rule["alert"] for rule in rules}
    named = set(re.findall(r"`(Gpuproxy\w+)`", page))
    found += [f"{alert} is on one side only" for alert in alerts ^ named]
    commands = re.findall(r"(?:bin/|`|exec gpuproxy )gpuproxy ([a-z-]+)", page)
    found += [f"gpuproxy {command} does not exist" for command in commands if command not in COMMANDS]
    paths = re.findall(r"docs/deploy/[\w.]+", page)
    found += [f"{path} does not exist" for path in paths if not (ROOT / path).exists()]
    found += [] if "image itself is never built there" in page else ["it does not say what is not tested"]
    return found


def test_the_page_is_complete() -> None:
    assert complaints(PAGE) == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("(nginx.conf)", "(nginx.cfg)"),
        ("`GpuproxyAccountPaused`", "`GpuproxyAccountPause`"),
        ("bin/gpuproxy doctor", "bin/gpuproxy doctors"),
        ("`gpuproxy backup FILE`", "`gpuproxy backups FILE`"),
        ("docs/deploy/gpuproxy.service", "docs/deploy/gpuproxy.unit"),
        ("**No container engine", "**A container engine"),
    ],
)
def test_a_page_that_is_wrong_is_noticed(right: str, wrong: str) -> None:
    text = PAGE.replace(right, wrong)
    text = text.replace("never built there", "built there") if "engine" in right else text
    assert text != PAGE
    assert complaints(text)


@pytest.mark.parametrize("path", [each for each in FILES.iterdir() if each.is_file()], ids=lambda path: path.name)
def test_each_file_is_used_by_a_test(path: Path) -> None:
    assert path.name == "README.md" or f'"{path.name}"' in _TESTS
