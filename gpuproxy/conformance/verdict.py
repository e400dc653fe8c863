"""What comes of a rule."""

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Literal, TypeVar

from gpuproxy.model.errors import ProviderError

T = TypeVar("T")


class Broken(Exception):
    """The adapter breaks the rule; the text says how."""


class NotJudged(Exception):
    """The rule does not apply to this marketplace, or the subject lacks what it needs; the text says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One rule, judged."""

    rule: str
    outcome: Literal["kept", "broken", "not judged"]
    why: str = ""
    """Empty where the rule is kept."""


def require(held: object, why: str) -> None:
    """Raise Broken where it does not hold."""
    if not held:
        raise Broken(why)


async def ended(call: Awaitable[T]) -> T | ProviderError:
    """What the call returned, or the error of the contract that it raised. Raises Broken for any other error."""
    try:
        return await call
    except ProviderError as error:
        return error
    except Broken:
        raise
    except Exception as error:
        raise Broken(f"raised {type(error).__name__}, which is no ProviderError: {error}") from error


async def must_fail(call: Awaitable[object], when: str) -> ProviderError:
    """The error that the call raised. Raises Broken where it returned."""
    outcome = await ended(call)
    if not isinstance(outcome, ProviderError):
        raise Broken(f"when {when}, it returned {_short(outcome)} in place of an error")
    return outcome


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:120]}..."
