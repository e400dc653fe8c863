"""Start scripts of users and keys, as the boot script has to expect them."""

import random
from dataclasses import dataclass
from functools import cache

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.edge.test_fields import ecdsa_key, ssh_key

_ODD = "'\"$HOME`id`$(id)\\ \\\\ !! %s ~ * ;|&<>(){}[]#\ttab grüße 日本語 ā\u0101\u0081\u0088\u007f 🙂 \u2028"
_HERE = f"""cat <<'gp-end'
{_ODD}
 gp-end
gp-end1
gp-end
cat <<'gp-end1'
EOF
gp-end1
"""
KEY_SETS = ("no key", "one key", "several keys", "RSA")


@cache
def keys(which: str) -> tuple[str, ...]:
    """The keys of one of KEY_SETS."""
    if which == "RSA":
        public = rsa.generate_private_key(65537, 4096).public_key()
        form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        return (public.public_bytes(*form).decode() + " me@host",)
    several = (ssh_key(), ecdsa_key() + ' it\'s "me" $HOME `x` \\n', ssh_key(), "ssh-ed25519 AAAA wörk -e")
    return {"no key": (), "one key": several[:1], "several keys": several}[which]


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A user's script, what it prints and how it ends."""

    text: str
    prints: str = ""
    status: int = 0


SCRIPTS: dict[str, Script] = {
    "no script": Script(text=""),
    "blanks": Script(text=" \n\t\n"),
    "sh": Script(text="#!/bin/sh\necho sh\n", prints="sh\n"),
    "sh with an argument": Script(text="#! /bin/sh -e \nfalse\necho not here\n", status=1),
    "bash": Script(text="#!/bin/bash\nset -o pipefail\necho ${BASH_VERSION:+bash}\n", prints="bash\n"),
    "env bash": Script(text="#!/usr/bin/env bash\na=(1 2)\necho ${#a[@]}\n", prints="2\n"),
    "python": Script(
        text="#!/usr/bin/env python3\nimport sys\nprint('python', len(sys.argv))\nsys.exit(3)\n",
        prints="python 1\n",
        status=3,
    ),
    "no shebang": Script(text="a=(1 2)\necho ${#a[@]}\n", prints="2\n"),
    "exec": Script(text="#!/bin/sh\nexec /bin/echo replaced\n", prints="replaced\n"),
    "exit 1": Script(text="echo before\nexit 1\necho after\n", prints="before\n", status=1),
    "kill 0": Script(text="#!/bin/sh\necho before\nkill 0\necho after\n", prints="before\n", status=-15),
    "odd characters": Script(text=_HERE, prints=f"{_ODD}\n gp-end\ngp-end1\nEOF\n"),
    "CRLF": Script(text="#!/bin/sh\r\necho hi\r\n", prints="hi\r\n"),
    "no final newline": Script(text="#!/bin/sh\necho hi\\\nho", prints="hiho\n"),
    "40 KB": Script(
        text="#!/bin/sh\n" + "".join(f"# {random.Random(n).getrandbits(256):x}\n" for n in range(620)) + "echo end\n",
        prints="end\n",
    ),
}
