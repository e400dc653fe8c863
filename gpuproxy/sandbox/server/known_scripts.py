"""Recognising the boot scripts of GPU Proxy, which may run on a developer's machine, among all start scripts.

Everybody who can reach the sandbox's port can send a start script, so a mark in its text proves nothing. A script is
known if everything in it that a shell would execute is known. Only the content of the files `keys` and `onstart`, which
it writes, may be anything: here-documents with a quoted delimiter are data. The sandbox imports nothing of the program
that writes these scripts; a test compares the digests with it.
"""

import base64
import binascii
import hashlib
import re
import zlib

KNOWN = frozenset(
    {
        "e602d453fed471d56a821bcc8f16a4533b804807606c12c07adfb6fea0aee90b",
        "8812db1bbb0ff954f0a8085f6677acf615dec0a176d7fc1397c0bcf22e4142ac",
        "0855c7ae1218297b9e0256fb11ca69cc57958af8bd5e0f2cfdc5ecf48fc29cb8",
    }
)
"""SHA-256 of what is executed of a boot script: with keys, with a user's script, with both."""
KNOWN_PACKED = "a68cbb62fa4104da6dab5dd449a0236794a8a55062cfba4b9e6c77488afb27b6"
"""The same of a packed boot script, without its content."""
_MOST_BYTES = 256 * 1024
_FILE = re.compile(r"gpuproxy_put ([a-z]+) <<'([a-z0-9-]+)'")
_PACKED = re.compile(r"(?<=^gpuproxy_text=)[A-Za-z0-9+/=]+$", re.MULTILINE)
_DATA = frozenset({"keys", "onstart"})
_GZIP = 31


def is_known(text: str) -> bool:
    """True if nothing but the program of GPU Proxy is executed before the user's own script. Never raises."""
    packed = _PACKED.search(text)
    if packed is not None and digest(text) == KNOWN_PACKED:
        return digest(_unpacked(packed[0])) in KNOWN
    return digest(text) in KNOWN


def digest(text: str) -> str:
    """The SHA-256 of what a shell executes of the text: without the content of data files, or of a packed script."""
    executed: list[str] = []
    lines = iter(text.split("\n"))
    for line in lines:
        file = _FILE.fullmatch(line)
        executed.append(line if file is None else f"gpuproxy_put {file[1]}")
        if file is not None:
            content = []
            for each in lines:
                if each == file[2]:
                    break
                content.append(each)
            executed += [] if file[1] in _DATA else content
    return hashlib.sha256(_PACKED.sub("PACKED", "\n".join(executed)).encode("utf-8", "surrogatepass")).hexdigest()


def _unpacked(content: str) -> str:
    """The text in a packed script; "" if it can't be unpacked or is too large."""
    try:
        data = zlib.decompressobj(_GZIP).decompress(base64.b64decode(content, validate=True), _MOST_BYTES)
        return data.decode()
    except (ValueError, binascii.Error, zlib.error):
        return ""
