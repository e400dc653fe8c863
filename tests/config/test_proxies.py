"""The variables for HTTP proxies: which ones stop a start, which are skipped, and that none is quoted."""

from pathlib import Path

import pytest

from gpuproxy.config.environment import ConfigError
from gpuproxy.config.loading import check_start, load_settings
from gpuproxy.providers.vast import DESCRIPTOR
from tests.config.test_config import load

CANARY = "canary7"


UNUSABLE = f"socks5h://me:{CANARY}@proxy.test:1080"
NEAR, FAR = "http://127.0.0.1:9400", "http://market.test:9400"


@pytest.mark.parametrize(
    ("name", "url"), [("HTTPS_PROXY", ""), ("https_proxy", ""), ("HTTP_PROXY", FAR), ("http_proxy", FAR)]
)
def test_a_proxy_that_can_not_be_used_but_is_needed_stops_the_start_without_quoting_it(name: str, url: str) -> None:
    settings = load(VASTAI_API_KEY="k", GPUPROXY_VASTAI_URL=url, **{name: UNUSABLE})
    with pytest.raises(ConfigError) as caught:
        check_start(settings, sandbox=False)
    assert str(caught.value).startswith(f"{name.upper()} (or {name.lower()}): must be http:// or https://")
    assert "vast.ai" in str(caught.value)
    assert CANARY not in str(caught.value) + repr(settings)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("HTTP_PROXY", {}),
        ("HTTPS_PROXY", {"GPUPROXY_VASTAI_URL": FAR}),
        ("HTTP_PROXY", {"GPUPROXY_VASTAI_URL": NEAR}),
        ("HTTPS_PROXY", {"NO_PROXY": "vast.ai"}),
        ("HTTPS_PROXY", {"no_proxy": "*"}),
    ],
)
def test_a_proxy_that_can_not_be_used_and_is_not_needed_is_ignored(name: str, more: dict[str, str]) -> None:
    settings = load(VASTAI_API_KEY="k", **{name: UNUSABLE}, **more)
    check_start(settings, sandbox=False)
    assert settings.proxies.https is settings.proxies.http is None
    assert [setting for setting, _ in settings.proxy_problems] == [name]
    assert CANARY not in str(settings.proxy_problems)


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"])
@pytest.mark.parametrize("keys", [{}, {"VASTAI_API_KEY": "k"}])
def test_the_sandbox_starts_whatever_the_variables_for_proxies_say(name: str, keys: dict[str, str]) -> None:
    check_start(load(**{name: UNUSABLE}, **keys), sandbox=True)


@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
@pytest.mark.parametrize("entry", ["10.0.0.1:8080-8090", "https://vast.ai", "10.0.0.0/99"])
def test_an_exception_that_can_not_be_read_is_skipped_and_the_others_are_used(name: str, entry: str) -> None:
    settings = load(VASTAI_API_KEY="k", HTTPS_PROXY="http://proxy.test:1", **{name: f"a.test, {entry} ,b.test"})
    check_start(settings, sandbox=False)
    assert [settings.proxies.for_url(f"https://{host}/") is None for host in ("a.test", "b.test", "c.test")] == [
        True, True, False,
    ]  # fmt: skip
    ((setting, problem),) = settings.proxy_problems
    assert setting == "NO_PROXY"
    assert problem.startswith("entry 2 must be a host name, an address or a network")
    assert entry not in problem


def test_if_everything_about_proxies_can_be_read_nothing_is_ignored() -> None:
    assert load(HTTPS_PROXY="http://proxy.test:1", NO_PROXY="a.test:80,10.0.0.0/8").proxy_problems == ()
    assert load().proxy_problems == ()


def test_proxies_are_read_in_both_cases_and_lower_case_takes_precedence(tmp_path: Path) -> None:
    vast = "https://console.vast.ai/"
    upper, lower = "http://upper.test:1", "http://lower.test:1"
    for env, url in (
        ({"HTTPS_PROXY": upper}, upper),
        ({"https_proxy": lower}, lower),
        ({"HTTPS_PROXY": upper, "https_proxy": lower}, lower),
        ({"HTTPS_PROXY": upper, "https_proxy": " "}, upper),
    ):
        found = load(**env).proxies.for_url(vast)
        assert found is not None
        assert found.url == url
    assert load(HTTPS_PROXY=upper, no_proxy="vast.ai").proxies.for_url(vast) is None
    assert load(HTTP_PROXY=upper).proxies.for_url(vast) is None
    file = tmp_path / ".env"
    file.write_text(f"HTTPS_PROXY={upper}\n")
    assert load_settings({}, file, marketplaces=[DESCRIPTOR]).proxies.for_url(vast) is not None


def test_the_password_of_a_proxy_is_a_secret_and_in_no_repr() -> None:
    settings = load(HTTPS_PROXY=f"http://me:{CANARY}@proxy.test:3128")
    assert CANARY in settings.secrets
    assert CANARY not in repr(settings) + repr(settings.proxies)


@pytest.mark.parametrize("name", ["FTP_PROXY", "ALL_PROXY", "all_proxy", "HTTP_PROXIES", "HTTPS_PROXYS", "NO_PROXY2"])
def test_a_similar_name_of_another_program_is_no_misspelt_proxy(name: str) -> None:
    assert load(**{name: "anything"}).proxies.https is None
