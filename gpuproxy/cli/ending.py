"""How commands end: Ctrl-C is always exit code 130. If stdout can't be written, stderr says so."""

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
    """If Ctrl-C is pressed inside, also at a prompt, the program ends with exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        _interrupted()
    except click.Abort as abort:  # click raises this for Ctrl-C at a prompt, and for the end of the input
        if not isinstance(abort.__context__, KeyboardInterrupt):
            raise
        _interrupted()


@contextmanager
def report_write_errors() -> Iterator[None]:
    """If stdout can't be written, print one line instead of a traceback. click handles a closed pipe, silently."""
    try:
        yield
    except OSError as error:
        if error.errno not in _UNWRITTEN or error.filename is not None:
            raise
        drop_stdout()
        print_error(f"The output can't be written: {error.strerror}.")
        raise SystemExit(NOT_WRITTEN) from None


def drop_stdout() -> None:
    """Discard what could not be written to stdout. Otherwise Python would write it again at exit, and fail again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def print_error(text: str) -> None:
    """Print a line to stderr. If stderr can't be written, do nothing."""
    with suppress(OSError):
        click.echo(text, err=True)


def _interrupted() -> None:
    print_error("\nInterrupted.")
    raise SystemExit(INTERRUPTED) from None
