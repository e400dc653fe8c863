"""Recognising the boot scripts of GPU Proxy, which may run on a developer's machine, among all start scripts.

Everybody who can reach the sandbox's port can send a start script, so a mark in its text proves nothing. A script is
known if everything in it that a shell would execute is known. Only the content of the files `keys` and `onstart`, which
it writes, the words of the user's shebang, and the path, nonce and wait of a lock may be anything.

A shell may read a text differently than this module does. Therefore a known script is never run as it was sent. What
runs is written anew: the known lines, keys of printable characters, a nonce of plain characters, and no word of the
user's own script. The path of a volume is not needed, because a folder of the sandbox stands for it. The sandbox
imports nothing of the program that writes these scripts; a test compares the digests with it.
"""

import base64
import hashlib
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from gpuproxy.sandbox.market.instances import Boot, Lock

KNOWN: frozenset[str] = frozenset(
    {
        "6d3c63f0695c71c081dfc784a16ed82593a3086dd9545200067716cd55c32be3",
        "fd38ec545634c2c714346f59d9e2d0c3efee3f692b3c763d84a3604f61b69b33",
        "9e8816eb080042cdfa1ae57b5024df02ee80eb7e945e5bd64e525d881a7cd9a8",
        "7e2d3659dc07688e9405b4e4bce4fcaf12b919307ce0178769177707287c0f83",
        "19c4c6f531a94ea43ff1748bb36d8b1e3921190a0f9b032a2e85a50397161296",
        "4dd67abdda4fbfd68c0b0209253a1fbe5ea9e098173ba12069e6e68d64599613",
        "51548e0a2c66f4fe3958835dc2c5f4cbd27702133ec08b59ad3009bbf5288d96",
        "635cdb1e5b49af089813cc2b97869095c00048f570abb6c1788503889822919f",
        "950bb9405adc805106a9e463cf77985c4d29ccd3b95a89684645f636137499ed",
        "9b4be6ec6d982e2073be8045ee99b30203d7d43fa4f3876c6e9476bee36daf0f",
        "f3bcf9606efabee147231ea48de8d20295652e4df9a9f7154c1e0e8563a72312",
    }
)
"""SHA-256 of what is executed of a boot script: with keys, a user's script, a lock or an end, and without each."""
KNOWN_PACKED = "d7d05664cad0ec8c5bbbc650926801ee090fc461d2612719e9b24cf69f3b1ff0"
"""The same of a packed boot script, without its content."""
_MOST_BYTES = 256 * 1024
_FILE = re.compile(r"gp_do gp_put (keys|onstart) <<'(gp-end[0-9]*)'((?: \|\| gp_onstart=failed)?)")
_SHEBANG = re.compile(r"gp_find(?: '[^']*'){1,3}")
_LOCK = re.compile(
    r"gp_lock '(?P<path>[^']*)' (?P<nonce>[A-Za-z0-9][A-Za-z0-9_-]{0,127}) (?P<wait>[0-9]{1,6})(?P<founds> founds)?"
)
_PACKED = re.compile(r"(?<=^gp\(\) \{ printf %s )[A-Za-z0-9+/=]+(?=; \}$)", re.MULTILINE)
_GZIP = 31


@dataclass(slots=True)
class Executed:
    """What a shell executes of a plain script."""

    lines: list[str] = field(default_factory=list)
    """With a mark, which begins with a NUL, for each file and for the lock."""
    keys: list[str] = field(default_factory=list)
    lock: Lock | None = None


def known_part(text: str) -> str | None:
    """The boot script in a start script, unpacked and without the user's own script, as it may run.

    None if a shell would execute anything besides the program of GPU Proxy. Never raises.
    """
    read = _known(text)
    return None if read is None else "\n".join(_written(line, read) for line in read.lines)


def boot_of(text: str) -> Boot | None:
    """What the boot script of GPU Proxy in a start script does; None for any other script. Never raises."""
    read = _known(text)
    if read is None:
        return None
    return Boot(keys="\0keys" in read.lines, script="\0onstart || gp_onstart=failed" in read.lines, lock=read.lock)


def _known(text: str) -> Executed | None:
    """What a shell executes of a start script; None if that is anything besides the program of GPU Proxy."""
    packed = _PACKED.search(text)
    if packed is None or digest([_PACKED.sub("PACKED", text)]) != KNOWN_PACKED:
        return _plain(text)
    unpacked = _unpacked(packed[0])
    return None if unpacked is None else _plain(unpacked)


def executed(text: str) -> Executed | None:
    """What a shell executes of a plain script. None if a file in it has no end, or if it has two locks."""
    read = Executed()
    lines = iter(text.split("\n"))
    for line in lines:
        file = _FILE.fullmatch(line)
        if lock := _LOCK.fullmatch(line):
            if read.lock is not None:
                return None
            read.lock = Lock(
                path=lock["path"],
                nonce=lock["nonce"],
                wait_seconds=int(lock["wait"]),
                founds=lock["founds"] is not None,
            )
            read.lines.append("\0lock")
            continue
        if file is None:
            read.lines.append("gp_find ''" if _SHEBANG.fullmatch(line) else line)
            continue
        content: list[str] = []
        for each in lines:
            if each == file[2]:
                break
            content.append(each)
        else:
            return None
        read.keys += content if file[1] == "keys" else []
        read.lines.append(f"\0{file[1]}{file[3]}")  # a NUL, so that no line of the text is the same
    return read


def digest(lines: Sequence[str]) -> str:
    """The SHA-256 of executed lines."""
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()


def _plain(text: str) -> Executed | None:
    """What a shell executes of a script that is not packed; None if it is not known."""
    read = None if "\0" in text else executed(text)
    if read is None or digest(read.lines) not in KNOWN or not all(key.isprintable() for key in read.keys):
        return None
    return read


def _written(line: str, read: Executed) -> str:
    """The text for an executed line."""
    if not line.startswith("\0"):
        return line
    if line == "\0lock" and (lock := read.lock) is not None:
        return f"gp_lock '' {lock.nonce} {lock.wait_seconds}{' founds' if lock.founds else ''}"
    name, bar, after = line[1:].partition(" ||")
    content = read.keys if name == "keys" else ()
    taken = frozenset(content)
    end = next(each for number in range(len(taken) + 1) if (each := f"gp-end{number}") not in taken)
    return "\n".join([f"gp_do gp_put {name} <<'{end}'{bar}{after}", *content, end])


def _unpacked(content: str) -> str | None:
    """The text in a packed script; None unless it is one whole gzip member of UTF-8, of at most _MOST_BYTES."""
    try:
        unpacking = zlib.decompressobj(_GZIP)
        data = unpacking.decompress(base64.b64decode(content, validate=True), _MOST_BYTES)
        if not unpacking.eof or unpacking.unused_data or unpacking.unconsumed_tail:
            return None
        return data.decode()
    except (ValueError, zlib.error):
        return None
