"""The settings as one value: judged as a whole, frozen. Neither edge nor engine sees them.

What must be true of single values is in `checks`, what a start needs beside them in `loading`. The settings of a
marketplace come from its descriptor. The README's table is made from the fields here.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, SecretStr, create_model, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from gpuproxy.config import checks
from gpuproxy.config.marketplaces import Account, chosen_for, fields_for
from gpuproxy.config.names import env_name
from gpuproxy.config.values import Address, ListenAddress, PositiveSeconds, Seconds, Usd
from gpuproxy.model.users import admin_error
from gpuproxy.ports import Descriptor
from gpuproxy.store.sqlite import files as database_files

DEFAULT_DATABASE = "sqlite:///gpuproxy.db"


class ConfigError(Exception):
    """The program can't start as it is configured; the text is for the operator and holds no secret."""


class Settings(BaseSettings):
    """What an operator can set whatever the marketplaces; durations are seconds (`90`, `15m`, `2h`).

    `settings_class` adds the settings of marketplaces.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=env_name,
        validate_by_name=True,
        validate_by_alias=True,
        validate_default=True,
        hide_input_in_errors=True,
    )
    marketplaces: ClassVar[tuple[Descriptor, ...]] = ()
    """Those whose settings are fields of this class."""

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
        for marketplace in self.marketplaces:
            chosen_for(marketplace, self).check()
        return self

    @classmethod
    def settings_customise_sources(  # type: ignore[override]  # of five sources one is of use
        cls, _: type[BaseSettings], init_settings: PydanticBaseSettingsSource, **_others: object
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is handed over: `load_settings` reads the environment itself, so that wrong names are seen."""
        return (init_settings,)

    @property
    def accounts(self) -> tuple[Account, ...]:
        """One for each key, by marketplace and in the order given."""
        return tuple(account for each in self.marketplaces for account in chosen_for(each, self).accounts)

    @property
    def intervals(self) -> Mapping[str, Mapping[str, float]]:
        """Seconds between two calls of one account, by provider and endpoint; only what the operator set."""
        return {each.name: chosen_for(each, self).intervals for each in self.marketplaces}

    @property
    def secrets(self) -> frozenset[str]:
        """What must never be logged."""
        single = (self.admin_api_key, self.admin_password, self.jwt_secret)
        own = {secret.get_secret_value() for secret in single if secret}
        return frozenset(own | {account.key for account in self.accounts})

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


def settings_class(marketplaces: Sequence[Descriptor]) -> type[Settings]:
    """Settings with the fields of these marketplaces. Raises ConfigError where two settings would have one name."""
    fields: dict[str, Any] = {}
    taken = {name for field in Settings.model_fields for name in (field, env_name(field))}
    for marketplace in marketplaces:
        for field, definition in fields_for(marketplace).items():
            names = {field, str(definition[1].alias)}
            if names & taken:
                raise ConfigError(
                    f"The setting {definition[1].alias} of {marketplace.name} has the name of another setting: not "
                    "started. Uninstall one of the two packages of marketplaces, or ask its author for another name."
                )
            taken |= names
            fields[field] = definition
    made = create_model("Settings", __base__=Settings, **fields)
    made.marketplaces = tuple(marketplaces)
    return made


def admin_key_file(database_url: str) -> Path:
    """The file beside the database that holds the first admin's key."""
    return database_files.kept_beside(Path(database_url.removeprefix("sqlite:///")), ".admin-key")
