"""Follows the reservation of a running ReserveGPUs call, by WatchReservation, in a thread of its own.

The call returns the reservation's id only at its end. So the id is looked up by the request id first. A stream that
breaks is opened again where it ended. If nothing can be watched, nothing is reported: the call itself reports errors.
"""

import queue
import threading
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Self

import grpc

from gpuproxy.cli.connection import Connection, ServerRefused
from gpuproxy.cli.machines import by_request_id, is_listed
from gpuproxy.client.errors import GPUProxyError, error_of
from gpuproxy.client.watching import Resume
from gpuproxy.v1 import gpuproxy_pb2 as pb

_LOOKUP_SECONDS = 0.5
_Stream = grpc.Call


class Follower:
    """Every state of one reservation, in order. It starts with the block and ends with it."""

    def __init__(self, connection: Connection, request_id: str) -> None:
        self._connection = connection
        self._request_id = request_id
        self._states: queue.SimpleQueue[pb.Reservation | None] = queue.SimpleQueue()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._stream: _Stream | None = None
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        with self._lock:
            if self._stream is not None:
                self._stream.cancel()

    def wake(self) -> None:
        """Make `states` return now."""
        self._states.put(None)

    def states(self, seconds: float) -> Iterator[pb.Reservation]:
        """The states that have arrived. If there are none, wait at most `seconds` for one, or for `wake`."""
        with suppress(queue.Empty):
            state = self._states.get(timeout=seconds)
            while True:
                if state is not None:
                    yield state
                state = self._states.get_nowait()

    def _run(self) -> None:
        with suppress(ValueError):  # grpc raises it for a channel that the end of the command has closed
            self._follow()

    def _follow(self) -> None:
        found = self._looked_up()
        if found is None:
            return
        self._states.put(found)
        resume = Resume(reservation_id=found.reservation_id, timeout=None, began=True)
        while not self._over.is_set():
            pause = self._read(resume)
            if pause is None:
                return
            self._over.wait(pause)

    def _looked_up(self) -> pb.Reservation | None:
        """The reservation, as soon as it exists; None if the block has ended first."""
        while not self._over.wait(_LOOKUP_SECONDS):
            with suppress(ServerRefused):
                listed = is_listed(self._connection, self._request_id)
                if listed and (found := by_request_id(self._connection, self._request_id)):
                    return found
        return None

    def _read(self, resume: Resume) -> float | None:
        """Read one stream to its end. Seconds until the next one; None if there is nothing more to read."""
        stub, metadata = self._connection.stub, self._connection.metadata
        stream = stub.WatchReservation(resume.request(), timeout=resume.seconds(), metadata=metadata)
        with self._lock:
            self._stream = stream
            if self._over.is_set():
                stream.cancel()
        try:
            for answer in stream:
                self._states.put(resume.received(answer))
        except grpc.RpcError as error:
            with suppress(GPUProxyError):
                return resume.pause(error_of(error))
        return None
