"""Parsing for the searches of GPUs and of volumes: conditions, orders and quantities."""

from collections.abc import Callable, Mapping
from typing import Any

from gpuproxy.sandbox.market.machines import driver_number
from gpuproxy.sandbox.protocol.query import BadQuery


def translated(column: str, condition: Any) -> tuple[str, Any]:
    """The condition as the server uses it: locations become countries, driver versions become numbers."""
    if column == "geolocation":
        return column, _mapped(condition, country)
    if column == "driver_version":
        return "driver_vers", _mapped(condition, driver_number)
    return column, condition


def country(place: Any) -> str:
    """The country code at the end of a location."""
    return str(place or "")[-2:].upper()


def orders(query: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """The requested order as (column, descending), most important first. Raises BadQuery."""
    wanted = query.get("order") or [["score", "desc"]]
    if not isinstance(wanted, list) or not all(isinstance(one, list) and one for one in wanted):
        raise BadQuery("order needs a list of [column, direction]")
    return [(str(one[0]), len(one) > 1 and str(one[1]) == "desc") for one in wanted]


def quantity(query: Mapping[str, Any], name: str, otherwise: float) -> float:
    """A number of the query, given directly or as a condition. Raises BadQuery."""
    value = query.get(name)
    if isinstance(value, dict):
        value = next(iter(value.values()), None)
    if value is None:
        return otherwise
    try:
        return float(value)
    except (TypeError, ValueError):
        raise BadQuery(f"{name} needs a number") from None


def _mapped(condition: Any, change: Callable[[str], Any]) -> Any:
    if isinstance(condition, dict):
        return {op: _mapped(wanted, change) for op, wanted in condition.items()}
    if isinstance(condition, list):
        return [_mapped(wanted, change) for wanted in condition]
    return change(condition) if isinstance(condition, str) and condition != "any" else condition
