"""Commands on this machine's own database, where there is none and where nothing can be written."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gpuproxy.cli import root

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)

    def invoke(*words: str, answer: str = "", **env: str) -> Result:
        return CliRunner().invoke(root, words, input=answer, env=env, catch_exceptions=False)

    return invoke


@pytest.mark.parametrize(
    "words",
    [
        ("doctor",),
        ("reconcile", "--once"),
        ("reconcile", "--once", "--dry-run"),
        ("backup", "copy.db"),
        ("keys", "list"),
        ("keys", "revoke", "key-1"),
        ("keys", "export-signing", "key"),
        ("users", "list"),
        ("users", "disable", "me@example.org"),
    ],
)
def test_where_there_are_no_books_it_is_said_and_none_are_made(
    run: Run, tmp_path: Path, words: tuple[str, ...]
) -> None:
    result = run(*words)
    path = tmp_path / "gpuproxy.db"
    said = f"There is no database at {path}; set GPUPROXY_DATABASE_URL or go to its directory.\n"
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", said)
    assert list(tmp_path.iterdir()) == []


def test_the_first_key_and_the_first_user_make_the_books(run: Run, tmp_path: Path) -> None:
    assert run("keys", "create", "ci").exit_code == 0
    assert run("keys", "list").stdout.count("ci") == 1
    (tmp_path / "gpuproxy.db").unlink()
    assert run("users", "create", "me@example.org", answer="correct horse\n").exit_code == 0
    assert run("doctor").exit_code == 0
