"""Which proxy a request goes through, and which values of the variables can't be used."""

import pytest

from gpuproxy.adapters.proxies import Proxies, exceptions_in, is_loopback, proxy_at, unreadable_in

HTTPS, HTTP = proxy_at("http://secure.test:3128"), proxy_at("http://plain.test:3128")


def proxies(exceptions: str = "") -> Proxies:
    return Proxies(https=HTTPS, http=HTTP, exceptions=exceptions_in(exceptions))


def test_the_scheme_of_the_address_chooses_the_proxy() -> None:
    assert proxies().for_url("https://console.vast.ai/api") == HTTPS
    assert proxies().for_url("http://console.vast.ai/api") == HTTP
    assert Proxies(http=HTTP).for_url("https://console.vast.ai/") is None


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.8.9.1",
        "[::1]",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "a.localhost",
        "[::ffff:127.0.0.1]",
        "127.1",
        "2130706433",
        "0x7f.1",
        "[::1%lo]",
        "0.0.0.0",  # noqa: S104 - never listened on
        "0.0.0.0.",
        "0",
        "0x0",
        "0.0",
        "[::]",
        "[::ffff:0.0.0.0]",
    ],
)
def test_no_address_of_this_machine_uses_a_proxy(host: str) -> None:
    assert proxies().for_url(f"http://{host}:8000/") is None
    assert proxies().for_url(f"https://{host}/") is None


@pytest.mark.parametrize(
    "host", ["128.0.0.1", "0.0.0.1", "[::2]", "localhost.example.com", "mylocalhost", "[2001:db8::1]", "1.localhosts"]
)
def test_other_addresses_use_the_proxy(host: str) -> None:
    assert proxies().for_url(f"http://{host}:8000/") == HTTP


@pytest.mark.parametrize(
    ("exceptions", "url"),
    [
        ("*", "https://console.vast.ai/"),
        ("vast.ai", "https://vast.ai/"),
        ("vast.ai", "https://console.vast.ai/"),
        (".vast.ai", "https://console.vast.ai/"),
        ("*.vast.ai", "https://console.vast.ai/"),
        ("VAST.AI.", "https://Console.Vast.AI/"),
        ("other.test, vast.ai", "https://console.vast.ai/"),
        ("other.test vast.ai", "https://console.vast.ai/"),
        ("vast.ai:443", "https://console.vast.ai/"),
        ("vast.ai:8443", "https://console.vast.ai:8443/"),
        ("10.0.0.0/8", "http://10.1.2.3:8000/"),
        ("10.1.2.3", "http://10.1.2.3:8000/"),
        ("10.1.2.3:8000", "http://10.1.2.3:8000/"),
        ("2001:db8::/32", "http://[2001:db8::5]/"),
        ("[2001:db8::5]", "http://[2001:db8::5]/"),
        ("[2001:db8::5]:80", "http://[2001:db8::5]/"),
    ],
)
def test_an_exception_is_connected_directly(exceptions: str, url: str) -> None:
    assert proxies(exceptions).for_url(url) is None


@pytest.mark.parametrize(
    ("exceptions", "url"),
    [
        ("", "https://console.vast.ai/"),
        ("ast.ai", "https://console.vast.ai/"),
        ("console.vast.ai", "https://vast.ai/"),
        ("vast.ai:80", "https://console.vast.ai/"),
        ("10.0.0.0/8", "http://11.1.2.3/"),
        ("10.0.0.0/8", "http://10.example.com/"),
        ("10.1.2.3", "http://10.1.2.30/"),
    ],
)
def test_what_an_exception_does_not_cover_uses_the_proxy(exceptions: str, url: str) -> None:
    assert proxies(exceptions).for_url(url) is not None


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://proxy.test:3128", "http://proxy.test:3128"),
        ("http://proxy.test:3128/", "http://proxy.test:3128"),
        (" proxy.test:3128 ", "http://proxy.test:3128"),
        ("https://proxy.test", "https://proxy.test:443"),
        ("http://me:secret@proxy.test", "http://proxy.test:80"),
        ("me:secret@proxy.test:3128", "http://proxy.test:3128"),
        ("http://[2001:db8::1]:3128", "http://[2001:db8::1]:3128"),
    ],
)
def test_a_proxy_is_written_with_or_without_scheme_port_and_credentials(text: str, url: str) -> None:
    proxy = proxy_at(text)
    assert proxy is not None
    assert (proxy.url, proxy.place) == (url, url.partition("://")[2])
    assert "secret" not in repr(proxy)


def test_a_blank_value_is_no_proxy() -> None:
    assert proxy_at("  ") is None


@pytest.mark.parametrize(
    "text",
    [
        "socks5://me:canary@proxy.test:1080",
        "http://",
        "http://me:canary@",
        "http://proxy.test:99999",
        "http://a b:1",
        "http://me:can/ary@proxy.test",
        "http://me:canary@proxy.test/path",
        "http://proxy.test:port",
        "http://p:0",
        "http://me:can%0Aary@proxy.test",
        "http://[::1",
        "http://proxy.test?canary",
    ],
)
def test_a_value_that_can_not_be_used_is_refused_without_quoting_it(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be|can't") as refusal:
        proxy_at(text)
    assert "ary" not in str(refusal.value)
    assert refusal.value.__cause__ is None


@pytest.mark.parametrize(
    "text", ["http://vast.ai", "10.0.0.0/99", "vast.ai/path", "vast.ai:port", "me@vast.ai", "10.0.0.1:8080-8090", ":80"]
)
def test_an_exception_that_could_have_no_effect_is_skipped_and_reported_by_its_position(text: str) -> None:
    read = exceptions_in(f"example.com,{text}, 10.0.0.0/8")
    assert read == exceptions_in("example.com,10.0.0.0/8")
    assert len(read) == 2
    assert unreadable_in(f"example.com,{text}, 10.0.0.0/8") == (2,)
    assert unreadable_in("example.com, 10.0.0.0/8") == unreadable_in(" ") == ()


@pytest.mark.parametrize(
    ("url", "scheme"),
    [
        ("https://console.vast.ai/", "https"),
        ("http://console.vast.ai/", "http"),
        ("http://127.0.0.1/", ""),
        ("https://example.com/", ""),
        ("ftp://console.vast.ai/", ""),
        ("https://[::1", ""),
    ],
)
def test_it_is_known_which_proxy_a_request_would_use_even_without_one(url: str, scheme: str) -> None:
    assert Proxies(exceptions=exceptions_in("example.com")).scheme_for(url) == scheme


def test_passwords_are_known_in_both_forms_to_be_redacted() -> None:
    assert Proxies(https=proxy_at("http://me:s%40cret1@p.test")).secrets == {"s@cret1", "bWU6c0BjcmV0MQ=="}
    assert proxies().secrets == frozenset()


@pytest.mark.parametrize("host", ["0.0.0.0", "0", "::"])  # noqa: S104 - never listened on
def test_the_address_of_every_interface_is_reached_by_other_machines(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize("host", ["", "vast.ai", "1270.0.0.1", "127.0.0.1.example.com"])
def test_a_name_is_not_this_machine(host: str) -> None:
    assert not is_loopback(host)
