"""Everything that users can name is named in the README or docs, and the generated parts are as the code is."""

import importlib.util
import re
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gpuproxy.app import marketplaces
from gpuproxy.cli import COMMANDS
from gpuproxy.config.loading import known_names
from gpuproxy.config.names import env_name
from gpuproxy.config.settings import Settings, settings_class
from gpuproxy.conformance import Subject
from gpuproxy.model.demands import PACKINGS
from gpuproxy.model.leases import LeaseState, status_word
from gpuproxy.model.offers import Offer
from gpuproxy.model.reasons import Reason
from gpuproxy.model.strategies import STRATEGIES
from gpuproxy.ports import Capabilities, Descriptor, Inventory, ListedInstance, ProviderSetup, Receipt
from gpuproxy.store import money_log
from gpuproxy.v1 import gpuproxy_pb2

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md")))
DOCS = "".join(path.read_text(encoding="utf-8") for path in PAGES)
MOST_README_LINES = 200


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"scripts_{name}", ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def part(name: str) -> str:
    return DOCS.partition(f"<!-- {name}:begin -->\n")[2].partition(f"\n<!-- {name}:end -->")[0]


def anchors(text: str) -> set[str]:
    """What GitHub makes of the headings outside code blocks."""
    outside = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", outside, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links() -> list[tuple[Path, str]]:
    """Each link inside the project, with the page that it is on."""
    return [
        (path, link)
        for path in PAGES
        for link in re.findall(r"\]\((?!https?:)([^)]+)\)", path.read_text(encoding="utf-8"))
    ]


def leads_somewhere(path: Path, link: str) -> bool:
    name, _, anchor = link.partition("#")
    target = path.parent / name if name else path
    return target.exists() and (not anchor or anchor in anchors(target.read_text(encoding="utf-8")))


def test_the_diagram_of_a_leases_life_is_the_transition_table() -> None:
    assert part("leases") == script("docs").lease_diagram()


def test_the_table_of_settings_is_what_is_read() -> None:
    assert part("settings") == script("docs").settings_table()


def test_the_table_of_calls_is_the_contract() -> None:
    assert script("docs").call_table() in DOCS


@pytest.mark.parametrize("name", sorted(known_names(settings_class(marketplaces.installed()))))
def test_every_setting_is_documented(name: str) -> None:
    assert f"`{name}`" in page("settings.md")


@pytest.mark.parametrize("field", sorted(Settings.model_fields))
def test_every_setting_says_what_it_does_and_is_read_by_somebody(field: str) -> None:
    assert Settings.model_fields[field].description
    assert re.search(rf"\.{field}\b", _sources()), f"{env_name(field)} has no effect"


@cache
def _sources() -> str:
    files = [path for path in (ROOT / "gpuproxy").rglob("*.py") if "v1" not in path.parts]
    return "\n".join(path.read_text(encoding="utf-8") for path in files)


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_strategy_is_documented(name: str) -> None:
    assert f"`{name}`" in page("LOADBALANCING.md")


@pytest.mark.parametrize("name", PACKINGS)
def test_every_packing_is_explained(name: str) -> None:
    assert re.search(rf"^\| `{name}`( \(default\))? \| \w", page("LOADBALANCING.md"), re.MULTILINE)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_is_documented(name: str) -> None:
    assert f"`gpuproxy {name}" in page("command-line.md")


@pytest.mark.parametrize(
    "name", [method.name for method in gpuproxy_pb2.DESCRIPTOR.services_by_name["GPUProxyService"].methods]
)
def test_every_call_is_documented(name: str) -> None:
    assert re.search(rf"\b{name}\b", DOCS)


@pytest.mark.parametrize("word", sorted({"available", "reserved"} | {status_word(state) for state in LeaseState}))
def test_every_status_word_is_documented(word: str) -> None:
    if word == LeaseState.FAILED:
        return
    assert f"`{word}`" in page("reservations.md")


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason])
def test_every_reason_of_an_error_or_outcome_is_documented(reason: str) -> None:
    assert f"`{reason}`" in DOCS


def loud_events() -> set[str]:
    """What the server may log at level warning or worse."""
    sources = [path for path in (ROOT / "gpuproxy").rglob("*.py") if "sandbox" not in path.parts]
    pattern = r'log\.(?:warning|error|exception)\(\s*"(\w+)"'
    return {event for path in sources for event in re.findall(pattern, path.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("event", sorted(money_log.EVENTS | loud_events()))
def test_every_event_of_the_log_about_money_or_for_an_operator_is_documented(event: str) -> None:
    assert re.search(rf"^\|.*`{event}`.*\|", (ROOT / "docs" / "logs.md").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize(
    "target", re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
)
def test_every_target_of_the_makefile_says_what_it_does(target: str) -> None:
    assert re.search(rf"^{target}:.*## \S", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize(("path", "link"), links(), ids=str)
def test_a_link_inside_the_project_leads_to_a_page_and_a_heading(path: Path, link: str) -> None:
    assert leads_somewhere(path, link)


@pytest.mark.parametrize("link", ["missing.md", "#missing", "docs/http.md#missing"])
def test_a_link_to_a_page_or_heading_that_does_not_exist_is_noticed(link: str) -> None:
    assert not leads_somewhere(ROOT / "README.md", link)


@pytest.mark.parametrize("path", [path for path in PAGES if path.parent == ROOT / "docs"], ids=lambda path: path.name)
def test_every_page_is_in_the_index(path: Path) -> None:
    assert path.name == "README.md" or f"]({path.name})" in page("README.md")


def test_the_readme_stays_short() -> None:
    assert len(README.splitlines()) <= MOST_README_LINES


@pytest.mark.parametrize("made", [Descriptor, ProviderSetup, Subject, Capabilities])
def test_the_guide_for_adapters_names_every_field_that_its_author_fills_or_reads(made: Any) -> None:
    guide = (ROOT / "docs" / "providers.md").read_text(encoding="utf-8")
    unnamed = [field.name for field in fields(made) if f"`{field.name}`" not in guide]
    assert unnamed == []


@pytest.mark.parametrize("made", [Offer, ListedInstance, Receipt, Inventory])
def test_the_guide_for_adapters_names_every_field_that_has_no_default(made: Any) -> None:
    guide = (ROOT / "docs" / "providers.md").read_text(encoding="utf-8")
    needed = [field.name for field in fields(made) if field.default is MISSING and field.default_factory is MISSING]
    assert [name for name in needed if f"`{name}`" not in guide and f"({name}=" not in guide] == []
