"""Frozen dataclasses made as fast as others, for the few places that make thousands of them.

The generated `__init__` of a frozen dataclass sets each field through `object.__setattr__`, which takes three times as
long as an assignment.
"""

from dataclasses import MISSING, field, fields, make_dataclass
from typing import Any, TypeVar, cast

T = TypeVar("T")


def quick(kind: type[T]) -> type[T]:
    """A class that is called like `kind`, a frozen dataclass with slots, and whose instances are of `kind` itself.

    They are filled as those of a class that isn't frozen, and only then become instances of `kind`.
    """

    def become(self: Any) -> None:
        self.__class__ = kind

    columns: list[tuple[str, Any, Any]] = []
    for each in fields(kind):  # type: ignore[arg-type]  # it is a dataclass
        default = {} if each.default is MISSING else {"default": each.default}
        factory = {} if each.default_factory is MISSING else {"default_factory": each.default_factory}
        columns.append((each.name, Any, field(**default, **factory, kw_only=each.kw_only)))  # type: ignore[call-overload]
    made = make_dataclass(kind.__name__, columns, slots=True, namespace={"__post_init__": become})
    return cast("type[T]", made)
