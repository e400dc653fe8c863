"""Writing the boot script: the shell files, the user's script and the keys as one program.

The user's text and the keys are here-documents with a quoted delimiter, so the shell expands nothing in them and they
are in no argument of a process.
"""

from collections.abc import Sequence

from gpuproxy.boot.parts import KEYS, Part, shell_file

_DELIMITER = "gpuproxy-end"


def script(keys: Sequence[str], onstart: str, *, more: Sequence[Part] = ()) -> str:
    """The boot script, which lets `keys` (OpenSSH lines) log in and then runs `onstart`; "" if it has nothing to do.

    `more` are parts that run besides the keys.
    """
    lines = list(dict.fromkeys(key.strip() for key in keys if key.strip()))
    parts = [*([KEYS] if lines else []), *more]
    if not parts and not onstart.strip():
        return ""
    text = [bare("begin")]
    report = []
    if parts:
        once = [part.name for part in parts if not part.stays]
        text.append(_file("program", _program(parts)))
        text += [_file("keys", "\n".join(lines))] if lines else []
        text.append(bare("start"))
        report.append(f"$(gpuproxy_start '{' '.join(f'{name}=failed' for name in once)}')")
    if onstart.strip():
        text += [_file("onstart", onstart), bare("command")]
        report.append("onstart=$gpuproxy_onstart")
    else:
        report.append("onstart=none")
    text += [bare("report"), f'gpuproxy_report "{" ".join(report)}"\n']
    text += [bare("run")] if onstart.strip() else []
    return "".join(text)


def _program(parts: Sequence[Part]) -> str:
    """Our own program: it runs the one-shot parts in order, and then the others at the same time."""
    calls = [f"once {part.name}\n" for part in parts if not part.stays]
    calls.append("settled\n")
    stay = [f"part_{part.name} &\n" for part in parts if part.stays]
    calls += [*stay, "wait\n"] if stay else []
    return "".join([bare("program"), *(_stripped(part.text()) for part in parts), *calls])


def _file(name: str, content: str) -> str:
    """Shell lines that write `content`, with a final newline, to the file `name`."""
    lines = set(content.split("\n"))
    delimiter = next(each for number in range(len(lines) + 1) if (each := f"{_DELIMITER}{number or ''}") not in lines)
    end = "" if content.endswith("\n") else "\n"
    return f"gpuproxy_put {name} <<'{delimiter}'\n{content}{end}{delimiter}\n"


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
