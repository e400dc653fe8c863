"""Run a command within the limits of a systemd unit: system calls, sockets, memory, and files that it may change.

Usage: confined.py UNIT FOLDER COMMAND... It reads the unit's own settings. Landlock takes the place of the read-only
mounts that systemd makes: only what is below FOLDER, and devices, can be changed. Nothing outside this process changes.
"""

import ctypes
import ctypes.util
import os
import resource
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

UNAVAILABLE = 77
"""The exit code if this machine can't restrict a process in that way."""
_ALLOW, _ERRNO_EPERM = 0x7FFF0000, 0x00050000 | 1
_NO_NEW_PRIVS, _SET_MDWE, _REFUSE_EXEC_GAIN = 38, 65, 1
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF, _PATH_BENEATH = 444, 445, 446, 1
_CHANGES = 1 << 1 | sum(1 << bit for bit in range(4, 15))
"""Landlock's rights to change files: write, remove and make each kind, refer, truncate."""
_FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10, "AF_NETLINK": 16}


class _Compared(ctypes.Structure):
    """libseccomp's scmp_arg_cmp."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


def settings(unit: Path) -> dict[str, list[str]]:
    """The values of each setting of the unit."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        name, is_setting, value = line.partition("=")
        if is_setting and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def system_calls(filters: Sequence[str]) -> set[str]:
    """The calls that SystemCallFilter= leaves, with systemd's own groups."""
    allowed: set[str] = set()
    for line in filters:
        named = {call for word in line.removeprefix("~").split() for call in _members(word)}
        allowed = allowed - named if line.startswith("~") else allowed | named
    return allowed


def confine(unit: Path, folder: Path) -> None:
    """Restrict this process for good."""
    given = settings(unit)
    (files,) = given["LimitNOFILE"]
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(files), int(files)))
    allowed = system_calls(given["SystemCallFilter"])
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    if given["MemoryDenyWriteExecute"] == ["yes"]:
        _need(libc.prctl(_SET_MDWE, _REFUSE_EXEC_GAIN, 0, 0, 0) == 0, "this kernel has no PR_SET_MDWE")
    _allow_changes_below(libc, (folder, Path("/dev")))
    library = "libseccomp.so.2"
    _need(ctypes.util.find_library("seccomp") is not None, f"{library} is missing")
    seccomp = ctypes.CDLL(library)
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(ctypes.c_uint32(_ERRNO_EPERM)))
    for call in sorted(allowed - {"socket"}):
        number = seccomp.seccomp_syscall_resolve_name(call.encode())
        if number >= 0:
            assert seccomp.seccomp_rule_add(context, ctypes.c_uint32(_ALLOW), number, 0) == 0, call
    socket = seccomp.seccomp_syscall_resolve_name(b"socket")
    (families,) = given["RestrictAddressFamilies"]
    for family in families.split():
        equal = _Compared(0, 4, _FAMILIES[family], 0)
        assert seccomp.seccomp_rule_add_array(context, ctypes.c_uint32(_ALLOW), socket, 1, ctypes.byref(equal)) == 0
    assert seccomp.seccomp_load(context) == 0


def _allow_changes_below(libc: ctypes.CDLL, folders: Sequence[Path]) -> None:
    """Landlock: refuse to write, create, remove or rename anything that is not below `folders`."""
    handled = ctypes.c_uint64(_CHANGES)
    rules = libc.syscall(_CREATE_RULESET, ctypes.byref(handled), 8, 0)
    _need(rules >= 0, "this kernel has no Landlock")
    for folder in folders:
        opened = os.open(folder, os.O_PATH)
        beneath = struct.pack("=Qi", _CHANGES, opened)
        assert libc.syscall(_ADD_RULE, rules, _PATH_BENEATH, beneath, 0) == 0
        os.close(opened)
    assert libc.syscall(_RESTRICT_SELF, rules, 0) == 0


def _need(there: bool, otherwise: str) -> None:
    """End with UNAVAILABLE if something is not there."""
    if not there:
        sys.stderr.write(f"{otherwise}\n")
        sys.exit(UNAVAILABLE)


def _members(word: str) -> Iterator[str]:
    """The calls of a group such as @system-service; or the call itself."""
    if not word.startswith("@"):
        yield word
        return
    analyze = shutil.which("systemd-analyze")
    assert analyze is not None
    shown = subprocess.run([analyze, "syscall-filter", word], capture_output=True, text=True, check=True)
    for line in shown.stdout.splitlines()[1:]:
        member = line.strip()
        if member and not member.startswith("#"):
            yield from _members(member)


if __name__ == "__main__":
    confine(Path(sys.argv[1]), Path(sys.argv[2]))
    os.execv(sys.argv[3], sys.argv[3:])  # noqa: S606
