"""Are files and functions small enough to be read? At most 400 lines a file, 60 a function; generated code apart."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAX_FILE, MAX_FUNCTION = 400, 60
GENERATED = ROOT / "gpuproxy" / "v1"


def main() -> int:
    """0 when everything fits; else each thing that does not, one a line."""
    complaints = [text for path in _sources() for text in _complaints(path)]
    print("\n".join(complaints), end="\n" if complaints else "")
    return 1 if complaints else 0


def _sources() -> Iterator[Path]:
    for folder in ("gpuproxy", "scripts", "tests"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if GENERATED not in path.parents:
                yield path


def _complaints(path: Path) -> Iterator[str]:
    text = path.read_text(encoding="utf-8")
    lines = len(text.splitlines())
    if lines > MAX_FILE:
        yield f"{path.relative_to(ROOT)}: {lines} lines (at most {MAX_FILE})"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION:
                yield f"{path.relative_to(ROOT)}:{node.lineno}: {node.name} has {length} lines (at most {MAX_FUNCTION})"


if __name__ == "__main__":
    sys.exit(main())
