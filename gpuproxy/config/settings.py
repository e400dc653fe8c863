"""Settings from the environment and `.env`: read once, judged as a whole, frozen. Neither edge nor engine sees them.

A name that nobody reads is a mistake, never ignored: a key under the wrong name would rent nothing, and a limit under
the wrong name would limit nothing. Values are judged by `load_settings`; what else a start needs (keys, loopback for
a scaled clock) by `check_start`, because it depends on the command. The README's table is made from the fields here.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from gpuproxy.config import checks
from gpuproxy.config.env_file import values_in
from gpuproxy.config.names import CLIENT_NAMES, NOT_BUILT_NAMES, env_name, first_wrong_name
from gpuproxy.model.errors import Refusal
from gpuproxy.model.strategies import strategy_by_name
from gpuproxy.model.users import admin_error
from gpuproxy.store.sqlite import files as database_files

ENV_FILE = Path(".env")
DEFAULT_DATABASE = "sqlite:///gpuproxy.db"
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d|w)?")
_UNIT_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class ConfigError(Exception):
    """The program can't start as it is configured; the text is for the operator and holds no secret."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens. Port 0: any free one."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """True when only this machine can reach it."""
        return is_loopback(self.host)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One key at one marketplace; `name` is what clients and logs see."""

    provider: str
    name: str
    key: str = field(repr=False)
    region: str = ""
    base_url: str = ""
    """Empty: the real service."""


def parse_address(text: str) -> Address:
    """`host:port`, `[v6]:port` or `:port` (every interface); raises ValueError."""
    host, colon, port = text.strip().rpartition(":")
    if not colon or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise ValueError("should be host:port, as in 127.0.0.1:9090")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError("should be host:port; an IPv6 address goes into brackets, as in [::1]:9090")
    return Address(host.strip("[]") or "0.0.0.0", int(port))  # noqa: S104 - refused below unless it is allowed


def parse_duration(text: str | float) -> float:
    """Seconds from `30`, `1.5s`, `15m`, `2h`, `7d`, `1w` or `1h30m`; raises ValueError."""
    if isinstance(text, int | float):
        return float(text)
    compact = text.strip().lower()
    parts = list(_DURATION.finditer(compact))
    if not parts or "".join(part.group(0) for part in parts) != compact:
        raise ValueError("should be a duration, as in 30s, 15m, 2h or 7d")
    if len(parts) > 1 and not all(part.group(2) for part in parts):
        raise ValueError("should be a duration with a unit to each number, as in 1h30m")
    return sum(float(part.group(1)) * _UNIT_SECONDS[part.group(2) or "s"] for part in parts)


def is_loopback(host: str) -> bool:
    """True for an address (or `localhost`) that never leaves this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _address(value: object) -> object:
    return parse_address(value) if isinstance(value, str) else value


def _seconds(value: object) -> object:
    return parse_duration(value) if isinstance(value, str | int | float) else value


def _keys(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _names(value: object) -> object:
    """As _keys, but an empty place counts: names and regions align with the keys by position."""
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) and value.strip() else ()


ListenAddress = Annotated[Address, BeforeValidator(_address)]
Seconds = Annotated[float, BeforeValidator(_seconds), Field(ge=0, allow_inf_nan=False)]
PositiveSeconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0, allow_inf_nan=False)]
Keys = Annotated[tuple[SecretStr, ...], BeforeValidator(_keys)]
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
Usd = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Settings(BaseSettings):
    """Everything that an operator can set; durations are seconds (`90`, `15m`, `2h`)."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=env_name,
        validate_by_name=True,
        validate_by_alias=True,
        validate_default=True,
        hide_input_in_errors=True,
    )

    vastai_api_key: Keys = Field((), description="vast.ai API keys, comma separated; each is an account")
    vastai_api_key_names: Names = Field(
        (), description="names of the accounts, in the order of the keys (default `vast-1`, `vast-2`, ...)"
    )
    vastai_api_key_regions: Names = Field(
        (), description="regions of the accounts, in the order of the keys; not used by vast.ai"
    )
    vastai_url: str = Field("", description="base address in place of vast.ai's, such as a sandbox's")
    grpc_addr: ListenAddress = Field(
        Address("127.0.0.1", 9090), description="address for gRPC; port 0: any free port, which is printed"
    )
    http_addr: ListenAddress = Field(
        Address("127.0.0.1", 8080), description="address for HTTP/JSON; port 0: any free port, which is printed"
    )
    allow_plaintext: bool = Field(False, description="allow addresses that other machines can reach, without TLS")
    grpc_tls_cert: Path | None = Field(
        None,
        description="the server's certificates (PEM file); turns on TLS for gRPC and HTTP; read again when it changes",
    )
    grpc_tls_key: Path | None = Field(None, description="the certificate's key (PEM file), without a password")
    grpc_tls_client_ca: Path | None = Field(
        None, description="CAs (PEM file); if set, every gRPC and HTTP client needs a certificate of one of them (mTLS)"
    )
    otel_endpoint: str = Field(
        "", description="endpoint for traces (OTLP over HTTP), as in `http://127.0.0.1:4318`; needs `gpuproxy[otel]`"
    )
    database_url: str = Field(DEFAULT_DATABASE, description="the database: `sqlite:///` and a path")
    allow_network_database: bool = Field(
        False, description="allow a database on a network file system, where SQLite can lose commits"
    )
    allow_vulnerable_sqlite: bool = Field(
        False, description="allow an SQLite version with the WAL-reset fault, which can lose commits"
    )
    admin_api_key: SecretStr | None = Field(
        None,
        description="the first admin's API key, at least 20 characters. Changing it revokes the previous key. "
        "Default: one is created and kept in a file beside the database",
    )
    admin_email: str = Field("", description="the first admin user, created at startup; needs the password too")
    admin_password: SecretStr | None = Field(
        None, description="that user's password, 8 to 1,024 characters; a change takes effect at the next start"
    )
    jwt_secret: SecretStr | None = Field(
        None,
        min_length=32,
        description="signs login tokens, at least 32 characters. Default: one is created and kept in the database",
    )
    lb_strategy: str = Field("least_connections", description="load balancing strategy until a call sets one")
    max_price: Usd = Field(10.0, description="price limit in USD per GPU-hour for requests that name none")
    lease_duration: Seconds = Field(0.0, description="lease duration for requests that name none; 0: no end")
    time_scale: float = Field(
        1.0, gt=0, le=10_000, description="how many times as fast the server's clock runs; loopback providers only"
    )
    catalog_refresh_interval: PositiveSeconds = Field(30.0, description="interval between reads of the market")
    catalog_stale_after: PositiveSeconds = Field(
        300.0, description="age at which the offers of a silent provider are no longer used"
    )
    search_timeout: PositiveSeconds = Field(30.0, description="timeout of one page of a search, real seconds")
    create_timeout: PositiveSeconds = Field(
        30.0, description="timeout of a create, real seconds; its outcome is unknown then"
    )
    call_timeout: PositiveSeconds = Field(20.0, description="timeout of every other provider call, real seconds")
    ready_poll_interval: PositiveSeconds = Field(2.0, description="interval between listings during changes")
    ready_probe_timeout: PositiveSeconds = Field(3.0, description="timeout of a probe, real seconds")
    reconcile_interval: PositiveSeconds = Field(30.0, description="interval between listings while nothing changes")
    witness_interval: PositiveSeconds = Field(
        1800.0, le=3600, description="interval between comparisons of the ledger with the providers' bills"
    )
    max_unknown: int = Field(
        10, ge=1, description="unresolved creates that open a provider's circuit breaker: no more creates there"
    )
    replacement_factor: float = Field(
        2.0, ge=1.0, le=20.0, description="most GPUs ever rented for one reservation, as a multiple of its count"
    )
    max_creates_per_minute: int = Field(
        0, ge=0, description="most creates at one provider within a minute; 0: only the provider's own limits"
    )
    vastai_search_interval: Seconds | None = Field(
        None, description="interval between searches of an account; default 6 s; 0: no limit"
    )
    vastai_create_interval: Seconds | None = Field(
        None, description="interval between creates of an account; default 4.5 s; 0: no limit"
    )
    vastai_list_interval: Seconds | None = Field(
        None, description="interval between listings of an account; default 1 s; 0: no limit"
    )
    vastai_get_interval: Seconds | None = Field(
        None, description="interval between single reads of an account; default 2 s; 0: no limit"
    )
    vastai_destroy_interval: Seconds | None = Field(
        None, description="interval between destroys of an account; default 3 s; 0: no limit"
    )
    vastai_manage_interval: Seconds | None = Field(
        None, description="interval between starts, stops and log reads of an account; default 1 s; 0: no limit"
    )
    max_concurrent_rpcs: int = Field(2000, ge=1, description="most calls at once; more are refused")
    drain_seconds: Seconds = Field(30.0, description="time that running calls have to finish when the server stops")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="lowest level that is logged")
    log_format: Literal["console", "json"] = Field("console", description="`console`: one line for people; `json`")

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        checks.check_tls(self.grpc_tls_cert, self.grpc_tls_key, self.grpc_tls_client_ca)
        for name, address in (("GRPC", self.grpc_addr), ("HTTP", self.http_addr)):
            if not self.allow_plaintext and not self.grpc_tls_cert and not address.is_loopback:
                raise ValueError(
                    f"GPUPROXY_{name}_ADDR: {address} can be reached by others and there is no TLS; use 127.0.0.1 or "
                    "GPUPROXY_GRPC_TLS_CERT, or set GPUPROXY_ALLOW_PLAINTEXT=true where the network is yours"
                )
        checks.check_lease_duration(self.lease_duration)
        checks.check_otel_endpoint(self.otel_endpoint)
        checks.check_database_url(self.database_url)
        if self.admin_api_key:
            checks.check_admin_key(self.admin_api_key.get_secret_value())
        password = self.admin_password.get_secret_value() if self.admin_password else ""
        if wrong := admin_error(self.admin_email, password):
            raise ValueError(wrong)
        keys = [key.get_secret_value() for key in self.vastai_api_key]
        names = [account.name for account in self.accounts]
        checks.check_accounts(keys, names, self.vastai_api_key_names, self.vastai_api_key_regions)
        return self

    @classmethod
    def settings_customise_sources(  # type: ignore[override]  # of five sources one is of use
        cls, _: type[BaseSettings], init_settings: PydanticBaseSettingsSource, **_others: object
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is handed over: `load_settings` reads the environment itself, so that wrong names are seen."""
        return (init_settings,)

    @property
    def accounts(self) -> tuple[Account, ...]:
        """One for each key, in the order given."""
        names, regions = self.vastai_api_key_names, self.vastai_api_key_regions
        return tuple(
            Account(
                provider="vast.ai",
                name=(names[i] if i < len(names) else "") or f"vast-{i + 1}",
                key=key.get_secret_value(),
                region=regions[i] if i < len(regions) else "",
                base_url=self.vastai_url,
            )
            for i, key in enumerate(self.vastai_api_key)
        )

    @property
    def intervals(self) -> Mapping[str, Mapping[str, float]]:
        """Seconds between two calls of one account, by provider and endpoint; only what the operator set."""
        given = {
            "search": self.vastai_search_interval,
            "create": self.vastai_create_interval,
            "list": self.vastai_list_interval,
            "get": self.vastai_get_interval,
            "destroy": self.vastai_destroy_interval,
            "manage": self.vastai_manage_interval,
        }
        return {"vast.ai": {call: seconds for call, seconds in given.items() if seconds is not None}}

    @property
    def secrets(self) -> frozenset[str]:
        """What must never be logged."""
        single = (self.admin_api_key, self.admin_password, self.jwt_secret)
        return frozenset(secret.get_secret_value() for secret in (*self.vastai_api_key, *single) if secret)

    @property
    def database_path(self) -> Path:
        """The SQLite file."""
        return Path(self.database_url.removeprefix("sqlite:///"))

    @property
    def admin_key_file(self) -> Path:
        """Where the first start leaves the admin's key, mode 0600."""
        return admin_key_file(self.database_url)

    @property
    def fingerprint_key_file(self) -> Path:
        """Where the key is that demands are hashed with, mode 0600."""
        return database_files.kept_beside(self.database_path, ".demand-key")

    @property
    def sandbox_state_file(self) -> Path:
        """Where the sandbox that `serve --sandbox` starts keeps its market."""
        return database_files.kept_beside(self.database_path, ".sandbox")


def read_environment(env: Mapping[str, str], env_file: Path | None = ENV_FILE) -> dict[str, str]:
    """Variables of `.env`, under those of the environment, without empty ones; raises ConfigError for bad lines."""
    try:
        from_file = values_in(env_file) if env_file is not None and env_file.is_file() else {}
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return {name: value for name, value in {**from_file, **env}.items() if value.strip()}


def load_settings(env: Mapping[str, str], env_file: Path | None = ENV_FILE) -> Settings:
    """Settings that are whole and consistent; raises ConfigError for a wrong name or value."""
    found = read_environment(env, env_file)
    if wrong := first_wrong_name(found, known_names()):
        raise ConfigError(wrong)
    if limits := sorted(
        name for name, value in found.items() if name.startswith("GUARDRAILS_") and value.strip() != "0"
    ):
        raise ConfigError(
            f"{limits[0]} is set but spending limits are not built yet: not started. It would limit nothing."
        )
    values: dict[str, Any] = {name: value.strip() for name, value in found.items() if name in setting_names()}
    try:
        return Settings(**values)
    except ValidationError as error:
        raise ConfigError("\n".join(_lines(error))) from None


def check_start(settings: Settings, *, sandbox: bool) -> None:
    """Raise ConfigError when a server must not be started with these settings."""
    _check_strategy(settings.lb_strategy)
    if sandbox:
        return
    if not settings.accounts:
        raise ConfigError(
            "No provider key is set: not started. Set VASTAI_API_KEY, or use --sandbox, where nothing costs money."
        )
    remote = [account for account in settings.accounts if not is_loopback(urlsplit(account.base_url).hostname or "")]
    if settings.time_scale != 1 and remote:
        raise ConfigError(
            f"GPUPROXY_TIME_SCALE is {settings.time_scale:g} but {remote[0].provider} is not on this machine: not "
            "started. A real marketplace runs in real time."
        )


def admin_key_file(database_url: str) -> Path:
    """The file beside the database that holds the first admin's key."""
    return database_files.kept_beside(Path(database_url.removeprefix("sqlite:///")), ".admin-key")


def setting_names() -> frozenset[str]:
    """The variables that a server reads."""
    return frozenset(env_name(name) for name in Settings.model_fields)


def known_names() -> frozenset[str]:
    """Every variable that is not a mistake."""
    return setting_names() | CLIENT_NAMES | NOT_BUILT_NAMES


def without_effect(env: Mapping[str, str], env_file: Path | None = ENV_FILE) -> list[str]:
    """The variables that are set for something that is not built yet."""
    return sorted(name for name in read_environment(env, env_file) if name in NOT_BUILT_NAMES)


def _check_strategy(name: str) -> None:
    try:
        strategy_by_name(name)
    except Refusal as error:
        raise ConfigError(f"GPUPROXY_LB_STRATEGY: {error.message}") from None


def _lines(error: ValidationError) -> list[str]:
    lines = []
    for detail in error.errors(include_url=False, include_input=False):
        place = str(detail["loc"][0]) if detail["loc"] else ""
        name = env_name(place) if place in Settings.model_fields else place
        text = detail["msg"].removeprefix("Value error, ")
        lines.append(f"{name}: {text}" if name else text)
    return lines
