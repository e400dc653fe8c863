"""Run by the command line's own Python: it imports the program once, and forks a process for each command.

Each line of stdin is a JSON list of a command's words; each line of stdout is its answer, {"out", "err", "code"}. The
import takes half a second, which a hundred commands would otherwise take each.
"""

import json
import os
import sys
import tempfile
import traceback
from typing import IO, NoReturn

from vastai.cli.main import main  # type: ignore[import-not-found]


def answer(words: list[str]) -> dict[str, object]:
    """Run one command in a child process."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if not child:
            _become(words, out, err)
        status = os.waitpid(child, 0)[1]
        return {"out": _text(out), "err": _text(err), "code": os.waitstatus_to_exitcode(status)}


def _become(words: list[str], out: IO[bytes], err: IO[bytes]) -> NoReturn:
    """As the installed script does: call `main`, and exit with what it returns."""
    for source, target in ((os.open(os.devnull, os.O_RDONLY), 0), (out.fileno(), 1), (err.fileno(), 2)):
        os.dup2(source, target)
    sys.argv[1:] = words
    code = 1
    try:
        sys.exit(main())
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
    except BaseException:  # noqa: BLE001 - as the interpreter does at the end of a process
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


if __name__ == "__main__":
    sys.argv[:] = sys.argv[1:]  # the program's path, as if it had been started by it
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(json.loads(line))) + "\n")
        sys.stdout.flush()
