"""The settings of marketplaces come only from their descriptors."""

import re
from dataclasses import replace

import pytest

from gpuproxy.config.environment import ConfigError
from gpuproxy.config.loading import check_start, known_names, load_settings
from gpuproxy.config.settings import Settings, settings_class
from gpuproxy.model.offers import ProviderName
from gpuproxy.ports import Capabilities, Descriptor, PacedCall, Provider, ProviderSetup
from gpuproxy.providers.vast import DESCRIPTOR


def _never(setup: ProviderSetup) -> Provider:
    raise AssertionError(setup.account)


MOON = Descriptor(
    name=ProviderName("moon.example"),
    prefix="moon",
    env="MOON",
    connect=_never,
    capabilities=Capabilities(),
    calls=(PacedCall(name="search", seconds=2.5, what="searches"), PacedCall(name="create", seconds=0, what="creates")),
    regional=True,
)
BOTH = (DESCRIPTOR, MOON)


def load(**env: str) -> Settings:
    return load_settings(env, None, marketplaces=BOTH)


def refusal(**env: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(**env)
    return str(caught.value)


def described(variable: str) -> str:
    fields = settings_class(BOTH).model_fields.values()
    return next(str(info.description) for info in fields if info.alias == variable)


@pytest.mark.parametrize("key", ["sand\x07box", "sand\nbox", "good,b\x7fad", "s\u00e4nd"])
@pytest.mark.parametrize("setting", ["VASTAI_API_KEY", "MOON_API_KEY"])
def test_a_key_that_can_not_be_sent_stops_the_start_and_is_not_quoted(setting: str, key: str) -> None:
    text = refusal(**{setting: key})
    assert text == f"{setting}: a key must have only printable ASCII characters"
    assert load(**{setting: "sand-box_1,good"}).accounts


def test_every_descriptor_adds_settings_for_its_keys_url_and_intervals() -> None:
    added = known_names(settings_class(BOTH)) - known_names(settings_class([DESCRIPTOR]))
    assert added == {
        "MOON_API_KEY",
        "MOON_API_KEY_NAMES",
        "MOON_API_KEY_PROJECTS",
        "MOON_API_KEY_REGIONS",
        "GPUPROXY_MOON_URL",
        "GPUPROXY_MOON_SEARCH_INTERVAL",
        "GPUPROXY_MOON_CREATE_INTERVAL",
    }
    assert known_names(Settings) < known_names(settings_class([DESCRIPTOR]))


def test_keys_of_two_marketplaces_are_accounts_of_both() -> None:
    settings = load(
        VASTAI_API_KEY="v1",
        MOON_API_KEY="m1,m2",
        MOON_API_KEY_NAMES=",far",
        MOON_API_KEY_REGIONS="north",
        GPUPROXY_MOON_URL="http://127.0.0.1:1",
        GPUPROXY_MOON_CREATE_INTERVAL="3s",
    )
    assert [(a.provider, a.name, a.key, a.region, a.base_url) for a in settings.accounts] == [
        ("vast.ai", "vast-1", "v1", "", ""),
        ("moon.example", "moon-1", "m1", "north", "http://127.0.0.1:1"),
        ("moon.example", "far", "m2", "", "http://127.0.0.1:1"),
    ]
    assert settings.intervals == {"vast.ai": {}, "moon.example": {"create": 3.0}}
    assert settings.secrets == {"v1", "m1", "m2"}


def test_account_names_are_unique_within_a_marketplace_only() -> None:
    load(VASTAI_API_KEY="a", VASTAI_API_KEY_NAMES="team", MOON_API_KEY="b", MOON_API_KEY_NAMES="team")
    same = refusal(MOON_API_KEY="a,b", MOON_API_KEY_NAMES="team,team")
    assert same == "MOON_API_KEY_NAMES: two accounts have the same name"


def test_descriptions_give_the_intervals_and_whether_regions_are_used() -> None:
    assert described("GPUPROXY_MOON_SEARCH_INTERVAL") == (
        "minimum interval between searches of one account; default 2.5 s; 0: no limit"
    )
    assert (
        described("GPUPROXY_MOON_CREATE_INTERVAL")
        == "minimum interval between creates of one account; default 0 (no limit)"
    )
    assert "only the accounts of an offer's region rent it" in described("MOON_API_KEY_REGIONS")
    assert "offers of a region prefer its accounts" in described("VASTAI_API_KEY_REGIONS")


def test_a_misspelt_setting_of_any_marketplace_prevents_startup() -> None:
    assert refusal(MOON_KEY="1") == "MOON_KEY is set but GPU Proxy reads MOON_API_KEY: not started."
    assert refusal(MOON_ZZZ_QQQ="1") == "MOON_ZZZ_QQQ is set but GPU Proxy reads no setting of that name: not started."


def test_without_the_descriptor_only_its_settings_with_our_prefix_are_refused() -> None:
    load_settings({"MOON_ZZZ_QQQ": "1"}, None, marketplaces=[DESCRIPTOR])
    with pytest.raises(ConfigError, match="GPUPROXY_MOON_SEARCH_INTERVAL is set but GPU Proxy reads"):
        load_settings({"GPUPROXY_MOON_SEARCH_INTERVAL": "1"}, None, marketplaces=[DESCRIPTOR])


def test_the_error_without_keys_names_the_key_of_every_marketplace() -> None:
    with pytest.raises(ConfigError, match="Set VASTAI_API_KEY or MOON_API_KEY, or use --sandbox"):
        check_start(load(), sandbox=False)
    check_start(load(MOON_API_KEY="m"), sandbox=False)


@pytest.mark.parametrize("env", ["ADMIN", "CATALOG"])
def test_two_settings_with_the_same_name_are_refused(env: str) -> None:
    taken = replace(MOON, env=env, calls=(PacedCall(name="refresh", seconds=1, what="refreshes"),))
    with pytest.raises(ConfigError, match="has the name of another setting"):
        settings_class([taken])
    settings_class([replace(taken, env="LUNAR")])


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "Moon"},
        {"name": ""},
        {"name": "a/b"},
        {"prefix": "mo-on"},
        {"prefix": "1"},
        {"env": "moon"},
        {"env": "MOON_"},
        {"env": "GPUPROXY"},
        {"env": "GUARDRAILS"},
        {"calls": (PacedCall(name="Search", seconds=1, what="searches"),)},
    ],
)
def test_a_descriptor_with_an_invalid_name_or_prefix_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"the descriptor of {wrong.get('name', MOON.name)!r}")):
        replace(MOON, **wrong)  # type: ignore[arg-type]


def test_the_url_of_any_marketplace_is_checked() -> None:
    assert refusal(GPUPROXY_MOON_URL="nope").startswith("GPUPROXY_MOON_URL: must be http:// or https:// and a host")
    assert load(GPUPROXY_MOON_URL="http://127.0.0.1:9400")
