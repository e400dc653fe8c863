"""What we run on a rented machine before the user's own start script: one POSIX sh program, made of parts.

The program is generated from the files in `sh/`, which are shell as it stands and are checked and run by the tests in
dash, bash and busybox. This package is pure: a marketplace's adapter sends what it returns, and the server reads the
machine's log with `reported`. docs/boot-script.md says what happens on the machine.

To add a part, add `sh/NAME.sh` with a function `part_NAME`, and a Part to `parts.PARTS`.
"""

from gpuproxy.boot.packing import TooLong, fitted
from gpuproxy.boot.parts import ENDING, KEYS, PARTS, Part, parts_of
from gpuproxy.boot.report import reported
from gpuproxy.boot.writing import script

__all__ = ["ENDING", "KEYS", "PARTS", "Part", "TooLong", "fitted", "parts_of", "reported", "script"]
