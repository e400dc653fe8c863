"""`make texts`: twenty texts of the project, chosen by a seed, to be read by somebody who does not know it.

The reader sees only the text and says what it means; a text that has to be read twice is rewritten. SEED=N chooses
other texts (default: one at random, printed), COUNT=N more or fewer. The kinds take turns: sentences of README and
docs, help, errors, log lines, docstrings, test names.
"""

import ast
import os
import random
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z`*])")
_LOG_CALLS = frozenset({"info", "warning", "error", "exception"})
_MARKS = ("|", "#", "-", ">", "    ", "```", "<", "[", "!")


def main() -> int:
    """Always 0."""
    seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(10_000))
    count = int(os.environ.get("COUNT") or 20)
    dice = random.Random(seed)
    kinds = {name: sorted(set(of())) for name, of in KINDS.items()}
    print(f"SEED={seed}; of " + ", ".join(f"{len(texts)} {name}" for name, texts in kinds.items()))
    for number in range(count):
        name = list(kinds)[number % len(kinds)]
        print(f"\n{number + 1}. [{name}]\n{dice.choice(kinds[name])}")
    return 0


def sentences() -> Iterator[str]:
    """Of prose in README and docs; tables, lists and code apart."""
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        for block in text.split("\n\n"):
            if not block.startswith(_MARKS):
                yield from _SENTENCE.split(" ".join(block.split()))


def helps() -> Iterator[str]:
    """Of commands, options and settings."""
    for tree in _trees("gpuproxy/cli", "gpuproxy/config", "gpuproxy/providers"):
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg in ("help", "description"):
                yield from _text(node.value)


def errors() -> Iterator[str]:
    """What is raised, with the expressions in it as they stand in the source."""
    for tree in _trees("gpuproxy"):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id[:1].isupper():
                for argument in node.args[:1]:
                    yield from (text for text in _text(argument) if " " in text and len(text) > len("a short one"))


def log_lines() -> Iterator[str]:
    """Events with the names of their fields."""
    for tree in _trees("gpuproxy"):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _LOG_CALLS:
                for event in node.args[:1]:
                    fields = " ".join(f"{keyword.arg}=..." for keyword in node.keywords if keyword.arg)
                    yield from (f"{text} {fields}" for text in _text(event))


def docstrings() -> Iterator[str]:
    """Of modules, classes, functions; with the name of what they describe."""
    for tree in _trees("gpuproxy", "scripts"):
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                if text:
                    yield f"{getattr(node, 'name', '(module)')}: {text}"


def test_names() -> Iterator[str]:
    """As sentences."""
    for tree in _trees("tests"):
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                yield node.name.removeprefix("test_").replace("_", " ")


KINDS: dict[str, Callable[[], Iterator[str]]] = {
    "sentences": sentences,
    "help": helps,
    "errors": errors,
    "log lines": log_lines,
    "docstrings": docstrings,
    "test names": test_names,
}


def _trees(*folders: str) -> Iterator[ast.Module]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "v1" not in path.parts:
                yield ast.parse(path.read_text(encoding="utf-8"))


def _text(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(
            part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else f"{{{_inner(part)}}}"
            for part in node.values
        )


def _inner(part: ast.expr) -> str:
    return ast.unparse(part.value) if isinstance(part, ast.FormattedValue) else ""


if __name__ == "__main__":
    sys.exit(main())
