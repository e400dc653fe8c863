"""All settings as one frozen and validated value. Only `app` and `cli` use it.

`checks` has the checks of single settings, `loading` what a start needs in addition. The settings of a marketplace
come from its descriptor. The table in docs/settings.md is generated from the fields here.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, SecretStr, create_model, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from gpuproxy.adapters.proxies import Proxies, Proxy, exceptions_in, proxy_at
from gpuproxy.config import checks
from gpuproxy.config.databases import DatabaseSettings
from gpuproxy.config.environment import ConfigError, files_of
from gpuproxy.config.marketplaces import Account, chosen_for, fields_for
from gpuproxy.config.names import env_name
from gpuproxy.config.pools import limits_of, spec_of
from gpuproxy.config.spending import SpendingSettings, guardrail_fields, quotas_of
from gpuproxy.config.values import Address, ListenAddress, PositiveSeconds, Seconds, Usd
from gpuproxy.config.webhooks import WebhookSettings, first_target_of
from gpuproxy.model.pools import PoolSpec
from gpuproxy.model.users import admin_error
from gpuproxy.ports import Descriptor
from gpuproxy.store.sqlite import files as database_files
from gpuproxy.warmpool.limits import PoolLimits

_POOL = PoolLimits()
_MOST_COUNTED = 1_000_000


class Settings(SpendingSettings, WebhookSettings, DatabaseSettings):
    """The settings without those of marketplaces, see `settings_class`. Seconds are read from `90`, `15m` or `2h`."""

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
    """The marketplaces whose settings are fields of this class."""

    grpc_addr: ListenAddress = Field(
        Address("127.0.0.1", 9090),
        description="address for gRPC. With port 0 the server uses any free port and prints it",
    )
    http_addr: ListenAddress = Field(
        Address("127.0.0.1", 8080),
        description="address for HTTP/JSON. With port 0 the server uses any free port and prints it",
    )
    allow_plaintext: bool = Field(False, description="allow addresses that other machines can reach, without TLS")
    grpc_tls_cert: Path | None = Field(
        None,
        description="certificate of the server (PEM file). Turns on TLS for gRPC and HTTP. The server loads it again "
        "when the file changes",
    )
    grpc_tls_key: Path | None = Field(None, description="private key of the certificate (PEM file), without a password")
    grpc_tls_client_ca: Path | None = Field(
        None,
        description="CA certificates (PEM file). If set, every gRPC and HTTP client needs a certificate of one of "
        "these CAs (mTLS)",
    )
    https_proxy: SecretStr | None = Field(
        None,
        alias="HTTPS_PROXY",
        description="HTTP proxy for https:// addresses of marketplaces, for example `http://proxy.example.com:3128`: "
        "[operations.md](operations.md#proxies)",
    )
    http_proxy: SecretStr | None = Field(
        None, alias="HTTP_PROXY", description="HTTP proxy for http:// addresses of marketplaces"
    )
    no_proxy: str = Field(
        "",
        alias="NO_PROXY",
        description="hosts, domains and networks that are connected without a proxy, comma separated",
    )
    otel_endpoint: str = Field(
        "",
        description="endpoint for traces (OTLP over HTTP), for example `http://127.0.0.1:4318`; needs `gpuproxy[otel]`",
    )
    admin_api_key: SecretStr | None = Field(
        None,
        description="API key of the first admin, at least 20 characters. Changing or removing it "
        "[revokes the previous key](accounts.md#api-keys-for-programs). "
        "Default: the server creates one and keeps it in a file beside the database",
    )
    admin_email: str = Field(
        "", description="email of the first admin user, who is created at startup; also needs the password"
    )
    admin_password: SecretStr | None = Field(
        None, description="password of that user, 8 to 1,024 characters; a change takes effect at the next start"
    )
    jwt_secret: SecretStr | None = Field(
        None,
        min_length=32,
        description="secret that signs login tokens, at least 32 characters. Default: the server creates one and "
        "keeps it in the database",
    )
    lb_strategy: str = Field(
        "least_connections", description="load balancing strategy until SetLoadBalancerStrategy changes it"
    )
    max_price: Usd = Field(10.0, description="price limit in USD per GPU-hour for requests without a limit")
    lease_duration: Seconds = Field(0.0, description="lease duration for requests without one; 0: no end")
    lease_grace: Seconds = Field(
        86_400.0,
        description="how long a machine whose end comes from GPUPROXY_LEASE_DURATION is kept stopped before it is "
        "destroyed; its disk is billed. 0: its end destroys it. [lease-endings.md](lease-endings.md)",
    )
    ending_soon: Seconds = Field(
        600.0, description="time before its end at which a lease counts as ending soon, at most 10 % of it; 0: never"
    )
    prepaid_hours: int = Field(
        1,
        ge=1,
        le=168,
        description="hours that a create books at marketplaces that are paid in advance, and the most that one "
        "extension buys: [billing.md](billing.md)",
    )
    extend_margin: PositiveSeconds = Field(
        600.0,
        ge=300,
        le=3000,
        description="time before the end of its booking at which a prepaid machine is extended; 5 min to 50 min",
    )
    min_offer_time: Seconds = Field(
        86_400.0,
        description="time that an offer must last to be rented without an end. A lease with an end needs an offer that "
        "lasts until then",
    )
    time_scale: float = Field(
        1.0,
        gt=0,
        le=10_000,
        description="speed of the server's clock, as a multiple of real time; only with providers on loopback",
    )
    catalog_refresh_interval: PositiveSeconds = Field(30.0, description="interval between two reads of the market")
    catalog_stale_after: PositiveSeconds = Field(
        300.0, description="age after which the offers of a provider that does not answer are no longer used"
    )
    search_timeout: PositiveSeconds = Field(30.0, description="timeout of one search page, in real seconds")
    create_timeout: PositiveSeconds = Field(
        30.0, description="timeout of a create, in real seconds; after it, the outcome is unknown"
    )
    call_timeout: PositiveSeconds = Field(20.0, description="timeout of every other provider call, in real seconds")
    ready_poll_interval: PositiveSeconds = Field(
        2.0, description="interval between listings while machines start or are released"
    )
    ready_probe_timeout: PositiveSeconds = Field(
        3.0, description="timeout of one probe of a machine's port, in real seconds"
    )
    ssh_check_key: Path | None = Field(
        None,
        description="private SSH key (file) for a login that each machine must accept before it counts as ready; its "
        "public key is added to each machine. Needs `gpuproxy[ssh-check]`. Default: SSH's greeting is enough",
    )
    reconcile_interval: PositiveSeconds = Field(30.0, description="interval between listings while no machine changes")
    witness_interval: PositiveSeconds = Field(
        1800.0,
        le=3600,
        description="interval between billing checks, which compare the ledger with the provider's bill; at most 1 h",
    )
    max_unknown: int = Field(
        10,
        ge=1,
        le=_MOST_COUNTED,
        description="number of unresolved creates that opens an account's circuit breaker; "
        "while it is open, nothing is created with the account",
    )
    keep_history: Seconds = Field(
        0.0,
        description="time for which finished reservations, their transactions and events are kept, at least 15d; "
        "0: for ever. See [operations.md](operations.md#how-long-history-is-kept)",
    )
    replacement_factor: float = Field(
        2.0,
        ge=1.0,
        le=20.0,
        description="maximum GPUs ever rented for one reservation, as a multiple of its count",
    )
    max_creates_per_minute: int = Field(
        0,
        ge=0,
        le=_MOST_COUNTED,
        description="maximum creates at one provider within a minute; 0: only the provider's own limits",
    )
    max_concurrent_rpcs: int = Field(
        2000, ge=1, le=_MOST_COUNTED, description="maximum calls at once; further calls are refused"
    )
    drain_seconds: Seconds = Field(30.0, description="time for running calls to finish when the server stops")
    warmpool_gpu: str = Field(
        "",
        max_length=128,
        description="GPU model of a warm pool that is enabled without a specification: "
        "[warm-pool.md](warm-pool.md); only together with GPUPROXY_WARMPOOL_MAX_PRICE",
    )
    warmpool_max_price: Usd | None = Field(
        None,
        description="price limit in USD per GPU-hour for warm pools without a limit; only together with "
        "GPUPROXY_WARMPOOL_GPU. Default: GPUPROXY_MAX_PRICE",
    )
    warmpool_check_interval: PositiveSeconds = Field(
        _POOL.check_seconds, description="interval between two checks of a warm pool's primary"
    )
    warmpool_probe_timeout: PositiveSeconds = Field(
        _POOL.probe_timeout,
        description="timeout of one probe of a primary, in real seconds; shorter than the interval between two checks",
    )
    warmpool_failures: int = Field(
        _POOL.failures, ge=1, le=1000, description="failed checks in a row before a primary counts as lost, at least 2"
    )
    warmpool_unreachable_after: PositiveSeconds = Field(
        _POOL.unreachable_seconds,
        description="time after which a primary that runs and does not answer makes its pool degraded",
    )
    warmpool_fence_timeout: PositiveSeconds = Field(
        _POOL.fence_seconds, description="time limit for the proof that an old primary is stopped, at least 15 s"
    )
    warmpool_start_timeout: PositiveSeconds = Field(
        _POOL.start_seconds, description="time limit for a standby that was started to run, get the lock and answer"
    )
    warmpool_ready_timeout: PositiveSeconds = Field(
        _POOL.ready_seconds, description="time limit for a new machine of a pool to run and answer"
    )
    warmpool_create_timeout: PositiveSeconds = Field(
        _POOL.create_seconds, description="time for which a create with an unknown outcome is looked for"
    )
    warmpool_free_check_interval: PositiveSeconds = Field(
        _POOL.free_check_seconds, description="interval between two looks whether a standby's GPUs are free"
    )
    warmpool_unchecked_after: PositiveSeconds = Field(
        _POOL.unchecked_seconds, description="time without such a look after which a pool is degraded"
    )
    warmpool_retry_interval: PositiveSeconds = Field(
        _POOL.retry_seconds, description="first wait before a failed step of a pool is tried again; it doubles"
    )
    warmpool_retry_max: PositiveSeconds = Field(_POOL.retry_most, description="longest such wait")
    secrets_key_file: Path | None = Field(
        None,
        description="file (mode 0600) with the Fernet key that encrypts secret_env and registry_auth of warm pools in "
        "the database. Default: a file beside the database, created when it is needed first",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="lowest level that is logged: `debug`, `info`, `warning` or `error`"
    )
    log_format: Literal["console", "json"] = Field(
        "console", description="`console` (one line of text for each event) or `json`"
    )
    event_loop: Literal["auto", "asyncio", "uvloop"] = Field(
        "auto",
        description="`uvloop` (needs `gpuproxy[uvloop]`, and takes less CPU for each call), `asyncio`, or `auto`: "
        "uvloop if it is installed",
    )

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        checks.check_tls(self.grpc_tls_cert, self.grpc_tls_key, self.grpc_tls_client_ca)
        for name, address in (("GRPC", self.grpc_addr), ("HTTP", self.http_addr)):
            if not self.allow_plaintext and not self.grpc_tls_cert and not address.is_loopback:
                raise ValueError(
                    f"GPUPROXY_{name}_ADDR: other machines can reach {address}, and there is no TLS. Use 127.0.0.1, "
                    "or set GPUPROXY_GRPC_TLS_CERT. On a private network, set GPUPROXY_ALLOW_PLAINTEXT=true"
                )
        checks.check_lease_duration(self.lease_duration)
        checks.check_keep_history(self.keep_history)
        checks.check_base_url("GPUPROXY_OTEL_ENDPOINT", self.otel_endpoint, "http://127.0.0.1:4318")
        checks.check_database_url(self.database_url)
        quotas_of(self)
        first_target_of(self)
        checks.check_pools(self.warmpool_gpu, self.warmpool_max_price, self.pool_limits)
        if self.admin_api_key:
            checks.check_admin_key(self.admin_api_key.get_secret_value())
        password = self.admin_password.get_secret_value() if self.admin_password else ""
        if wrong := admin_error(self.admin_email, password):
            raise ValueError(wrong)
        for marketplace in self.marketplaces:
            chosen_for(marketplace, self).check()
        return self

    @classmethod
    def settings_customise_sources(  # type: ignore[override]  # only one of the five sources is used
        cls, _: type[BaseSettings], init_settings: PydanticBaseSettingsSource, **_others: object
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Use only the arguments. `load_settings` reads the environment itself, to detect unknown names."""
        return (init_settings,)

    @property
    def accounts(self) -> tuple[Account, ...]:
        """One account for each key, by marketplace, in the order of the keys."""
        return tuple(account for each in self.marketplaces for account in chosen_for(each, self).accounts)

    @property
    def intervals(self) -> Mapping[str, Mapping[str, float]]:
        """Minimum seconds between two calls of one account, by provider and call; only those that are set."""
        return {each.name: chosen_for(each, self).intervals for each in self.marketplaces}

    @property
    def secrets(self) -> frozenset[str]:
        """The values that must never be logged."""
        single = (self.admin_api_key, self.admin_password, self.jwt_secret)
        own = {secret.get_secret_value() for secret in single if secret}
        return frozenset(
            own | {account.key for account in self.accounts} | self.proxies.secrets | self.database_secrets
        )

    @property
    def proxies(self) -> Proxies:
        """The HTTP proxies for calls to marketplaces, without those that can't be used: see `unusable_proxy`."""
        return Proxies(
            https=_proxy_or_none(self.https_proxy),
            http=_proxy_or_none(self.http_proxy),
            exceptions=exceptions_in(self.no_proxy),
        )

    @property
    def proxy_problems(self) -> tuple[tuple[str, str], ...]:
        """The variables for proxies that can't be used, each with the reason. No text quotes a value."""
        return checks.proxy_problems(self.https_proxy, self.http_proxy, self.no_proxy)

    def unusable_proxy(self, url: str) -> str:
        """The name and the problem of the proxy that a request to `url` would use; "" if nothing is wrong with it."""
        name = f"{self.proxies.scheme_for(url).upper()}_PROXY"
        problem = dict(self.proxy_problems).get(name, "")
        return problem and f"{name} (or {name.lower()}): {problem}"

    def url_of(self, account: Account) -> str:
        """The base URL at which an account's marketplace is called."""
        return account.base_url or next((each.url for each in self.marketplaces if each.name == account.provider), "")

    @property
    def pool_secrets_key_file(self) -> Path:
        """The file (mode 0600) with the key that the secrets of warm pools are encrypted with."""
        return self.secrets_key_file or database_files.kept_beside(files_of(self.database_url), ".secrets-key")

    @property
    def pool_limits(self) -> PoolLimits:
        """The intervals and limits of warm pools."""
        return limits_of(self)

    @property
    def default_pool(self) -> PoolSpec | None:
        """What a warm pool without a specification is made of; None if the operator has not said it."""
        return spec_of(self.warmpool_gpu, self.warmpool_max_price)


def _proxy_or_none(value: SecretStr | None) -> Proxy | None:
    try:
        return proxy_at(value.get_secret_value()) if value else None
    except ValueError:
        return None


def settings_class(marketplaces: Sequence[Descriptor]) -> type[Settings]:
    """Settings with the fields of these marketplaces. Raises ConfigError if two settings would have the same name."""
    fields: dict[str, Any] = {**guardrail_fields()}
    taken = {name for field in Settings.model_fields for name in (field, env_name(field))}
    for marketplace in marketplaces:
        for field, definition in fields_for(marketplace).items():
            names = {field, str(definition[1].alias)}
            if names & taken:
                raise ConfigError(
                    f"The setting {definition[1].alias} of {marketplace.name} has the name of another setting: not "
                    "started. Uninstall one of the two marketplace packages, or ask its author for another name."
                )
            taken |= names
            fields[field] = definition
    made = create_model("Settings", __base__=Settings, **fields)
    made.marketplaces = tuple(marketplaces)
    return made
