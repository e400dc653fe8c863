"""A process that can be killed at any moment: what it does outside goes through here, and a dead one does nothing.

A point is a moment right before or right after a commit or a provider call. Each life counts its points and may be
told to die at one of them, so crash tests find their crash points by counting. A request that was on its way when the
process died still arrives.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

from gpuproxy.model.errors import Unavailable
from gpuproxy.model.reasons import Reason
from gpuproxy.ports import Database, Http, HttpRequest, HttpResponse, Tx, Wakeups

T = TypeVar("T")
MARKET = "market"
"""The name of tasks that are not the process's: they outlive it."""


class Life:
    """One life of the process."""

    def __init__(self, die_after: int | None = None) -> None:
        self.points = 0
        self.dead = False
        self.books_fail = False
        """The database refuses every write, as with a full disk."""
        self.books_gone = False
        """The database can't be reached."""
        self.loses_answers: Callable[[], bool] = lambda: False
        """Whether the answer to the next commit is lost: the unit is written, and its caller is told otherwise."""
        self._last = die_after
        self._runs: asyncio.Event | None = None
        """Unset while the process is paused; None if it never was."""
        self.before_send: Callable[[HttpRequest], None] = lambda _: None
        """Told each request as the program hands it to the network."""
        self.sent: list[HttpRequest] = []
        """All requests that this life has handed to the network."""
        self.held = 0
        """Requests that wait for the end of the pause, to be sent, and committed units whose result waits for it."""

    def pause(self) -> None:
        """From here on nothing that this process does reaches the database or the market, until `resume`."""
        self._runs = asyncio.Event()

    def resume(self) -> None:
        """Let the process go on where it was."""
        if self._runs is not None:
            self._runs.set()

    async def runs(self) -> None:
        """Return when the process is not paused."""
        if self._runs is not None and not self._runs.is_set():
            await self._runs.wait()
            self.goes_on()

    async def holds(self) -> None:
        """Return when the process is not paused. What has been checked is counted as held while it waits."""
        self.held += 1
        try:
            await self.runs()
        finally:
            self.held -= 1

    def die_after(self, points: int) -> None:
        """Die at the n-th point from now; 1 is the next."""
        self._last = self.points + points

    def spare(self) -> None:
        """Live on, unless it is dead already."""
        self._last = None

    def end(self) -> None:
        """From here on nothing that still runs has any effect."""
        self.dead = True

    def passes_point(self) -> None:
        """Count a point, and die here when it is the last one."""
        self.goes_on()
        self.points += 1
        if self.points == self._last:
            self.end()
            self.goes_on()

    def goes_on(self) -> None:
        """Raise in whatever a dead process would still do."""
        if self.dead:
            raise asyncio.CancelledError


class MortalDatabase:
    """The Database port as one life sees it."""

    def __init__(
        self,
        db: Database,
        life: Life,
        delay: Callable[[], float],
        written: Callable[[], None],
        *,
        exclusive: bool = True,
    ) -> None:
        """`delay`: seconds that others run before and after each unit of work; `written` is told each commit.

        `exclusive`: False for a database that several processes share.
        """
        self.exclusive = exclusive
        self._db = db
        self._life = life
        self._delay = delay
        self._written = written

    async def write(self, fn: Callable[[Tx], T]) -> T:
        await asyncio.sleep(self._delay())
        await self._life.runs()
        self._life.passes_point()
        if self._life.books_fail:
            raise Unavailable("The books can't be written at the moment; nothing was changed.", reason=Reason.DATABASE)
        if self._life.books_gone:
            raise _unreachable()
        if self._life.loses_answers():
            await self._db.write(lambda tx: fn(_Unheard(tx)))
            self._written()
            raise _unreachable()
        result = await self._db.write(fn)
        self._written()
        self._life.passes_point()
        await asyncio.sleep(self._delay())
        await self._life.holds()
        self._life.goes_on()
        return result

    async def read(self, fn: Callable[[Tx], T]) -> T:
        self._life.goes_on()
        await self._life.runs()
        if self._life.books_gone:
            raise _unreachable()
        return await self._db.read(fn)

    def watch(self, topic: str) -> AbstractAsyncContextManager[Wakeups]:
        return self._db.watch(topic)

    async def close(self) -> None:
        """The books outlive the process."""


class _Unheard:
    """A transaction whose process never hears of its commit."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tx, name)

    def after_commit(self, call: Callable[[], None]) -> None:
        """It is not called."""


def _unreachable() -> Unavailable:
    return Unavailable("The database can't be reached at the moment.", reason=Reason.DATABASE)


class MortalHttp:
    """The Http port as one life sees it."""

    def __init__(
        self,
        http: Http,
        life: Life,
        delay: Callable[[], float],
        heard: Callable[[HttpRequest], None],
        answered: Callable[[HttpRequest, HttpResponse], None],
    ) -> None:
        """`delay`: seconds of each way; `heard` is told each request that reaches the market, `answered` its answer."""
        self._http = http
        self._life = life
        self._delay = delay
        self._heard = heard
        self._answered = answered

    async def send(self, request: HttpRequest) -> HttpResponse:
        self._life.passes_point()
        self._life.before_send(request)
        await self._life.holds()
        self._life.sent.append(request)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[HttpResponse] = loop.create_future()
        seconds = self._delay()
        if seconds > 0:
            loop.call_later(seconds, self._arrive, request, answer)
        else:
            self._arrive(request, answer)
        try:
            return await answer
        finally:
            await self._life.runs()
            self._life.passes_point()

    def _arrive(self, request: HttpRequest, answer: "asyncio.Future[HttpResponse]") -> None:
        """The request is at the market, whoever may still be waiting."""
        self._heard(request)
        task = asyncio.create_task(self._http.send(request), name=MARKET)
        task.add_done_callback(lambda done: self._back(request, done, answer))

    def _back(
        self, request: HttpRequest, done: "asyncio.Future[HttpResponse]", answer: "asyncio.Future[HttpResponse]"
    ) -> None:
        if done.cancelled():
            return
        error = done.exception()
        if error is None:
            self._answered(request, done.result())
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        elif (seconds := self._delay()) > 0:
            asyncio.get_running_loop().call_later(seconds, _deliver, answer, done.result())
        else:
            answer.set_result(done.result())


def _deliver(answer: "asyncio.Future[HttpResponse]", response: HttpResponse) -> None:
    if not answer.done():
        answer.set_result(response)
