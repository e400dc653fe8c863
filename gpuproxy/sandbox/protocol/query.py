"""vast.ai's query language: `{"column": {"op": value, ...}, ...}`; all conditions must be true.

This module has only the language; the caller knows the columns. Values may be numbers or numeric strings on both
sides.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

R = TypeVar("R")
Getter = Callable[[R], Any]
Test = Callable[[R], bool]
_FALSE_WORDS = {"false": 0.0, "true": 1.0}


class BadQuery(Exception):
    """The query is invalid. The text says why and is returned to the client."""


def compiled(query: Mapping[str, Any], getter: Callable[[str], "Getter[R]"]) -> "list[Test[R]]":
    """One test for each condition. Raises BadQuery for an unknown op; `getter` raises it for an unknown column."""
    tests: list[Test[R]] = []
    for column, condition in query.items():
        if condition == "any" or condition is None:
            continue
        conditions = condition if isinstance(condition, dict) else {"eq": condition}
        for op, wanted in conditions.items():
            if wanted != "any":
                tests.append(_test(getter(column), column, op, wanted))
    return tests


def sort_key(value: Any) -> tuple[int, float, str]:
    """A key that orders any values of a column: None first, then numbers, then texts."""
    if value is None:
        return (0, 0.0, "")
    number = _number(value)
    return (2, 0.0, str(value)) if number is None else (1, number, "")


def _test(get: "Getter[R]", column: str, op: str, wanted: Any) -> "Test[R]":
    if op in ("in", "notin"):
        if not isinstance(wanted, list):
            raise BadQuery(f"{column}: {op} needs a list")
        equal = [_equals(one) for one in wanted]
        found = op == "in"
        return lambda row: any(test(get(row)) for test in equal) is found
    if op in ("eq", "neq"):
        equals = _equals(wanted)
        yes = op == "eq"
        return lambda row: equals(get(row)) is yes
    if op in ("gt", "gte", "lt", "lte"):
        return _ordered(get, op, wanted)
    raise BadQuery(f"{column}: unknown operator {op}")


def _equals(wanted: Any) -> Callable[[Any], bool]:
    number, text = _number(wanted), _text(wanted)

    def equals(value: Any) -> bool:
        if value is None or wanted is None:
            return value is wanted
        if isinstance(value, str):
            return _text(value) == text
        return number is not None and float(value) == number

    return equals


def _ordered(get: "Getter[R]", op: str, wanted: Any) -> "Test[R]":
    limit = _number(wanted)
    if limit is None:
        raise BadQuery(f"{op} needs a number")
    bound = limit

    def value_of(row: R) -> float | None:
        return _number(get(row))

    if op == "gt":
        return lambda row: (value := value_of(row)) is not None and value > bound
    if op == "gte":
        return lambda row: (value := value_of(row)) is not None and value >= bound
    if op == "lt":
        return lambda row: (value := value_of(row)) is not None and value < bound
    return lambda row: (value := value_of(row)) is not None and value <= bound


def _number(value: Any) -> float | None:
    if isinstance(value, (int, float)):
        return float(value)
    if not isinstance(value, str):
        return None
    try:
        return float(value)
    except ValueError:
        return _FALSE_WORDS.get(value.casefold())


def _text(value: Any) -> str:
    return str(value).replace("_", " ")
