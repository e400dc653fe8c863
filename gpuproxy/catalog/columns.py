"""Columns of a table as masks: integers in which bit n stands for the n-th row.

A condition becomes a mask, and several conditions become the bitwise AND of their masks. Masks that are likely to be
needed again are cached. The size of the cache is limited, because clients choose the conditions.
"""

from bisect import bisect_left
from collections.abc import Callable, Generator, Hashable, Iterable, Sequence
from itertools import compress
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
W = TypeVar("W", bound=Hashable)

_SLICE = 4000
_BLOCK = 128
_KEPT = 128
_TRUTH = bytes.maketrans(b"01", b"\0\1")


def mask_of(places: Iterable[int]) -> int:
    """The mask of these rows."""
    rows = list(places)
    if not rows:
        return 0
    bits = bytearray((max(rows) >> 3) + 1)
    for row in rows:
        bits[row >> 3] |= 1 << (row & 7)
    return int.from_bytes(bits, "little")


def places_in(mask: int) -> list[int]:
    """The rows of a mask, ascending."""
    first = max(0, (mask & -mask).bit_length() - 1)
    digits = bin(mask >> first)[:1:-1].encode().translate(_TRUTH)
    return list(compress(range(first, first + len(digits)), digits))


class Named(Generic[K]):
    """A column of few different values, compared for equality or by a function."""

    def __init__(self, rows: dict[K, list[int]]) -> None:
        self._rows = rows
        self._kept: dict[Hashable, int] = {}

    @classmethod
    def of(cls, values: Sequence[K]) -> "Generator[None, None, Named[K]]":
        """The column of these values; yields now and then."""
        rows: dict[K, list[int]] = {}
        for row, value in enumerate(values):
            rows.setdefault(value, []).append(row)
            if row % _SLICE == 0:
                yield
        return cls(rows)

    def values(self) -> Iterable[K]:
        """The different values."""
        return self._rows.keys()

    def equal(self, value: K) -> int:
        """The rows with this value."""
        return self._keep(("equal", value), lambda: mask_of(self._rows.get(value, ())))

    def matching(self, wanted: W, matches: Callable[[W, K], bool]) -> int:
        """The rows whose value matches. Pass the same `matches` to one column: results are cached by `wanted`."""
        return self._keep(
            ("match", wanted),
            lambda: mask_of(row for value, rows in self._rows.items() if matches(wanted, value) for row in rows),
        )

    def _keep(self, key: Hashable, make: Callable[[], int]) -> int:
        mask = self._kept.get(key)
        if mask is None:
            if len(self._kept) >= _KEPT:
                self._kept.clear()
            mask = self._kept[key] = make()
        return mask


class Ordered:
    """A column of numbers, compared with a lower bound."""

    def __init__(self, values: list[float], rows: list[int], tails: list[int]) -> None:
        self._values = values
        """Ascending; `rows` are in the same order."""
        self._rows = rows
        self._tails = tails
        """The rows of each block of values and of all later ones."""

    @classmethod
    def of(cls, values: Sequence[float]) -> "Generator[None, None, Ordered]":
        """The column of these values; yields now and then."""
        rows: list[int] = []
        for start in range(0, len(values), _SLICE):
            rows += sorted(range(start, min(start + _SLICE, len(values))), key=values.__getitem__)
            yield
        rows.sort(key=values.__getitem__)  # a merge of the sorted slices
        yield
        tails = [0]
        for start in range((len(rows) - 1) // _BLOCK * _BLOCK, -1, -_BLOCK):
            tails.append(tails[-1] | mask_of(rows[start : start + _BLOCK]))
        tails.reverse()
        yield
        return cls([values[row] for row in rows], rows, tails)

    def below(self, bound: float) -> int:
        """How many values are less than `bound`."""
        return bisect_left(self._values, bound)

    def at_least(self, bound: float) -> int:
        """The rows whose value is at least `bound`."""
        first = bisect_left(self._values, bound)
        block = -(-first // _BLOCK)
        return self._tails[block] | mask_of(self._rows[first : block * _BLOCK])
