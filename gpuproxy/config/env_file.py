"""Reading `.env`. A line that can't be parsed is an error, because a limit on it would silently have no effect."""

from pathlib import Path

from dotenv.parser import Binding, parse_stream


def values_in(path: Path) -> dict[str, str]:
    """The variables of the file. Raises ValueError; its text quotes no line of the file, which may hold secrets."""
    try:
        with path.open(encoding="utf-8") as stream:
            bindings = list(parse_stream(stream))
    except OSError as error:
        raise ValueError(f"{path}: can't be read: {error.strerror}") from None
    except UnicodeError:
        raise ValueError(f"{path}: is not valid UTF-8") from None
    for binding in bindings:
        if binding.error:
            raise ValueError(f"{path}: line {_line(binding)} is not NAME=VALUE. Is a closing quote missing?")
    return {binding.key: binding.value or "" for binding in bindings if binding.key is not None}


def _line(binding: Binding) -> int:
    """The number of its first line, without the empty lines before it that the parser includes."""
    text = binding.original.string
    return binding.original.line + text[: len(text) - len(text.lstrip())].count("\n")
