"""The result of a rule."""

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Literal, TypeVar

from gpuproxy.model.errors import ProviderError

T = TypeVar("T")


class Broken(Exception):
    """The adapter breaks the rule. The text describes how."""


class NotJudged(Exception):
    """The rule does not apply to this marketplace, or the subject lacks something. The text gives the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The result of checking one rule."""

    rule: str
    outcome: Literal["kept", "broken", "not judged"]
    why: str = ""
    """The reason; empty if the rule is kept."""


def require(held: object, why: str) -> None:
    """Raise Broken with the reason `why` if `held` is false."""
    if not held:
        raise Broken(why)


async def ended(call: Awaitable[T]) -> T | ProviderError:
    """The result of the call, or the ProviderError that it raised. Raises Broken for any other error."""
    try:
        return await call
    except ProviderError as error:
        return error
    except Broken:
        raise
    except Exception as error:
        raise Broken(f"raised {type(error).__name__}, which is not a ProviderError: {error}") from error


async def must_fail(call: Awaitable[object], when: str) -> ProviderError:
    """The error that the call raised. Raises Broken if the call returned."""
    outcome = await ended(call)
    if not isinstance(outcome, ProviderError):
        raise Broken(f"when {when}, it returned {_short(outcome)} instead of raising an error")
    return outcome


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:120]}..."
