"""Following a warm pool in the terminal: as a command, and while another call about the pool runs."""

import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

import click
import grpc

from gpuproxy.cli.connection import Connection, ServerRefused
from gpuproxy.cli.pool_text import Steps
from gpuproxy.client.errors import GPUProxyError, error_of
from gpuproxy.client.watching import PoolResume
from gpuproxy.edge.messages.json_values import plain
from gpuproxy.v1 import gpuproxy_pb2 as pb

_RETRY_SECONDS = 1.0


def follow(connection: Connection, machine_id: int) -> None:
    """Print each change until Ctrl-C, with its time. A broken stream is opened again."""
    steps = Steps()
    for status in _statuses(connection, machine_id, threading.Event()):
        if connection.as_json:
            click.echo(json.dumps(plain(status), ensure_ascii=False))
            continue
        for line in steps.lines(status):
            click.echo(f"{datetime.now(UTC):%H:%M:%S} {line}")


class Progress:
    """Prints to stderr what changes in a pool while the block runs. If nothing can be watched, it prints nothing."""

    def __init__(self, connection: Connection, machine_id: int) -> None:
        self._connection = connection
        self._machine_id = machine_id
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Self:
        if not self._connection.as_json:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()

    def _run(self) -> None:
        steps = Steps()
        while not self._over.is_set():
            with suppress(ValueError, ServerRefused):  # grpc raises ValueError for a channel that is closed
                for status in _statuses(self._connection, self._machine_id, self._over):
                    self._print(steps.lines(status))
            self._over.wait(_RETRY_SECONDS)  # the pool may not exist yet

    def _print(self, lines: Iterator[str]) -> None:
        for line in lines:
            if not self._over.is_set():
                click.echo(line, err=True)


def _statuses(connection: Connection, machine_id: int, over: threading.Event) -> Iterator[pb.WarmPoolStatus]:
    """Each status, until `over` is set or the server refuses; raises its refusal as a command's error."""
    resume = PoolResume(machine_id=machine_id, timeout=None)
    while not over.is_set():
        stream = connection.stub.WatchWarmPool(resume.request(), timeout=resume.seconds(), metadata=connection.metadata)
        try:
            for status in stream:
                yield resume.received(status)
            pause = _RETRY_SECONDS
        except grpc.RpcError as error:
            try:
                pause = resume.pause(error_of(error))
            except GPUProxyError:
                raise connection.failure(error) from None
        finally:
            stream.cancel()
        over.wait(pause)
