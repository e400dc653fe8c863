"""The settings of webhooks: one target by variables, and more of them in a file."""

import stat
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, Protocol, get_args
from urllib.parse import urlsplit

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from gpuproxy.config.names import env_name
from gpuproxy.config.values import Keys
from gpuproxy.model.webhooks import TOLD, EventType, Form, Target

_LEAST_SECRET = 16
_MOST_TARGETS = 20
_FILE = "GPUPROXY_WEBHOOKS_FILE"
_FIELDS = frozenset({"name", "url", "secrets", "events", "project", "form"})
_FIRST = "default"
"""The name of the target that the variables make."""


class WebhookSettings(BaseSettings):
    """The part of Settings about webhooks."""

    model_config = SettingsConfigDict(alias_generator=env_name, validate_by_name=True, validate_by_alias=True)

    webhook_url: SecretStr | None = Field(
        None, description="URL that events are posted to: [webhooks.md](webhooks.md). It is not shown anywhere"
    )
    webhook_secret: Keys = Field(
        (),
        description="secret that signs the events, at least 16 characters. While it is changed, two of them, comma "
        "separated: both sign",
    )
    webhook_events: str = Field(
        "", description="events that are posted, comma separated, for example `pool.*,reservation.lost`. Default: all"
    )
    webhook_project: str = Field("", description="post only the events of this project. Default: all events")
    webhook_form: Literal["json", "slack"] = Field(
        "json", description="`json`, or `slack`: text for Slack's incoming webhooks"
    )
    webhooks_file: Path | None = Field(
        None, description="TOML file (mode 0600) with more targets: [webhooks.md](webhooks.md#several-targets)"
    )


class Chosen(Protocol):
    """The settings that become targets."""

    webhook_url: SecretStr | None
    webhook_secret: tuple[SecretStr, ...]
    webhook_events: str
    webhook_project: str
    webhook_form: Literal["json", "slack"]
    webhooks_file: Path | None


def first_target_of(settings: Chosen) -> Target | None:
    """The target of the variables; None if none is set. Raises ValueError, whose text quotes no URL and no secret."""
    if settings.webhook_url is None:
        for name in ("secret", "events", "project"):
            if getattr(settings, f"webhook_{name}"):
                raise ValueError(f"GPUPROXY_WEBHOOK_URL: is missing. GPUPROXY_WEBHOOK_{name.upper()} needs it")
        return None
    target = Target(
        name=_FIRST,
        url=settings.webhook_url.get_secret_value().strip(),
        secrets=tuple(secret.get_secret_value() for secret in settings.webhook_secret),
        events=_events("GPUPROXY_WEBHOOK_EVENTS", settings.webhook_events.split(",")),
        project=settings.webhook_project,
        form=settings.webhook_form,
    )
    _check(target, "GPUPROXY_WEBHOOK_URL", "GPUPROXY_WEBHOOK_SECRET")
    return target


def targets_of(settings: Chosen) -> tuple[Target, ...]:
    """All targets. Reads the file. Raises ValueError, whose text quotes no URL and no secret."""
    first = first_target_of(settings)
    found = [] if first is None else [first]
    if settings.webhooks_file is not None:
        found += _in_file(settings.webhooks_file)
    names = [each.name for each in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{_FILE}: two targets have the name {twice[0]!r}")
    if len(found) > _MOST_TARGETS:
        raise ValueError(f"{_FILE}: at most {_MOST_TARGETS} targets are possible")
    return tuple(found)


def _in_file(path: Path) -> Iterator[Target]:
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise ValueError(f"{_FILE}: others can read {path}. Run chmod 600 {path}")
        read = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{_FILE}: {path} can't be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeError):  # its text may quote a line with a secret
        raise ValueError(f"{_FILE}: {path} is not valid TOML") from None
    tables = read.pop("webhook", None)
    if read or not isinstance(tables, list):
        raise ValueError(f"{_FILE}: {path} must have [[webhook]] tables and nothing else")
    for number, table in enumerate(tables, 1):
        yield _from_table(table, f"{_FILE}: [[webhook]] {number}")


def _from_table(table: Any, place: str) -> Target:
    if not isinstance(table, dict) or not table.keys() <= _FIELDS:
        raise ValueError(f"{place}: may only have {', '.join(sorted(_FIELDS))}")
    for name, value in table.items():
        several = name in ("secrets", "events")
        right = isinstance(value, list) and all(isinstance(each, str) for each in value)
        if not (right if several else isinstance(value, str)):
            raise ValueError(f"{place}: {name} must be {'a list of texts' if several else 'a text'}")
    name, form = str(table.get("name", "")).strip(), table.get("form", "json")
    if not name or not name.replace("-", "").replace("_", "").isalnum() or not name.isascii() or len(name) > 40:
        raise ValueError(f"{place}: name must be 1 to 40 letters, digits, hyphens and underscores")
    if form not in get_args(Form):
        raise ValueError(f"{place}: form must be {' or '.join(get_args(Form))}")
    target = Target(
        name=name,
        url=table.get("url", "").strip(),
        secrets=tuple(table.get("secrets", ())),
        events=_events(f"{place}: events", table.get("events", ())),
        project=table.get("project", ""),
        form=form,
    )
    _check(target, f"{place}: url", f"{place}: secrets")
    return target


def _events(place: str, names: Iterable[str]) -> frozenset[EventType]:
    """The events with these names; `pool.*` is all of a group, nothing is all of them."""
    found: set[EventType] = set()
    for name in filter(None, (each.strip() for each in names)):
        group = name.removesuffix("*")
        of_name = {each for each in TOLD if each == name or (name.endswith(".*") and each.startswith(group))}
        if not of_name:
            raise ValueError(f"{place}: {name!r} is no event. The events are {', '.join(sorted(TOLD))}")
        found |= of_name
    return frozenset(found) or TOLD


def _check(target: Target, url: str, secrets: str) -> None:
    form = "must be https:// or http:// and a host, for example https://example.com/gpuproxy"
    try:
        parts = urlsplit(target.url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and not parts.fragment
    except ValueError:
        usable = False
    if not usable or any(letter.isspace() or not letter.isprintable() for letter in target.url):
        raise ValueError(f"{url}: {form}")
    if target.form == "json" and not target.secrets:
        raise ValueError(f"{secrets}: is missing. It signs the events, so that the receiver knows whose they are")
    if any(len(secret) < _LEAST_SECRET for secret in target.secrets):
        raise ValueError(f"{secrets}: must have at least {_LEAST_SECRET} characters. `openssl rand -hex 32` prints one")
