"""Wiring of the webhooks: the targets of the settings, and what posts to them."""

from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import structlog

from gpuproxy.adapters.logs import Redactor
from gpuproxy.adapters.transport import AioHttp
from gpuproxy.app.metrics import Metrics
from gpuproxy.config.environment import ConfigError
from gpuproxy.config.settings import Settings
from gpuproxy.config.webhooks import targets_of
from gpuproxy.model.webhooks import Target
from gpuproxy.ports import Clock, Database, Http
from gpuproxy.runtime.claims import Claims
from gpuproxy.webhooks.posting import secrets_of
from gpuproxy.webhooks.sending import Date, Sender, Webhooks

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """The targets, and what posts to them."""

    targets: tuple[Target, ...]
    http: Http
    date: Date | None = None
    """The real time, for signatures. None: that of the server's clock."""


def build_webhooks(
    outgoing: Outgoing | None, claims: Claims, db: Database, clock: Clock, metrics: Metrics | None = None
) -> Webhooks:
    """Wire the senders over the given ports. None: there is no target."""
    if outgoing is None:
        return Webhooks((), ())
    counted = Metrics() if metrics is None else metrics
    counted.expect_webhooks(each.name for each in outgoing.targets)
    senders = [
        Sender(
            each,
            claims.of_webhook(each.name),
            db=db,
            http=outgoing.http,
            clock=clock,
            date=outgoing.date,
            count=counted.webhook,
        )
        for each in outgoing.targets
    ]
    return Webhooks(outgoing.targets, senders)


def targets(settings: Settings) -> tuple[Target, ...]:
    """The targets of the settings. Raises ConfigError if one can't be used, or needs a proxy that can't be used."""
    try:
        found = targets_of(settings)
    except ValueError as error:
        raise ConfigError(f"{error}: not started.") from None
    for each in found:
        if problem := settings.unusable_proxy(each.url):
            raise ConfigError(f"{problem}: not started, because the webhook {each.name} would use it.")
    return found


def connect_webhooks(stack: AsyncExitStack, settings: Settings, redactor: Redactor) -> Outgoing | None:
    """What posts to the targets, with the proxies of the settings; None without a target. Raises ConfigError."""
    found = targets(settings)
    if not found:
        return None
    redactor.add(*(secret for each in found for secret in secrets_of(each)))
    http = AioHttp(proxies=settings.proxies)
    stack.push_async_callback(http.close)
    log.info("webhooks_used", targets=[each.name for each in found])
    return Outgoing(found, http, partial(datetime.now, UTC))
