"""How commands end: Ctrl-C is exit code 130 wherever it is pressed, an output that takes nothing is told on stderr."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import click

from gpuproxy.adapters.interrupts import INTERRUPTED

NOT_WRITTEN = 1
_UNWRITTEN = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE})


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C inside, also at a question, ends the program with its own exit code."""
    try:
        yield
    except KeyboardInterrupt:
        _interrupted()
    except click.Abort as abort:  # what click makes of it at a question, and of an end of the input
        if not isinstance(abort.__context__, KeyboardInterrupt):
            raise
        _interrupted()


@contextmanager
def unwritten_told() -> Iterator[None]:
    """One line instead of a traceback where stdout can't be written; a closed pipe is click's, which says nothing."""
    try:
        yield
    except OSError as error:
        if error.errno not in _UNWRITTEN or error.filename is not None:
            raise
        drop_stdout()
        whisper(f"What this command says can't be written: {error.strerror}.")
        raise SystemExit(NOT_WRITTEN) from None


def drop_stdout() -> None:
    """What stdout did not take is forgotten, since Python would try again at its end, and complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def whisper(text: str) -> None:
    """To stderr, if there is anybody."""
    with suppress(OSError):
        click.echo(text, err=True)


def _interrupted() -> None:
    whisper("\nInterrupted.")
    raise SystemExit(INTERRUPTED) from None
