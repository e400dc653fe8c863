"""`gpuproxy users` works on this machine's own database. The password is never an argument."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gpuproxy.cli import root

Run = Callable[..., Result]
EMAIL = "me@example.org"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)

    def invoke(*args: str, answer: str = "") -> Result:
        env = {"GPUPROXY_DATABASE_URL": f"sqlite:///{tmp_path}/books.db"}
        return CliRunner().invoke(root, ["users", *args], input=answer, env=env, catch_exceptions=False)

    return invoke


def test_a_user_is_created_listed_and_disabled(run: Run) -> None:
    made = run("create", "Me@example.org", "--role", "admin", "--project", "vision", answer="correct horse\n")
    assert (made.exit_code, made.stdout.partition(" ")[2]) == (0, "me@example.org (admin in vision)\n")
    assert "correct" not in made.output
    assert run("disable", EMAIL).stdout == "me@example.org is disabled\n"
    (row,) = run("list").stdout.splitlines()[1:]
    assert row.split()[1:4] == [EMAIL, "admin", "vision"]
    assert row.endswith("Z")
    assert run("enable", EMAIL).stdout == "me@example.org is enabled\n"
    (row,) = run("list").stdout.splitlines()[1:]
    assert row.endswith("-")


def test_a_changed_password_is_not_shown_and_an_invalid_one_changes_nothing(run: Run) -> None:
    run("create", EMAIL, answer="correct horse\n")
    changed = run("password", EMAIL, answer="battery staple\n")
    assert (changed.exit_code, changed.stdout) == (0, "The password of me@example.org was changed.\n")
    assert "battery" not in changed.output
    assert run("password", EMAIL, answer="short\n").exit_code == 2


def test_at_a_terminal_the_password_is_asked_for_twice(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpuproxy.cli.users._at_a_terminal", lambda: True)
    different = run("create", EMAIL, answer="correct horse\nwrong horse\n")
    assert (different.exit_code, run("list").stdout.count(EMAIL)) == (1, 0)
    assert run("create", EMAIL, answer="correct horse\ncorrect horse\n").exit_code == 0
    assert run("list").stdout.count(EMAIL) == 1


@pytest.mark.parametrize(
    ("args", "answer", "text"),
    [
        (("nobody",), "correct horse\n", "EMAIL must be an email address"),
        ((EMAIL,), "secret7\n", "The password must have at least 8 characters"),
        ((EMAIL,), "", "The password must have at least 8 characters"),
        ((EMAIL, "correct horse"), "", "unexpected extra argument"),
        ((EMAIL, "--role", "king"), "correct horse\n", "'king' is not one of"),
    ],
)
def test_a_wrong_user_is_refused_with_exit_code_2(run: Run, args: tuple[str, ...], answer: str, text: str) -> None:
    result = run("create", *args, answer=answer)
    assert result.exit_code == 2
    assert text in result.stderr


def test_a_second_user_with_the_same_email_and_an_unknown_email_are_refused(run: Run) -> None:
    assert run("create", EMAIL, answer="correct horse\n").exit_code == 0
    taken = run("create", EMAIL.upper(), answer="correct horse\n")
    assert (taken.exit_code, taken.stderr) == (2, "A user with the email address me@example.org already exists.\n")
    for what in ("disable", "enable", "password"):
        result = run(what, "you@example.org", answer="correct horse\n")
        assert (result.exit_code, result.stderr.partition(". ")[0]) == (1, "Error: There is no user you@example.org")
