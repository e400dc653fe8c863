"""Reading `.env`. A line that says nothing is an error: a limit in it would limit nothing."""

from pathlib import Path

from dotenv.parser import Binding, parse_stream


def values_in(path: Path) -> dict[str, str]:
    """The variables of the file, as they stand there. Raises ValueError, whose text quotes no line of it."""
    try:
        with path.open(encoding="utf-8") as stream:
            bindings = list(parse_stream(stream))
    except OSError as error:
        raise ValueError(f"{path}: can't be read: {error.strerror}") from None
    except UnicodeError:
        raise ValueError(f"{path}: is not text in UTF-8") from None
    for binding in bindings:
        if binding.error:
            raise ValueError(f"{path}: line {_line(binding)} is not NAME=VALUE; is a quote left open?")
    return {binding.key: binding.value or "" for binding in bindings if binding.key is not None}


def _line(binding: Binding) -> int:
    """Where it begins, behind the empty lines that are counted with it."""
    text = binding.original.string
    return binding.original.line + text[: len(text) - len(text.lstrip())].count("\n")
