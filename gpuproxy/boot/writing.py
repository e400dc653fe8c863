"""Writing the boot script: the shell files, the user's script and the keys as one program.

The user's text and the keys are here-documents with a quoted delimiter, so the shell expands nothing in them and they
are in no argument of a process.
"""

import re
from collections.abc import Sequence

from gpuproxy.boot.parts import KEYS, Part, shell_file
from gpuproxy.model.demands import VolumeMount

_DELIMITER = "gp-end"
_OPTIONS_WITH_VALUE = frozenset({"-u", "--unset", "-C", "--chdir", "-a", "--argv0"})  # of env
_NONCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_PLAIN = re.compile(r"[\w./+-]+")


def script(keys: Sequence[str], onstart: str, *, more: Sequence[Part] = (), lock: VolumeMount | None = None) -> str:
    """The boot script, which lets `keys` (OpenSSH lines) log in and then runs `onstart`; "" if it has nothing to do.

    `more` are parts that run besides the keys. With `lock`, a volume with a nonce, `onstart` runs only while this
    machine has the lock of the volume. A nonce has ASCII letters, digits, "_" and "-", and begins with a letter or
    digit. Raises ValueError for any other nonce.
    """
    volume = lock if lock is not None and lock.nonce else None
    lines = list(dict.fromkeys(key.strip() for key in keys if key.strip()))
    parts = [*([KEYS] if lines else []), *more]
    if not parts and not onstart.strip() and volume is None:
        return ""
    text = [bare("begin"), bare("say") if volume is not None else ""]
    line = "gpuproxy-boot: version=1"
    if parts:
        once = "".join(f" {part.name}=failed" for part in parts if not part.stays)
        text.append(_file("program", _program(parts)))
        text += [_file("keys", "\n".join(lines))] if lines else []
        text.append(bare("start"))
        line += f"$(gp_do gp_start || echo '{once}')"
    if onstart.strip():
        text += ["gp_onstart=${GPUPROXY_BOOT_ONSTART:+skipped}\n", _file("onstart", onstart, " || gp_onstart=failed")]
        text += [bare("find"), f"gp_find {' '.join(map(_quoted, shebang(onstart)))}\n"]
    if volume is not None:
        text += [f'gp_line="{line}"\n', bare("lock"), _call_of_lock(volume)]
        text += [bare("bar")] if onstart.strip() else []
        line = "$gp_line lock=$gp_word"
    line += " onstart=${gp_onstart:-started}" if onstart.strip() else " onstart=none"
    text += [f'gp_line="{line}"\n', bare("report" if volume is None else "said")]
    if onstart.strip():
        text += [bare("barred") if volume is not None else "", bare("run")]
    return "".join(text)


def _call_of_lock(volume: VolumeMount) -> str:
    if not _NONCE.fullmatch(volume.nonce):
        raise ValueError(
            f"nonce must be letters, digits, _ and -, and begin with a letter or digit, not {volume.nonce!r}"
        )
    founds = " founds" if volume.founds else ""
    return f"gp_lock {_quoted(volume.path)} {volume.nonce} {volume.wait_seconds}{founds}\n"


def shebang(onstart: str) -> tuple[str, ...]:
    """The program that runs a script, its argument, and the program which that must find on the machine.

    As the kernel reads it: all after the program is one argument. It may be absent, and so may the last one, which only
    `env` has. Without a shebang the program is "".
    """
    first = onstart.partition("\n")[0]
    program, *rest = re.split(r"[ \t]+", first[2:].strip(" \t\r"), maxsplit=1) if first.startswith("#!") else [""]
    needed = _needed_by_env(rest[0]) if rest and program.rpartition("/")[2] == "env" else ""
    return (program, *rest, *([needed] if needed else []))


def _needed_by_env(argument: str) -> str:
    """The program that `env` runs; "" if that is not certain."""
    if not argument.startswith("-"):
        return "" if "=" in argument else argument
    words = iter(re.sub(r"^(-v?S|--split-string=)", "-S ", argument).split())
    for word in words:
        if word in _OPTIONS_WITH_VALUE:
            next(words, None)
        elif not word.startswith("-") and "=" not in word:
            return word if _PLAIN.fullmatch(word) else ""
    return ""


def _program(parts: Sequence[Part]) -> str:
    """Our own program: it runs the one-shot parts in order, and then the others at the same time."""
    calls = [f"once {part.name}\n" for part in parts if not part.stays]
    calls.append("settled\n")
    stay = [f"part_{part.name} &\n" for part in parts if part.stays]
    stay += [f"loop_{part.name} &\n" for part in parts if part.loops]
    calls += [*stay, "wait\n"] if stay else []
    return "".join([bare("program"), *(_stripped(part.text()) for part in parts), *calls])


def _file(name: str, content: str, after: str = "") -> str:
    """Shell lines that write `content`, with a final newline, to the file `name`. `after` follows the command."""
    lines = set(content.split("\n"))
    delimiter = next(each for number in range(len(lines) + 1) if (each := f"{_DELIMITER}{number or ''}") not in lines)
    end = "" if content.endswith("\n") else "\n"
    return f"gp_do gp_put {name} <<'{delimiter}'{after}\n{content}{end}{delimiter}\n"


def _quoted(text: str) -> str:
    """The text as a shell word, always in quotes."""
    return "'" + text.replace("'", "'\\''") + "'"


def bare(name: str) -> str:
    """The text of `sh/NAME.sh` without comments."""
    return _stripped(shell_file(name))


def _stripped(text: str) -> str:
    """Shell text without comments, indents and blank lines, because marketplaces limit the length.

    If it begins with a shebang, the first two lines stay: the second one says whose script it is.
    """
    lines = text.splitlines()
    kept = lines[:2] if text.startswith("#!") else []
    rest = (line.strip() for line in lines[len(kept) :])
    return "".join(f"{line}\n" for line in (*kept, *(line for line in rest if line and not line.startswith("#"))))
