"""The published document about warm pools, read from its text. It lies beside the project; without it, tests skip."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

WARM_POOL = Path(__file__).resolve().parents[1].parent / "shared" / "seeds" / "gpu-warm-pool-api.pt.md"
HOST = "https://api.dumontcloud.com"
PREFIX = "/api/v1"
MACHINE, HOST_NUMBER = "123", "88888"
"""The numbers in the examples."""


@dataclass(frozen=True, slots=True)
class Call:
    """One section of the document."""

    verb: str
    path: str
    """As in its title: without the prefix, and with {machine_id}."""
    answer: dict[str, Any]
    body: dict[str, Any] | None
    """The request as the section prints it in JSON; None: it prints none."""
    command: str
    """Its curl command; where it has none, one made of the title as the others are."""
    parameters: dict[str, tuple[str, str]]
    """The table of its parameters: by name, the type and the default as printed."""

    @property
    def title(self) -> str:
        return f"{self.verb} {self.path}"


def text() -> str:
    """The document; skips the test where it is not there."""
    if not WARM_POOL.exists():
        pytest.skip("the published document is not here")
    return WARM_POOL.read_text(encoding="utf-8")


def calls() -> dict[str, Call]:
    """The sections about calls, by their titles, in the order of the document."""
    found = re.findall(r"^### ([A-Z]+) (/\S+)\n(.*?)(?=^---$)", text(), re.MULTILINE | re.DOTALL)
    made = [_call(verb, path, section) for verb, path, section in found]
    return {each.title: each for each in made}


def states() -> list[str]:
    """The states of a pool, from their table."""
    table = text().partition("### Estados do Warm Pool\n")[2].partition("\n---")[0]
    return [name for name, _ in re.findall(r"^\| (\w+) \| (.+) \|$", table, re.MULTILINE) if name != "Estado"]


def _call(verb: str, path: str, section: str) -> Call:
    jsons = {
        title: json.loads(body) for title, body in re.findall(r"\*\*(\w+):\*\*\n```json\n(.*?)```", section, re.DOTALL)
    }
    commands = re.findall(r"```bash\n(curl .*?)```", section, re.DOTALL)
    made = f'curl -X {verb} {HOST}{PREFIX}{path} -H "Authorization: Bearer $API_KEY"'
    rows = re.findall(r"^\| (\w+) \| ([\w?]+) \| (\S+) \| .* \|$", section, re.MULTILINE)
    return Call(
        verb,
        path,
        jsons["Response"],
        jsons.get("Request"),
        (commands[0] if commands else made.replace("{machine_id}", MACHINE)).replace("\\\n", " ").strip(),
        {name: (kind, default) for name, kind, default in rows if kind != "Tipo"},
    )
