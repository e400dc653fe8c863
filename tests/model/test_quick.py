"""Instances that are made quickly are the same as others."""

from dataclasses import FrozenInstanceError, dataclass, field, replace

import pytest

from gpuproxy.model.quick import quick


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    x: int
    y: int = 2
    names: dict[str, str] = field(default_factory=dict)


make = quick(Point)


def test_they_are_of_the_class_itself_and_equal_to_others() -> None:
    made = make(x=1)
    assert type(made) is Point
    assert made == Point(x=1)
    assert repr(made) == repr(Point(x=1))
    assert replace(made, y=5) == Point(x=1, y=5)
    assert make(x=1).names is not make(x=1).names


def test_they_are_frozen_and_need_the_same_arguments() -> None:
    with pytest.raises(FrozenInstanceError):
        make(x=1).x = 2  # type: ignore[misc]
    with pytest.raises(TypeError):
        make(y=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        make(1)  # type: ignore[misc]
