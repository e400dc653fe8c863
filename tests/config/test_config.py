"""Settings: every value is checked, an unknown name prevents startup, and no secret is shown."""

from pathlib import Path

import pytest

from gpuproxy.config.durations import parse_duration
from gpuproxy.config.environment import ConfigError
from gpuproxy.config.loading import check_start, load_settings
from gpuproxy.config.settings import Settings
from gpuproxy.config.spending import quotas_of
from gpuproxy.config.values import Address, parse_address
from gpuproxy.providers import ionet, vast


def load(**env: str) -> Settings:
    return load_settings(env, None, marketplaces=[vast.DESCRIPTOR])


def refusal(**env: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(env, None, marketplaces=[ionet.DESCRIPTOR, vast.DESCRIPTOR])
    return str(caught.value)


def test_an_empty_environment_gives_the_documented_defaults() -> None:
    settings = load()
    assert str(settings.grpc_addr) == "127.0.0.1:9090"
    assert settings.database_path == Path("gpuproxy.db")
    assert settings.admin_key_file == Path("gpuproxy.db.admin-key")
    assert settings.lb_strategy == "least_connections"
    assert settings.max_price == 10
    assert settings.lease_duration == 0
    assert settings.time_scale == 1
    assert settings.accounts == ()
    assert settings.intervals == {"vast.ai": {}}


def test_each_key_is_an_account_and_names_and_regions_align_by_position() -> None:
    settings = load(
        VASTAI_API_KEY="k1, k2,k3",
        VASTAI_API_KEY_NAMES="team,,spare",
        VASTAI_API_KEY_REGIONS="eu",
        GPUPROXY_VASTAI_URL="http://127.0.0.1:9400",
    )
    assert [(a.provider, a.name, a.key, a.region) for a in settings.accounts] == [
        ("vast.ai", "team", "k1", "eu"),
        ("vast.ai", "vast-2", "k2", ""),
        ("vast.ai", "spare", "k3", ""),
    ]
    assert {a.base_url for a in settings.accounts} == {"http://127.0.0.1:9400"}


@pytest.mark.parametrize(
    ("env", "text"),
    [
        ({"VASTAI_API_KEY": "same,same"}, "VASTAI_API_KEY: contains the same key twice"),
        ({"VASTAI_API_KEY": "a", "VASTAI_API_KEY_NAMES": "x,y"}, "has more values than VASTAI_API_KEY has keys"),
        ({"VASTAI_API_KEY": "a,b", "VASTAI_API_KEY_NAMES": "x,x"}, "two accounts have the same name"),
    ],
)
def test_accounts_with_the_same_key_or_name_are_refused(env: dict[str, str], text: str) -> None:
    assert text in refusal(**env)


def test_no_key_appears_in_the_text_of_settings_or_errors() -> None:
    settings = load(VASTAI_API_KEY="canary-one,canary-two", GPUPROXY_ADMIN_API_KEY="canary-three-of-twenty")
    assert "canary" not in repr(settings)
    assert "canary" not in repr(settings.accounts)
    assert settings.secrets == {"canary-one", "canary-two", "canary-three-of-twenty"}
    assert "canary" not in refusal(VASTAI_API_KEY="canary,canary")
    assert "canary" not in refusal(GPUPROXY_MAX_PRICE="canary")


def test_the_default_lease_duration_has_the_minimum_of_a_request() -> None:
    assert "GPUPROXY_LEASE_DURATION: must be 0 (no end) or at least 10 s" in refusal(GPUPROXY_LEASE_DURATION="5")
    assert load(GPUPROXY_LEASE_DURATION="10").lease_duration == 10
    assert load(GPUPROXY_LEASE_DURATION="0").lease_duration == 0


def test_history_is_kept_for_ever_or_as_long_as_charges_can_be_corrected() -> None:
    assert load().keep_history == 0
    assert load(GPUPROXY_KEEP_HISTORY="15d").keep_history == 15 * 86_400
    assert "GPUPROXY_KEEP_HISTORY: must be 0 (for ever) or at least 15d" in refusal(GPUPROXY_KEEP_HISTORY="14d")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("VAST_API_KEY", "VASTAI_API_KEY"),
        ("VASTAI_KEY", "VASTAI_API_KEY"),
        ("VASTAI_API_KEYS", "VASTAI_API_KEY"),
        ("vastai_api_key", "VASTAI_API_KEY"),
        ("IO_NET_API_KEY", "IONET_API_KEY"),
        ("IONET_KEY", "IONET_API_KEY"),
        ("GPUPROXY_GRPC_ADDRESS", "GPUPROXY_GRPC_ADDR"),
        ("GPU_PROXY_MAX_PRICE", "GPUPROXY_MAX_PRICE"),
        ("GUARDRAILS_MAX_60_MIN_RATE", "GUARDRAILS_MAX_60MIN_RATE"),
    ],
)
def test_a_misspelt_name_prevents_startup_and_the_right_name_is_suggested(name: str, meant: str) -> None:
    assert refusal(**{name: "1"}) == f"{name} is set but GPU Proxy reads {meant}: not started."


@pytest.mark.parametrize("name", ["GPUPROXY_ZZZ_QQQ", "GPUPROXY_FOO", "GPUPROXY_X"])
def test_an_unknown_name_with_our_prefix_prevents_startup(name: str) -> None:
    assert refusal(**{name: "1"}) == f"{name} is set but GPU Proxy reads no setting of that name: not started."


@pytest.mark.parametrize("name", ["PATH", "VAST_CONTAINERLABEL", "FASTAI_API_KEY", "GPU_COUNT", "VASTLY"])
def test_variables_of_other_programs_are_ignored(name: str) -> None:
    assert load(**{name: "1"}).max_price == 10


def test_a_similar_name_is_ignored_once_our_setting_is_set() -> None:
    assert len(load(VAST_API_KEY="theirs", VASTAI_API_KEY="ours").accounts) == 1


def test_quotas_are_read_for_every_project_or_for_one() -> None:
    settings = load(GPUPROXY_PROJECT_MAX_GPUS="8,research=32", GPUPROXY_PROJECT_MAX_PRICE_PER_HOUR="research=100")
    found = {each.project: (each.gpus, each.rate) for each in quotas_of(settings)}
    assert found == {"": (8, None), "research": (32, 100_000_000)}
    assert "GPUPROXY_PROJECT_MAX_GPUS: 'many' must be a number" in refusal(GPUPROXY_PROJECT_MAX_GPUS="many")


def test_the_first_admin_needs_a_valid_email_and_password() -> None:
    both = "GPUPROXY_ADMIN_EMAIL and GPUPROXY_ADMIN_PASSWORD: set both or neither"
    assert refusal(GPUPROXY_ADMIN_EMAIL="me@example.org") == both
    assert refusal(GPUPROXY_ADMIN_PASSWORD="long enough") == both
    wrong = refusal(GPUPROXY_ADMIN_EMAIL="me", GPUPROXY_ADMIN_PASSWORD="long enough")
    assert wrong.startswith("GPUPROXY_ADMIN_EMAIL: must be an email address")
    short = refusal(GPUPROXY_ADMIN_EMAIL="me@example.org", GPUPROXY_ADMIN_PASSWORD="secret7")
    assert short == "GPUPROXY_ADMIN_PASSWORD: must have at least 8 characters"
    settings = load(GPUPROXY_ADMIN_EMAIL="me@example.org", GPUPROXY_ADMIN_PASSWORD="long enough")
    assert settings.secrets == {"long enough"}
    assert "long enough" not in repr(settings)


def test_the_password_of_the_database_is_a_secret_and_its_name_is_not() -> None:
    url = "postgresql://me:canary%40one@db1,db2:6432/books?sslmode=require&sslpassword=canary-two"
    settings = load(GPUPROXY_DATABASE_URL=url, GPUPROXY_DATABASE_LISTEN_URL="postgres://me:canary-three@db1/books")
    assert settings.secrets == {"canary%40one", "canary@one", "canary-two", "canary-three"}
    assert settings.database_name == "postgresql://db1,db2:6432/books"
    assert "canary" not in repr(settings)
    with pytest.raises(ConfigError, match="not in a file"):
        _ = settings.database_path
    assert settings.admin_key_file == Path("gpuproxy.admin-key")


def test_a_short_key_of_the_admin_is_refused_and_not_quoted() -> None:
    text = refusal(GPUPROXY_ADMIN_API_KEY="x" * 19)
    assert text.startswith("GPUPROXY_ADMIN_API_KEY: must have at least 20 characters")
    assert "xxx" not in text
    assert load(GPUPROXY_ADMIN_API_KEY="x" * 20).secrets == {"x" * 20}
    assert refusal(GPUPROXY_ADMIN_API_KEY="x" * 20 + "\x07y").startswith("GPUPROXY_ADMIN_API_KEY: must have no ")


def test_a_short_secret_for_tokens_is_refused() -> None:
    assert refusal(GPUPROXY_JWT_SECRET="x" * 31).startswith("GPUPROXY_JWT_SECRET: ")
    assert "x" * 31 not in refusal(GPUPROXY_JWT_SECRET="x" * 31)
    assert load(GPUPROXY_JWT_SECRET="x" * 32).secrets == {"x" * 32}


def test_incomplete_tls_settings_are_refused() -> None:
    assert refusal(GPUPROXY_GRPC_TLS_CERT="c.pem").startswith("GPUPROXY_GRPC_TLS_KEY: is missing")
    assert refusal(GPUPROXY_GRPC_TLS_KEY="k.pem").startswith("GPUPROXY_GRPC_TLS_CERT: is missing")
    assert refusal(GPUPROXY_GRPC_TLS_CLIENT_CA="ca.pem").startswith("GPUPROXY_GRPC_TLS_CERT: is missing")
    load(GPUPROXY_GRPC_TLS_CERT="c.pem", GPUPROXY_GRPC_TLS_KEY="k.pem", GPUPROXY_GRPC_TLS_CLIENT_CA="ca.pem")


def test_with_tls_a_public_address_is_accepted() -> None:
    tls = {"GPUPROXY_GRPC_TLS_CERT": "c.pem", "GPUPROXY_GRPC_TLS_KEY": "k.pem"}
    load(GPUPROXY_GRPC_ADDR=":9090", GPUPROXY_HTTP_ADDR=":8080", **tls)


@pytest.mark.parametrize("name", ["GPUPROXY_TLS_CERT", "GPUPROXY_GRPC_TLS_CRT", "GPUPROXY_HTTP_TLS_CERT"])
def test_a_misspelt_tls_setting_prevents_startup(name: str) -> None:
    assert f"{name} is set but GPU Proxy reads " in refusal(**{name: "c.pem"})


@pytest.mark.parametrize("url", ["127.0.0.1:4318", "grpc://x:4317", "http://", "http://user:pass@x", "http://x?y=1"])
def test_a_trace_endpoint_is_a_url_without_secrets(url: str) -> None:
    assert refusal(GPUPROXY_OTEL_ENDPOINT=url).startswith("GPUPROXY_OTEL_ENDPOINT: must be http")
    assert load(GPUPROXY_OTEL_ENDPOINT="http://127.0.0.1:4318").otel_endpoint


@pytest.mark.parametrize(
    "url",
    [
        "nope", "127.0.0.1:9400", "ftp://x", "http://", "https:console.vast.ai", "http://x:port", "http://x:0",
        "http://user:canary@x", "http://x?key=canary", "http://x#y", "http://a b", "http://[::1", "http://a,http://b",
    ],
)  # fmt: skip
def test_a_wrong_url_of_a_marketplace_prevents_startup_and_is_not_quoted(url: str) -> None:
    text = refusal(GPUPROXY_VASTAI_URL=url)
    assert text.startswith(
        "GPUPROXY_VASTAI_URL: must be http:// or https:// and a host, for example https://console.vast.ai"
    )
    assert "canary" not in text


@pytest.mark.parametrize(
    "url", ["", "http://127.0.0.1:9400", "https://console.vast.ai/", "http://[::1]:9400/base", "https://ma_rket-1:8443"]
)
def test_a_base_url_of_a_marketplace_is_accepted(url: str) -> None:
    assert load(GPUPROXY_VASTAI_URL=url, VASTAI_API_KEY="k" * 20).accounts[0].base_url == url


@pytest.mark.parametrize("addr", ["0.0.0.0:9090", ":9090", "10.0.0.5:9090", "[::]:9090", "example.org:9090"])
def test_a_public_address_without_tls_needs_permission(addr: str) -> None:
    assert "GPUPROXY_ALLOW_PLAINTEXT=true" in refusal(GPUPROXY_GRPC_ADDR=addr)
    assert load(GPUPROXY_GRPC_ADDR=addr, GPUPROXY_ALLOW_PLAINTEXT="true").grpc_addr.port == 9090


@pytest.mark.parametrize("addr", ["0.0.0.0:8080", ":8080", "[::]:8080", "192.0.2.1:8080"])
def test_http_that_others_can_reach_needs_tls_or_permission_as_grpc_does(addr: str) -> None:
    assert refusal(GPUPROXY_HTTP_ADDR=addr).startswith("GPUPROXY_HTTP_ADDR")
    assert load(GPUPROXY_HTTP_ADDR=addr, GPUPROXY_ALLOW_PLAINTEXT="true").http_addr.port == 8080


@pytest.mark.parametrize("addr", ["127.0.0.1:0", "localhost:9090", "[::1]:9090", "127.9.9.9:1"])
def test_a_loopback_address_needs_no_permission(addr: str) -> None:
    assert load(GPUPROXY_GRPC_ADDR=addr).grpc_addr.is_loopback


@pytest.mark.parametrize("text", ["", "9090", "host:", "host:x", "host:70000", "::1:9090", "host:-1"])
def test_an_invalid_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        parse_address(text)


def test_an_address_prints_as_host_and_port() -> None:
    assert str(parse_address("[::1]:9090")) == "[::1]:9090"
    assert str(parse_address(":80")) == "0.0.0.0:80"
    assert parse_address("localhost:0") == Address("localhost", 0)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("1.5", 1.5),
        ("30s", 30),
        ("15m", 900),
        ("2h", 7200),
        ("7d", 604800),
        ("1w", 604800),
        ("1h30m", 5400),
    ],
)
def test_a_duration_is_read_with_its_units(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
    assert load(GPUPROXY_RECONCILE_INTERVAL=text).reconcile_interval == seconds


@pytest.mark.parametrize("text", ["", "soon", "2 hours", "-5", "1h30", "5y", "nan", "inf"])
def test_an_invalid_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GPUPROXY_MAX_PRICE", "0"),
        ("GPUPROXY_MAX_PRICE", "nan"),
        ("GPUPROXY_MAX_PRICE", "inf"),
        ("GPUPROXY_MAX_PRICE", "cheap"),
        ("GPUPROXY_TIME_SCALE", "0"),
        ("GPUPROXY_CREATE_TIMEOUT", "0"),
        ("GPUPROXY_MAX_CONCURRENT_RPCS", "0"),
        ("GPUPROXY_LOG_LEVEL", "loud"),
        ("GPUPROXY_GRPC_ADDR", "nowhere"),
    ],
)
def test_an_invalid_value_is_refused_with_the_name_of_its_variable(name: str, value: str) -> None:
    assert refusal(**{name: value}).startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("name", "most", "above"),
    [
        ("GPUPROXY_MAX_PRICE", "1000000", "1000000.1"),
        ("GPUPROXY_MAX_PRICE", "1000000", "1e300"),
        ("GPUPROXY_LEASE_DURATION", "3650d", "3651d"),
        ("GPUPROXY_LEASE_DURATION", "3650d", "9" * 20),
        ("GPUPROXY_LEASE_GRACE", "36500d", "36501d"),
        ("GPUPROXY_HOLD_HORIZON", "36500d", "9" * 20),
        ("GPUPROXY_KEEP_HISTORY", "36500d", "9" * 20),
        ("GPUPROXY_MIN_OFFER_TIME", "36500d", "3000000d"),
        ("GPUPROXY_CREATE_TIMEOUT", "36500d", "9" * 20),
        ("GPUPROXY_EXTEND_MARGIN", "50m", "51m"),
        ("GPUPROXY_WITNESS_INTERVAL", "1h", "61m"),
        ("GPUPROXY_MAX_CONCURRENT_RPCS", "1000000", "9" * 20),
        ("GPUPROXY_VASTAI_LIST_INTERVAL", "36500d", "9" * 400),
        ("GPUPROXY_WARMPOOL_READY_TIMEOUT", "36500d", "36501d"),
    ],
)
def test_a_number_has_a_maximum_with_which_the_server_can_compute(name: str, most: str, above: str) -> None:
    assert load(**{name: most})
    text = refusal(**{name: above})
    assert text.startswith(f"{name}: ")
    assert "\n" not in text


def test_all_invalid_values_are_named_together() -> None:
    text = refusal(GPUPROXY_MAX_PRICE="x", GPUPROXY_LOG_FORMAT="x")
    assert "GPUPROXY_MAX_PRICE: " in text
    assert "GPUPROXY_LOG_FORMAT: " in text


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("postgresql://user:canary-secret@db", "no name of a database"),
        ("mysql://db", "must be sqlite:///"),
        ("sqlite:///", "must be sqlite:///"),
        ("sqlite:///:memory:", "must be a file"),
    ],
)
def test_the_database_must_be_an_sqlite_file_or_in_postgresql(url: str, text: str) -> None:
    assert text in refusal(GPUPROXY_DATABASE_URL=url)


def test_an_interval_overrides_the_adapters_default_only_if_set() -> None:
    settings = load(GPUPROXY_VASTAI_CREATE_INTERVAL="0", GPUPROXY_VASTAI_LIST_INTERVAL="2s")
    assert settings.intervals == {"vast.ai": {"create": 0.0, "list": 2.0}}


def test_the_environment_overrides_the_file_and_empty_counts_as_absent(tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("# keys\nVASTAI_API_KEY=key1,key2,key3\nGPUPROXY_MAX_PRICE=2\nGPUPROXY_LB_STRATEGY=\n")
    settings = load_settings(
        {"GPUPROXY_MAX_PRICE": "3", "GPUPROXY_TIME_SCALE": ""},
        env_file,
        marketplaces=[ionet.DESCRIPTOR, vast.DESCRIPTOR],
    )
    assert [account.key for account in settings.accounts] == ["key1", "key2", "key3"]
    assert settings.max_price == 3
    assert settings.lb_strategy == "least_connections"


def test_a_wrong_name_in_the_env_file_prevents_startup(tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("VAST_API_KEY=x\n")
    with pytest.raises(ConfigError, match="GPU Proxy reads VASTAI_API_KEY"):
        load_settings({}, env_file, marketplaces=[ionet.DESCRIPTOR, vast.DESCRIPTOR])


def test_startup_without_keys_is_refused_except_with_the_sandbox() -> None:
    with pytest.raises(ConfigError, match="No provider key is set"):
        check_start(load(), sandbox=False)
    check_start(load(), sandbox=True)
    check_start(load(VASTAI_API_KEY="k"), sandbox=False)


def test_a_fast_clock_is_refused_with_a_real_marketplace() -> None:
    real = load(VASTAI_API_KEY="k", GPUPROXY_TIME_SCALE="20")
    with pytest.raises(ConfigError, match="A real marketplace runs in real time"):
        check_start(real, sandbox=False)
    local = load(VASTAI_API_KEY="k", GPUPROXY_TIME_SCALE="20", GPUPROXY_VASTAI_URL="http://127.0.0.1:9400")
    check_start(local, sandbox=False)
    check_start(load(GPUPROXY_TIME_SCALE="20"), sandbox=True)


def test_an_unknown_strategy_prevents_startup() -> None:
    with pytest.raises(ConfigError, match=r"GPUPROXY_LB_STRATEGY: .*must be one of"):
        check_start(load(GPUPROXY_LB_STRATEGY="random"), sandbox=True)
    check_start(load(GPUPROXY_LB_STRATEGY="lowest_price"), sandbox=True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'VASTAI_API_KEY=k\n\nGPUPROXY_MAX_PRICE="5\nGPUPROXY_TIME_SCALE=1\n', "line 3 is not NAME=VALUE"),
        (b"GPUPROXY_MAX_PRICE 5\n", "line 1 is not NAME=VALUE"),
        (b"A=1\n# '\nGPUPROXY_MAX_PRICE='5", "line 3 is not NAME=VALUE"),
        (b"A=\xff\n", "is not valid UTF-8"),
    ],
)
def test_an_invalid_line_of_the_env_file_is_named(tmp_path: Path, text: bytes, said: str) -> None:
    env_file = tmp_path / ".env"
    env_file.write_bytes(text)
    with pytest.raises(ConfigError, match=said) as caught:
        load_settings({}, env_file, marketplaces=[ionet.DESCRIPTOR, vast.DESCRIPTOR])
    assert str(caught.value).startswith(f"{env_file}: ")
