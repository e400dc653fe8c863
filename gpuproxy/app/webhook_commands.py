"""The operators' commands about webhooks: a test event, and the log of deliveries. The server may be running."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from gpuproxy.adapters.system import SystemRandom
from gpuproxy.adapters.transport import AioHttp
from gpuproxy.app.local_database import with_database
from gpuproxy.app.opening import OpenDatabase
from gpuproxy.app.webhooks import targets
from gpuproxy.config.environment import ConfigError
from gpuproxy.config.settings import Settings
from gpuproxy.model.webhooks import Delivery, EventType, Target
from gpuproxy.store import outbox
from gpuproxy.webhooks.posting import Answer, post


def chosen(settings: Settings, name: str) -> Sequence[Target]:
    """The target with this name; "" is all of them. Raises ConfigError if there is none."""
    found = targets(settings)
    if not found:
        raise ConfigError("There is no webhook. Set GPUPROXY_WEBHOOK_URL and GPUPROXY_WEBHOOK_SECRET.")
    of_name = [each for each in found if name in ("", each.name)]
    if not of_name:
        raise ConfigError(f"There is no webhook {name!r}. The webhooks: {', '.join(each.name for each in found)}.")
    return of_name


def test(settings: Settings, name: str) -> list[tuple[Target, Answer]]:
    """Post a test event to a target, or to all for "", from this process. Nothing is stored. Raises ConfigError."""
    wanted = chosen(settings, name)

    async def run() -> list[tuple[Target, Answer]]:
        http, now = AioHttp(proxies=settings.proxies), datetime.now(UTC)
        try:
            answers = [await post(http, each, _test_event(each, now), now) for each in wanted]
        finally:
            await http.close()
        return list(zip(wanted, answers, strict=True))

    return asyncio.run(run())


def deliveries(settings: Settings, name: str, limit: int) -> tuple[Delivery, ...]:
    """The newest deliveries, newest first; of one target, or of all for "". Raises ConfigError."""

    async def read(db: OpenDatabase) -> tuple[Delivery, ...]:
        return await db.read(lambda tx: outbox.listed(tx, name, limit))

    return with_database(settings, read)


def _test_event(target: Target, now: datetime) -> Delivery:
    event_id = f"evt_test_{SystemRandom().token(20)}"
    return Delivery(
        target=target.name, seq=0, event_id=event_id, type=EventType.TEST, project=target.project, at=now,
        data={"target": target.name},
    )  # fmt: skip
