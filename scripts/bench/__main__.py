"""Speed and memory, measured: `python -m scripts.bench [SECTION ...]`, or `make bench`.

Prints a table; exits 1 when a target is missed. Comparisons are ratios within one run, for machines differ.
"""

import argparse
import importlib
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from gpuproxy.app.main import collect_rarely
from scripts.bench.report import Row, table

SECTIONS = (
    "calls",
    "listing",
    "http",
    "observing",
    "reserving",
    "choosing",
    "decoding",
    "memory",
    "history",
    "pools",
    "pages",
    "replicas",
    "scale",
)


def main() -> int:
    """0 when every target is reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", metavar="SECTION", nargs="*", help=f"one of {', '.join(SECTIONS)}; none: all")
    wanted = parser.parse_args().sections
    if unknown := sorted(set(wanted) - set(SECTIONS)):
        parser.error(f"no such section: {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    collect_rarely()  # as the server does
    rows: list[Row] = []
    for name in wanted or SECTIONS:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="gpuproxy-bench-") as folder:
            rows += importlib.import_module(f"scripts.bench.{name}").measure(Path(folder))
    libraries = ", ".join(f"{name} {version(name)}" for name in ("grpcio", "protobuf", "msgspec", "aiohttp"))
    print(f"Python {platform.python_version()}, {libraries}\n\n{table(rows)}")
    missed = [row.name for row in rows if row.missed]
    if missed:
        print(f"\n{len(missed)} missed: {'; '.join(missed)}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
