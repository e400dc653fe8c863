"""Real ports in rows: neighbours are consecutive, and a port that another program has is never one of them."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gpuproxy.sandbox.server.listeners import Listeners


@contextmanager
def _listeners() -> Iterator[Listeners]:
    made = Listeners()
    try:
        yield made
    finally:
        made.close()


@contextmanager
def _held(number: int, *, listens: bool) -> Iterator[None]:
    """Another program has the port; one that only has it bound is what a second sandbox does."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", number))
        if listens:
            held.listen()
        yield


def _free_pair() -> int:
    with _listeners() as listeners:
        return listeners.port_table.reserve(count=2)


def test_rows_are_consecutive_and_have_no_port_in_common() -> None:
    with _listeners() as listeners, _listeners() as others:
        taken: list[int] = []
        for table in (listeners.port_table, others.port_table) * 40:
            first = table.reserve(count=2)
            taken += [first, first + 1, table.reserve()]
        assert len(set(taken)) == len(taken)


def test_a_preferred_row_is_given_if_it_is_free() -> None:
    first = _free_pair()
    with _listeners() as listeners:
        assert listeners.port_table.reserve(first, count=2) == first
        assert listeners.port_table.reserve(first, count=2) != first
        assert listeners.port_table.reserve(first + 1) != first + 1


@pytest.mark.parametrize("neighbour", [0, 1])
def test_a_preferred_row_with_a_port_in_use_is_replaced_by_another_row(neighbour: int) -> None:
    first = _free_pair()
    with _held(first + neighbour, listens=True), _listeners() as listeners:
        other = listeners.port_table.reserve(first, count=2)
        assert not {first, first + 1} & {other, other + 1}


@pytest.mark.parametrize("listens", [True, False])
def test_a_new_row_has_no_neighbour_that_another_program_has(monkeypatch: pytest.MonkeyPatch, listens: bool) -> None:
    """The system offers first the ports whose neighbours are in use; what it offers is not offered again."""
    first, bind = _free_pair(), socket.socket.bind
    offered = iter([first])

    def offer(made: socket.socket, address: tuple[str, int]) -> None:
        bind(made, (address[0], next(offered, 0) if address[1] == 0 else address[1]))

    with _held(first + 1, listens=listens), _listeners() as listeners:
        monkeypatch.setattr(socket.socket, "bind", offer)
        pair = listeners.port_table.reserve(count=2)
        assert not {first, first + 1} & {pair, pair + 1}
        monkeypatch.undo()


def test_without_any_neighbours_a_row_is_an_error_and_nothing_stays_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    bind = socket.socket.bind

    def alone(made: socket.socket, address: tuple[str, int]) -> None:
        if address[1]:
            raise OSError("in use")
        bind(made, address)

    with _listeners() as listeners:
        monkeypatch.setattr(socket.socket, "bind", alone)
        with pytest.raises(OSError, match="no 2 consecutive"):
            listeners.port_table.reserve(count=2)
        number = listeners.port_table.reserve()
        monkeypatch.undo()
        assert listeners.port_table.open == {}
        assert number > 0
