"""Commands on this machine's own database, if there is none or if nothing can be written."""

import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gpuproxy.cli import root
from tests.cli.world import Run

pytestmark = pytest.mark.long


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
        ("users", "enable", "me@example.org"),
        ("users", "password", "me@example.org"),
    ],
)
def test_a_missing_database_is_reported_and_not_created(run: Run, tmp_path: Path, words: tuple[str, ...]) -> None:
    result = run(*words, answer="correct horse\n")
    path = tmp_path / "gpuproxy.db"
    said = f"There is no database at {path}. Set GPUPROXY_DATABASE_URL, or run this in the database's directory.\n"
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", said)
    assert list(tmp_path.iterdir()) == []


def test_the_first_key_and_the_first_user_create_the_database(run: Run, tmp_path: Path) -> None:
    assert run("keys", "create", "ci").exit_code == 0
    assert run("keys", "list").stdout.count("ci") == 1
    (tmp_path / "gpuproxy.db").unlink()
    assert run("users", "create", "me@example.org", answer="correct horse\n").exit_code == 0
    assert run("doctor").exit_code == 0


def test_only_commands_that_call_a_marketplace_need_a_proxy_that_can_be_used(run: Run) -> None:
    env = {"HTTPS_PROXY": "socks5h://me:cnryproxy7@proxy.test:1080", "VASTAI_API_KEY": "k"}
    assert run("keys", "create", "ci", **env).exit_code == 0
    assert run("backup", "copy.db", **env).exit_code == 0
    for words in (("reconcile", "--once", "--dry-run"), ("reconcile", "--once"), ("serve",)):
        result = run(*words, **env)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith("HTTPS_PROXY (or https_proxy): must be http:// or https://")
        assert "cnryproxy7" not in result.stderr


@pytest.mark.parametrize("interface", ["GRPC", "HTTP"])
def test_a_port_in_use_is_reported_in_one_line(tmp_path: Path, interface: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        free = {"GPUPROXY_GRPC_ADDR": "127.0.0.1:0", "GPUPROXY_HTTP_ADDR": "127.0.0.1:0", "GPUPROXY_LOG_LEVEL": "error"}
        env = {**os.environ, **free, f"GPUPROXY_{interface}_ADDR": address}
        ended = subprocess.run(
            [sys.executable, "-m", "gpuproxy", "serve", "--sandbox"],
            cwd=tmp_path, env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
    lines = [line for line in ended.stderr.splitlines() if "add_port.cc" not in line]
    assert (ended.returncode, ended.stdout) == (2, "")
    assert lines == [f"GPUPROXY_{interface}_ADDR: can't listen on {address}. Is another program using it?"]


@pytest.mark.parametrize("words", [("serve", "--sandbox"), ("keys", "create", "ci"), ("keys", "import-signing", "key")])
def test_an_unwritable_directory_is_reported_in_one_line(run: Run, tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "key").write_text('{"deployment": "abcdef", "key": "a2V5"}')
    (tmp_path / "file").touch()
    for place in ("/proc", f"{tmp_path}/file"):
        result = run(*words, GPUPROXY_DATABASE_URL=f"sqlite:///{place}/x.db")
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith(f"GPUPROXY_DATABASE_URL: {place}/x.db can't be opened: ")
        assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [("serve", "--sandbox"), ("keys", "create", "ci")])
def test_a_path_without_a_database_is_reported_in_one_line_and_not_changed(
    run: Run, tmp_path: Path, words: tuple[str, ...]
) -> None:
    (tmp_path / "folder").mkdir(0o755)
    (tmp_path / "note.txt").write_text("buy milk")
    (tmp_path / "note.txt").chmod(0o644)
    before = {file.name: file.stat().st_mode for file in tmp_path.iterdir()}
    for path, why in (
        ("folder", "it is not a regular file"),
        ("note.txt", "file is not a database"),
        ("none/a.db", "the folder none does not exist; create it first"),
    ):
        result = run(*words, GPUPROXY_DATABASE_URL=f"sqlite:///{path}")
        said = f"GPUPROXY_DATABASE_URL: {path} can't be opened: {why}.\n"
        assert (result.exit_code, result.stdout, result.stderr) == (2, "", said)
    assert {file.name: file.stat().st_mode for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("words", [("backup", "none/copy.db"), ("keys", "export-signing", "none/copy.db")])
def test_a_missing_directory_is_reported_in_one_line(run: Run, words: tuple[str, ...]) -> None:
    run("keys", "create", "ci")
    result = run(*words)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert result.stderr.startswith("none/copy.db can't be written (No such file or directory)")


def test_an_incomplete_backup_leaves_no_file(run: Run, tmp_path: Path) -> None:
    run("keys", "create", "ci")
    with full_disk():
        result = run("backup", "copy.db")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("copy.db can't be written: ")
    assert list(tmp_path.glob("copy.db*")) == []
    assert run("backup", "copy.db").exit_code == 0


def test_a_key_that_could_not_be_stored_is_not_shown(run: Run) -> None:
    run("keys", "create", "first")
    with full_disk():
        result = run("keys", "create", "second")
    assert (result.exit_code, result.stdout) == (2, "")
    assert ("gpuproxy.db" in result.stderr, result.stderr.count("\n")) == (True, 1)
    assert "second" not in run("keys", "list").stdout


@contextmanager
def full_disk() -> Iterator[None]:
    """No file can grow beyond 512 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("",), "NAME is required"),
        ((" ",), "NAME is required"),
        (("n" * 65,), "NAME must have at most 64 characters, not 65"),
        (("a\nb",), "NAME must be printable text on one line"),
        (("ci", "--project", "p" * 5000), "--project must have at most 64 characters"),
    ],
)
def test_names_of_keys_follow_the_rules_of_the_api(run: Run, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    result = run("keys", "create", *words)
    assert (result.exit_code, said in result.stderr) == (2, True)
    assert list(tmp_path.iterdir()) == []
    assert run("keys", "create", "n" * 64).exit_code == 0


def test_the_json_of_a_new_key_has_its_id_and_its_text(run: Run) -> None:
    made = json.loads(run("keys", "create", "ci", "--role", "viewer", "--json").stdout)
    assert made["api_key"].startswith(made["prefix"])
    assert (made["name"], made["role"], made["project"], made["revoked_at"]) == ("ci", "viewer", "default", None)
    (listed,) = json.loads(run("keys", "list", "--json").stdout)["keys"]
    assert listed == {name: value for name, value in made.items() if name != "api_key"}
    assert run("keys", "revoke", made["id"]).exit_code == 0
    assert json.loads(run("keys", "list", "--json").stdout)["keys"][0]["revoked_at"] is not None


def test_only_the_text_of_a_new_key_is_on_stdout_and_its_id_is_on_stderr(run: Run) -> None:
    made = run("keys", "create", "ci")
    assert made.stdout.startswith("gpx_")
    assert made.stdout.count("\n") == 1
    key_id = made.stderr.split()[0]
    assert made.stderr == f"{key_id} ci (user in default). The key is shown only now:\n"
    assert run("keys", "revoke", key_id).exit_code == 0


def test_users_and_findings_as_json_have_their_ids(run: Run) -> None:
    made = json.loads(run("users", "create", "me@example.org", "--json", answer="correct horse\n").stdout)
    assert json.loads(run("users", "list", "--json").stdout)["users"] == [made]
    assert set(made) == {"id", "email", "role", "project", "created_at", "disabled_at"}
    assert json.loads(run("doctor", "--json").stdout) == {
        "findings": [],
        "notes": ["No marketplace key is set here: only the database was checked."],
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--market", "notes"), "notes is not a recorded market: its first line has no column machine_id"),
        (("--state", "notes"), "notes is not the state file of a market"),
        (("--host", "no-such-host.invalid"), "Can't listen on no-such-host.invalid:0"),
        (("--boot-time", "5,1"), "must have 0 <= MIN <= MAX"),
    ],
)
def test_a_sandbox_with_wrong_options_is_not_started(
    run: Run, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    (tmp_path / "notes").write_text("hello\n")
    result = run("sandbox", "--port", "0", *words)
    assert (result.exit_code, said in result.stderr) == (2, True)


def test_a_sandbox_whose_port_is_taken_is_not_started(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("sandbox", "--port", str(port))
    assert (result.exit_code, f"Can't listen on 127.0.0.1:{port}." in result.stderr) == (2, True)
